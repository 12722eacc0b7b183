"""``cameras.json``: cameras with the names of their photos, part of run folders and render folders.

::

    {"format": "artifixer cameras", "version": 1, "axes": "OpenCV, world_to_camera",
     "frames": [{"index": 0, "photo": "images/0001.jpg" or null, "width": 640, "height": 480,
                 "model": "pinhole", "fx": ..., "fy": ..., "cx": ..., "cy": ..., "distortion":
                 {"k1": ...}, "world_to_camera": [[...] x 4]}],
     "references": [{the same, with "file": "references/00000.png"}]}

Numbers are written in full, so a file read and written again is the same file. Poses are of the
world; ``"origin": [x, y, z]`` is there for georeferenced ones, whose cameras are read relative to
it (``local_origin``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from artifixer.geometry.cameras import DISTORTION_NAMES, Cameras
from artifixer.geometry.local_origin import WORLD, Origin, local_origin, to_local, to_world
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import path_inside
from artifixer.runtime.image_files import MAX_PIXELS
from artifixer.runtime.json_io import is_number, read_json, shown, write_json

FORMAT = "artifixer cameras"
VERSION = 1

#: Rotations in the file are float32; the product with their transpose differs from one by no more
#: than this.
RIGID_TOLERANCE = 1e-3

#: Sides in pixels, intrinsics (pixels, distortion coefficients) and positions (world units) beyond
#: these are mistakes; squares of positions still fit float32.
LARGEST_SIDE, LARGEST_INTRINSIC, LARGEST_POSITION = 65_535, 1e9, 1e12

#: Smallest focal length in pixels: rays through neighbouring pixels stay apart.
SMALLEST_FOCAL_LENGTH = 1e-3

_INTRINSICS = ("fx", "fy", "cx", "cy")


@dataclass(frozen=True)
class CameraFrame:
    """One view (a ``Cameras`` of length 1) and the name of its photo, None for no photo."""

    camera: Cameras
    photo: str | None = None

    def __post_init__(self) -> None:
        assert len(self.camera) == 1, f"{len(self.camera)} views in one frame"


def is_camera_file(path: Path) -> bool:
    """Whether a JSON file has this format's identifier."""
    content = read_json(path)
    return isinstance(content, dict) and content.get("format") == FORMAT


