"""The binary form of a COLMAP model: ``cameras.bin``, ``images.bin`` and ``points3D.bin``.

Every count is compared with the file's size before anything is allocated. Format:
https://colmap.github.io/format.html
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import open_regular
from artifixer.scenes.colmap_lenses import LENS_NAMES, LENSES
from artifixer.scenes.colmap_model import ColmapCamera, ColmapImage, ColmapPoints, add_camera

_KEYPOINT = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<u8")])

_POINT = np.dtype(
    [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")]
)

_TRACK = np.dtype([("image", "<u4"), ("keypoint", "<u4")])
_CAMERA = np.dtype([("id", "<u4"), ("model", "<i4"), ("width", "<u8"), ("height", "<u8")])

_IMAGE = np.dtype(
    [("id", "<u4"), ("quaternion", "<f8", 4), ("translation", "<f8", 3), ("camera", "<u4")]
)

_NO_POINT = np.uint64(2**64 - 1)


def read_cameras_bin(path: Path) -> dict[int, ColmapCamera]:
    file = BinaryFile(path)
    count = file.count("the number of cameras")
    cameras: dict[int, ColmapCamera] = {}
    for number in range(count):
        what = f"camera {number + 1} of {count}"
        head = file.array(_CAMERA, 1, what)[0]
        if not 0 <= head["model"] < len(LENS_NAMES):
            raise InputError(
                f"{path}: {what} has the lens model number {head['model']}; expected 0 to "
                f"{len(LENS_NAMES) - 1}"
            )
        model = LENS_NAMES[head["model"]]
        parameters = file.array("<f8", len(LENSES[model].parameters), what)
        camera = ColmapCamera(
            model, int(head["width"]), int(head["height"]), tuple(parameters.tolist())
        )
        add_camera(path, cameras, int(head["id"]), camera)
    file.finish()
    return cameras


def read_images_bin(path: Path) -> Iterator[ColmapImage]:
    file = BinaryFile(path)
    count = file.count("the number of images")
    for number in range(count):
        what = f"image {number + 1} of {count}"
        head = file.array(_IMAGE, 1, what)[0]
        name = file.name(what)
        keypoints = file.array(_KEYPOINT, file.count(what), f"the keypoints of {what}")
        yield ColmapImage(
            int(head["id"]),
            head["quaternion"].copy(),
            head["translation"].copy(),
            int(head["camera"]),
            name,
            np.stack([keypoints["x"], keypoints["y"]], axis=1),
            _signed_ids(path, keypoints["point"]),
        )
    file.finish()


def read_points_bin(path: Path) -> ColmapPoints:
    """Records vary in length with their tracks: a first pass walks along the track lengths, then
    numpy gathers everything at once.
    """
    file = BinaryFile(path)
    count = file.count("the number of points")
    content, end = file.bytes, len(file.bytes)
    starts, lengths = [], []
    offset = file.offset
    for number in range(count):
        length_at = offset + _POINT.itemsize - 8
        length = int.from_bytes(content[length_at : length_at + 8], "little")
        starts.append(offset)
        lengths.append(length)
        offset += _POINT.itemsize + length * _TRACK.itemsize
        if offset > end:
            raise InputError(
                f"{path}: ends inside point {number + 1} of {count} at byte {end}; the file is "
                "truncated or damaged"
            )
    file.offset = offset
    file.finish()

    track_counts = np.array(lengths, np.int64)
    raw = np.frombuffer(content, np.uint8)
    start = np.array(starts, np.int64)
    points = (
        raw[start[:, None] + np.arange(_POINT.itemsize)].view(_POINT)[:, 0]
        if count
        else np.zeros(0, _POINT)
    )
    track_row = np.repeat(np.arange(count), track_counts)
    within = np.arange(len(track_row)) - np.repeat(
        np.cumsum(track_counts) - track_counts, track_counts
    )
    track_start = start[track_row] + _POINT.itemsize + within * _TRACK.itemsize
    tracks = (
        raw[track_start[:, None] + np.arange(_TRACK.itemsize)].view(_TRACK)[:, 0]
        if len(track_row)
        else np.zeros(0, _TRACK)
    )
    return ColmapPoints(
        ids=_signed_ids(path, points["id"]),
        xyz=points["xyz"].copy(),
        rgb=points["rgb"].copy(),
        track_row=track_row,
        track_image=tracks["image"].astype(np.int64),
        track_keypoint=tracks["keypoint"].astype(np.int64),
    )


def _signed_ids(path: Path, ids: np.ndarray) -> Int[np.ndarray, " ids"]:
    """Point ids as int64, -1 for "no point"."""
    outside = ids[(ids >= np.uint64(2**63)) & (ids != _NO_POINT)]
    if len(outside):
        raise InputError(f"{path}: holds the point id {int(outside[0])}; the file is damaged")
    return ids.astype(np.int64)


class BinaryFile:
    """A file read once from front to back; every read says what it was for when the file ends too
    early.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = _mapped(path)
        self.offset = 0

    def array(self, dtype: np.dtype | str, count: int, what: str) -> np.ndarray:
        dtype = np.dtype(dtype)
        if count * dtype.itemsize > len(self.bytes) - self.offset:
            raise InputError(
                f"{self.path}: ends inside {what} at byte {len(self.bytes)}; the file is truncated "
                "or damaged"
            )
        values = np.frombuffer(self.bytes, dtype, count, self.offset)
        self.offset += count * dtype.itemsize
        return values

    def count(self, what: str) -> int:
        return int(self.array("<u8", 1, what)[0])

    def name(self, what: str) -> str:
        end = self.bytes.find(b"\0", self.offset)
        if end < 0:
            raise InputError(
                f"{self.path}: ends inside {what} at byte {len(self.bytes)}; the file is truncated "
                "or damaged"
            )
        raw = self.bytes[self.offset : end]
        self.offset = end + 1
        return decoded(self.path, raw)

    def finish(self) -> None:
        if self.offset != len(self.bytes):
            raise InputError(
                f"{self.path}: {len(self.bytes) - self.offset} bytes follow the last entry; the "
                "file is damaged"
            )


def _mapped(path: Path) -> bytes | mmap.mmap:
    """The file's bytes, mapped: only what is read comes into memory."""
    with open_regular(path, "a part of a COLMAP model") as file:
        is_empty = os.fstat(file.fileno()).st_size == 0
        return b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def decoded(path: Path, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: holds the name {raw[:40]!r}; expected UTF-8 text") from error
