"""Quality of predicted held-out views, and ``metrics.json``.

In: a stream of held-out views (photo, prediction, opacity of the model's input render), all uint8.
Out: one ``VariantQuality`` per variant, from running sums, so that memory does not grow with the
number of views.

The figures are defined in ``imaging/quality``, PSNR and SSIM in ``imaging/metrics``, LPIPS in
``imaging/perceptual``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from artifixer.imaging.metrics import psnr, ssim
from artifixer.imaging.perceptual import Lpips, load_lpips
from artifixer.imaging.quality import RegionErrors, ViewQuality, is_empty

#: Renders of fits to photos alone: gains are stated over the better of them. ``3dgut``: the plain
#: fit; ``input``: the model's input render, if it is of another fit.
RENDERS = ("3dgut", "input")

#: Figures whose gains are stated; larger is better.
GAIN_FIELDS = ("psnr", "psnr_pooled", "psnr_opaque", "psnr_empty", "ssim")

#: Names of the variants in ``metrics.json``, in the order of tables, and their titles.
VARIANT_TITLES = {
    "3dgut": "3DGUT render",
    "input": "Input render",
    "inpainting_telea": "Inpainting (Telea)",
    "inpainting_ns": "Inpainting (Navier-Stokes)",
    "inpainting_push_pull": "Inpainting (push-pull)",
    "artifixer_unadapted": "ArtiFixer, not adapted",
    "artifixer": "ArtiFixer",
    "artifixer3d": "ArtiFixer 3D",
    "artifixer3d_plus": "ArtiFixer 3D+",
}

#: What the model is compared with: variants that do without it.
BASELINES = tuple(name for name in VARIANT_TITLES if not name.startswith("artifixer"))


@dataclass(frozen=True)
class HeldoutView:
    """One held-out photo and its prediction, of one size."""

    photo: str
    """Name of the photo."""

    truth: UInt8[np.ndarray, "height width 3"]

    prediction: UInt8[np.ndarray, "height width 3"]

    opacity: UInt8[np.ndarray, "height width"]
    """Opacity of the model's input render for every variant, so that all share the same regions."""

    mask: UInt8[np.ndarray, "height width"] | None = None
    """255 where the photo counts, 0 where it does not; None where all of it counts."""

    def __post_init__(self) -> None:
        assert self.truth.dtype == self.prediction.dtype == self.opacity.dtype == np.uint8, (
            f"{self.photo}: expected uint8"
        )
        assert self.truth.shape == self.prediction.shape, (
            f"{self.photo}: {self.truth.shape} and prediction {self.prediction.shape}"
        )
        assert self.truth.shape == (*self.opacity.shape, 3), (
            f"{self.photo}: {self.truth.shape} with opacity {self.opacity.shape}"
        )


@dataclass(frozen=True)
class VariantQuality:
    """Quality of one variant over all held-out views.

    Values are None if there is no view, no pixel of that opacity, or no perceptual network.
    """

    psnr: float | None
    """Mean over the views, dB."""
    ssim: float | None
    """Mean over the views."""
    lpips_vgg01: float | None
    """Mean over the views, VGG16 on [0,1]."""
    lpips_alex: float | None
    """Mean over the views, AlexNet."""
    psnr_pooled: float | None
    """Over all pixels of all views, dB."""
    psnr_opaque: float | None
    """Over all opaque pixels, dB."""
    psnr_empty: float | None
    """Over all empty pixels, dB."""
    per_view: tuple[ViewQuality, ...]
    """Figures of every view in order."""


@dataclass(frozen=True)
class PerceptualMetrics:
    """The LPIPS networks that are installed; ``notes``: one line for each missing one."""

    vgg01: Lpips | None = None
    alex: Lpips | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def load(device: torch.device | str = "cpu") -> PerceptualMetrics:
        """Load the networks whose packages and weights are installed; nothing is downloaded."""
        vgg01, without_vgg01 = load_lpips("lpips_vgg01", device)
        alex, without_alex = load_lpips("lpips_alex", device)
        return PerceptualMetrics(
            vgg01, alex, tuple(note for note in (without_vgg01, without_alex) if note)
        )


