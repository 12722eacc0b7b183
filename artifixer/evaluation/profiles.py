"""Metric profiles: the exact definitions behind published numbers, so that none is compared with
another.

In: a prediction and its photo, 8-bit, and for masked profiles which pixels count. Out: figures by
name. A profile fixes what a mask does, how SSIM treats the border, which network LPIPS runs on and
how it is fed, and in which order tables average::

    genfusion         unmasked. SSIM zero-padded; LPIPS VGG16 on [0,1]. Tables 2 and 3.
    difix             prediction and photo multiplied by the 0/1 mask, then the whole image. SSIM
                      over the reflected border, and with 5 pixels cropped; LPIPS AlexNet. Table 1.
    difix_unmasked    the same without a mask
    nerfbusters       means over the visible pixels alone; PSNR is the mean over the channels' PSNRs

``ssim_reflected`` is what torchmetrics computes from 1.4, ``ssim_cropped`` what it computed up to
1.3. With a fraction c of visible pixels, PSNR of ``difix`` is 10 log10(1 / c) above that over the
visible pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from artifixer.imaging.metrics import SSIM_WINDOW, psnr, ssim_map
from artifixer.imaging.perceptual import (
    ST_LPIPS_SIDE,
    ContentFeatures,
    InceptionFeatures,
    Lpips,
    LpipsName,
    StLpips,
    load_content_features,
    load_inception,
    load_lpips,
    load_st_lpips,
)

#: Half width of SSIM's window, pixels.
BORDER = SSIM_WINDOW // 2

#: Minimum side of an image for LPIPS, pixels, because of AlexNet's pooling.
LPIPS_SIDE = 32

Masking = Literal["none", "blackout", "mean"]
Averaging = Literal["frames", "scenes"]


class Figure(NamedTuple):
    """A column of a table."""

    name: str

    title: str
    """As tables show it."""

    digits: int
    """Digits after the decimal point."""

    larger_is_better: bool


@dataclass(frozen=True)
class Profile:
    """One metric profile, see the table above."""

    name: str

    title: str
    """Short description for tables."""

    masking: Masking
    """``none``; ``blackout``: images are multiplied by the mask; ``mean``: means over the mask."""

    figures: tuple[Figure, ...]
    """Figures of every view."""

    lpips: LpipsName
    """Network of LPIPS."""

    averaging: Averaging
    """Order of averaging in the published tables of this profile."""

    has_fid: bool
    """Whether these tables have an FID, computed from the same pixels."""


_PSNR = Figure("psnr", "PSNR", 2, True)
_ALEX = Figure("lpips_alex", "LPIPS Alex", 3, False)
_REFLECTED = Figure("ssim_reflected", "SSIM", 3, True)
_CROPPED = Figure("ssim_cropped", "SSIM cropped", 3, True)

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "genfusion",
            "unmasked, as GenFusion",
            "none",
            (
                _PSNR,
                Figure("ssim_zero", "SSIM", 3, True),
                Figure("lpips_vgg01", "LPIPS VGG", 3, False),
            ),
            "lpips_vgg01",
            "scenes",
            True,
        ),
        Profile(
            "difix",
            "blacked out outside the mask",
            "blackout",
            (_PSNR, _REFLECTED, _CROPPED, _ALEX),
            "lpips_alex",
            "frames",
            True,
        ),
        Profile(
            "difix_unmasked",
            "unmasked, torchmetrics",
            "none",
            (_PSNR, _REFLECTED, _CROPPED, _ALEX),
            "lpips_alex",
            "frames",
            True,
        ),
        Profile(
            "nerfbusters",
            "means over the mask",
            "mean",
            (_PSNR, _REFLECTED, _ALEX, Figure("coverage", "coverage", 3, True)),
            "lpips_alex",
            "scenes",
            False,
        ),
    )
}

#: Figures of whole images, outside all profiles.
ST_LPIPS = Figure("st_lpips", "ST-LPIPS", 3, False)
KD = Figure("kd", "KD x1000", 1, False)
FID = Figure("fid", "FID", 2, False)

Image = UInt8[np.ndarray, "height width 3"]
Mask = Bool[np.ndarray, "height width"]
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Networks:
    """The networks of learned metrics that are installed."""

    lpips: dict[str, Lpips] = field(default_factory=dict)
    """LPIPS by name of ``LpipsName``."""

    maps: dict[str, Lpips] = field(default_factory=dict)
    """LPIPS by the same names, with a distance per pixel."""

    st_lpips: StLpips | None = None

    inception: InceptionFeatures | None = None
    """Feature network of FID."""

    content: ContentFeatures | None = None
    """Feature network of KD."""

    missing: dict[str, str] = field(default_factory=dict)
    """Reason by figure that cannot be computed: ``lpips_vgg01``, ``lpips_alex``, ``fid``,
    ``st_lpips``, ``kd``."""

    antialias: bool = True
    """Whether FID's resizing to 299 pixels is antialiased."""

    device: str = "cpu"

    @staticmethod
    def load(device: str = "cpu", *, antialias: bool = True) -> Networks:
        """Load the networks that are installed; nothing is downloaded."""
        missing: dict[str, str] = {}
        lpips: dict[str, Lpips] = {}
        maps: dict[str, Lpips] = {}
        names: tuple[LpipsName, ...] = ("lpips_vgg01", "lpips_alex")
        for name in names:
            for table, spatial in ((lpips, False), (maps, True)):
                network, reason = load_lpips(name, device, spatial=spatial)
                if network is None:
                    missing[name] = reason
                else:
                    table[name] = network
        st_lpips, missing["st_lpips"] = load_st_lpips(device)
        inception, missing["fid"] = load_inception(device, antialias=antialias)
        content, missing["kd"] = load_content_features(device)
        missing = {name: reason for name, reason in missing.items() if reason}
        return Networks(lpips, maps, st_lpips, inception, content, missing, antialias, device)

    @property
    def available(self) -> list[str]:
        """Names of the available metrics, for keys of results."""
        optional = {"st_lpips": self.st_lpips, "fid": self.inception, "kd": self.content}
        return [*self.lpips, *(name for name, found in optional.items() if found is not None)]


