"""transforms.json captures: both styles, what may be left out, and what is refused."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from capture_files import (
    HEIGHT,
    WIDTH,
    pose_matrix,
    transforms_content,
    write_colmap,
    write_photo,
    write_transforms,
)

from artifixer.pipeline.inspect_capture import inspect_scene
from artifixer.runtime.errors import InputError
from artifixer.scenes import colmap, transforms_json
from artifixer.scenes.scene import Scene

#: The two files of a capture were written with different numbers of digits.
SAME_CAPTURE_TOLERANCE = 2e-4


def _load(capture, content: object, views: int = 3) -> Scene:
    return transforms_json.load(capture, write_transforms(capture, content, views=views))


def test_frames_are_sorted_by_name(tmp_path):
    content = transforms_content()
    content["frames"].reverse()
    scene = _load(tmp_path, content)
    assert [photo.name for photo in scene.photos] == [
        "images/000.png",
        "images/001.png",
        "images/002.png",
    ]
    assert [float(camera.centers[0, 0]) for camera in scene.cameras] == [0, 1, 2]


def test_applied_transform_is_recorded_and_not_undone(tmp_path):
    applied = [[0.0, 1, 0, 5], [1, 0, 0, 6], [0, 0, -1, 7]]
    scene = _load(
        tmp_path / "with",
        transforms_content() | {"applied_transform": applied, "applied_scale": 0.5},
    )
    assert scene.applied_transform.tolist() == (0.5 * np.array(applied)).tolist()
    without = _load(tmp_path / "without", transforms_content())
    assert without.applied_transform is None
    assert torch.equal(scene.cameras[1].viewmats, without.cameras[1].viewmats)


def _write_points(path, colours: bool = True) -> None:
    fields = [("x", "f4"), ("y", "f4"), ("z", "f4")] + [
        (name, "u1") for name in ("red", "green", "blue") if colours
    ]
    rows = np.array([(1, 2, 3, 10, 20, 30)[: len(fields)], (4, 5, 6, 40, 50, 60)[: len(fields)]])
    from plyfile import PlyData, PlyElement

    table = np.empty(2, fields)
    for name, column in zip(table.dtype.names, rows.T, strict=True):
        table[name] = column
    PlyData([PlyElement.describe(table, "vertex")]).write(path)


@pytest.mark.parametrize("listed", [True, False])
def test_point_clouds_beside_the_file(tmp_path, listed):
    path = tmp_path / ("points.ply" if listed else "sparse_pc.ply")
    _write_points(path)
    scene = _load(
        tmp_path, transforms_content() | ({"ply_file_path": "points.ply"} if listed else {})
    )
    assert scene.points.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert scene.points.rgb.tolist() == [[10, 20, 30], [40, 50, 60]]
    assert not scene.points.has_tracks


@pytest.mark.parametrize("listed", [True, False])
def test_a_capture_with_one_nan_point_is_read_with_a_note(tmp_path, listed):
    """It was refused."""
    name = "points.ply" if listed else "sparse_pc.ply"
    header = "ply\nformat ascii 1.0\nelement vertex 3\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    (tmp_path / name).write_text(header + "1 2 3\nnan 2 3\n4 5 6\n")
    content = transforms_content() | ({"ply_file_path": name} if listed else {})
    scene = _load(tmp_path, content)
    assert scene.points.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert [note for note in scene.notes if "1 of 3 points are left out" in note]
    assert inspect_scene(scene).notes == scene.notes


def test_a_capture_without_its_listed_points_is_read_with_a_note(tmp_path):
    """It was refused, though a COLMAP model without points is not."""
    scene = _load(tmp_path, transforms_content() | {"ply_file_path": "absent.ply"})
    assert scene.points is None
    assert scene.notes == (
        "transforms.json names absent.ply, which does not exist: no sparse points",
    )


def test_points_without_colours_are_grey(tmp_path):
    _write_points(tmp_path / "sparse_pc.ply", colours=False)
    assert _load(tmp_path, transforms_content()).points.rgb.unique().tolist() == [128]


def test_nerfstudios_lists_become_a_split(tmp_path):
    lists = {
        "train_filenames": ["./images/000.png", "images/002"],
        "val_filenames": ["images/001.png", "images/002.png"],
    }
    split = _load(tmp_path, transforms_content() | lists).splits["transforms"]
    assert split.train == ("images/000.png", "images/002.png")
    assert split.heldout == ("images/001.png",)


def test_resized_photos_scale_their_cameras(tmp_path):
    path = write_transforms(tmp_path, transforms_content())
    for number in range(3):
        write_photo(tmp_path / "images" / f"{number:03d}.png", WIDTH // 2, HEIGHT // 2)
    camera = transforms_json.load(tmp_path, path).cameras[0]
    assert camera.Ks[0, :2].tolist() == [[32, 0, 15.5], [0, 30, 12.5]]


def test_a_capture_is_the_same_in_both_formats(tmp_path):
    """A COLMAP model, and its cameras once more as camera_to_world in OpenGL axes."""
    write_colmap(tmp_path)
    by_colmap = colmap.load(tmp_path, tmp_path / "sparse" / "0")
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    frames = [
        {
            "file_path": photo.name,
            "transform_matrix": (torch.linalg.inv(camera.viewmats[0].double()) @ flip).tolist(),
            "w": camera.width, "h": camera.height,
            "fl_x": float(camera.Ks[0, 0, 0]), "fl_y": float(camera.Ks[0, 1, 1]),
            "cx": float(camera.Ks[0, 0, 2]), "cy": float(camera.Ks[0, 1, 2]),
        }
        for photo, camera in zip(by_colmap.photos, by_colmap.cameras, strict=True)
    ]  # fmt: skip
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"frames": frames}))
    by_transforms = transforms_json.load(tmp_path, path)
    assert [photo.name for photo in by_transforms.photos] == [
        photo.name for photo in by_colmap.photos
    ]
    for first, second in zip(by_transforms.cameras, by_colmap.cameras, strict=True):
        for name in ("viewmats", "Ks", "distortion"):
            torch.testing.assert_close(
                getattr(first, name), getattr(second, name), atol=SAME_CAPTURE_TOLERANCE, rtol=0
            )


# Real captures ------------------------------------------------------------------------------------


def test_fox_is_the_same_in_both_formats(captures_folder):
    fox = captures_folder / "fox"
    by_transforms = transforms_json.load(fox, fox / "transforms.json")
    by_colmap = colmap.load(fox, fox / "sparse" / "0")
    assert [photo.name for photo in by_transforms.photos] == [
        photo.name for photo in by_colmap.photos
    ]
    for first, second in zip(by_transforms.cameras, by_colmap.cameras, strict=True):
        torch.testing.assert_close(
            first.viewmats,
            second.viewmats,
            atol=SAME_CAPTURE_TOLERANCE,
            rtol=SAME_CAPTURE_TOLERANCE,
        )
        torch.testing.assert_close(
            first.Ks, second.Ks, atol=SAME_CAPTURE_TOLERANCE, rtol=SAME_CAPTURE_TOLERANCE
        )
        torch.testing.assert_close(
            first.distortion, second.distortion, atol=SAME_CAPTURE_TOLERANCE, rtol=0
        )


def test_missing_photos_of_fox_are_counted_once(captures_folder):
    """The original file lists 67 frames of 1080x1920 pixels; 50 photos of 360x640 exist."""
    fox = captures_folder / "fox"
    scene = transforms_json.load(fox, fox / "transforms_original.json")
    assert len(scene.photos) == 50
    assert len(scene.lost_photos) == 17
    assert len(scene.notes) == 1
    assert (
        "transforms_original.json lists 67 photos; 17 do not exist and are left out"
        in scene.notes[0]
    )
    now = transforms_json.load(fox, fox / "transforms.json")
    torch.testing.assert_close(scene.cameras[7].Ks, now.cameras[7].Ks, atol=1e-2, rtol=0)


def test_missing_and_resized_photos_of_a_drawn_capture_are_counted_once(tmp_path):
    """The file lists 8 frames of three times the photos' size; 5 photos exist."""
    content = transforms_content(8)
    path = write_transforms(tmp_path, content, "transforms_original.json", views=5)
    own = transforms_json.load(tmp_path, path).cameras[3].Ks
    for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
        content[key] *= 3
    path.write_text(json.dumps(content))
    scene = transforms_json.load(tmp_path, path)
    assert (len(scene.photos), len(scene.lost_photos), len(scene.notes)) == (5, 3, 1)
    assert "lists 8 photos; 3 do not exist and are left out" in scene.notes[0]
    torch.testing.assert_close(scene.cameras[3].Ks, own, atol=SAME_CAPTURE_TOLERANCE, rtol=0)


