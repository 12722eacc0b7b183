"""PSNR and SSIM: published values, an outside oracle, gradients, masks."""

import inspect
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from artifixer.imaging.metrics import psnr, ssim, ssim_map
from artifixer.runtime.seeds import generator

# relative: float32 means over 20,000 values, in another order than the stored ones
FLOAT32_SUMS = 1e-5
FLOAT64_ROUNDING = 1e-12
FLOAT32_CONSTANTS = 1e-7  # torchmetrics computes the peak and the base of the logarithm in float32
FIRST_ORDER = 1e-6  # central differences in float64 with steps of 1e-6


def random_pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    random = generator(0, "metrics")
    target = torch.rand(shape, generator=random, dtype=dtype)
    return (target + 0.1 * torch.randn(shape, generator=random, dtype=dtype)).clamp(0, 1), target


def test_published_values(parity_folder: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(parity_folder / "g_metrics_resize.safetensors")
    a, b = stored["a"].movedim(1, -1), stored["b"].movedim(1, -1)
    torch.testing.assert_close(psnr(a, b), stored["psnr"].flatten(), rtol=FLOAT32_SUMS, atol=0)
    torch.testing.assert_close(ssim(a, b), stored["ssim"].flatten(), rtol=FLOAT32_SUMS, atol=0)


def test_equal_to_torchmetrics() -> None:
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    prediction, target = random_pair(2, 40, 33, 3)
    theirs = peak_signal_noise_ratio(
        prediction, target, data_range=1.0, dim=(1, 2, 3), reduction="none"
    )
    torch.testing.assert_close(psnr(prediction, target), theirs, rtol=FLOAT32_CONSTANTS, atol=0)
    # Its map is padded by reflection and cropped; ours is padded with zeros: they agree where the
    # window lies inside the image.
    _, maps = structural_similarity_index_measure(
        prediction.movedim(-1, 1), target.movedim(-1, 1), data_range=1.0, return_full_image=True
    )
    inside = (slice(None), slice(5, -5), slice(5, -5))
    torch.testing.assert_close(
        ssim_map(prediction, target)[inside], maps.movedim(1, -1)[inside], rtol=1e-9, atol=1e-9
    )


def test_ssim_with_loops_also_at_the_border() -> None:
    """The formula pixel by pixel, with zeros around the image."""
    prediction, target = random_pair(12, 13, 3)
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    p, t = (torch.nn.functional.pad(image, (0, 0, 5, 5, 5, 5)) for image in (prediction, target))
    expected = torch.empty_like(prediction)
    for row in range(12):
        for column in range(13):
            for channel in range(3):
                part = (slice(row, row + 11), slice(column, column + 11), channel)
                a, b = p[part], t[part]
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                variances = (window * (a * a + b * b)).sum() - mean_a**2 - mean_b**2
                covariance = (window * a * b).sum() - mean_a * mean_b
                expected[row, column, channel] = (
                    (2 * mean_a * mean_b + 0.01**2)
                    * (2 * covariance + 0.03**2)
                    / ((mean_a**2 + mean_b**2 + 0.01**2) * (variances + 0.03**2))
                )
    torch.testing.assert_close(ssim_map(prediction, target), expected, rtol=1e-9, atol=1e-9)
    mean_square = sum(float(d) ** 2 for d in (prediction - target).flatten()) / 468
    assert float(psnr(prediction, target)) == pytest.approx(
        -10 * math.log10(mean_square), rel=1e-12
    )


def test_ssim_gradient_by_central_differences() -> None:
    prediction, target = random_pair(1, 13, 12, 3)
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda image: ssim_map(image, target), prediction, eps=1e-6, atol=FIRST_ORDER, rtol=1e-5
    )


def test_psnr_gradient_by_central_differences() -> None:
    prediction, target = random_pair(2, 4, 5, 3)
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda image: psnr(image, target), prediction, eps=1e-6, atol=FIRST_ORDER, rtol=1e-5
    )


def test_equal_images() -> None:
    image, _ = random_pair(3, 12, 14, 3)
    assert torch.isinf(psnr(image, image)).all()
    torch.testing.assert_close(
        ssim(image, image), torch.ones(3, dtype=torch.float64), rtol=FLOAT64_ROUNDING, atol=0
    )


def test_known_psnr() -> None:
    target = torch.zeros(4, 4, 3)
    torch.testing.assert_close(
        psnr(target + 0.1, target), torch.tensor(20.0), rtol=FLOAT32_SUMS, atol=0
    )


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_batches_are_images_apart(metric) -> None:
    prediction, target = random_pair(2, 3, 16, 12, 3)
    together = metric(prediction, target)
    apart = torch.stack(
        [metric(*pair) for pair in zip(prediction.flatten(0, 1), target.flatten(0, 1), strict=True)]
    )
    torch.testing.assert_close(together.flatten(), apart, rtol=FLOAT64_ROUNDING, atol=0)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_mask_of_ones_changes_nothing_and_of_zeros_is_nan(metric) -> None:
    prediction, target = random_pair(16, 12, 3)
    ones = torch.ones(16, 12, dtype=torch.float64)
    torch.testing.assert_close(
        metric(prediction, target, ones), metric(prediction, target), rtol=FLOAT64_ROUNDING, atol=0
    )
    assert torch.isnan(metric(prediction, target, 0 * ones))


def test_masked_psnr_sees_only_the_mask() -> None:
    prediction, target = random_pair(16, 12, 3)
    mask = torch.zeros(16, 12, dtype=torch.float64)
    mask[:7] = 1
    torch.testing.assert_close(
        psnr(prediction, target, mask),
        psnr(prediction[:7], target[:7]),
        rtol=FLOAT64_ROUNDING,
        atol=0,
    )


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_dtype_is_kept(metric) -> None:
    assert metric(*random_pair(12, 12, 3, dtype=torch.float32)).dtype == torch.float32


def test_shapes_are_checked() -> None:
    """By the function itself, where annotations are not checked."""
    with pytest.raises(AssertionError, match=r"prediction \(4, 4, 3\), target \(4, 5, 3\)"):
        inspect.unwrap(psnr)(torch.zeros(4, 4, 3), torch.zeros(4, 5, 3))
