"""A training as a job: stages that follow each other through model folders, resuming, and what is
refused.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_models import CONFIG
from made_pairs import made_pair

from artifixer import cli
from artifixer.pairs.loader import PairSet, open_pairs
from artifixer.pairs.sample_file import encode_sample
from artifixer.pairs.shards import describe, read_index, write_index, write_shard
from artifixer.recipes.train import RECIPES, TINY
from artifixer.runtime.errors import InputError
from artifixer.runtime.run_folder import read_json
from artifixer.training.initial_model import initial_model
from artifixer.training.job import run_training
from artifixer.training.parallel import ParallelConfig
from artifixer.training.recipe import TrainingJob, TrainingRecipe
from artifixer.training.validation import ValidationConfig
from artifixer.video import rollout as rollout_module
from artifixer.video.model_files import load_model
from artifixer.video.teacher import TeacherConfig


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_pairs(tmp_path_factory.mktemp("pairs"))


def write_made_pairs(folder: Path) -> Path:
    samples = [
        (describe(pair, encode_sample(pair)), encode_sample(pair))
        for pair in (made_pair(seed, frames=13) for seed in range(3))
    ]
    write_index(folder, [write_shard(folder / "pairs-00000.tar", samples)], complete=True)
    return folder


def small_recipe() -> TrainingRecipe:
    """The recipe tiny with a model of 100,000 weights and two steps per stage; three of self
    forcing, the last one of which is averaged.
    """
    model = replace(
        TINY.model,
        transformer=replace(CONFIG.transformer, text_width=16, text_tokens=1),
        vae=replace(CONFIG.vae, z_dim=8),
        steps=2,
    )
    loops: dict[str, Any] = {
        f"{stage}_loop": replace(
            TINY.loop(stage),
            steps=3 if stage == "self_forcing" else 2,
            batch=1,
            validation_interval=0,
        )
        for stage in ("autoencoder", "bidirectional", "diffusion_forcing", "self_forcing")
    }
    validation = ValidationConfig(pairs=1, steps=(1,), grid_pairs=1)
    parallel = ParallelConfig(compute="float32")
    small = replace(TINY, model=model, autoencoder=replace(TINY.autoencoder, crop=16))
    return replace(small, validation=validation, parallel=parallel, **loops)


def job(stage: str, pairs: PairSet, **values: object) -> TrainingJob:
    return TrainingJob(stage, small_recipe(), pairs, **values)  # type: ignore[arg-type]


def test_stages_follow_each_other_and_the_last_model_loads(pairs, tmp_path):
    opened = open_pairs(pairs)
    run_training(job("autoencoder", opened), tmp_path / "a")
    teacher = replace(
        small_recipe(),
        bidirectional_loop=replace(small_recipe().bidirectional_loop, validation_interval=1),
    )
    run_training(
        replace(
            job("bidirectional", opened, init=tmp_path / "a", validation_pairs=opened),
            recipe=teacher,
        ),
        tmp_path / "t",
    )
    assert sorted(path.name for path in (tmp_path / "t" / "validation").iterdir()) == [
        "step_00000001.png",
        "step_00000002.png",
    ]
    run_training(job("diffusion_forcing", opened, init=tmp_path / "t"), tmp_path / "c")
    folder = run_training(
        job("self_forcing", opened, init=tmp_path / "c", teacher=tmp_path / "t"), tmp_path / "s"
    )
    first, last = load_model(tmp_path / "a" / "model"), load_model(folder)
    assert torch.equal(
        first.vae.network.encoder.enter.weight, last.vae.network.encoder.enter.weight
    )
    assert not torch.equal(first.transformer.head.weight, last.transformer.head.weight)
    causal = load_model(tmp_path / "c" / "model")
    assert not torch.equal(causal.transformer.head.weight, last.transformer.head.weight)
    assert last.config.source == "direct" and last.config.vae.latents_std != (1.0,) * 8


def test_renamed_settings_have_their_earlier_names_in_the_run_folder(pairs, tmp_path):
    """A training that an earlier version began is continued, not refused for other settings."""
    run_training(job("autoencoder", open_pairs(pairs)), tmp_path / "a")
    settings = read_json(tmp_path / "a" / "config.json")["settings"]
    assert {"save_every", "validate_every"} < settings["loop"].keys()
    assert "render_share" in settings["stage"]
    names = settings["loop"].keys() | settings["stage"].keys()
    assert not {name for name in names if name.endswith(("_interval", "_fraction"))}


def test_another_architecture_and_other_settings_are_refused(pairs, tmp_path):
    opened = open_pairs(pairs)
    run_training(job("autoencoder", opened), tmp_path / "a")
    model = small_recipe().model
    wider = replace(
        small_recipe(), model=replace(model, transformer=replace(model.transformer, ffn_width=112))
    )
    with pytest.raises(
        InputError, match=r"--init .*transformer ffn_width is 96, the recipe has 112"
    ):
        run_training(
            replace(job("bidirectional", opened, init=tmp_path / "a"), recipe=wider), tmp_path / "t"
        )
    faster = replace(
        small_recipe(), autoencoder=replace(small_recipe().autoencoder, learning_rate=1.0)
    )
    with pytest.raises(
        InputError, match=r"other settings: stage.learning_rate is 0.0015 there, 1.0 now"
    ):
        run_training(replace(job("autoencoder", opened), recipe=faster), tmp_path / "a")
    with pytest.raises(InputError, match="needs --init"):
        run_training(job("self_forcing", opened), tmp_path / "s")
    with pytest.raises(InputError, match="self_forcing: needs --teacher, the bidirectional model"):
        run_training(job("self_forcing", opened, init=tmp_path / "a"), tmp_path / "s")
    run_training(job("diffusion_forcing", opened, init=tmp_path / "a"), tmp_path / "c")
    other = replace(
        small_recipe(), autoencoder_loop=replace(small_recipe().autoencoder_loop, seed=1)
    )
    run_training(replace(job("autoencoder", opened), recipe=other), tmp_path / "other")
    with pytest.raises(
        InputError,
        match=r"--teacher .*other: has another autoencoder than --init \(config differs\)",
    ):
        run_training(
            job("self_forcing", opened, init=tmp_path / "c", teacher=tmp_path / "other"),
            tmp_path / "s",
        )
    assert not (tmp_path / "s").exists()  # the corrected command may use it


def test_initial_weights_that_are_none_are_refused_by_the_options_name(pairs, tmp_path):
    opened = open_pairs(pairs)
    with pytest.raises(InputError, match=r"--init .*nowhere: does not exist"):
        run_training(job("bidirectional", opened, init=tmp_path / "nowhere"), tmp_path / "t")
    run_training(job("autoencoder", opened), tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "model")
    with pytest.raises(
        InputError, match=r"--init .*a: this training is not finished, it has no model/ yet"
    ):
        run_training(job("bidirectional", opened, init=tmp_path / "a"), tmp_path / "t")
    run_training(job("autoencoder", opened), tmp_path / "a")
    with pytest.raises(InputError, match=r"--teacher .*nowhere: does not exist"):
        run_training(
            job("self_forcing", opened, init=tmp_path / "a", teacher=tmp_path / "nowhere"),
            tmp_path / "s",
        )


def test_a_folder_continues_with_its_own_pairs_and_initial_weights_only(pairs, tmp_path):
    opened = open_pairs(pairs)
    run_training(job("autoencoder", opened), tmp_path / "a")
    fewer = PairSet(opened.pairs[:2])
    with pytest.raises(InputError, match="made from another input: pairs is"):
        run_training(job("autoencoder", fewer), tmp_path / "a")
    run_training(job("bidirectional", opened, init=tmp_path / "a"), tmp_path / "t")
    with pytest.raises(InputError, match="made from another input: init is"):
        run_training(job("bidirectional", opened), tmp_path / "t")


def test_large_recipes_are_the_papers_and_the_releases():
    paper, release = RECIPES["paper"], RECIPES["release"]
    steps = [
        [
            recipe.loop(stage).steps
            for stage in ("bidirectional", "diffusion_forcing", "self_forcing")
        ]
        for recipe in (paper, release)
    ]
    assert steps == [[15_000, 5_000, 2_000], [25_000, 10_000, 400]]
    assert paper.bidirectional.clips.references == (0, 12) and paper.bidirectional.clips.frames == (
        81,
    )
    assert (
        release.bidirectional.clips.references == "release"
        and release.bidirectional.clips.render_drop == 0.1
    )
    assert (
        paper.bidirectional.learning_rate == 1e-5
        and paper.self_forcing.student_learning_rate == 2e-6
    )


def test_the_command_takes_overrides_and_refuses_bad_input(pairs, tmp_path, capsys):
    words = ["train", "autoencoder", "--pairs", str(pairs), "--out", str(tmp_path / "a")]
    assert cli.main([*words, "--steps", "0"]) == 2
    assert "--steps 0: expected a positive number" in capsys.readouterr().err
    assert (
        cli.main(["train", "autoencoder", "--pairs", str(tmp_path), "--out", str(tmp_path / "b")])
        == 2
    )
    assert "artifixer curate" in capsys.readouterr().err
    assert cli.main([*words, "--steps", "1", "--batch", "1", "--device", "cpu"]) == 0
    assert (tmp_path / "a" / "model" / "config.json").is_file()
    assert cli.main([*words, "--steps", "2", "--batch", "1", "--device", "cpu"]) == 2
    assert "loop.steps is 1 there, 2 now" in capsys.readouterr().err
    for option, value in (
        ("--validation-steps", "1,0"),
        ("--validation-steps", "all"),
        ("--validate-every", "-1"),
        ("--minutes", "nan"),
    ):
        assert (
            cli.main(
                [
                    "train",
                    "bidirectional",
                    "--pairs",
                    str(pairs),
                    "--out",
                    str(tmp_path / "c"),
                    option,
                    value,
                ]
            )
            == 2
        )
        error = capsys.readouterr().err
        assert f"{option} {value}: expected" in error and error.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_validation_at_the_steps_asked_for(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", small_recipe())
    words = [
        "train",
        "bidirectional",
        "--pairs",
        str(pairs),
        "--validation",
        str(pairs),
        "--out",
        str(tmp_path / "t"),
        "--device",
        "cpu",
    ]
    assert cli.main([*words, "--validation-steps", "4,1,2", "--validate-every", "2"]) == 0
    lines = [
        json.loads(line) for line in (tmp_path / "t" / "metrics.jsonl").read_text().splitlines()
    ]
    assert not any(name.startswith("validation") for name in lines[0])
    shown = {name.split("/")[1] for name in lines[1] if name.startswith("validation")}
    assert shown == {"render", "telea", "ns", "push_pull", "steps1", "steps2", "steps4"}
    for figure in ("psnr_pooled", "psnr_mean", "psnr_opaque", "psnr_empty", "ssim"):
        assert f"validation/steps4/{figure}" in lines[1]
    assert {"loss", "gradient_norm", "latent_error", "learning_rate_factor"} < set(lines[1])


def test_self_forcing_without_a_teacher_is_refused(pairs, tmp_path, capsys):
    words = [
        "train",
        "self_forcing",
        "--pairs",
        str(pairs),
        "--init",
        "tiny",
        "--out",
        str(tmp_path / "s"),
        "--device",
        "cpu",
    ]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "self_forcing: needs --teacher" in error and error.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_validation_of_the_bidirectional_stage_samples_the_teacher(pairs, tmp_path, monkeypatch):
    """In the recipes of Wan 2.1, 50 steps with guidance; a causal model is validated in few."""
    for name in ("paper", "release"):
        own = RECIPES[name].bidirectional_validation
        assert (own.steps, own.teacher, own.clip_frames) == ((50,), TeacherConfig(50, 5.0, 3.0), 81)
        assert RECIPES[name].validation.teacher is None
    recipe = replace(
        small_recipe(),
        bidirectional_validation=ValidationConfig(
            pairs=1, steps=(5,), grid_pairs=1, teacher=TeacherConfig()
        ),
    )
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    samplers = []
    for name in ("sample_bidirectional", "sample_blocks"):
        sampler = getattr(rollout_module, name)
        monkeypatch.setattr(
            rollout_module,
            name,
            lambda *a, _name=name, _sampler=sampler, **k: (
                samplers.append(_name) or _sampler(*a, **k)
            ),
        )
    shown = {}
    for stage, more in (
        ("bidirectional", ()),
        ("bidirectional", ("--validation-steps", "2,3")),
        ("diffusion_forcing", ()),
    ):
        out = tmp_path / str(len(shown))
        words = [
            "train",
            stage,
            "--pairs",
            str(pairs),
            "--validation",
            str(pairs),
            "--out",
            str(out),
            "--device",
            "cpu",
            *more,
        ]
        assert cli.main([*words, "--validate-every", "2"]) == 0
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        shown[len(shown)] = {
            name.split("/")[1] for name in lines[1] if name.startswith("validation/steps")
        }
    assert shown == {0: {"steps5"}, 1: {"steps2", "steps3"}, 2: {"steps1"}}
    assert samplers == ["sample_bidirectional"] * 3 + ["sample_blocks"]


def test_damaged_shards_are_left_out_on_request(pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "tiny", small_recipe())
    damaged = shutil.copytree(pairs, tmp_path / "damaged")
    shard = read_index(damaged)[0]
    with (damaged / shard.file).open("r+b") as file:
        file.truncate(shard.samples[2].offset + 700)
    words = [
        "train",
        "autoencoder",
        "--pairs",
        str(damaged),
        "--out",
        str(tmp_path / "a"),
        "--device",
        "cpu",
    ]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert (
        "pairs-00000.tar" in error
        and "truncated in sample made-2" in error
        and error.count("\n") == 1
    )
    assert cli.main([*words, "--skip-broken"]) == 0
    error = capsys.readouterr().err
    assert "left out: " in error and "sample made-2" in error and "autoencoder: 2 pairs" in error
    assert "1 process on cpu" in error


def test_pairs_of_another_camera_scale_than_the_models_are_refused_by_name(pairs, tmp_path):
    opened, recipe = open_pairs(pairs), small_recipe()
    metric = replace(recipe, model=replace(recipe.model, camera_scale="metric"))
    expected = (
        r"made-0 has camera scale median_depth, model tiny expects metric; curate with "
        r"--camera-scale metric"
    )
    with pytest.raises(InputError, match=rf"--pairs .*: {expected}"):
        run_training(replace(job("bidirectional", opened), recipe=metric), tmp_path / "t")
    assert not (tmp_path / "t").exists()
    # it sees no cameras
    run_training(replace(job("autoencoder", opened), recipe=metric), tmp_path / "a")


def test_initial_weights_of_another_camera_scale_are_refused_by_name(pairs, tmp_path):
    """They once trained on as if a metre were a median depth, or the other way round."""
    recipe = small_recipe()
    weights = run_training(job("autoencoder", open_pairs(pairs)), tmp_path / "weights")
    metric = replace(recipe, model=replace(recipe.model, camera_scale="metric"))
    words = "has camera scale median_depth, the recipe's model tiny has metric"
    for option in ("--init", "--teacher"):
        with pytest.raises(InputError, match=rf"{option} .*weights.*: model tiny {words}"):
            initial_model(metric.model, weights, 0, "cpu", option)
    assert initial_model(recipe.model, weights, 0, "cpu").config.camera_scale == "median_depth"


def test_train_with_initial_weights_of_another_camera_scale_exits_with_2(
    pairs, tmp_path, monkeypatch, capsys
):
    recipe = small_recipe()
    weights = run_training(job("autoencoder", open_pairs(pairs)), tmp_path / "weights")
    metric = replace(recipe, model=replace(recipe.model, camera_scale="metric"))
    monkeypatch.setitem(RECIPES, "tiny", metric)
    words = ["train", "autoencoder", "--pairs", str(pairs), "--init", str(weights)]
    capsys.readouterr()
    assert cli.main([*words, "--out", str(tmp_path / "t"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert f"--init {weights}: model tiny has camera scale median_depth" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "t").exists()