def test_fewer_than_two_photos_are_refused(tmp_path):
    path = write_transforms(tmp_path, transforms_content(), views=1)
    with pytest.raises(
        InputError,
        match=r"transforms\.json: lists 3 photos of which 2 do not exist.*expected at least 2",
    ):
        transforms_json.load(tmp_path, path)


# Bad files ----------------------------------------------------------------------------------------


def _scaled_pose() -> list[list[float]]:
    return (np.array(pose_matrix((0, 0, 0))) * [[2, 2, 2, 1]]).tolist()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("transform_matrix", _scaled_pose(), "expected a rigid camera_to_world matrix"),
        (
            "transform_matrix",
            np.diag([1.0, 1, -1, 1]).tolist(),
            "expected a rigid camera_to_world matrix",
        ),
        ("transform_matrix", [[1, 0], [0, 1]], "expected a matrix of 4x4 or 3x4 finite numbers"),
        (
            "transform_matrix",
            pose_matrix((math.nan, 0, 0)),
            "expected a matrix of 4x4 or 3x4 finite numbers",
        ),
        (
            "transform_matrix",
            pose_matrix((1e300, 0, 0)),
            "expected a matrix of 4x4 or 3x4 finite numbers",
        ),
        (
            "transform_matrix",
            [["a", 0, 0, 0]] * 4,
            "expected a matrix of 4x4 or 3x4 finite numbers",
        ),
        ("transform_matrix", None, "missing; expected a matrix"),
        ("file_path", "../secret.png", "leaves the capture's folder"),
        ("file_path", "images/../../secret.png", "leaves the capture's folder"),
        ("file_path", "/etc/passwd", "leaves the capture's folder"),
        ("file_path", "C:\\photo.png", "leaves the capture's folder"),
        ("file_path", "images/\0.png", "leaves the capture's folder"),
        ("file_path", "", "leaves the capture's folder"),
        ("file_path", 7, "expected the path of a photo"),
        ("fl_x", math.nan, "expected a finite number"),
        ("fl_x", "64", "expected a finite number"),
        ("fl_x", -64, "expected a focal length of 1 to"),
        ("fl_x", True, "expected a finite number"),
        ("w", 64.5, "expected a whole number of pixels"),
        ("k1", [0.1], "expected a finite number"),
        ("camera_model", "FOV", "expected one of SIMPLE_PINHOLE"),
        ("camera_model", {}, "expected one of SIMPLE_PINHOLE"),
        ("is_fisheye", "yes", "expected true or false"),
        ("h", 480, "the photo has 64x48 pixels, its camera in .* 64x480"),
    ],
)
def test_one_bad_frame_of_three_is_left_out_and_named_and_of_two_is_refused(
    tmp_path, key, value, message
):
    content = transforms_content()
    content["frames"][0][key] = value
    with pytest.raises(InputError, match=message) as caught:
        _load(tmp_path, content | {"frames": content["frames"][:2]})
    assert "transforms.json" in str(caught.value)
    if "leaves the capture's folder" in message:
        with pytest.raises(InputError, match=message):
            _load(tmp_path, content)
        return
    scene = _load(tmp_path, content)
    assert [photo.name for photo in scene.photos] == ["images/001.png", "images/002.png"]
    (note,) = [note for note in scene.notes if "1 of 3 photos are left out: " in note]
    assert re.search(message, note)
    for x, camera in enumerate(scene.cameras, start=1):
        torch.testing.assert_close(camera.centers[0], torch.tensor([float(x), 0, 0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": []}, '"frames" is'),
        ({"frames": {}}, '"frames" is'),
        ({"frames": [1, 2]}, "frame 0 is 1; expected a JSON object"),
        ({"applied_transform": [[1]]}, "expected a matrix of 3x4 or 4x4"),
        ({"applied_scale": "big"}, "expected a finite number"),
        ({"ply_file_path": "../points.ply"}, "leaves the capture's folder"),
        ({"ply_file_path": 3}, "expected the path of a PLY file"),
        ({"train_filenames": "images/000.png"}, "expected a list of photos"),
        ({"fl_x": None}, "expected a focal length in pixels"),
        ({"fl_x": None, "camera_angle_x": 0.0}, "expected a field of view in radians"),
        ({"fl_x": None, "camera_angle_x": 90}, "expected a field of view in radians"),
    ],
)
def test_bad_files_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        _load(tmp_path, transforms_content() | change)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"frames": [}',
        "\xff",
        '{"w": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"frames": NaN}',
    ],
)
def test_broken_json_is_refused(tmp_path, text):
    path = write_transforms(tmp_path, {})
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"transforms\.json") as caught:
        transforms_json.load(tmp_path, path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ply\n",
        b"no ply at all",
        b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n1\n",
    ],
)
def test_broken_point_clouds_are_refused(tmp_path, content):
    (tmp_path / "sparse_pc.ply").write_bytes(content)
    with pytest.raises(InputError, match=r"sparse_pc\.ply"):
        _load(tmp_path, transforms_content())


@pytest.mark.parametrize("before", ["/home/someone/project/", "../capture/", "D:\\work\\"])
def test_paths_of_another_machine_are_found_inside_the_capture(tmp_path, before):
    content = transforms_content()
    for frame in content["frames"]:
        frame["file_path"] = before + frame["file_path"]
    scene = _load(tmp_path, content)
    assert [photo.name for photo in scene.photos] == [
        f"images/{number:03d}.png" for number in range(3)
    ]
    assert any("differently" in note for note in scene.notes)


@pytest.mark.parametrize("same", [True, False])
def test_a_photo_listed_twice_counts_once_or_with_other_values_not_at_all(tmp_path, same):
    content = transforms_content()
    again = {
        "file_path": "images/001.png",
        "transform_matrix": pose_matrix((1 if same else 9, 0, 0)),
    }
    content["frames"].append(again)
    scene = _load(tmp_path, content)
    assert len(scene.photos) == (3 if same else 2)
    assert scene.lost_photos == (() if same else ("images/001.png",))
    assert same or any("is listed twice, with other values" in note for note in scene.notes)
