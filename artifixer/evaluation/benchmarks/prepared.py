"""A benchmark's scene as a capture: ``transforms.json`` and photos in one folder.

Data sets keep their photos in several sizes or in zips, and their camera files may list another
size than the one that the benchmark uses. The photos that the benchmark uses are copied byte for
byte to ``images/``, beside a ``transforms.json`` that lists exactly these, so that every verb, and
other programs, read the scene as it is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from artifixer.geometry.cameras import DISTORTION_NAMES, Cameras
from artifixer.geometry.transforms import OPENCV_FROM_OPENGL
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import atomic_path, write_bytes
from artifixer.runtime.json_io import write_json
from artifixer.scenes.colmap import to_cameras
from artifixer.scenes.colmap_model import ColmapModel

#: Folder of the photos in the capture.
PHOTOS = "images"

#: File of the points that training photos observe.
POINTS = "sparse_pc.ply"

#: Minimum number of training photos that observe a point that is kept.
OBSERVING_PHOTOS = 2


@dataclass(frozen=True)
class ObservedPoints:
    """Points of structure from motion and the photos that observe them."""

    xyz: Float[np.ndarray, "points 3"]
    rgb: UInt8[np.ndarray, "points 3"]
    photos: tuple[str, ...]
    """Names of the photos."""

    rows: Int[np.ndarray, " observations"]
    """Of each observation, the row of the point in ``xyz``."""

    observers: Int[np.ndarray, " observations"]
    """Of each observation, the position of the photo in ``photos``."""


def write_capture(
    folder: Path,
    content: Mapping[str, Any],
    photos: Mapping[str, Callable[[], bytes]],
    points: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Write the capture; existing photos are kept.

    content: of a transforms file; its ``frames`` are in the order of ``photos``. photos: name ->
    function that returns the file's bytes. points: positions and colours, for the initial splats.
    """
    for name, read in photos.items():
        path = folder / PHOTOS / name
        if not path.is_file():
            write_bytes(path, read())
    frames = [
        {**frame, "file_path": f"{PHOTOS}/{name}"}
        for frame, name in zip(content["frames"], photos, strict=True)
    ]
    unlisted = ("ply_file_path", "train_filenames", "val_filenames", "test_filenames")
    whole = {key: value for key, value in content.items() if key not in unlisted}
    if points is not None and len(points[0]):
        _write_points(folder / POINTS, *points)
    # last: a folder that has it is complete
    write_json(folder / "transforms.json", whole | {"frames": frames})


def frames_by_photo(whole: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Frames of a transforms file by the base name of their photo, in file order. where: the file,
    for messages. Raises InputError for a photo without a name or listed twice.
    """
    frames = whole.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f'{where}: "frames" is not a list of photos')
    found: dict[str, dict[str, Any]] = {}
    for frame in frames:
        listed = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(listed, str) or "\0" in listed:
            raise InputError(f'{where}: a frame has no "file_path", expected a photo')
        photo = PurePosixPath(listed.replace("\\", "/")).name
        if photo in ("", ".", "..") or photo in found:
            raise InputError(f"{where}: lists {listed[:80]!r}, expected each photo once")
        found[photo] = frame
    return found


def camera_entries(model: ColmapModel) -> tuple[dict[str, dict[str, Any]], ObservedPoints | None]:
    """The views of a COLMAP model as frames of a transforms file by the base name of their photo,
    and its points.
    """
    source = model.folder / "images"
    found: dict[str, dict[str, Any]] = {}
    for image in model.images:
        name = PurePosixPath(image.name.replace("\\", "/")).name
        if not name or name in found:
            raise InputError(f"{source}: lists {image.name[:80]!r}, expected each photo once")
        found[name] = _entry(to_cameras(model.cameras[image.camera_id], image, source))
    if model.points is None:
        return found, None
    images = {image.image_id: position for position, image in enumerate(model.images)}
    known = np.isin(model.points.track_image, list(images))
    observers = np.array([images[number] for number in model.points.track_image[known]], np.int64)
    points = ObservedPoints(
        model.points.xyz, model.points.rgb, tuple(found), model.points.track_row[known], observers
    )
    return found, points


def seen_by_training(
    points: ObservedPoints, train: Sequence[str]
) -> tuple[Float[np.ndarray, "seen 3"], UInt8[np.ndarray, "seen 3"]]:
    """Positions and colours of the points that at least ``OBSERVING_PHOTOS`` training photos
    observe; the others would leak content of held-out photos into the reconstruction.
    """
    chosen = set(train)
    is_training = np.array([photo in chosen for photo in points.photos], bool)
    pairs = np.unique(
        np.stack([points.rows, points.observers], axis=1)[is_training[points.observers]], axis=0
    )
    counts = (
        np.bincount(pairs[:, 0], minlength=len(points.xyz))
        if len(pairs)
        else np.zeros(len(points.xyz), np.int64)
    )
    seen = counts >= OBSERVING_PHOTOS
    return points.xyz[seen], points.rgb[seen]


def _entry(camera: Cameras) -> dict[str, Any]:
    """A view as a frame of a transforms file: camera_to_world in OpenGL axes."""
    pose = camera.to(dtype=camera.viewmats.dtype).camera_to_world[0].double().numpy()
    K = camera.Ks[0].double().tolist()
    names = DISTORTION_NAMES[:4] if camera.model == "fisheye" else DISTORTION_NAMES
    distortion = dict(zip(DISTORTION_NAMES, camera.distortion[0].double().tolist(), strict=True))
    return {
        "transform_matrix": (pose @ OPENCV_FROM_OPENGL).tolist(),
        "w": camera.width,
        "h": camera.height,
        "fl_x": K[0][0],
        "fl_y": K[1][1],
        "cx": K[0][2],
        "cy": K[1][2],
        "camera_model": "OPENCV_FISHEYE" if camera.model == "fisheye" else "OPENCV",
        **{name: distortion[name] for name in names},
    }


def _write_points(path: Path, xyz: np.ndarray, rgb: np.ndarray) -> None:
    from plyfile import PlyData, PlyElement

    fields = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(xyz), fields)
    for axis, name in enumerate("xyz"):
        rows[name] = xyz[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = rgb[:, channel]
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(str(temporary))
