"""LPIPS and FID through torchmetrics, where its packages and the networks' weights are installed.

In: images in [0,1], ``[*batch height width 3]``. Out: values, or None together with the reason why
there are none: these metrics are never replaced by anything else, and nothing is downloaded.
Packages come with the extra ``metrics``; the networks' weights are looked for in torch's hub cache
(``$TORCH_HOME/hub/checkpoints``).

Names of results say what was measured: ``lpips_vgg01`` is LPIPS 0.1 on VGG16 with images left in
[0,1], as in the published comparisons; ``lpips_alex`` is on AlexNet with images moved to [-1,1], as
its package does by default. The two are not comparable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

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

#: What importing the metrics packages raises when one is missing, or installed without the CUDA
#: libraries it was built for.
_IMPORT_FAILURES = (ImportError, OSError, RuntimeError)


class Lpips:
    """Perceptual distance of image pairs, 0 for equal images; differentiable. Made by
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
        return distances.reshape(prediction.shape[:-3])


class Fid:
    """Distance between the distributions of two sets of images, by Inception features. Made by
    ``load_fid``.
    """

    def __init__(self, metric: Any) -> None:
        self._metric = metric

    def add(self, images: Float[Tensor, "*batch height width 3"], real: bool) -> None:
        """Count images into one of the two sets."""
        size = (FID_SIDE, FID_SIDE)
        resized = F.interpolate(
            _planes(images), size=size, mode="bilinear", align_corners=False, antialias=True
        )
        self._metric.update(resized.clamp(0, 1), real=real)

    def value(self) -> float:
        """The distance; both sets need at least two images."""
        return float(self._metric.compute())


def load_lpips(name: LpipsName, device: torch.device | str = "cpu") -> tuple[Lpips | None, str]:
    """The metric and "", or None and the reason why it cannot be computed here."""
    try:
        import torchvision  # noqa: F401  # torchmetrics hides a broken torchvision behind a later error
        from torchmetrics.functional.image.lpips import _NoTrainLpips
    except _IMPORT_FAILURES as error:
        return None, _missing_package(name, error)
    if not _weights_path(name).is_file():
        return None, _missing_weights(name)
    network = _NoTrainLpips(net="vgg" if name == "lpips_vgg01" else "alex", pnet_tune=False)
    return Lpips(network.to(device), from_01=name == "lpips_alex"), ""


def load_fid(device: torch.device | str = "cpu") -> tuple[Fid | None, str]:
    """The metric and "", or None and the reason why it cannot be computed here."""
    try:
        import torch_fidelity  # noqa: F401  # the same for the package of the Inception network
        from torchmetrics.image.fid import FrechetInceptionDistance
    except _IMPORT_FAILURES as error:
        return None, _missing_package("fid", error)
    weights = _weights_path("fid")
    if not weights.is_file():
        return None, _missing_weights("fid")
    metric = FrechetInceptionDistance(
        2048, normalize=True, feature_extractor_weights_path=str(weights)
    )
    return Fid(metric.to(device)), ""


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
