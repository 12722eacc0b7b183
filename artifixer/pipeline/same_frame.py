"""Check that the user's splats and a capture's cameras have the same coordinate system.

1. Renders are compared with the photos of their own cameras and, as a control, with the other
   photos. Splats in the right coordinate system are most similar to their own photo, whatever their
   quality; in another frame or scale a render resembles all photos about equally. An absolute
   threshold would not separate the two: a scene of half the size reaches 14 dB, a fit of 15
   iterations in the right frame 9 dB.
2. Splats of slightly wrong scale pass the first test. They are therefore scaled by a few factors
   about a few centres: in the right frame every change makes the renders less similar to the
   photos.

Measured on four captures and two procedural rooms, test 1: in the right frame all renders are most
similar to their own photo, with a relative margin of 0.15 (15 iterations) to 0.87; at half or
double size, rotated, or shifted by a third of the distance, at most 44 % are, with a margin of at
most 0.09. For test 2 see ``MIN_SCALE_GAIN``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.local_origin import WORLD
from artifixer.imaging.metrics import psnr, ssim
from artifixer.imaging.resize import fit_size, resize_photo
from artifixer.pipeline.capture import LoadedCapture
from artifixer.runtime.errors import InputError
from artifixer.splats.render import render
from artifixer.splats.splats import Splats

#: Maximum number of training photos that are compared, and their longest side in pixels.
MAX_PHOTOS, LONGEST_SIDE = 16, 128

#: Photos whose SSIM is above this are too similar to distinguish their cameras.
ALIKE = 0.7

#: Minimum fraction of the renders that are most similar to their own photo, and minimum margin of
#: SSIM over the mean of the other photos, relative to the margin of a perfect render.
MIN_OWN_FRACTION, MIN_MARGIN = 0.8, 0.05

#: Minimum mean PSNR in dB, used if all photos are similar or there is only one.
MIN_PSNR = 12.0

#: Factors by which splats are scaled, and number of photos compared: few for all factors, more for
#: the factors that are better on these.
SCALES = (0.8, 0.9, 1 / 0.9, 1 / 0.8)
FEW_PHOTOS, MORE_PHOTOS = 3, 8

#: Gain in mean SSIM by scaling from which the scale of the given splats counts as wrong. Measured
#: on three captures and two procedural rooms: at the right scale every factor loses 0.02 (a fit of
#: 15 iterations) to 0.25; at 0.8, 0.9 and 1.25 times the size, the inverse factor gains 0.03 to
#: 0.58.
MIN_SCALE_GAIN = 0.02


@dataclass(frozen=True)
class _View:
    """A downsampled training photo and its camera at that size."""

    photo: np.ndarray
    camera: Cameras

    def render(self, splats: Splats) -> Float[torch.Tensor, "height width 3"]:
        with torch.no_grad():
            return render(splats, self.camera).rgb[0].clamp(0, 1).cpu()

    def similarity(self, splats: Splats) -> float:
        """SSIM of the render and the photo."""
        return float(ssim(self.render(splats), _pixels(self.photo)))


def check_same_frame(splats: Splats, capture: LoadedCapture, name: str, device: str) -> None:
    """Raise ``InputError`` if splats and cameras have different coordinate systems or scales. name:
    what the message calls the splats.
    """
    count = min(MAX_PHOTOS, len(capture.training))
    chosen = [capture.training[k * len(capture.training) // count] for k in range(count)]
    splats = splats.map(lambda tensor: tensor.to(device))
    views = []
    for index in chosen:
        photo, camera = capture.scene.photos[index], capture.scene.cameras[index]
        size = fit_size(photo.width, photo.height, LONGEST_SIDE)
        views.append(_View(resize_photo(photo.read(), *size), camera.resized(*size).to(device)))
    pairs = [(view.render(splats), view.photo) for view in views]
    own, margin, unlike = _compared(pairs)
    if not unlike:
        mean = float(np.mean([float(psnr(rendered, _pixels(photo))) for rendered, photo in pairs]))
        if mean < MIN_PSNR:
            raise InputError(
                f"{name}: PLY and cameras are not in the same frame: the training photos "
                f"({count}) match its renders with {mean:.1f} dB, expected at least {MIN_PSNR:g} dB"
            )
        return
    if own < MIN_OWN_FRACTION or margin < MIN_MARGIN:
        raise InputError(
            f"{name}: PLY and cameras are not in the same frame or scale: {own:.0%} of {count} "
            "renders are more like the photo of their own camera than like others, expected at "
            f"least {MIN_OWN_FRACTION:.0%} (relative margin of SSIM {margin:.2f}, expected at "
            f"least {MIN_MARGIN:g})"
        )
    _check_scale(splats, views, _centres(splats, capture), name)


def _centres(splats: Splats, capture: LoadedCapture) -> dict[str, Float[torch.Tensor, " 3"]]:
    """Points about which a scene may have been scaled, by name. The world's origin is one of them
    unless the capture is georeferenced, where it is far from the scene.
    """
    cameras = torch.cat([capture.scene.cameras[i].centers for i in capture.training])
    centres = {
        "the cameras' mean": cameras.mean(dim=0),
        "the splats' median": splats.means.median(dim=0).values,
    }
    if capture.scene.origin == WORLD:
        centres["the world's zero"] = torch.zeros(3)
    return {name: centre.to(splats.means) for name, centre in centres.items()}


def _check_scale(
    splats: Splats,
    views: Sequence[_View],
    centres: dict[str, Float[torch.Tensor, " 3"]],
    name: str,
) -> None:
    """Raise ``InputError`` if scaled splats are more similar to the photos."""
    few, more = views[:: -(-len(views) // FEW_PHOTOS)], views[:: -(-len(views) // MORE_PHOTOS)]
    options = [(factor, centre) for centre in centres for factor in SCALES]
    given = _mean_similarity(splats, few)
    better = [
        (factor, centre)
        for factor, centre in options
        if _mean_similarity(_scaled(splats, factor, centres[centre]), few) > given
    ]
    if not better:
        return
    given = _mean_similarity(splats, more)
    best, factor, centre = max(
        (_mean_similarity(_scaled(splats, factor, centres[centre]), more), factor, centre)
        for factor, centre in better
    )
    if best - given >= MIN_SCALE_GAIN:
        raise InputError(
            f"{name}: PLY and cameras are not in the same scale: scaled by {factor:.3g} about "
            f"{centre} its renders are more like the photos (SSIM {best:.2f} on average, as given "
            f"{given:.2f}); bring the PLY into the cameras' world"
        )


def _mean_similarity(splats: Splats, views: Sequence[_View]) -> float:
    return sum(view.similarity(splats) for view in views) / len(views)


def _scaled(splats: Splats, factor: float, centre: Float[torch.Tensor, " 3"]) -> Splats:
    """The splats scaled by ``factor`` about ``centre``."""
    return replace(
        splats,
        means=(splats.means - centre) * factor + centre,
        log_scales=splats.log_scales + math.log(factor),
    )


def _compared(
    pairs: Sequence[tuple[Float[torch.Tensor, "height width 3"], np.ndarray]],
) -> tuple[float, float, bool]:
    """Fraction of the renders that are most similar to their own photo, mean relative margin over
    the others, and whether there are dissimilar photos to compare with.
    """
    is_closest, margins = [], []
    for index, (render_, _) in enumerate(pairs):
        height, width = render_.shape[:2]
        sized = [
            _pixels(
                photo if photo.shape[:2] == (height, width) else resize_photo(photo, width, height)
            )
            for _, photo in pairs
        ]
        others = [
            photo
            for other, photo in enumerate(sized)
            if other != index and float(ssim(photo, sized[index])) < ALIKE
        ]
        if others:
            own = float(ssim(render_, sized[index]))
            controls = [float(ssim(render_, photo)) for photo in others]
            control = sum(controls) / len(controls)
            is_closest.append(own > max(controls))
            margins.append((own - control) / max(1 - control, 1e-6))
    if not is_closest:
        return 0.0, 0.0, False
    return float(np.mean(is_closest)), float(np.mean(margins)), True


def _pixels(photo: np.ndarray) -> Float[torch.Tensor, "height width 3"]:
    return torch.from_numpy(photo).to(torch.float32) / 255