def write_cameras(
    path: Path,
    frames: Sequence[CameraFrame],
    references: Sequence[tuple[CameraFrame, str]] = (),
    origin: Origin = WORLD,
) -> None:
    """Write the file atomically. ``references`` are photos with their file names relative to the
    folder of ``path``.

    origin: what the frames' cameras are relative to.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "axes": "OpenCV, world_to_camera",
    }
    if origin != WORLD:
        content["origin"] = list(origin)
    content["frames"] = [_to_json(index, frame, origin) for index, frame in enumerate(frames)]
    content["references"] = [
        _to_json(index, frame, origin) | {"file": file}
        for index, (frame, file) in enumerate(references)
    ]
    write_json(path, content)


def read_cameras(path: Path, origin: Origin | None = None) -> list[CameraFrame]:
    """The frames of a camera file, in order, relative to ``origin`` (None: the file's own).

    Raises ``InputError`` naming the frame and the value that is wrong.
    """
    origin = read_origin(path) if origin is None else origin
    return [
        _from_json(path, f"frame {number}", entry, origin)
        for number, entry in enumerate(_entries(path, "frames"))
    ]


def read_origin(path: Path) -> Origin:
    """The origin that a camera file names; otherwise ``local_origin`` of its cameras, as of any
    capture. Raises ``InputError`` for another value, and as ``read_cameras`` does.
    """
    content = read_json(path)
    if isinstance(content, dict) and "origin" not in content:
        frames = enumerate(_entries(path, "frames"))
        places = [_place(path, f"frame {number}", entry) for number, entry in frames]
        return local_origin(np.array(places).reshape(-1, 3))
    values = content["origin"] if isinstance(content, dict) else None
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(is_number(value, LARGEST_POSITION) for value in values)
    ):
        raise InputError(f'{path}: "origin" is {shown(values)}; expected three numbers')
    x, y, z = (float(value) for value in values)
    return x, y, z


def _place(path: Path, label: str, entry: dict[str, Any]) -> Float[np.ndarray, " 3"]:
    """Camera centre of a frame in the world, float64."""
    viewmat = _viewmat(path, label, entry.get("world_to_camera")).numpy()
    place: np.ndarray = -viewmat[:3, :3].T @ viewmat[:3, 3]
    return place


def read_references(path: Path, origin: Origin | None = None) -> list[tuple[CameraFrame, str]]:
    """The reference photos of a camera file with the names of their files, relative to ``origin``
    (None: the file's own).

    Raises ``InputError`` as ``read_cameras`` does.
    """
    references = []
    origin = read_origin(path) if origin is None else origin
    for number, entry in enumerate(_entries(path, "references")):
        frame = _from_json(path, f"reference {number}", entry, origin)
        file = entry.get("file")
        if not isinstance(file, str):
            raise InputError(
                f'{path}: reference {number} has "file" = {shown(file)}; expected a path inside '
                "the folder"
            )
        path_inside(path.parent, file, path, "the folder")
        references.append((frame, file))
    return references


def _to_json(index: int, frame: CameraFrame, origin: Origin) -> dict[str, Any]:
    camera, K = frame.camera, frame.camera.Ks[0]
    return {
        "index": index,
        "photo": frame.photo,
        "width": camera.width,
        "height": camera.height,
        "model": camera.model,
        "fx": float(K[0, 0]),
        "fy": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        "distortion": dict(zip(DISTORTION_NAMES, camera.distortion[0].tolist(), strict=True)),
        "world_to_camera": to_world(camera, origin).viewmats[0].tolist(),
    }


def _entries(path: Path, key: str) -> list[Any]:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f'{path}: not a camera file; expected "format": "{FORMAT}"')
    if content.get("version") != VERSION:
        raise InputError(
            f"{path}: version {shown(content.get('version'))}; this program reads version {VERSION}"
        )
    entries = content.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f'{path}: "{key}" is {str(entries)[:40]}; expected a list of cameras')
    return entries


def _from_json(path: Path, label: str, entry: dict[str, Any], origin: Origin) -> CameraFrame:
    sides = [_number(path, label, entry, key) for key in ("width", "height")]
    if (
        any(side != int(side) or not 1 <= side <= LARGEST_SIDE for side in sides)
        or sides[0] * sides[1] > MAX_PIXELS
    ):
        raise InputError(
            f"{path}: {label} is {sides[0]:g}x{sides[1]:g}; expected whole numbers of 1 to "
            f"{LARGEST_SIDE} pixels"
        )
    model, photo = entry.get("model"), entry.get("photo")
    if model not in ("pinhole", "fisheye"):
        raise InputError(
            f'{path}: {label} has "model" = {shown(model)}; expected pinhole or fisheye'
        )
    if not isinstance(photo, (str, type(None))):
        raise InputError(f'{path}: {label} has "photo" = {shown(photo)}; expected a name or null')
    fx, fy, cx, cy = (_number(path, label, entry, key) for key in _INTRINSICS)
    if min(fx, fy) < SMALLEST_FOCAL_LENGTH:
        raise InputError(
            f"{path}: {label} has focal lengths {fx:g}, {fy:g}; expected positive ones"
        )
    lens = entry.get("distortion", {})
    if not isinstance(lens, dict):
        raise InputError(
            f'{path}: {label} has "distortion" = {str(lens)[:40]}; expected an object with k1 ... '
            "p2"
        )
    distortion = [
        _number(path, label, lens, name) if name in lens else 0.0 for name in DISTORTION_NAMES
    ]
    camera = Cameras(
        viewmats=_viewmat(path, label, entry.get("world_to_camera"))[None],
        Ks=torch.tensor([[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]], dtype=torch.float64),
        width=int(sides[0]),
        height=int(sides[1]),
        model=model,
        distortion=torch.tensor([distortion], dtype=torch.float64),
    )
    return CameraFrame(to_local(camera, origin), photo)


def _number(path: Path, label: str, entry: dict[str, Any], key: str) -> float:
    value = entry.get(key)
    if not is_number(value, LARGEST_INTRINSIC):
        raise InputError(f'{path}: {label} has "{key}" = {shown(value)}; expected a finite number')
    return float(value)


def _viewmat(path: Path, label: str, rows: object) -> torch.Tensor:
    """A rigid world_to_camera matrix in float64, checked."""
    wrong = InputError(
        f'{path}: {label} has "world_to_camera" = {shown(rows)}; expected a rigid 4x4 matrix'
    )
    if (
        not isinstance(rows, list)
        or len(rows) != 4
        or not all(isinstance(row, list) and len(row) == 4 for row in rows)
    ):
        raise wrong
    values = [value for row in rows for value in row]
    if not all(is_number(value, LARGEST_POSITION) for value in values):
        raise wrong
    viewmat = torch.tensor(rows, dtype=torch.float64)
    rotation = viewmat[:3, :3]
    error = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().max()
    if (
        error > RIGID_TOLERANCE
        or torch.linalg.det(rotation) < 0
        or viewmat[3].tolist() != [0, 0, 0, 1]
    ):
        raise wrong
    return viewmat
