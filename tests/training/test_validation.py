"""Validation: figures that a perfect, a blind and an absent model must have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_models import made_model
from made_pairs import MadePairs, made_pair
from PIL import Image

from artifixer.training.validation import (
    BlockResult,
    Drift,
    Quality,
    ValidationConfig,
    backwards_pair,
    block_class,
    block_figures,
    codec_seconds,
    compare_steps,
    drift,
    made_clip,
    made_frames,
    part_starts,
    validate,
)

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
        assert made_frames(
            model, made_pair(frames=11), 1, replace(CONFIG, is_causal=is_causal), "float32"
        ).shape == (11, 16, 24, 3)


def test_figures_of_render_rivals_and_steps_and_a_picture(tmp_path):
    pairs = MadePairs(count=3, frames=5)
    figures = validate(
        made_model(pairs),
        pairs.pairs,
        CONFIG,
        rivals={"black": lambda rgb, opacity: np.zeros_like(rgb)},
        picture=tmp_path / "grid.png",
    )
    assert {name.split("/")[0] for name in figures} == {"render", "black", "steps1", "steps2"}
    # renders are black where they are empty
    assert figures["black/psnr_empty"] == pytest.approx(figures["render/psnr_empty"])
    assert figures["black/psnr_opaque"] < figures["render/psnr_opaque"]
    with Image.open(tmp_path / "grid.png") as picture:
        # render, opacity, two numbers of steps, truth; two pairs
        assert picture.size == (5 * 24, 2 * 16)


def test_quality_of_the_truth_and_of_a_constant_error():
    pair = made_pair(frames=2)
    perfect, grey = Quality(), Quality()
    perfect.add(pair.clean_frames, pair.clean_frames, pair.opacity)
    figures = perfect.figures([False, True])
    assert figures["ssim"] == pytest.approx(1)
    assert figures["psnr_hard"] == 60
    truth = torch.full_like(pair.clean_frames, 100)
    grey.add(truth + 51, truth, pair.opacity)
    for name in ("psnr_pooled", "psnr_mean", "psnr_opaque", "psnr_empty"):
        assert grey.figures([True, True])[name] == pytest.approx(-20 * np.log10(0.2))


def test_parts_of_a_length_cover_a_clip_and_are_made_each_by_itself():
    assert part_starts(45, 13) == [0, 13, 26, 32]
    assert part_starts(26, 13) == [0, 13]
    pair, model = made_pair(frames=11), made_model(MadePairs(count=1), zeros=False)
    config = replace(CONFIG, is_causal=False, clip_frames=5)
    frames = made_frames(model, pair, 1, config, "float32")
    for part, (first, kept) in enumerate(((0, 0), (5, 5), (6, 10))):
        alone = made_clip(model, pair.clip(first, 5), 1, config, first_block=part).frames
        assert torch.equal(frames[kept : first + 5], alone[kept - first :])
    assert not torch.equal(
        frames, made_frames(model, pair, 1, replace(config, clip_frames=None), "float32")
    )
    assert torch.equal(
        made_frames(model, pair, 1, replace(config, clip_frames=11), "float32"),
        made_frames(model, pair, 1, replace(config, clip_frames=None), "float32"),
    )


def test_the_source_of_the_configuration_comes_before_the_models():
    pair, model = made_pair(frames=5), made_model(MadePairs(count=1), zeros=False)
    pair.opacity[:] = 0
    direct = replace(model, config=replace(model.config, source="direct"))
    mixing = made_frames(model, pair, 1, CONFIG, "float32")
    assert not torch.equal(mixing, made_frames(direct, pair, 1, CONFIG, "float32"))
    assert torch.equal(
        mixing, made_frames(direct, pair, 1, replace(CONFIG, source="mixing"), "float32")
    )


def test_drift_compares_parts_at_equal_opacity():
    """Error 0.1 where opaque, 0.2 where empty, in both halves, whose shares of empty pixels are 1/4
    and 3/4.
    """
    opacity = torch.tensor([[[0, 255, 255, 255]], [[0, 0, 0, 255]]], dtype=torch.uint8)
    truth = torch.full((2, 1, 4, 3), 100, dtype=torch.uint8)
    error = torch.where(opacity == 255, 51, 102)[..., None].to(torch.uint8)
    same, worse = Drift(parts=2), Drift(parts=2)
    same.add(truth + error, truth, opacity)
    expected = -10 * np.log10((0.2**2 + 0.4**2) / 2)  # half of all pixels are empty
    assert same.psnr() == pytest.approx((expected, expected))
    worse.add(
        truth + error // torch.tensor([2, 1], dtype=torch.uint8).view(2, 1, 1, 1), truth, opacity
    )
    first, last = worse.psnr()
    assert last == pytest.approx(expected)
    assert first - last == pytest.approx(20 * np.log10(2), abs=0.1)  # 51 // 2


def test_drift_leaves_out_levels_of_opacity_that_a_part_lacks():
    opacity = torch.tensor([[[0, 255]], [[128, 255]]], dtype=torch.uint8)
    truth = torch.zeros(2, 1, 2, 3, dtype=torch.uint8)
    frames = truth.clone()
    frames[0, 0, 0], frames[1, 0, 1] = 255, 51
    half, nothing = Drift(parts=2), Drift(parts=2)
    half.add(frames, truth, opacity)
    assert half.psnr() == pytest.approx((60, -20 * np.log10(0.2)))
    nothing.add(frames[..., :1, :], truth[..., :1, :], opacity[..., :1])
    assert np.isnan(nothing.psnr()).all()


def test_played_both_ways_content_cancels_and_decay_remains():
    pairs = [made_pair(frames=9)]
    pairs[0].renders[:3] //= 2  # this end is harder
    content = drift(pairs, lambda pair: pair.renders)
    assert content.change_forwards > 1
    assert content.change == pytest.approx(0, abs=1e-9)
    fading = torch.linspace(1, 0.5, 9).view(9, 1, 1, 1)
    decay = drift(pairs, lambda pair: (pair.clean_frames * fading).to(torch.uint8))
    assert decay.change_forwards < -1
    assert decay.change_backwards < -1
    assert decay.change == pytest.approx((decay.change_forwards + decay.change_backwards) / 2)


def test_a_pair_backwards_twice_is_itself():
    pair = made_pair(frames=5)
    backwards = backwards_pair(pair)
    assert torch.equal(backwards.cameras.viewmats[0], pair.cameras.viewmats[4])
    assert torch.equal(backwards.opacity[0], pair.opacity[4])
    twice = backwards_pair(backwards)
    assert torch.equal(twice.renders, pair.renders)
    assert torch.equal(twice.cameras.viewmats, pair.cameras.viewmats)


def test_block_figures_by_class():
    results = [
        BlockResult(opaque=0.95, calls=1, seconds=1.0, psnr=(20.0, 22.0), squared=1.0, pixels=100),
        BlockResult(opaque=0.90, calls=2, seconds=3.0, psnr=(24.0,), squared=3.0, pixels=100),
        BlockResult(opaque=0.10, calls=4, seconds=8.0, psnr=(10.0,), squared=20.0, pixels=200),
    ]
    figures = block_figures(results)
    assert set(figures) == {"all", "opaque", "empty"}
    opaque = figures["opaque"]
    assert (opaque.blocks, opaque.psnr_mean, opaque.calls, opaque.seconds) == (2, 22.0, 1.5, 2.0)
    assert opaque.psnr_pooled == pytest.approx(-10 * np.log10(4 / 200))
    assert (figures["all"].blocks, figures["all"].psnr_mean, figures["all"].seconds) == (
        3,
        19.0,
        3.0,
    )
    assert [block_class(share) for share in (1.0, 0.9, 0.89, 0.5, 0.49, 0.0)] == [
        "opaque",
        "opaque",
        "mixed",
        "mixed",
        "empty",
        "empty",
    ]


def test_blocks_at_fixed_and_adaptive_steps_are_the_clips_own():
    pair = made_pair(frames=11)  # blocks of frames 0-4 and 5-10, two of 8 frames padded
    pair.opacity[:5], pair.opacity[5:] = 255, 0
    model = made_model(MadePairs(count=1), zeros=False)
    results = compare_steps(model, [pair], replace(CONFIG, steps=(4, "adaptive")))
    assert [(result.opaque, result.calls, len(result.psnr)) for result in results[4]] == [
        (1.0, 4, 5),
        (0.0, 4, 6),
    ]
    assert [(result.opaque, result.calls) for result in results["adaptive"]] == [(1.0, 1), (0.0, 4)]
    figures = validate(model, [pair], replace(CONFIG, steps=(4, "adaptive")))
    for steps, blocks in results.items():
        assert block_figures(blocks)["all"].psnr_pooled == pytest.approx(
            figures[f"steps{steps}/psnr_pooled"], rel=1e-5
        )
        assert block_figures(blocks)["all"].psnr_mean == pytest.approx(
            figures[f"steps{steps}/psnr_mean"], rel=1e-5
        )
    assert all(result.seconds > 0 for blocks in results.values() for result in blocks)
    assert codec_seconds(model, pair) > 0