def evaluate(
    views: Iterable[HeldoutView],
    perceptual: PerceptualMetrics | None = None,
    device: torch.device | str = "cpu",
) -> VariantQuality:
    """The quality of one variant. views: read once, may be a generator. perceptual: None for no
    LPIPS. Masked pixels count in no figure; views that are masked completely are left out.
    """
    perceptual = perceptual or PerceptualMetrics()
    errors = RegionErrors()
    per_view = []
    for view in views:
        prediction, truth, opacity = (
            torch.tensor(pixels) for pixels in (view.prediction, view.truth, view.opacity)
        )
        counts = torch.ones(opacity.shape, dtype=torch.bool)
        if view.mask is not None:
            counts = torch.tensor(view.mask) > 127
        if not counts.any():
            continue
        errors.add(prediction, truth, opacity, counts)
        empty = float(is_empty(opacity)[counts].double().mean())
        per_view.append(_view_quality(view, empty, perceptual, device))
    return VariantQuality(
        psnr=_mean([view.psnr for view in per_view]),
        ssim=_mean([view.ssim for view in per_view]),
        lpips_vgg01=_mean([view.lpips_vgg01 for view in per_view]),
        lpips_alex=_mean([view.lpips_alex for view in per_view]),
        psnr_pooled=errors.pooled.psnr(),
        psnr_opaque=errors.opaque.psnr(),
        psnr_empty=errors.empty.psnr(),
        per_view=tuple(per_view),
    )


def metrics_content(
    variants: Mapping[str, VariantQuality], train: Sequence[str], heldout: Sequence[str]
) -> dict[str, Any]:
    """The content of ``metrics.json``: quality and gains of every variant, and the names of the
    training and of the held-out photos.

    variants: by names of ``VARIANT_TITLES``. An infinite PSNR (prediction equals photo) becomes
    null, because JSON has no infinity. Gains are those of ``gain``.
    """
    unknown = sorted(set(variants) - set(VARIANT_TITLES))
    assert not unknown, f"unknown variants {unknown}; expected some of {list(VARIANT_TITLES)}"
    repaired = [name for name in VARIANT_TITLES if name in variants and name not in RENDERS]
    return {
        "gains": {
            name: {field: gain(variants, name, field) for field in GAIN_FIELDS} for name in repaired
        },
        "variants": {name: variants[name] for name in VARIANT_TITLES if name in variants},
        "views": {"train": list(train), "heldout": list(heldout)},
    }


def gain(variants: Mapping[str, VariantQuality], name: str, field: str) -> float | None:
    """A variant's figure (of ``GAIN_FIELDS``) minus that of the better one of the ``RENDERS``; None
    where a figure is missing or infinite.
    """
    best = best_of(variants, RENDERS, field)
    return None if best is None else difference(variants, name, best, field)


def best_of(variants: Mapping[str, VariantQuality], names: Sequence[str], field: str) -> str | None:
    """The one of these variants with the largest figure; None where all lack it."""
    known = {
        name: value
        for name in names
        if name in variants and (value := getattr(variants[name], field)) is not None
    }
    return max(known, key=lambda name: known[name], default=None)


def difference(
    variants: Mapping[str, VariantQuality], name: str, other: str, field: str
) -> float | None:
    """One variant's figure minus another's; None where one is missing or infinite."""
    ours, theirs = getattr(variants[name], field), getattr(variants[other], field)
    if ours is None or theirs is None or not math.isfinite(ours) or not math.isfinite(theirs):
        return None
    return float(ours - theirs)


def _view_quality(
    view: HeldoutView, empty: float, perceptual: PerceptualMetrics, device: torch.device | str
) -> ViewQuality:
    truth, prediction = _as_float(view.truth, device), _as_float(view.prediction, device)
    mask = None
    if (
        view.mask is not None
    ):  # masked pixels are black in both images, so that windows across the mask's border agree
        mask = torch.tensor(view.mask > 127, device=device).to(torch.float32)
        truth, prediction = truth * mask[..., None], prediction * mask[..., None]
    with torch.no_grad():
        return ViewQuality(
            photo=view.photo,
            psnr=float(psnr(prediction, truth, mask)),
            ssim=float(ssim(prediction, truth, mask)),
            lpips_vgg01=float(perceptual.vgg01(prediction, truth)) if perceptual.vgg01 else None,
            lpips_alex=float(perceptual.alex(prediction, truth)) if perceptual.alex else None,
            empty=empty,
        )


def _as_float(pixels: UInt8[np.ndarray, "height width 3"], device: torch.device | str) -> Tensor:
    return torch.tensor(pixels, device=device, dtype=torch.float32) / 255


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
