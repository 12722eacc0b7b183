"""Quality figures of the truth, of constant errors, and of parts of clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifixer.imaging.quality import ClipQuality, PartQuality, RegionErrors


def test_pooled_errors_are_exact_sums_over_their_pixels():
    truth = torch.zeros(1, 1, 3, 3, dtype=torch.uint8)
    frames = torch.tensor([[[[3, 0, 0], [0, 4, 0], [0, 0, 5]]]], dtype=torch.uint8)
    opacity = torch.tensor([[[255, 128, 0]]], dtype=torch.uint8)
    errors = RegionErrors()
    errors.add(frames, truth, opacity)
    errors.add(frames, truth, opacity)
    totals = (errors.pooled.total, errors.opaque.total, errors.empty.total)
    assert totals == (2 * (9 + 16 + 25), 2 * 9, 2 * 25)
    assert (errors.pooled.values, errors.opaque.values, errors.empty.values) == (18, 6, 6)
    assert errors.empty.psnr() == pytest.approx(10 * np.log10(255**2 * 6 / 50))
    assert RegionErrors().pooled.psnr() is None


def test_quality_of_the_truth_and_of_a_constant_error():
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(256, (2, 16, 24, 3), generator=random).to(torch.uint8)
    opacity = torch.full((2, 16, 24), 255, dtype=torch.uint8)
    opacity[:, :5] = 0
    perfect, grey = ClipQuality(), ClipQuality()
    perfect.add(truth, truth, opacity)
    figures = perfect.figures([False, True])
    assert figures["ssim"] == pytest.approx(1)
    assert figures["psnr_hard"] == 60
    truth = torch.full_like(truth, 100)
    grey.add(truth + 51, truth, opacity)
    for name in ("psnr_pooled", "psnr_mean", "psnr_opaque", "psnr_empty"):
        assert grey.figures([True, True])[name] == pytest.approx(-20 * np.log10(0.2))


def test_drift_compares_parts_at_equal_opacity():
    """Error 0.1 where opaque, 0.2 where empty, in both halves, whose shares of empty pixels are 1/4
    and 3/4.
    """
    opacity = torch.tensor([[[0, 255, 255, 255]], [[0, 0, 0, 255]]], dtype=torch.uint8)
    truth = torch.full((2, 1, 4, 3), 100, dtype=torch.uint8)
    error = torch.where(opacity == 255, 51, 102)[..., None].to(torch.uint8)
    same, worse = PartQuality(parts=2), PartQuality(parts=2)
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
    half, nothing = PartQuality(parts=2), PartQuality(parts=2)
    half.add(frames, truth, opacity)
    assert half.psnr() == pytest.approx((60, -20 * np.log10(0.2)))
    nothing.add(frames[..., :1, :], truth[..., :1, :], opacity[..., :1])
    assert np.isnan(nothing.psnr()).all()
