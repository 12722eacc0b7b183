"""Quality of predicted held-out views, and ``metrics.json``.

In: a stream of held-out views (the photo, the prediction, the opacity of the render that the model
got), all uint8. Out: one ``VariantQuality`` per variant, from running sums, so memory does not grow
with the number of views.

Means over frames are dominated by easy frames; ``psnr_pooled`` (one squared error over all pixels
of all views) is dominated by the hard ones, and ``psnr_opaque`` / ``psnr_empty`` say where a
variant gains: what that render showed, and what it left open. Definitions of PSNR and SSIM:
``imaging/metrics``; of LPIPS: ``imaging/perceptual``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from artifixer.imaging.metrics import psnr, ssim
from artifixer.imaging.perceptual import Lpips, load_lpips

#: Pixels of the render that the model gets which count as shown / as empty (opacity above / below).
OPAQUE_ABOVE = 0.9
EMPTY_BELOW = 0.1

#: Renders of fits to the photos alone: what every other variant is compared with. ``3dgut``: the
#: plain fit; ``input``: another one that the model gets, where there is one.
BASELINES = ("3dgut", "input")

#: Figures of which gains are stated; larger is better.
GAIN_FIELDS = ("psnr", "psnr_pooled", "psnr_opaque", "psnr_empty", "ssim")

#: What variants are called in ``metrics.json``, in the order of tables, and what people read.
VARIANT_TITLES = {
    "3dgut": "3DGUT render",
    "input": "Input render",
    "inpainting_telea": "Inpainting (Telea)",
    "inpainting_ns": "Inpainting (Navier-Stokes)",
    "artifixer": "ArtiFixer",
    "artifixer3d": "ArtiFixer 3D",
    "artifixer3d_plus": "ArtiFixer 3D+",
}


@dataclass(frozen=True)
class HeldoutView:
    """One held-out photo beside its prediction, pixels all of one size.

    photo: its name. opacity: of the render that enters the model, whatever variant is judged, so
    that regions are the same for all. mask: 255 where the photo counts, 0 where it does not; None
    where all of it counts.
    """

    photo: str
    truth: UInt8[np.ndarray, "height width 3"]
    prediction: UInt8[np.ndarray, "height width 3"]
    opacity: UInt8[np.ndarray, "height width"]
    mask: UInt8[np.ndarray, "height width"] | None = None

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
class ViewQuality:
    """One view. PSNR in dB, infinite where prediction and photo are equal; LPIPS None where it
    cannot be computed.

    empty: share of the pixels that the render that the model gets leaves empty (opacity <
    ``EMPTY_BELOW``).
    """

    photo: str
    psnr: float
    ssim: float
    lpips_vgg01: float | None
    lpips_alex: float | None
    empty: float


@dataclass(frozen=True)
class VariantQuality:
    """One variant over all held-out views: means of the views, PSNR of pooled pixels (dB), and the
    views in the order they came.

    Values are None where there is nothing to average: no view, no pixel of that opacity, no
    perceptual network.
    """

    psnr: float | None
    ssim: float | None
    lpips_vgg01: float | None
    lpips_alex: float | None
    psnr_pooled: float | None
    psnr_opaque: float | None
    psnr_empty: float | None
    per_view: tuple[ViewQuality, ...]


@dataclass(frozen=True)
class PerceptualMetrics:
    """The LPIPS networks that this installation has. ``notes``: one line for each that it lacks."""

    vgg01: Lpips | None = None
    alex: Lpips | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def load(device: torch.device | str = "cpu") -> PerceptualMetrics:
        """Load both where the ``metrics`` extra and the weights are there; nothing is downloaded."""
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
    """The quality of one variant; ``views`` is read once and may be a generator. ``perceptual``
    None leaves LPIPS out. Masked pixels count in no figure, views without any other pixel are left
    out.
    """
    perceptual = perceptual or PerceptualMetrics()
    everything, opaque, empty = _SquaredError(), _SquaredError(), _SquaredError()
    per_view = []
    for view in views:
        counts = np.ones(view.opacity.shape, bool) if view.mask is None else view.mask > 127
        if not counts.any():
            continue
        squared = (view.truth.astype(np.int64) - view.prediction.astype(np.int64)) ** 2
        is_empty = view.opacity < EMPTY_BELOW * 255
        everything.add(squared, counts)
        opaque.add(squared, counts & (view.opacity > OPAQUE_ABOVE * 255))
        empty.add(squared, counts & is_empty)
        per_view.append(_view_quality(view, float(is_empty[counts].mean()), perceptual, device))
    return VariantQuality(
        psnr=_mean([view.psnr for view in per_view]),
        ssim=_mean([view.ssim for view in per_view]),
        lpips_vgg01=_mean([view.lpips_vgg01 for view in per_view]),
        lpips_alex=_mean([view.lpips_alex for view in per_view]),
        psnr_pooled=everything.psnr(),
        psnr_opaque=opaque.psnr(),
        psnr_empty=empty.psnr(),
        per_view=tuple(per_view),
    )


def metrics_content(
    variants: Mapping[str, VariantQuality], train: Sequence[str], heldout: Sequence[str]
) -> dict[str, Any]:
    """What ``metrics.json`` holds: the quality of every variant, and the names of the photos that
    trained and that were held out.

    variants: by names of ``VARIANT_TITLES``. An infinite PSNR (prediction and photo are equal) is
    null in the file: JSON has no infinity. gains: of every variant but the renders over the better
    of these in each figure, see ``gain``.
    """
    unknown = sorted(set(variants) - set(VARIANT_TITLES))
    assert not unknown, f"unknown variants {unknown}; expected some of {list(VARIANT_TITLES)}"
    repaired = [name for name in VARIANT_TITLES if name in variants and name not in BASELINES]
    return {
        "gains": {
            name: {field: gain(variants, name, field) for field in GAIN_FIELDS} for name in repaired
        },
        "variants": {name: variants[name] for name in VARIANT_TITLES if name in variants},
        "views": {"train": list(train), "heldout": list(heldout)},
    }


def gain(variants: Mapping[str, VariantQuality], name: str, field: str) -> float | None:
    """A variant's figure minus the better one of the ``BASELINES``; None where a figure is missing
    or infinite.

    field: of ``GAIN_FIELDS``.
    """
    ours = getattr(variants[name], field)
    theirs = [
        value
        for each in BASELINES
        if each in variants and (value := getattr(variants[each], field)) is not None
    ]
    if ours is None or not theirs or not math.isfinite(ours) or not math.isfinite(max(theirs)):
        return None
    return float(ours - max(theirs))


@dataclass
class _SquaredError:
    """Exact sums of squared errors of 8-bit values over chosen pixels, all channels."""

    total: int = field(default=0)
    values: int = field(default=0)

    def add(
        self, squared: Int[np.ndarray, "height width 3"], where: Bool[np.ndarray, "height width"]
    ) -> None:
        self.total += int(squared.sum(axis=2)[where].sum())
        self.values += 3 * int(where.sum())

    def psnr(self) -> float | None:
        """10 log10(255^2 / mean squared error); None without pixels, infinite without error."""
        if not self.values:
            return None
        return 10 * math.log10(255**2 * self.values / self.total) if self.total else math.inf


def _view_quality(
    view: HeldoutView, empty: float, perceptual: PerceptualMetrics, device: torch.device | str
) -> ViewQuality:
    truth, prediction = _as_float(view.truth, device), _as_float(view.prediction, device)
    mask = None
    if view.mask is not None:  # black in both where it is 0, so windows that reach there agree
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
