"""Validation: figures that a perfect, a blind and an absent model must have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_models import made_model
from made_pairs import MadePairs, made_pair
from PIL import Image

from artifixer.training.validation import Quality, ValidationConfig, made_frames, validate

CONFIG = ValidationConfig(pairs=2, steps=(1, 2), grid_pairs=2)


def test_an_untrained_direct_model_that_keeps_the_residual_gives_back_the_render_where_it_is_opaque():
    pairs = MadePairs(count=1, frames=9)
    model = made_model(pairs)  # its head is zero: velocity 0, the render's latents stay
    model = replace(model, config=replace(model.config, source="direct", keep_residual=True))
    frames = made_frames(model, pairs.pairs[0], 1, CONFIG, "float32")
    opaque = pairs.pairs[0].opacity == 255
    assert (frames[opaque].int() - pairs.pairs[0].renders[opaque].int()).abs().max() <= 1
    assert not torch.equal(frames, pairs.pairs[0].renders)


def test_causal_and_whole_clips_have_all_frames_whatever_the_block():
    model = made_model(MadePairs(count=1), zeros=False)
    for is_causal in (True, False):
        assert made_frames(model, made_pair(frames=11), 1, replace(CONFIG, is_causal=is_causal), "float32").shape == (11, 16, 24, 3)


def test_figures_of_render_rivals_and_steps_and_a_picture(tmp_path):
    pairs = MadePairs(count=3, frames=5)
    figures = validate(
        made_model(pairs), pairs.pairs, CONFIG, rivals={"black": lambda rgb, opacity: np.zeros_like(rgb)}, picture=tmp_path / "grid.png"
    )
    assert {name.split("/")[0] for name in figures} == {"render", "black", "steps1", "steps2"}
    assert figures["black/psnr_empty"] == pytest.approx(figures["render/psnr_empty"])  # renders are black where they are empty
    assert figures["black/psnr_opaque"] < figures["render/psnr_opaque"]
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (5 * 24, 2 * 16)  # render, opacity, two numbers of steps, truth; two pairs


def test_quality_of_the_truth_and_of_a_constant_error():
    pair = made_pair(frames=2)
    perfect, grey = Quality(), Quality()
    perfect.add(pair.clean_frames, pair.clean_frames, pair.opacity)
    figures = perfect.figures([False, True])
    assert figures["ssim"] == pytest.approx(1)
    assert figures["edges_empty"] == pytest.approx(1)
    assert figures["psnr_hard"] == 60
    truth = torch.full_like(pair.clean_frames, 100)
    grey.add(truth + 51, truth, pair.opacity)
    for name in ("psnr_pooled", "psnr_mean", "psnr_opaque", "psnr_empty"):
        assert grey.figures([True, True])[name] == pytest.approx(-20 * np.log10(0.2))
