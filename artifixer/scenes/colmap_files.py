"""The files of a COLMAP model: read in their binary or text form, written as text.

They are read here and not by COLMAP's own library: that library ends the whole process on some
damaged files, and this reader says which file is wrong and where. Format:
https://colmap.github.io/format.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import matrix_to_quaternion
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import LARGEST_TEXT, is_regular, read_whole, write_bytes
from artifixer.scenes.colmap_binary import (
    BinaryFile,
    decoded,
    read_cameras_bin,
    read_images_bin,
    read_points_bin,
)
from artifixer.scenes.colmap_lenses import LENSES, lens_coefficients, lens_name
from artifixer.scenes.colmap_model import (
    ColmapCamera,
    ColmapImage,
    ColmapModel,
    ColmapPoints,
    add_camera,
    agreeing_tracks,
    camera_fault,
    good_images,
    model_file,
    unused_cameras_note,
)


def read_model(folder: Path) -> ColmapModel:
    """Reads and checks a model; binary files are preferred where both exist.

    Single images whose values or camera make no sense are ``broken``; points and observations that
    make none are left out. Raises InputError for truncated files, trailing bytes, and ids that
    exist twice.
    """
    suffix = next(
        (
            suffix
            for suffix in (".bin", ".txt")
            if all(model_file(folder, n, suffix).is_file() for n in ("cameras", "images"))
        ),
        None,
    )
    if suffix is None:
        raise InputError(
            f"{folder}: an incomplete COLMAP model; expected cameras.bin and images.bin, or "
            "cameras.txt and images.txt"
        )
    read_cameras = read_cameras_bin if suffix == ".bin" else _cameras_txt
    read_images = read_images_bin if suffix == ".bin" else _images_txt
    read_points = read_points_bin if suffix == ".bin" else _points_txt
    cameras_file = model_file(folder, "cameras", suffix)
    cameras = read_cameras(cameras_file)
    images = tuple(read_images(model_file(folder, "images", suffix)))
    points_file = model_file(folder, "points3D", suffix)
    points = read_points(points_file) if is_regular(points_file) else None
    images_file = model_file(folder, "images", suffix)
    bad_cameras = {
        camera_id: text
        for camera_id, camera in cameras.items()
        if (text := camera_fault(cameras_file, camera_id, camera)) is not None
    }
    notes = unused_cameras_note(bad_cameras, images, cameras_file)
    images, broken = good_images(images_file, cameras, bad_cameras, images)
    if points is not None:
        images, points, remarks = agreeing_tracks(points_file, images, points)
        notes += remarks
    return ColmapModel(folder, cameras, images, points, broken, notes, suffix)


def image_count(folder: Path) -> int:
    """Images of a model; -1 for one that cannot be read."""
    try:
        if is_regular(model_file(folder, "images", ".bin")):
            return BinaryFile(model_file(folder, "images", ".bin")).count("the number of images")
        return sum(1 for _ in _images_txt(model_file(folder, "images", ".txt")))
    except InputError:
        return -1


# Reading text -------------------------------------------------------------------------------------


def _cameras_txt(path: Path) -> dict[int, ColmapCamera]:
    cameras: dict[int, ColmapCamera] = {}
    for number, line in _entries(path):
        fields = line.split()
        if len(fields) < 4:
            raise InputError(
                f"{path}: line {number} has {counted(len(fields), 'field')}; expected CAMERA_ID "
                "MODEL WIDTH HEIGHT PARAMS..."
            )
        lens = fields[1].upper()
        if lens not in LENSES:
            raise InputError(
                f"{path}: line {number} has the lens model {fields[1][:40]!r}; expected one of "
                f"{', '.join(LENSES)}"
            )
        ids = _numbers(path, number, [fields[0], *fields[2:4]], np.int64)
        parameters = _numbers(path, number, fields[4:], np.float64)
        add_camera(
            path,
            cameras,
            int(ids[0]),
            ColmapCamera(lens, int(ids[1]), int(ids[2]), tuple(parameters.tolist())),
        )
    return cameras


def _images_txt(path: Path) -> Iterator[ColmapImage]:
    """Two lines per image; the second lists keypoints and may be empty."""
    lines = iter(_lines(path))
    for number, line in lines:
        if not line or line.startswith("#"):
            continue
        fields = line.split(maxsplit=9)
        if len(fields) < 10:
            raise InputError(
                f"{path}: line {number} has {counted(len(fields), 'field')}; expected IMAGE_ID QW "
                "QX QY QZ TX TY TZ CAMERA_ID NAME"
            )
        ids = _numbers(path, number, [fields[0], fields[8]], np.int64)
        pose = _numbers(path, number, fields[1:8], np.float64)
        keypoint_number, keypoint_line = next(lines, (number + 1, ""))
        keypoint_fields = keypoint_line.split()
        if len(keypoint_fields) % 3:
            raise InputError(
                f"{path}: line {keypoint_number} has {counted(len(keypoint_fields), 'field')}; "
                "expected X Y POINT3D_ID for each keypoint"
            )
        pixels = [keypoint_fields[0::3], keypoint_fields[1::3]]
        yield ColmapImage(
            int(ids[0]),
            pose[:4],
            pose[4:],
            int(ids[1]),
            fields[9],
            np.stack(
                [_numbers(path, keypoint_number, axis, np.float64) for axis in pixels], axis=1
            ),
            np.maximum(_numbers(path, keypoint_number, keypoint_fields[2::3], np.int64), -1),
        )


def _points_txt(path: Path) -> ColmapPoints:
    heads, colours, tracks, track_rows = [], [], [], []
    ids = []
    for number, line in _entries(path):
        fields = line.split()
        if len(fields) < 8 or len(fields) % 2:
            raise InputError(
                f"{path}: line {number} has {counted(len(fields), 'field')}; expected POINT3D_ID "
                "X Y Z R G B ERROR (IMAGE_ID POINT2D_IDX)..."
            )
        whole = _numbers(path, number, [fields[0], *fields[4:7], *fields[8:]], np.int64)
        if not ((whole[1:4] >= 0) & (whole[1:4] <= 255)).all():
            raise InputError(
                f"{path}: line {number} has the colour {whole[1:4].tolist()}; expected 0 to 255"
            )
        if whole[0] < 0:
            raise InputError(
                f"{path}: line {number} has the point id {whole[0]}; expected 0 or more"
            )
        ids.append(whole[0])
        heads.append(_numbers(path, number, fields[1:4], np.float64))
        colours.append(whole[1:4])
        tracks.append(whole[4:].reshape(-1, 2))
        track_rows.append(np.full(len(tracks[-1]), len(ids) - 1))
    track = np.concatenate([np.zeros((0, 2), np.int64), *tracks])
    return ColmapPoints(
        ids=np.array(ids, np.int64),
        xyz=np.array(heads, np.float64).reshape(-1, 3),
        rgb=np.array(colours, np.uint8).reshape(-1, 3),
        track_row=np.concatenate([np.zeros(0, np.int64), *track_rows]),
        track_image=track[:, 0],
        track_keypoint=track[:, 1],
    )


#: How Microsoft's runtime writes what is not a number.
_MSVC_NAN = re.compile(r"[+-]?(nan\(\w*\)|1\.#\w+)", re.IGNORECASE)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without surrounding blanks."""
    text = decoded(path, read_whole(path, "a text file of a COLMAP model", LARGEST_TEXT))
    return (
        (number, line.strip())
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1)
    )


