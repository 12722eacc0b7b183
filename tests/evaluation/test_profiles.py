"""Metric profiles against torchmetrics, scikit-image and the formulas of their definitions."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as torchmetrics_lpips
from torchmetrics.functional.image import structural_similarity_index_measure as torchmetrics_ssim

from artifixer.evaluation.profiles import PROFILES, Networks, score, st_lpips
from artifixer.imaging.perceptual import Lpips

TOLERANCE = 1e-5

#: Channels of AlexNet's and VGG16's layers, from which small ones are made.
ALEX, VGG = (64, 192, 384, 256, 256), (64, 128, 256, 512, 512)


def pair(seed: int = 0, height: int = 70, width: int = 91) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    base = (
        120 + 80 * np.sin(columns / 7)[..., None] * np.cos(rows / (5, 9, 13)[seed % 3])[..., None]
    )
    base = base + random.normal(0, 12, (height, width, 3))
    other = base + random.normal(0, 20, (height, width, 3)) + 9
    return tuple(np.clip(x, 0, 255).astype(np.uint8) for x in (base, other))  # type: ignore[return-value]


def half(height: int = 70, width: int = 91) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[5:60, 10:70] = True
    return mask


def planes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


NONE = Networks()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_genfusion_is_zero_padded(seed: int) -> None:
    ours, theirs = pair(seed)
    figures = score(PROFILES["genfusion"], ours, theirs, None, NONE)
    assert figures["psnr"] == pytest.approx(
        peak_signal_noise_ratio(theirs, ours, data_range=255), abs=TOLERANCE
    )
    padded = [np.pad(x.astype(float) / 255, ((5, 5), (5, 5), (0, 0))) for x in (ours, theirs)]
    _, full = structural_similarity(
        *padded, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    assert figures["ssim_zero"] == pytest.approx(full[5:-5, 5:-5].mean(), abs=TOLERANCE)
    assert figures["lpips_vgg01"] is None


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_difix_unmasked_is_torchmetrics(seed: int) -> None:
    """The reflected mean is that of torchmetrics from 1.4 (installed: newer), the cropped one that
    of scikit-image, which crops as torchmetrics did up to 1.3.
    """
    ours, theirs = pair(seed)
    figures = score(PROFILES["difix_unmasked"], ours, theirs, None, NONE)
    expected = torchmetrics_ssim(planes(ours), planes(theirs), data_range=1.0)
    assert figures["ssim_reflected"] == pytest.approx(float(expected), abs=TOLERANCE)
    cropped = structural_similarity(
        ours, theirs, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert figures["ssim_cropped"] == pytest.approx(cropped, abs=TOLERANCE)
    assert abs(float(expected) - cropped) > TOLERANCE, "the two definitions differ"


def test_difix_blacks_out_and_takes_whole_images() -> None:
    ours, theirs = pair()
    mask = half()
    figures = score(PROFILES["difix"], ours, theirs, mask, NONE)
    dark = [x * mask[..., None].astype(np.uint8) for x in (ours, theirs)]
    assert figures["psnr"] == pytest.approx(
        peak_signal_noise_ratio(dark[1], dark[0], data_range=255), abs=TOLERANCE
    )
    expected = torchmetrics_ssim(planes(dark[0]), planes(dark[1]), data_range=1.0)
    assert figures["ssim_reflected"] == pytest.approx(float(expected), abs=TOLERANCE)


def test_nerfbusters_averages_over_the_visible_pixels_channel_by_channel() -> None:
    ours, theirs = pair()
    mask = half()
    figures = score(PROFILES["nerfbusters"], ours, theirs, mask, NONE)
    errors = ((ours.astype(float) - theirs) / 255)[mask] ** 2
    expected = np.mean([-10 * np.log10(errors[:, channel].mean()) for channel in range(3)])
    assert figures["psnr"] == pytest.approx(expected, abs=TOLERANCE)
    dark = [planes(x * mask[..., None].astype(np.uint8)) for x in (ours, theirs)]
    _, full = torchmetrics_ssim(*dark, data_range=1.0, return_full_image=True)
    expected = float(full[0].mean(dim=0)[torch.from_numpy(mask)].mean())
    assert figures["ssim_reflected"] == pytest.approx(expected, abs=TOLERANCE)
    assert figures["coverage"] == pytest.approx(mask.mean())


def test_masked_conventions_differ_by_the_visible_share() -> None:
    """PSNR of blacked-out images is 10 log10(1 / c) above that over the visible pixels, where the
    channels have the same error.
    """
    ours, theirs = (np.repeat(x[..., :1], 3, axis=2) for x in pair())
    mask = half()
    blackout = score(PROFILES["difix"], ours, theirs, mask, NONE)["psnr"]
    visible = score(PROFILES["nerfbusters"], ours, theirs, mask, NONE)["psnr"]
    assert blackout is not None and visible is not None
    assert blackout - visible == pytest.approx(10 * math.log10(1 / mask.mean()), abs=1e-4)


def test_equal_images() -> None:
    ours, _ = pair()
    figures = score(PROFILES["difix_unmasked"], ours, ours, None, NONE)
    assert figures["psnr"] == math.inf
    assert figures["ssim_reflected"] == pytest.approx(1) and figures[
        "ssim_cropped"
    ] == pytest.approx(1)


# LPIPS: small random networks of the same architecture --------------------------------------------


def small_features(net: str, divide: int = 16) -> nn.Sequential:
    """torchvision's feature layers of AlexNet and VGG16, narrower."""
    layers: list[nn.Module] = []
    if net == "alexnet":
        shapes = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
        before = 3
        for index, (channels, (kernel, stride, padding)) in enumerate(
            zip(ALEX, shapes, strict=True)
        ):
            layers += [nn.Conv2d(before, channels // divide, kernel, stride, padding), nn.ReLU()]
            if index in (0, 1, 4):
                layers.append(nn.MaxPool2d(3, 2))
            before = channels // divide
        return nn.Sequential(*layers)
    before = 3
    for channels, repeats in zip(VGG, (2, 2, 3, 3, 3), strict=True):
        for _ in range(repeats):
            layers += [nn.Conv2d(before, channels // divide, 3, 1, 1), nn.ReLU()]
            before = channels // divide
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def small_lpips(
    monkeypatch: pytest.MonkeyPatch, net: str, spatial: bool
) -> torchmetrics_lpips._LPIPS:
    """torchmetrics' own LPIPS around random features."""
    torch.manual_seed(0)
    monkeypatch.setattr(
        torchmetrics_lpips, "_get_tv_model_features", lambda name, pretrained: small_features(name)
    )
    monkeypatch.setattr(torchmetrics_lpips, "_TORCHVISION_AVAILABLE", True, raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    network = torchmetrics_lpips._LPIPS(
        pretrained=False, net=net, spatial=spatial, pnet_rand=True, use_dropout=False
    )
    channels = [count // 16 for count in (ALEX if net == "alex" else VGG)]
    for index, count in enumerate(channels):
        layer = torchmetrics_lpips.NetLinLayer(count)
        layer.model[-1].weight.data = torch.rand(1, count, 1, 1)
        network.lins[index] = layer.eval()
    return network.eval()


def test_lpips_is_fed_as_each_profile_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG on [0,1], AlexNet on [-1,1], on the blacked-out pair where the profile masks."""
    ours, theirs = pair()
    vgg, alex = (small_lpips(monkeypatch, net, False) for net in ("vgg", "alex"))
    maps = small_lpips(monkeypatch, "alex", True)
    networks = Networks(
        lpips={"lpips_vgg01": Lpips(vgg, False), "lpips_alex": Lpips(alex, True)},
        maps={"lpips_alex": Lpips(maps, True)},
    )
    mask = half()
    dark = [planes(x * mask[..., None].astype(np.uint8)) for x in (ours, theirs)]
    found = score(PROFILES["genfusion"], ours, theirs, None, networks)["lpips_vgg01"]
    assert found == pytest.approx(float(vgg(planes(ours), planes(theirs))), abs=TOLERANCE)
    found = score(PROFILES["difix"], ours, theirs, mask, networks)["lpips_alex"]
    assert found == pytest.approx(float(alex(*(2 * x - 1 for x in dark))), abs=TOLERANCE)
    found = score(PROFILES["nerfbusters"], ours, theirs, mask, networks)["lpips_alex"]
    per_pixel = maps(*(2 * x - 1 for x in dark))[0, 0]
    assert found == pytest.approx(float(per_pixel[torch.from_numpy(mask)].mean()), abs=TOLERANCE)


def test_images_too_small_for_a_network_have_no_figure() -> None:
    networks = Networks.load()
    ours, theirs = pair(height=20, width=20)
    assert st_lpips(ours, theirs, networks) is None
