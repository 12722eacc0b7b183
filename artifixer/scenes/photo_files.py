"""Photos that are files: lazily read ``Photo`` objects, and the fit between a photo and the camera
that a capture lists for it.

A capture's camera speaks of pixels as the reconstruction software saw them; a photo on disk may
have been resized since, or carry an EXIF orientation that such software ignores. ``fit_camera``
settles both, so that every photo of a ``Scene`` is upright and has its camera's size.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import open_regular

# loaders import it from here, beside the bounds
from artifixer.runtime.files import path_inside as path_inside
from artifixer.runtime.image_files import (
    image_header,
    read_alpha,
    read_image,
    reads_avif,
    reads_heic,
)
from artifixer.scenes.mask_files import read_mask
from artifixer.scenes.scene import Photo

#: File endings taken for photos, lower case, in the order in which they are tried for names without
#: one.
PHOTO_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".tif",
    ".tiff",
    ".bmp",
    ".jfif",
    ".heic",
    ".heif",
    ".avif",
)

#: File endings of photos of kinds that are not read: raw files of cameras, and others.
UNREAD_SUFFIXES = tuple(
    [
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".nrw",
        ".arw",
        ".srf",
        ".sr2",
        ".raf",
        ".orf",
        ".rw2",
        ".pef",
        ".srw",
        ".3fr",
        ".iiq",
        ".x3f",
        ".raw",
        ".exr",
        ".hdr",
        ".gif",
        ".psd",
        ".jxl",
        ".jp2",
        ".insp",
        ".gpr",
    ]
)

#: A photo may be a resized copy of what its camera describes; rounding to whole pixels moves the
#: aspect ratio by at most about this much.
ASPECT_TOLERANCE = 0.01

#: Photos that are compared with the points that they show, to tell which way up their cameras are.
PHOTOS_COMPARED = 4

#: Broken entries of a list are left out while at least this fraction of all entries is good.
MIN_GOOD_FRACTION = 0.5

#: Broken entries that a note describes; it counts the others.
BROKEN_SHOWN = 3

#: Minimum alpha of a pixel that counts: lower values are mixed with black. Lossy formats change 255
#: a little.
MIN_UNMASKED_ALPHA = 250

#: Sizes (pixels), focal lengths (pixels), other intrinsics (pixels, distortion coefficients) and
#: positions (world units) beyond these are mistakes of a file. Squares of positions still fit
#: float32.
LARGEST_SIZE = 65_535

SMALLEST_FOCAL_LENGTH = 1.0
LARGEST_INTRINSIC = 1e7
LARGEST_POSITION = 1e12


@dataclass(frozen=True)
class FittedView:
    """A photo, its camera at the photo's size, and how pixels of the listed camera move there.

    pixel_map: ``[2 3]``, ``new = pixel_map[:, :2] @ listed + pixel_map[:, 2]``.
    """

    photo: Photo
    camera: Cameras
    pixel_map: Float[np.ndarray, "2 3"]


def open_photo(
    path: Path, name: str, mask: Path | None = None, *, alpha: Literal["mask", "opacity"] = "mask"
) -> Photo:
    """The photo in ``path``; only its header is read now.

    mask: a picture that is dark where the photo does not count. alpha: what the photo's alpha
    channel means, if it has one: where the photo counts, or how opaque what it shows is.
    Raises InputError when the file is no readable image.
    """
    header = image_header(path)
    width, height, orientation = header.width, header.height, header.orientation
    photo = Photo(name, width, height, lambda: read_image(path), path, orientation=orientation)
    if header.has_alpha:
        read = functools.partial(read_alpha, path)
        photo = replace(photo, opacity=read) if alpha == "opacity" else _masked(photo, read)
    if mask is not None:
        photo = _masked(photo, functools.partial(read_mask, mask, width, height, orientation))
    return photo


def check_may_read(path: Path) -> None:
    """Raises InputError when permissions forbid reading the file. Unlike damage, the user can
    fix that, so the whole capture is refused.
    """
    open_regular(path, "an image").close()


def _masked(photo: Photo, mask: Callable[[], UInt8[np.ndarray, "height width"]]) -> Photo:
    """The photo with a mask (255 where it counts) besides the one it may have."""
    own = photo.mask
    return replace(
        photo,
        mask=lambda: np.where(
            (mask() >= MIN_UNMASKED_ALPHA) & (own is None or own() > 0), 255, 0
        ).astype(np.uint8),
    )


def unread_note(paths: Iterable[Path]) -> tuple[str, ...]:
    """One line about photos among ``paths`` of kinds that are not read; empty without any."""
    suffixes = [
        *UNREAD_SUFFIXES,
        *(() if reads_heic() else (".heic", ".heif")),
        *(() if reads_avif() else (".avif",)),
    ]
    kinds = Counter(
        path.suffix.lower()
        for path in paths
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )
    if not kinds:
        return ()
    total = kinds.total()
    counts = ", ".join(
        f"{count} {kind}" if len(kinds) > 1 else kind for kind, count in kinds.items()
    )
    hint = ""
    if {".heic", ".heif"} & set(kinds):
        hint = " (pip install 'artifixer[formats]' reads HEIC)"
    return (f"{counted(total, 'photo')} of a kind that is not read left out: {counts}{hint}",)


def left_out_note(lost: Sequence[str], listed: int, source: Path) -> tuple[str, ...]:
    """One remark that counts the photos that ``source`` lists and that do not exist; none when all
    do.

    Raises InputError when fewer than two remain.
    """
    if not listed:
        raise no_photos(source)
    kept = listed - len(lost)
    missing = "does not exist" if len(lost) == 1 else "do not exist"
    example = f" (first: {lost[0]})" if lost else ""
    if kept < 2:
        raise InputError(
            f"{source}: lists {counted(listed, 'photo')} of which {len(lost)} {missing}{example}; "
            "expected at least 2 to remain"
        )
    return (
        (
            f"{source.name} lists {counted(listed, 'photo')}; {len(lost)} {missing} and "
            f"{'is' if len(lost) == 1 else 'are'} left out{example}",
        )
        if lost
        else ()
    )


def no_photos(source: Path) -> InputError:
    """The error for a file that lists none."""
    return InputError(f"{source}: lists no photos; expected at least 2")


def check_broken(broken: Mapping[str, str], listed: int, source: Path) -> tuple[str, ...]:
    """One remark that names the entries of ``source`` that are left out because they are broken;
    none when all are good.

    broken: what is wrong, by the entry's name. Raises InputError with the first of them when fewer
    than two entries, or fewer than ``MIN_GOOD_FRACTION`` of all, remain: such a file is damaged.
    """
    if not broken:
        return ()
    good = listed - len(broken)
    first = next(iter(broken.values()))
    if good < 2 or good < MIN_GOOD_FRACTION * listed:
        raise InputError(first if len(broken) == 1 else f"{first} ({len(broken)} of {listed} such)")
    shown = [shorter(text, source) for text in itertools.islice(broken.values(), BROKEN_SHOWN)]
    more = len(broken) - len(shown)
    return (
        f"{source.name}: {len(broken)} of {listed} photos are left out: {'; '.join(shown)}"
        f"{f'; and {more} more' if more else ''}",
    )


def shorter(text: str, source: Path) -> str:
    """A message without the file or the folder that it begins with, where the reader knows it."""
    return text.removeprefix(f"{source}: ").removeprefix(f"{source.parent}{os.sep}")


# A photo and its camera ---------------------------------------------------------------------------


def fit_camera(photo: Photo, camera: Cameras, source: Path, is_upright: bool = False) -> FittedView:
    """The one view ``camera`` that ``source`` lists for ``photo``, brought to the photo's
    orientation and size.

    Reconstruction software works on the stored pixels and ignores EXIF, while ``Photo`` is upright.
    Where the camera fits the stored pixels, it is turned with the photo (a roll about the optical
    axis). Then intrinsics are scaled to the photo's size. is_upright: the camera was made of the
    upright photo, also where it would fit the stored pixels. Raises InputError when the aspect
    ratios disagree.
    """
    orientation = 1 if is_upright else photo.orientation
    stored = stored_size(photo)
    pixel_map = np.eye(2, 3)
    if orientation in _MIRRORINGS and _same_aspect(stored, camera):
        photo = _as_stored(photo, orientation)
    elif orientation in _QUARTER_TURNS and _same_aspect(stored, camera):
        for _ in range(_QUARTER_TURNS[orientation]):
            camera, pixel_map = _quarter_turn(camera, pixel_map)

    if not _same_aspect((photo.width, photo.height), camera):
        raise InputError(
            f"{photo.path}: the photo has {photo.width}x{photo.height} pixels, its camera in "
            f"{source} {camera.width}x{camera.height}; "
            "expected the same size, or a resized photo of the same aspect ratio"
        )
    scale = np.array([[photo.width / camera.width], [photo.height / camera.height]])
    return FittedView(photo, camera.resized(photo.width, photo.height), scale * pixel_map)


def cameras_are_upright(
    views: Iterable[
        tuple[Photo, Cameras, Float[np.ndarray, "points 3"], UInt8[np.ndarray, "points 3"]]
    ],
    source: Path,
) -> bool:
    """Whether cameras describe upright photos, for photos with an EXIF orientation whose shape does
    not tell (half turns, mirrored and square photos).

    views: photos with their listed cameras, and points that they show. Some of the photos are
    decoded: the points' colours are compared with the pixels where they would project.
    """
    errors = {False: 0.0, True: 0.0}
    ambiguous = (view for view in views if _is_ambiguous(view[0], view[1]))
    for photo, camera, xyz, rgb in itertools.islice(ambiguous, PHOTOS_COMPARED):
        for is_upright in errors:
            fitted = fit_camera(photo, camera, source, is_upright)
            pixels, _, shown = fitted.camera.project(torch.from_numpy(xyz).to(camera.Ks))
            column, row = pixels[0].nan_to_num().floor().long().clamp(-1, LARGEST_SIZE).unbind(-1)
            inside = (
                shown[0]
                & (column >= 0)
                & (column < fitted.photo.width)
                & (row >= 0)
                & (row < fitted.photo.height)
            ).numpy()
            found = fitted.photo.read()[row.numpy()[inside], column.numpy()[inside]]
            distance = np.full(len(xyz), 255.0)
            distance[inside] = np.abs(found.astype(float) - rgb[inside]).mean(axis=1)
            errors[is_upright] += float(np.minimum(distance, 64).mean()) if len(xyz) else 0.0
    return errors[True] < errors[False]


def _is_ambiguous(photo: Photo, camera: Cameras) -> bool:
    """Whether a camera may be of the stored or of the upright pixels of a photo."""
    return (
        photo.orientation != 1
        and _same_aspect(stored_size(photo), camera)
        and _same_aspect((photo.width, photo.height), camera)
    )


def stored_size(photo: Photo) -> tuple[int, int]:
    """(width, height) of the pixels as they lie in the photo's file, before EXIF turns them
    upright.
    """
    is_turned = photo.orientation >= 5
    return (photo.height, photo.width) if is_turned else (photo.width, photo.height)


# EXIF orientation ---------------------------------------------------------------------------------


#: Clockwise quarter turns that bring the stored pixels upright.
_QUARTER_TURNS = {6: 1, 3: 2, 8: 3}

#: Orientations that mirror. Each is its own inverse, so applying it again to the upright photo
#: gives the stored pixels.
_MIRRORINGS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda photo: photo[:, ::-1],
    4: lambda photo: photo[::-1],
    5: lambda photo: photo.swapaxes(0, 1),
    7: lambda photo: photo[::-1, ::-1].swapaxes(0, 1),
}


def _same_aspect(size: tuple[int, int], camera: Cameras) -> bool:
    return abs(size[0] * camera.height / (size[1] * camera.width) - 1) <= ASPECT_TOLERANCE


def _as_stored(photo: Photo, orientation: int) -> Photo:
    """The photo without its mirroring EXIF orientation."""
    mirror = _MIRRORINGS[orientation]
    width, height = stored_size(photo)
    return photo.with_layers(mirror, width=width, height=height)


def _quarter_turn(
    camera: Cameras, pixel_map: Float[np.ndarray, "2 3"]
) -> tuple[Cameras, Float[np.ndarray, "2 3"]]:
    """The view after its image was turned clockwise by 90 degrees: pixel (x, y) moves to (height -
    y, x).

    Camera axes turn alike: x' = -y, y' = x. Radial distortion does not notice; the tangential
    coefficients are a vector that turns: with x_d = ... + 2 p1 x y + p2 (r^2 + 2 x^2) and its twin
    in y, substituting gives p1' = p2, p2' = -p1.
    """
    turn = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).to(
        camera.viewmats
    )
    K = camera.Ks[0]
    turned_K = K.new_tensor(
        [[K[1, 1], 0, camera.height - K[1, 2]], [0, K[0, 0], K[0, 2]], [0, 0, 1]]
    )
    distortion = camera.distortion.clone()
    distortion[:, 6], distortion[:, 7] = camera.distortion[:, 7], -camera.distortion[:, 6]
    turned = Cameras(
        turn @ camera.viewmats,
        turned_K[None],
        camera.height,
        camera.width,
        camera.model,
        distortion,
    )
    return turned, np.stack([np.array([0, 0, camera.height]) - pixel_map[1], pixel_map[0]])