def _entries(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are neither empty nor comments."""
    return ((number, line) for number, line in _lines(path) if line and not line.startswith("#"))


def _numbers(
    path: Path, line: int, fields: Sequence[str], dtype: type[np.int64] | type[np.float64]
) -> np.ndarray:
    try:
        if dtype is np.float64:
            fields = ["nan" if _MSVC_NAN.fullmatch(word) else word for word in fields]
        return np.array(fields, dtype=dtype)
    except (ValueError, OverflowError) as error:
        kind = "whole numbers" if dtype is np.int64 else "numbers"
        raise InputError(f"{path}: line {line} should hold {kind} ({error})") from error


# Writing text -------------------------------------------------------------------------------------


def write_model(
    folder: Path,
    frames: Sequence[CameraFrame],
    xyz: Float[np.ndarray, "points 3"],
    rgb: UInt8[np.ndarray, "points 3"],
) -> None:
    """Write ``cameras.txt``, ``images.txt`` and ``points3D.txt`` in full precision, without
    tracks.

    frames: cameras with the names of their photos. xyz: positions in the cameras' world. Ids start
    at 1; views with equal intrinsics share a camera.
    """
    camera_ids: dict[str, int] = {}
    image_lines = []
    for number, frame in enumerate(frames, start=1):
        assert frame.photo is not None, f"frame {number} has no photo"
        camera_id = camera_ids.setdefault(_colmap_intrinsics(frame.camera), len(camera_ids) + 1)
        viewmat = frame.camera.viewmats[0].to(torch.float64)
        pose = [*matrix_to_quaternion(viewmat[:3, :3]).tolist(), *viewmat[:3, 3].tolist()]
        # the empty line: no keypoints
        image_lines += [f"{number} {_words(pose)} {camera_id} {frame.photo}", ""]
    camera_lines = [f"{camera_id} {intrinsics}" for intrinsics, camera_id in camera_ids.items()]
    point_lines = [
        f"{number} {_words(position)} {red} {green} {blue} 0"
        for number, (position, (red, green, blue)) in enumerate(
            zip(xyz.astype(np.float64).tolist(), rgb.tolist(), strict=True), start=1
        )
    ]
    _write_lines(folder / "cameras.txt", ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]", *camera_lines])
    _write_lines(
        folder / "images.txt",
        ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then its keypoints (none)", *image_lines],
    )
    _write_lines(folder / "points3D.txt", ["# POINT3D_ID X Y Z R G B ERROR TRACK[]", *point_lines])


def _colmap_intrinsics(camera: Cameras) -> str:
    K, lens = camera.Ks[0].tolist(), lens_name(camera)
    values = [K[0][0], K[1][1], K[0][2], K[1][2], *lens_coefficients(camera, lens).values()]
    return f"{lens} {camera.width} {camera.height} {_words(values)}"


def _words(values: Sequence[float]) -> str:
    return " ".join(repr(value) for value in values)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
