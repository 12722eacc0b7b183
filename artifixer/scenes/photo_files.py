"""Photos that are files: lazily read ``Photo`` objects, and the fit between a photo and the camera
that a capture lists for it.

A capture's camera speaks of pixels as the reconstruction software saw them; a photo on disk may
have been resized since, or carry an EXIF orientation that such software ignores. ``fit_camera``
settles both, so that every photo of a ``Scene`` is upright and has its camera's size.
``resize_scene`` brings a scene to the size that the user asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from artifixer.geometry.cameras import Cameras
from artifixer.imaging.resize import fit_size, resize_photo
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular

# loaders import it from here, beside the bounds
from artifixer.runtime.files import path_inside as path_inside
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.media import exif_orientation, image_size, read_image
from artifixer.runtime.npy import read_npy, write_npy
from artifixer.scenes.scene import Photo, Scene

#: File endings taken for photos, lower case, in the order in which they are tried for names without
#: one.
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

#: A photo may be a resized copy of what its camera describes; rounding to whole pixels moves the
#: aspect ratio by at most about this much.
ASPECT_TOLERANCE = 0.01

#: Bytes of resized photos that a scene keeps in memory; others are read again.
PHOTO_MEMORY = 2 * 1024**3

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


def open_photo(path: Path, name: str) -> Photo:
    """The photo in ``path``; only its header is read now.

    Raises InputError when the file is no readable image.
    """
    width, height = image_size(path)
    return Photo(name, width, height, read=lambda: read_image(path), path=path)


def photos_below(folder: Path) -> list[Path]:
    """Photo files in ``folder`` itself (not in folders inside it), sorted by name; hidden files are
    left out.
    """
    if not folder.is_dir():
        return []
    files = (
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")
    )
    return sorted(path for path in files if is_regular(path))


def fit_camera(photo: Photo, camera: Cameras, source: Path) -> FittedView:
    """The one view ``camera`` that ``source`` lists for ``photo``, brought to the photo's
    orientation and size.

    Reconstruction software works on the stored pixels and ignores EXIF, while ``Photo`` is upright.
    Where the camera fits the stored pixels, it is turned with the photo (a roll about the optical
    axis). Then intrinsics are scaled to the photo's size. Raises InputError when the aspect ratios
    disagree.
    """
    orientation = exif_orientation(photo.path) if photo.path is not None else 1
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


def stored_size(photo: Photo) -> tuple[int, int]:
    """(width, height) of the pixels as they lie in the photo's file, before EXIF turns them
    upright.
    """
    turned = photo.path is not None and exif_orientation(photo.path) >= 5
    return (photo.height, photo.width) if turned else (photo.width, photo.height)


def left_out_note(lost: Sequence[str], listed: int, source: Path, reason: str) -> tuple[str, ...]:
    """One remark that counts the photos of ``source`` that cannot be used ("do not exist"); none
    when all can.

    Raises InputError when fewer than two remain.
    """
    kept = listed - len(lost)
    example = f" (first: {lost[0]})" if lost else ""
    if kept < 2:
        raise InputError(
            f"{source}: lists {listed} photos of which {len(lost)} {reason}{example}; expected at "
            "least 2 to remain"
        )
    return (
        (f"{source.name} lists {listed} photos; {len(lost)} {reason} and are left out{example}",)
        if lost
        else ()
    )


# Resizing -----------------------------------------------------------------------------------------


def resize_scene(scene: Scene, size: int | str | None, cache_folder: Path | None = None) -> Scene:
    """The scene with every photo at ``size``: the longest side in pixels (never enlarged), ``WxH``,
    or None for the size as it is.

    Cameras and observed pixels follow; photos of different sizes keep their aspect ratios. Each
    photo is read and resized once: then it comes from memory (up to ``PHOTO_MEMORY``) or from
    ``cache_folder``, where it is stored under its file's identity. Raises InputError for a
    malformed size.
    """
    recent = _RecentPhotos(PHOTO_MEMORY)
    sizes = [fit_size(photo.width, photo.height, size) for photo in scene.photos]
    photos = [
        _resized_photo(photo, *target, recent, cache_folder)
        for photo, target in zip(scene.photos, sizes, strict=True)
    ]
    cameras = [camera.resized(*target) for camera, target in zip(scene.cameras, sizes, strict=True)]
    points = scene.points
    if points is not None and points.has_tracks:
        factors = torch.tensor(
            [
                (new.width / old.width, new.height / old.height)
                for new, old in zip(photos, scene.photos, strict=True)
            ]
        )
        points = replace(
            points,
            observed_pixel=points.observed_pixel
            * factors.to(points.observed_pixel)[points.observed_view],
        )
    return replace(scene.with_photos(photos, cameras), points=points)


def _resized_photo(
    photo: Photo, width: int, height: int, recent: _RecentPhotos, cache_folder: Path | None
) -> Photo:
    """The photo at another size, its pixels kept once they were computed."""

    def compute() -> UInt8[np.ndarray, "height width 3"]:
        if (
            cache_folder is None
            or photo.path is None
            or (width, height) == (photo.width, photo.height)
        ):
            return resize_photo(photo.read(), width, height)
        stored = cache_folder / f"{_file_identity(photo)}-{width}x{height}.npy"
        if not stored.is_file():
            write_npy(stored, resize_photo(photo.read(), width, height))
        pixels = read_npy(stored)
        if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
            kind = f"{pixels.shape} {pixels.dtype}"
            raise InputError(
                f"{stored}: {kind}, expected {(height, width, 3)} uint8; delete it to have it made "
                "again"
            )
        return pixels

    return Photo(
        photo.name, width, height, read=lambda: recent.get(photo.name, compute), path=photo.path
    )


def _file_identity(photo: Photo) -> str:
    """Names the content of a photo's file and how it is turned. Size and time can stay the same
    when a photo is changed in place.
    """
    assert photo.path is not None, f"{photo.name} has no file"
    return fingerprint(photo.path, photo.width, photo.height)[:24]


class _RecentPhotos:
    """Pixels by name; the photos unused for longest are dropped when all together exceed ``limit``
    bytes. Usable from several threads.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._pixels: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            if name in self._pixels:
                self._pixels.move_to_end(name)
                return self._pixels[name]
        pixels = compute()
        with self._lock:
            if name not in self._pixels:
                self._pixels[name] = pixels
                self._bytes += pixels.nbytes
            while self._bytes > self._limit:
                self._bytes -= self._pixels.popitem(last=False)[1].nbytes
        return pixels


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
    return replace(
        photo, width=width, height=height, read=lambda: np.ascontiguousarray(mirror(photo.read()))
    )


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
