"""Validation: figures that a blind and an absent model must have, and the clips that it
measures.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_models import made_model
from made_pairs import MadePairs, made_pair
from PIL import Image

from artifixer.training.validation import (
    ValidationConfig,
    generated_clip,
    generated_frames,
    part_starts,
    validate,
)

CONFIG = ValidationConfig(pairs=2, steps=(1, 2), grid_pairs=2)


def test_an_untrained_direct_model_with_the_residual_gives_back_opaque_parts_of_the_render():
    pairs = MadePairs(count=1, frames=9)
    model = made_model(pairs)  # its head is zero: velocity 0, the render's latents stay
    model = replace(model, config=replace(model.config, source="direct", keep_residual=True))
    frames = generated_frames(model, pairs.pairs[0], 1, CONFIG, "float32")
    opaque = pairs.pairs[0].opacity == 255
    assert (frames[opaque].int() - pairs.pairs[0].renders[opaque].int()).abs().max() <= 1
    assert not torch.equal(frames, pairs.pairs[0].renders)


def test_causal_and_whole_clips_have_all_frames_whatever_the_block():
    model = made_model(MadePairs(count=1), zeros=False)
    for is_causal in (True, False):
        assert generated_frames(
            model, made_pair(frames=11), 1, replace(CONFIG, is_causal=is_causal), "float32"
        ).shape == (11, 16, 24, 3)


def test_figures_of_render_baselines_and_steps_and_a_picture(tmp_path):
    pairs = MadePairs(count=3, frames=5)
    figures = validate(
        made_model(pairs),
        pairs.pairs,
        CONFIG,
        baselines={"black": lambda rgb, opacity: np.zeros_like(rgb)},
        picture=tmp_path / "grid.png",
    )
    assert {name.split("/")[0] for name in figures} == {"render", "black", "steps1", "steps2"}
    # renders are black where they are empty
    assert figures["black/psnr_empty"] == pytest.approx(figures["render/psnr_empty"])
    assert figures["black/psnr_opaque"] < figures["render/psnr_opaque"]
    with Image.open(tmp_path / "grid.png") as picture:
        # render, opacity, two numbers of steps, truth; two pairs
        assert picture.size == (5 * 24, 2 * 16)


def test_parts_of_a_length_cover_a_clip_and_are_made_each_by_itself():
    assert part_starts(45, 13) == [0, 13, 26, 32]
    assert part_starts(26, 13) == [0, 13]
    pair, model = made_pair(frames=11), made_model(MadePairs(count=1), zeros=False)
    config = replace(CONFIG, is_causal=False, clip_frames=5)
    frames = generated_frames(model, pair, 1, config, "float32")
    for part, (first, kept) in enumerate(((0, 0), (5, 5), (6, 10))):
        alone = generated_clip(model, pair.clip(first, 5), 1, config, first_block=part).frames
        assert torch.equal(frames[kept : first + 5], alone[kept - first :])
    assert not torch.equal(
        frames, generated_frames(model, pair, 1, replace(config, clip_frames=None), "float32")
    )
    assert torch.equal(
        generated_frames(model, pair, 1, replace(config, clip_frames=11), "float32"),
        generated_frames(model, pair, 1, replace(config, clip_frames=None), "float32"),
    )


def test_the_source_of_the_configuration_comes_before_the_models():
    pair, model = made_pair(frames=5), made_model(MadePairs(count=1), zeros=False)
    pair.opacity[:] = 0
    direct = replace(model, config=replace(model.config, source="direct"))
    mixing = generated_frames(model, pair, 1, CONFIG, "float32")
    assert not torch.equal(mixing, generated_frames(direct, pair, 1, CONFIG, "float32"))
    assert torch.equal(
        mixing, generated_frames(direct, pair, 1, replace(CONFIG, source="mixing"), "float32")
    )
