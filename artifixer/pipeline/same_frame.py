"""The user's splats and a capture's cameras: are they of one world?

Renders are compared with the photos of their own cameras and, as a control, with the other photos.
Splats of the same world look like the own photo, whatever their quality; in another frame or scale
a render is as much like any photo. An absolute bound does not tell: a scene of half the size
reaches 14 dB, a first fit of 15 iterations in the right frame 9 dB.

Measured on four captures and two drawn rooms: in the right frame all renders are most like their
own photo and the relative margin is 0.15 (that first fit) to 0.87; at half or double size, turned,
or moved by a third of the distance at most 44 % of them are, and the margin is at most 0.09.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from artifixer.imaging.metrics import psnr, ssim
from artifixer.imaging.resize import fit_size, resize_photo
from artifixer.pipeline.capture import LoadedCapture
from artifixer.runtime.errors import InputError
from artifixer.splats.render import render
from artifixer.splats.splats import Splats

#: Training photos that are compared, and their longest side in pixels.
MOST_PHOTOS, LONGEST_SIDE = 16, 128

#: Photos of an SSIM above this are too much alike to tell their cameras apart.
ALIKE = 0.7

#: Share of the renders that have to be most like their own photo, and how much more like it they
#: are than like the others, as a share of what is missing to equality.
LEAST_OWN, LEAST_MARGIN = 0.8, 0.05

#: Where all photos are alike, or there is one, renders have at least this PSNR, dB.
LEAST_PSNR = 12.0


def check_same_frame(splats: Splats, capture: LoadedCapture, name: str, device: str) -> None:
    """Raises ``InputError`` when splats and cameras show different places, with ``name`` in it."""
    count = min(MOST_PHOTOS, len(capture.training))
    chosen = [capture.training[k * len(capture.training) // count] for k in range(count)]
    splats = splats.map(lambda tensor: tensor.to(device))
    photos, renders = [], []
    for index in chosen:
        photo, camera = capture.scene.photos[index], capture.scene.cameras[index]
        size = fit_size(photo.width, photo.height, LONGEST_SIDE)
        photos.append(resize_photo(photo.read(), *size))
        with torch.no_grad():
            image = render(splats, camera.resized(*size).to(device)).rgb[0]
        renders.append(image.clamp(0, 1).cpu())
    own, margin, unlike = _compared(renders, photos)
    if not unlike:
        mean = float(
            np.mean([float(psnr(r, _pixels(p))) for r, p in zip(renders, photos, strict=True)])
        )
        if mean < LEAST_PSNR:
            raise InputError(
                f"{name}: PLY and cameras are not in the same frame: {count} training photos match "
                f"its renders with {mean:.1f} dB, expected at least {LEAST_PSNR:g} dB"
            )
    elif own < LEAST_OWN or margin < LEAST_MARGIN:
        raise InputError(
            f"{name}: PLY and cameras are not in the same frame or scale: {own:.0%} of {count} "
            "renders are more like the photo of their own camera than like others, expected at "
            f"least {LEAST_OWN:.0%} (relative margin of SSIM {margin:.2f}, expected at least "
            f"{LEAST_MARGIN:g})"
        )


def _compared(
    renders: list[Float[torch.Tensor, "height width 3"]], photos: list[np.ndarray]
) -> tuple[float, float, bool]:
    """Share of the renders that are most like their own photo, mean relative margin over the
    others, and whether any two photos are unlike.
    """
    wins, margins = [], []
    for index, render_ in enumerate(renders):
        height, width = render_.shape[:2]
        sized = [
            _pixels(
                photo if photo.shape[:2] == (height, width) else resize_photo(photo, width, height)
            )
            for photo in photos
        ]
        others = [
            photo
            for other, photo in enumerate(sized)
            if other != index and float(ssim(photo, sized[index])) < ALIKE
        ]
        if others:
            own = float(ssim(render_, sized[index]))
            rivals = [float(ssim(render_, photo)) for photo in others]
            control = sum(rivals) / len(rivals)
            wins.append(own > max(rivals))
            margins.append((own - control) / max(1 - control, 1e-6))
    if not wins:
        return 0.0, 0.0, False
    return float(np.mean(wins)), float(np.mean(margins)), True


def _pixels(photo: np.ndarray) -> Float[torch.Tensor, "height width 3"]:
    return torch.from_numpy(photo).to(torch.float32) / 255
