"""Generated malformed captures: out of every loader comes a usable scene or one line of
``InputError``, never anything else.
"""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from capture_files import rich_transforms, write_colmap, write_transforms
from hypothesis import given, settings
from hypothesis import strategies as st

from artifixer.runtime.errors import InputError
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scene import Scene

#: Longest message that still reads as one line.
READABLE = 400

#: What stands where a number, a name or a list belongs.
_STRANGE_VALUES = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            "",
            "x",
            "../../etc/passwd",
            "\0",
            "\ud800",
            "a" * 300,
            [],
            {},
            [[]],
            [1, 2],
            {"k1": 1},
        ]
    ),
    st.sampled_from(
        [math.nan, math.inf, -math.inf, 0, -1, 1.5, 1e-320, 1e30, 1e308, -(2**63), 2**64, 10**400]
    ),
    st.floats(),
    st.integers(),
    st.text(max_size=10),
)
_STRANGE_WORDS = st.one_of(
    st.sampled_from(
        [
            "nan",
            "inf",
            "-1",
            "0",
            "1e400",
            "1_0",
            "x",
            "",
            "99999999999999999999",
            "0x10",
            "\u0663",
            "../x.png",
            "#",
            "1 2",
        ]
    ),
    st.floats().map(repr),
    st.integers().map(str),
)


def _assert_scene_or_one_line(capture: Path) -> None:
    try:
        scene = load_scene(capture)
    except InputError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < READABLE + 2 * len(str(capture)), message
        assert re.search(r"(transforms|splits|sparse|images|cameras|points|capture)", message), (
            f"names no file: {message}"
        )
    else:
        _assert_usable(scene)


def _assert_usable(scene: Scene) -> None:
    assert len(scene.photos) >= 2
    names = {photo.name for photo in scene.photos}
    for photo, camera in zip(scene.photos, scene.cameras, strict=True):
        assert (photo.width, photo.height) == (camera.width, camera.height)
        assert photo.path is not None and photo.path.is_file()
        rotation = camera.viewmats[0, :3, :3].double()
        torch.testing.assert_close(
            rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-5, rtol=0
        )
        corners = torch.tensor([[[0.5, 0.5], [camera.width - 0.5, camera.height - 0.5]]])
        values = (
            camera.viewmats,
            camera.centers,
            camera.centers.square(),
            camera.Ks,
            camera.distortion,
            camera.unproject(corners),
        )
        assert all(bool(value.isfinite().all()) for value in values), camera
        assert (camera.Ks[0].diagonal() > 0).all()
    if scene.points is not None:
        points = scene.points
        assert bool(points.xyz.square().isfinite().all() and points.observed_pixel.isfinite().all())
        assert points.xyz.shape == points.rgb.shape
        for index, limit in (
            (points.observed_point, len(points)),
            (points.observed_view, len(scene.photos)),
        ):
            assert not index.numel() or (int(index.min()) >= 0 and int(index.max()) < limit)
    for split in scene.splits.values():
        assert (
            names.issuperset(split.train)
            and names.issuperset(split.heldout)
            and not set(split.train) & set(split.heldout)
        )
        assert all(names.issuperset(group) for group in split.groups.values())


# JSON ---------------------------------------------------------------------------------------------


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all values inside a JSON value."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [place for key, item in inside for place in [(*path, key), *_places(item, (*path, key))]]


def _changed(data: st.DataObject, content: Any) -> Any:
    """``content`` with one to three of its values replaced, removed or doubled."""
    content = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        places = _places(content)
        if not places:
            break
        *path, last = data.draw(st.sampled_from(places), "place")
        parent = content
        for key in path:
            parent = parent[key]
        action = data.draw(
            st.sampled_from(["replace", "replace", "replace", "remove", "double"]), "action"
        )
        if action == "replace":
            # the next change may go into it
            parent[last] = copy.deepcopy(data.draw(_STRANGE_VALUES, "value"))
        elif action == "remove":
            del parent[last]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
    return content


def _write_ply(path: Path) -> None:
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 2\n"
    header += "".join(f"property float {name}\n" for name in "xyz") + "".join(
        f"property uchar {name}\n" for name in ("red", "green", "blue")
    )
    path.write_bytes(
        (header + "end_header\n").encode() + 2 * struct.pack("<3f3B", 1, 2, 3, 10, 20, 30)
    )


