"""Visibility masks from a benchmark's authors: a mask file for every held-out photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import image_size, read_image

#: Maximum relative difference between the aspect ratios of a mask and its photo.
MASK_ASPECT_TOLERANCE = 0.01


def find_visibility_masks(
    root: Path | None,
    scene: str,
    heldout: Sequence[str],
    photo: Path,
    fallback: Sequence[str] = (),
) -> dict[str, Path]:
    """Mask files by held-out photo; empty when ``root`` is None.

    Files are ``{scene}/visibility_median_count/%05d.png`` or ``{scene}/%05d.png``, numbered by the
    photo's rank among the sorted held-out photos, or by its position in ``fallback``. photo: one of
    the photos, for the aspect ratio.

    Raises InputError for masks of another numbering or another aspect ratio than the photos.
    """
    if root is None:
        return {}
    folder = root / scene / "visibility_median_count"
    if not folder.is_dir():
        folder = root / scene
    if not folder.is_dir():
        raise InputError(f"{folder}: does not exist, expected the masks of {scene}")
    files = {path.name for path in folder.glob("*.png")}
    ordered = sorted(heldout)
    numberings = [{name: rank for rank, name in enumerate(ordered)}]
    if fallback:
        numberings.append({name: list(fallback).index(name) for name in ordered})
    for numbering in numberings:
        wanted = {name: f"{number:05d}.png" for name, number in numbering.items()}
        if set(wanted.values()) == files:
            found = {name: folder / file for name, file in wanted.items()}
            width, height = image_size(photo)
            for path in found.values():
                mask_width, mask_height = image_size(path)
                aspect = mask_width * height / (mask_height * width)
                if abs(aspect - 1) > MASK_ASPECT_TOLERANCE + 1 / min(mask_width, mask_height):
                    raise InputError(
                        f"{path}: {mask_width}x{mask_height} pixels, expected the aspect ratio of "
                        f"the photos, {width}x{height}"
                    )
            return found
    raise InputError(
        f"{folder}: {counted(len(files), 'mask')}, expected 00000.png to "
        f"{len(ordered) - 1:05d}.png, one for each held-out photo by its rank"
    )


def read_visibility_mask(path: Path, width: int, height: int) -> Bool[np.ndarray, "height width"]:
    """True where the mask is at least 1, resized to the photo by nearest neighbours."""
    from PIL import Image

    visible = read_image(path)[..., 0] >= 1
    if visible.shape == (height, width):
        return visible
    resized = Image.fromarray(visible.astype(np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    counts: np.ndarray = np.asarray(resized) > 0
    return counts
