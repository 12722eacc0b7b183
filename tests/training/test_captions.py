"""Captions and the negative prompt go through the text encoder of the initial weights, and the
trained model keeps it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_pairs import made_pair

from artifixer.pairs.loader import open_pairs
from artifixer.pairs.pair import TrainingPair
from artifixer.pairs.sample_file import encode_sample
from artifixer.pairs.shards import describe, write_index, write_shard
from artifixer.recipes.train import RECIPES
from artifixer.runtime.errors import InputError
from artifixer.training import job as job_module
from artifixer.training.captions import CaptionedPairs, with_caption
from artifixer.training.clips import ClipConfig
from artifixer.training.job import run_training
from artifixer.training.loop import LoopConfig
from artifixer.training.parallel import ParallelConfig
from artifixer.training.recipe import TrainingJob, TrainingRecipe
from artifixer.video.checkpoints.ours import save_model
from artifixer.video.model_files import load_model
from artifixer.video.text import TextConfig, TextEncoder
from tests.video.made_models import WAN_LIKE, made_model, save_text_encoder

CAPTIONED = replace(made_pair(0, height=32, width=32), caption="a red house beside the sea")

TEXT = TextConfig(WAN_LIKE.transformer.text_tokens, WAN_LIKE.transformer.text_width)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_pairs(folder: Path, *pairs: TrainingPair) -> Path:
    """Pairs in metres, as the recipe paper has them."""
    metric = [replace(pair, camera_scale_kind="metric") for pair in pairs]
    samples = [(describe(pair, encode_sample(pair)), encode_sample(pair)) for pair in metric]
    write_index(folder, [write_shard(folder / "pairs-00000.tar", samples)], complete=True)
    return folder


def paper_recipe() -> TrainingRecipe:
    """The recipe paper with one step per stage of a model that fits a test."""
    recipe = RECIPES["paper"]
    clips = ClipConfig(frames=(13,), text_drop=0.0)
    flow = replace(recipe.bidirectional, clips=clips)
    return replace(
        recipe,
        model=replace(WAN_LIKE, window_frames=4, sink_frames=0),
        bidirectional=flow,
        bidirectional_loop=LoopConfig(steps=1),
        self_forcing=replace(recipe.self_forcing, clips=clips),
        self_forcing_loop=LoopConfig(steps=1),
        parallel=ParallelConfig(compute="float32", checkpoint_layers=True),
    )


def test_only_captions_without_embedding_are_encoded(tmp_path: Path) -> None:
    save_text_encoder(tmp_path, TEXT.width)
    encoder = TextEncoder(tmp_path, TEXT)
    encoded = with_caption(CAPTIONED, encoder).caption_embedding
    assert encoded is not None and torch.equal(
        encoded, encoder.encode("a red house beside the sea").embedding[0]
    )
    assert encoded.any()
    kept = replace(CAPTIONED, caption_embedding=torch.ones(2, TEXT.width))
    assert with_caption(kept, encoder) is kept
    assert with_caption(made_pair(0), encoder).caption_embedding is None
    pairs = open_pairs(write_pairs(tmp_path / "pairs", CAPTIONED))
    assert torch.equal(CaptionedPairs(pairs, 0, 1, encoder).pair(0).caption_embedding, encoded)  # type: ignore[arg-type]
    assert CaptionedPairs(pairs, 0, 1, None).pair(0).caption_embedding is None


def test_stages_of_a_model_that_takes_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "wan", made_model(WAN_LIKE))
    pairs = open_pairs(write_pairs(tmp_path / "pairs", CAPTIONED))
    job = TrainingJob(
        "self_forcing", paper_recipe(), pairs, init=tmp_path / "wan", teacher=tmp_path / "wan"
    )
    with pytest.raises(
        InputError,
        match=r"--init .*wan: has no text_encoder/ and tokenizer/ of Wan 2\.1.*negative prompt",
    ):
        run_training(job, tmp_path / "student")
    save_text_encoder(tmp_path / "wan", TEXT.width)
    teacher = run_training(
        TrainingJob("bidirectional", paper_recipe(), pairs, init=tmp_path / "wan"),
        tmp_path / "teacher",
    )
    # prompts work with the trained model as well
    assert load_model(teacher).encode_prompt("a house").embedding.any()

    stages: list[Any] = []

    class Watched(job_module.SelfForcingStage):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            stages.append(self)

    monkeypatch.setattr(job_module, "SelfForcingStage", Watched)
    job = TrainingJob(
        "self_forcing",
        paper_recipe(),
        pairs,
        init=tmp_path / "teacher",
        teacher=tmp_path / "teacher",
    )
    run_training(job, tmp_path / "student")
    (stage,) = stages
    prompt = RECIPES["paper"].self_forcing.negative_prompt
    assert prompt.startswith("色调艳丽")
    assert torch.equal(
        stage.negative_text, load_model(tmp_path / "wan").encode_prompt(prompt).embedding
    )
    assert stage.negative_text.any()


def test_the_small_model_has_no_negative_prompt() -> None:
    assert RECIPES["tiny"].self_forcing.negative_prompt == ""