@pytest.fixture(scope="module")
def transforms_capture(tmp_path_factory) -> Path:
    capture = tmp_path_factory.mktemp("transforms_capture")
    write_transforms(capture, rich_transforms())
    _write_ply(capture / "points.ply")
    assert len(load_scene(capture).splits["transforms"].train) == 2
    return capture


@settings(max_examples=80)
@given(st.data())
def test_transforms_with_strange_values(transforms_capture, data):
    (transforms_capture / "transforms.json").write_text(
        json.dumps(_changed(data, rich_transforms()))
    )
    _assert_scene_or_one_line(transforms_capture)


@settings(max_examples=30)
@given(st.data())
def test_damaged_transforms_files(transforms_capture, data):
    (transforms_capture / "transforms.json").write_bytes(
        _damaged(data, json.dumps(rich_transforms()).encode())
    )
    _assert_scene_or_one_line(transforms_capture)


@settings(max_examples=30)
@given(st.data())
def test_damaged_point_clouds(transforms_capture, data):
    write_transforms(transforms_capture, rich_transforms(), views=0)
    _write_ply(transforms_capture / "points.ply")
    good = (transforms_capture / "points.ply").read_bytes()
    (transforms_capture / "points.ply").write_bytes(_damaged(data, good))
    try:
        _assert_scene_or_one_line(transforms_capture)
    finally:
        (transforms_capture / "points.ply").write_bytes(good)


@settings(max_examples=30)
@given(st.data())
def test_splits_with_strange_values(transforms_capture, data):
    names = [f"images/{number:03d}.png" for number in range(3)]
    splits = {
        "splits": {
            "a": {
                "train": names[:2],
                "test": names[2:],
                "train_in_fps_order": names[1::-1],
                "test_far_group": names[2:],
            }
        }
    }
    write_transforms(transforms_capture, rich_transforms(), views=0)
    (transforms_capture / "splits.json").write_text(json.dumps(_changed(data, splits)))
    try:
        _assert_scene_or_one_line(transforms_capture)
    finally:
        (transforms_capture / "splits.json").unlink()


# COLMAP -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[".bin", ".txt"])
def colmap_capture(tmp_path_factory, request) -> Path:
    """A capture; the files of its model are in ``good`` a second time."""
    capture = tmp_path_factory.mktemp("colmap_capture")
    write_colmap(capture, "OPENCV", request.param, views=3)
    load_scene(capture)
    shutil.copytree(capture / "sparse" / "0", capture / "good")
    return capture


@settings(max_examples=60)
@given(st.data())
def test_damaged_colmap_models(colmap_capture, data):
    names = sorted(
        path.name
        for path in (colmap_capture / "good").iterdir()
        if path.stem in ("cameras", "images", "points3D")
    )
    name = data.draw(st.sampled_from(names), "file")
    good, path = (
        (colmap_capture / "good" / name).read_bytes(),
        colmap_capture / "sparse" / "0" / name,
    )
    is_text = name.endswith(".txt") and data.draw(st.booleans())
    path.write_bytes(_changed_words(data, good) if is_text else _damaged(data, good))
    try:
        _assert_scene_or_one_line(colmap_capture)
    finally:
        path.write_bytes(good)


def _damaged(data: st.DataObject, content: bytes) -> bytes:
    """Bytes changed, cut off, left out or put in."""
    start = data.draw(st.integers(0, len(content) - 1), "start")
    match data.draw(st.sampled_from(["cut", "change", "change", "insert", "remove"]), "damage"):
        case "cut":
            return content[:start]
        case "insert":
            return (
                content[:start]
                + data.draw(st.binary(min_size=1, max_size=8), "bytes")
                + content[start:]
            )
        case "remove":
            return content[:start] + content[start + data.draw(st.integers(1, 40), "length") :]
        case _:
            new = data.draw(
                st.one_of(
                    st.binary(min_size=1, max_size=8),
                    st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f"]),
                ),
                "bytes",
            )
            return content[:start] + new + content[start + len(new) :]


def _changed_words(data: st.DataObject, content: bytes) -> bytes:
    """Text with a word of one of its lines replaced: the short lines, which hold poses and lenses,
    as often as the long ones.
    """
    lines = content.decode().split("\n")
    number = data.draw(st.integers(0, len(lines) - 1), "line")
    words = lines[number].split(" ")
    words[data.draw(st.integers(0, min(len(words), 12) - 1), "word")] = data.draw(
        _STRANGE_WORDS, "text"
    )
    lines[number] = " ".join(words)
    return "\n".join(lines).encode()
