"""What ``inspect`` tells of good and of doubtful captures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from artifixer.commands.inspect import report_lines
from artifixer.pipeline.inspect_capture import inspect_capture, inspect_scene
from artifixer.runtime.json_io import to_json
from artifixer.runtime.video_files import VideoWriter
from artifixer.scenes import procedural
from artifixer.scenes.formats import load_scene
from tests.scenes.capture_files import (
    noise,
    pose_matrix,
    transforms_content,
    write_colmap,
    write_photo,
    write_transforms,
)


def problems(folder: Path, content: dict) -> tuple[str, ...]:
    write_transforms(folder, content)
    return inspect_capture(str(folder)).problems


def test_a_colmap_capture(tmp_path: Path) -> None:
    write_colmap(tmp_path, "OPENCV")
    seen = inspect_capture(str(tmp_path))
    assert (seen.format, seen.photos, seen.sizes, seen.has_poses) == (
        "colmap",
        4,
        {"64x48": 4},
        True,
    )
    (lens,) = seen.lenses
    assert (lens.views, lens.model, lens.focal_x, lens.focal_y, lens.center_x) == (
        4,
        "pinhole",
        (64, 64),
        (60, 60),
        (31, 31),
    )
    assert lens.field_of_view == pytest.approx((2 * math.degrees(math.atan(0.5)),) * 2)
    assert lens.distortion.keys() == {"k1", "k2", "p1", "p2"}
    assert seen.points is not None and seen.points.points == 30
    assert seen.points.reprojection_error is not None and seen.points.reprojection_error < 0.01
    assert seen.camera_spread is not None and seen.median_depth is not None
    assert seen.problems == ()
    assert json.loads(json.dumps(to_json(seen), allow_nan=False))["version"] == 1
    text = "\n".join(report_lines(seen))
    assert (
        "4 pinhole at 64x48: focal length 64 x 60 px (53.13 degrees wide), centre 31, 25; k1 0.1, "
        "k2 -0.05" in text
    )
    assert "problems      none found" in text


def test_photos_of_several_sizes_and_lenses_are_told_apart(tmp_path: Path) -> None:
    content = transforms_content(3)
    content["frames"][2] |= {"camera_model": "OPENCV_FISHEYE", "k1": 0.1}
    write_transforms(tmp_path, content)
    write_photo(tmp_path / "images" / "000.png", 32, 24)
    seen = inspect_capture(str(tmp_path))
    assert seen.sizes == {"32x24": 1, "64x48": 2}
    assert [(lens.width, lens.model, lens.views) for lens in seen.lenses] == [
        (32, "pinhole", 1),
        (64, "pinhole", 1),
        (64, "fisheye", 1),
    ]
    assert "photos        3, 1 of 32x24, 2 of 64x48" in "\n".join(report_lines(seen))


def test_doubtful_cameras_are_problems(tmp_path: Path) -> None:
    at_one_place = transforms_content(3)
    for frame in at_one_place["frames"]:
        frame["transform_matrix"] = pose_matrix((1, 2, 3))
    assert any(
        "all cameras are at the same position" in problem
        for problem in problems(tmp_path / "a", at_one_place)
    )
    narrow = problems(tmp_path / "b", transforms_content(3) | {"fl_x": 2000.0})
    assert any(
        problem.startswith("3 photos (images/000.png first) have a field of view outside 5 to 170")
        for problem in narrow
    )
    outside = problems(tmp_path / "c", transforms_content(3) | {"cx": -10.0})
    assert any("optical axis outside the photo" in problem for problem in outside)
    assert any("no sparse points" in problem for problem in outside)


def test_cameras_and_points_that_contradict_each_other_are_a_problem(tmp_path: Path) -> None:
    write_colmap(tmp_path)
    scene = load_scene(tmp_path)
    assert inspect_scene(scene).problems == ()
    shift = torch.eye(4)
    shift[0, 3] = 1
    moved = replace(
        scene,
        cameras=tuple(
            replace(camera, viewmats=shift @ camera.viewmats) for camera in scene.cameras
        ),
    )
    assert any(
        "cameras, photos and points are inconsistent" in problem
        for problem in inspect_scene(moved).problems
    )
    turned = replace(
        scene, cameras=tuple(replace(camera, viewmats=-camera.viewmats) for camera in scene.cameras)
    )
    seen = inspect_scene(turned)
    assert any("are inconsistent" in problem for problem in seen.problems), (
        "points behind the cameras"
    )
    json.dumps(to_json(seen), allow_nan=False)


def test_views_without_points_are_a_problem() -> None:
    scene = procedural.load("procedural:7:frames=4,width=32,height=24")
    assert scene.points is not None
    keep = scene.points.observed_view != 2
    points = replace(
        scene.points,
        **{
            name: getattr(scene.points, name)[keep]
            for name in ("observed_point", "observed_view", "observed_pixel")
        },
    )
    (problem,) = inspect_scene(replace(scene, points=points)).problems
    assert problem == f"{scene.photos[2].name} has no sparse point in view"


def test_damaged_photos_are_found_unless_skipped(tmp_path: Path) -> None:
    write_colmap(tmp_path)
    path = sorted((tmp_path / "images").iterdir())[1]
    path.write_bytes(path.read_bytes()[:2000])
    (problem,) = inspect_capture(str(tmp_path)).problems
    assert path.name in problem and "cannot read" in problem
    assert inspect_capture(str(tmp_path), read_photos=False).problems == ()


def test_photos_and_videos_without_poses_are_described_quickly(tmp_path: Path) -> None:
    for number in range(3):
        write_photo(tmp_path / "photos" / f"{number}.png")
    seen = inspect_capture(str(tmp_path / "photos"))
    assert (seen.format, seen.photos, seen.has_poses, seen.lenses, seen.points) == (
        "photos",
        3,
        False,
        (),
        None,
    )
    with VideoWriter(tmp_path / "walk.mp4", 64, 48) as video:
        for number in range(4):
            video.add(noise(64, 48, number))
    video_seen = inspect_capture(str(tmp_path / "walk.mp4"))
    assert (video_seen.format, video_seen.photos, video_seen.sizes) == ("video", 4, {"64x48": 4})
    for inspection in (seen, video_seen):
        assert "structure from motion" in "\n".join(report_lines(inspection))
        assert "cameras       unknown yet" in "\n".join(report_lines(inspection))


def test_lost_photos_are_listed_shortly(tmp_path: Path) -> None:
    write_transforms(tmp_path, transforms_content(12), views=3)
    seen = inspect_capture(str(tmp_path))
    assert len(seen.lost_photos) == 9
    text = "\n".join(report_lines(seen))
    assert (
        "left out      9: images/003.png, images/004.png, images/005.png, images/006.png, "
        "images/007.png and 4 more" in text
    )


@pytest.mark.parametrize(
    ("name", "points"), [("fox", 4000), ("buddha", 908), ("plush", 4000), ("fountain", 8791)]
)
def test_real_captures_have_no_problems(captures_folder: Path, name: str, points: int) -> None:
    """The reprojection errors are those of the captures' own description, in pixels."""
    seen = inspect_capture(str(captures_folder / name), read_photos=False)
    assert seen.problems == ()
    assert seen.points is not None and seen.points.points == points
    described = {"fox": 0.331, "buddha": 0.12, "plush": 0.342, "fountain": 0.086}[name]
    assert seen.points.reprojection_error == pytest.approx(described, abs=6e-3)
    assert np.isfinite(seen.median_depth)
