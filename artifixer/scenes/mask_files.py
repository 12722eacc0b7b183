"""Masks: pictures that say which pixels of a photo count.

In: a capture's folder and the files of its photos. Out: the mask of each photo, 255 where the photo
counts and 0 where it does not (people who walked through, the operator, the sky). Masks lie where
COLMAP looks for them (``masks/NAME.jpg.png``), where nerfstudio and others put them
(``masks/NAME.png``, ``images/masks/NAME.png``), beside the photo (``NAME.mask.png``), or are one
``mask.png`` for all photos. They show the pixels as they lie in the photo's file, before EXIF turns
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from artifixer.imaging.resize import resize_photo
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.runtime.image_files import read_image, upright
from artifixer.scenes.file_names import FileNames

#: Folders of masks, and the mask of all photos. Pictures there or of that name are no photos.
MASK_FOLDERS = ("masks", "mask")
COMMON_MASK = "mask.png"

#: File endings of masks, in the order in which they are tried.
MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

#: Reach of the filter that resizes photos, in pixels of the coarser picture.
FILTER_REACH = 3.0

#: A mask may be of another size than its photo; rounding moves the aspect ratio by about this much.
ASPECT_TOLERANCE = 0.01


def is_mask(path: Path, capture: Path) -> bool:
    """Whether a picture in a capture is a mask, by its name and its folder."""
    inside = path.relative_to(capture).parts if path.is_relative_to(capture) else path.parts
    return (
        any(part.lower() in MASK_FOLDERS for part in inside[:-1])
        or path.stem.lower().endswith(".mask")
        or path == capture / COMMON_MASK
    )


class MaskFiles:
    """Finds the masks of photos in a capture's folder."""

    def __init__(self, capture: Path) -> None:
        self._capture = capture
        self._names = FileNames(capture)
        self._folders = [
            folder
            for above in ("", "images")
            for name in MASK_FOLDERS
            if (folder := self._names.find(capture / above / name)).is_dir()
        ]

    def find(self, photo: Path) -> Path | None:
        """The mask of a photo in the capture, or None."""
        found = (self._names.find(path) for path in self._candidates(photo))
        return next((path for path in found if is_regular(path) and path != photo), None)

    def _candidates(self, photo: Path) -> Iterator[Path]:
        if not photo.is_relative_to(self._capture):
            return
        parts = photo.relative_to(self._capture).parts
        for folder, start in itertools.product(self._folders, range(len(parts))):
            inside = folder / PurePosixPath(*parts[start:])
            for suffix in MASK_SUFFIXES:
                yield inside.with_name(inside.name + suffix)
                yield inside.with_name(inside.stem + suffix)
        for suffix in MASK_SUFFIXES:
            yield photo.with_name(f"{photo.stem}.mask{suffix}")
        yield self._capture / COMMON_MASK


def read_mask(
    path: Path, width: int, height: int, orientation: int = 1
) -> UInt8[np.ndarray, "height width"]:
    """The mask in a file for a photo of this upright size: 255 where the file is brighter than half
    of its brightest pixel, else 0.

    orientation: EXIF's of the photo; the mask is turned with it. Masks of another size are resized;
    a pixel counts where all that it covers counts. Raises InputError for an unreadable file and for
    one of another aspect ratio.
    """
    values = read_image(path).max(axis=2)
    seen = np.where(values > int(values.max()) / 2, 255, 0).astype(np.uint8)
    if _same_aspect(upright(seen, orientation), width, height):
        seen = upright(seen, orientation)
    elif not _same_aspect(seen, width, height):
        raise InputError(
            f"{path}: the mask has {seen.shape[1]}x{seen.shape[0]} pixels, its photo {width}x"
            f"{height}; expected the same size (--ignore-masks uses whole photos)"
        )
    return resize_mask(seen, width, height, reach=0.5)


def resize_mask(
    seen: UInt8[np.ndarray, "h w"], width: int, height: int, reach: float = FILTER_REACH
) -> UInt8[np.ndarray, "height width"]:
    """A mask (255 and 0) at another size: a pixel counts where all do that are within ``reach`` of
    the new, or if those are smaller the old, pixels; by default all that contribute to the resized
    photo.
    """
    from scipy.ndimage import minimum_filter

    if seen.shape == (height, width):
        return seen
    steps = [old / new for old, new in zip(seen.shape, (height, width), strict=True)]
    sizes = [2 * int(reach * max(step, 1.0)) + 1 for step in steps]
    least = minimum_filter(seen, sizes, mode="nearest")
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * step).astype(int), old - 1)
        for new, step, old in zip((height, width), steps, seen.shape, strict=True)
    )
    return np.ascontiguousarray(least[np.ix_(rows, columns)])


def resize_layer(
    layer: UInt8[np.ndarray, "h w"], width: int, height: int
) -> UInt8[np.ndarray, "height width"]:
    """An opacity at another size, as photos are resized."""
    return resize_photo(np.repeat(layer[..., None], 3, axis=2), width, height)[..., 0]


def _same_aspect(seen: np.ndarray, width: int, height: int) -> bool:
    is_same: bool = abs(seen.shape[1] * height / (seen.shape[0] * width) - 1) <= ASPECT_TOLERANCE
    return is_same
