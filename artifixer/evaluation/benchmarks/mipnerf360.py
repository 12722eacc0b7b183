"""Mip-NeRF 360 with the 3, 6 or 9 training views of ReconFusion, photos of ``images_4``.

Cameras come from the transforms.json of ReconFusion's package, or from the COLMAP models of 360_v2.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artifixer.evaluation.benchmarks.lists import data
from artifixer.evaluation.benchmarks.prepared import (
    ObservedPoints,
    camera_entries,
    frames_by_photo,
    seen_by_training,
    write_capture,
)
from artifixer.evaluation.benchmarks.scene import (
    BenchmarkScene,
    Options,
    check_photos,
    photo_bytes,
    prepared_scene,
    size_caveat,
)
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.runtime.json_io import as_object, read_json
from artifixer.scenes.colmap_files import read_model
from artifixer.scenes.colmap_folders import find_model

#: Keys that a transforms file may have once for all frames or in each frame.
_SHARED_KEYS = frozenset(
    [
        *("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y"),
        *("camera_model", "is_fisheye", "k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2"),
    ]
)


def few_view_ids(scene: str, views: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indices of the training and of the held-out photos among the photos sorted by name."""
    entry = data("mipnerf360")["scenes"][scene]
    train = sorted(position for group in entry["train"][: views // 3] for position in group)
    return tuple(train), tuple(range(0, entry["images"], 8))


def open_mipnerf360(
    root: Path, name: str, options: Options, work: Path, *, views: int
) -> BenchmarkScene:
    """``mipnerf360-VIEWS``."""
    folder, entry = (
        root / name if (root / name).is_dir() else root,
        data("mipnerf360")["scenes"][name],
    )
    content, points = _listed_views(folder)
    names = sorted(content)
    if len(names) != entry["images"]:
        raise InputError(
            f"{folder}: {counted(len(names), 'registered photo')}, expected the {entry['images']} "
            f"of {name}; the split counts positions among exactly these"
        )
    ids = few_view_ids(name, views)
    _check_own_split(folder / f"train_test_split_{views}.json", ids)
    train, heldout = ([names[position] for position in half] for half in ids)
    photos = {photo: folder / "images_4" / photo for photo in names}
    check_photos(photos)
    caveats = size_caveat(photos[names[0]], entry["size"])
    write_capture(
        work,
        {"frames": [content[photo] for photo in names]},
        {photo: functools.partial(photo_bytes, path) for photo, path in photos.items()},
        seen_by_training(points, train) if points is not None else None,
    )
    return prepared_scene(name, work, names, train, heldout, caveats=caveats)


def _listed_views(folder: Path) -> tuple[dict[str, dict[str, Any]], ObservedPoints | None]:
    """Frames by base name of the photo, each with its intrinsics; and the points where the cameras
    come from a COLMAP model.
    """
    path = folder / "transforms.json"
    if is_regular(path):
        whole = as_object(read_json(path), path)
        shared = {key: value for key, value in whole.items() if key in _SHARED_KEYS}
        return {
            photo: {**shared, **frame} for photo, frame in frames_by_photo(whole, str(path)).items()
        }, None
    model_folder = find_model(folder)
    if model_folder is None:
        raise InputError(
            f"{folder}: has neither transforms.json nor a COLMAP model in sparse/0, expected one"
        )
    return camera_entries(read_model(model_folder))


def _check_own_split(path: Path, ids: tuple[Sequence[int], Sequence[int]]) -> None:
    """Raise InputError when the data has a split file that differs from ReconFusion's split."""
    if not is_regular(path):
        return
    content = as_object(read_json(path), path)
    if (content.get("train_ids"), content.get("test_ids")) != tuple(list(half) for half in ids):
        raise InputError(f"{path}: differs from ReconFusion's split, expected {list(ids[0])}")
