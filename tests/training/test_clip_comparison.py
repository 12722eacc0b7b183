"""Quality along clips and of single blocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_models import made_model
from made_pairs import MadePairs, made_pair

from artifixer.training.clip_comparison import (
    BlockResult,
    backwards_pair,
    block_class,
    block_figures,
    codec_seconds,
    compare_steps,
    drift,
)
from artifixer.training.validation import ValidationConfig, validate

CONFIG = ValidationConfig(pairs=2, steps=(1, 2), grid_pairs=2)


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
