"""A scene at the size that the user asked for: photos, cameras and observed pixels alike."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from artifixer.imaging.resize import fit_size, resize_photo
from artifixer.runtime.errors import InputError

# loaders import it from here, beside the bounds
from artifixer.runtime.files import path_inside as path_inside
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.npy import read_npy, write_npy
from artifixer.scenes.mask_files import resize_layer, resize_mask
from artifixer.scenes.scene import Photo, Scene

#: Bytes of resized photos that a scene keeps in memory; others are read again.
PHOTO_MEMORY = 2 * 1024**3


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

    if (width, height) == (photo.width, photo.height):
        return replace(photo, read=lambda: recent.get(photo.name, compute))
    layers: dict[str, Callable[[], np.ndarray]] = {}
    if (mask := photo.mask) is not None:
        layers["mask"] = lambda: resize_mask(mask(), width, height)
    if (opacity := photo.opacity) is not None:
        layers["opacity"] = lambda: resize_layer(opacity(), width, height)
    return replace(
        photo,
        width=width,
        height=height,
        read=lambda: recent.get(photo.name, compute),
        **layers,  # type: ignore[arg-type]
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
