"""LPIPS and FID: where they cannot be computed they say why, and never fall back to
something else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from artifixer.imaging import perceptual
from artifixer.imaging.perceptual import InceptionFeatures, Lpips, load_inception, load_lpips


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

    def network(prediction: torch.Tensor, target: torch.Tensor, normalize: bool) -> torch.Tensor:
        assert prediction.shape[1] == 3, "planes"
        factor = 2 if normalize else 1
        return factor * (prediction - target).abs().mean(dim=(1, 2, 3), keepdim=True)

    images, others = torch.zeros(2, 5, 8, 6, 3), torch.zeros(2, 5, 8, 6, 3)
    others[1, 3] = 0.25
    for from_01, expected in ((False, 0.25), (True, 0.5)):
        distances = Lpips(network, from_01)(images, others)  # type: ignore[arg-type]
        assert distances.shape == (2, 5)
        assert distances[1, 3] == expected
        assert distances.sum() == expected


def test_inception_reads_square_planes_of_bytes() -> None:
    seen: list[tuple[int, ...]] = []

    def network(planes: torch.Tensor) -> torch.Tensor:
        assert planes.dtype == torch.uint8
        seen.append(tuple(planes.shape))
        return planes.to(torch.float32).mean(dim=(2, 3))

    images = torch.rand(2, 3, 8, 6, 3, generator=torch.Generator().manual_seed(0))
    features = InceptionFeatures(network)(images)
    assert seen == [(6, 3, 512, 512)]
    assert features.shape == (6, 3) and features.dtype == torch.float32