@torch.no_grad()
def score(
    profile: Profile, prediction: Image, photo: Image, mask: Mask | None, networks: Networks
) -> Figures:
    """The figures of one view. LPIPS is None without its network, PSNR infinite for equal images.

    mask: pixels that count, at least one (asserted); None for profiles without masks.
    """
    assert prediction.dtype == photo.dtype == np.uint8, "expected uint8"
    assert prediction.shape == photo.shape, f"{prediction.shape} and {photo.shape}"
    assert (mask is None) == (profile.masking == "none"), f"profile {profile.name} and its mask"
    ours, theirs = (as_float(pixels, networks.device) for pixels in (prediction, photo))
    if profile.masking == "mean":
        assert mask is not None and mask.any(), "no pixel counts"
        return _mean_over_mask(ours, theirs, mask, networks)
    if mask is not None:
        assert mask.any(), "no pixel counts"
        ours, theirs = (blacked_out(pixels, mask) for pixels in (ours, theirs))
    figures: Figures = {"psnr": float(psnr(ours, theirs))}
    names = {figure.name for figure in profile.figures}
    if "ssim_reflected" in names:
        figures["ssim_reflected"] = float(_reflected_map(ours, theirs).mean())
    if names & {"ssim_zero", "ssim_cropped"}:
        plain = ssim_map(ours, theirs)
        if "ssim_zero" in names:
            figures["ssim_zero"] = float(plain.mean())
        if "ssim_cropped" in names:
            inner = plain[BORDER:-BORDER, BORDER:-BORDER]
            figures["ssim_cropped"] = float(inner.mean()) if inner.numel() else None
    network = networks.lpips.get(profile.lpips)
    figures[profile.lpips] = (
        float(network(ours, theirs)) if network and min(ours.shape[:2]) >= LPIPS_SIDE else None
    )
    return figures


@torch.no_grad()
def st_lpips(prediction: Image, photo: Image, networks: Networks) -> float | None:
    """ST-LPIPS of the whole images; None without the network, or for images that are too small."""
    if networks.st_lpips is None or min(photo.shape[:2]) < ST_LPIPS_SIDE:
        return None
    return float(
        networks.st_lpips(*(as_float(pixels, networks.device) for pixels in (prediction, photo)))
    )


def as_float(pixels: Image, device: torch.device | str = "cpu") -> Float[Tensor, "height width 3"]:
    """8-bit pixels as float32 in [0,1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device, torch.float32) / 255


def blacked_out(
    pixels: Float[Tensor, "height width 3"], mask: Mask
) -> Float[Tensor, "height width 3"]:
    """The image with black pixels where the mask is False."""
    return pixels * torch.from_numpy(mask).to(pixels)[..., None]


def _mean_over_mask(ours: Tensor, theirs: Tensor, mask: Mask, networks: Networks) -> Figures:
    """Figures of the profile ``nerfbusters``: means over the visible pixels."""
    weights = torch.from_numpy(mask).to(ours)
    ours, theirs = (blacked_out(pixels, mask) for pixels in (ours, theirs))
    visible = float(weights.sum())
    errors = ((ours - theirs).square() * weights[..., None]).sum(dim=(0, 1)) / visible
    structure = (_reflected_map(ours, theirs).mean(dim=-1) * weights).sum() / visible
    network = networks.maps.get("lpips_alex")
    distance = None
    if network and min(ours.shape[:2]) >= LPIPS_SIDE:
        distance = float((network.map(ours, theirs) * weights).sum() / visible)
    return {
        "psnr": float((-10 * errors.log10()).mean()),
        "ssim_reflected": float(structure),
        "lpips_alex": distance,
        "coverage": visible / mask.size,
    }


def _reflected_map(
    ours: Float[Tensor, "height width 3"], theirs: Float[Tensor, "height width 3"]
) -> Float[Tensor, "height width 3"]:
    """SSIM of every pixel with the image mirrored at its border (without repeating the border)."""
    padded = [
        F.pad(pixels.permute(2, 0, 1)[None], (BORDER,) * 4, mode="reflect")[0].permute(1, 2, 0)
        for pixels in (ours, theirs)
    ]
    return ssim_map(*padded)[BORDER:-BORDER, BORDER:-BORDER]
