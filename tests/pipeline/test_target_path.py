"""Target cameras: frames that stand at held-out cameras, the default path, and targets that leave
nothing to do.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from artifixer.geometry.camera_file import CameraFrame, write_cameras
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.pipeline.capture import LoadedCapture
from artifixer.pipeline.target_path import (
    capture_distance,
    heldout_frames,
    render_frames,
    target_frames,
)
from artifixer.runtime.errors import InputError
from artifixer.scenes.scene import Scene, SparsePoints, Split
from tests.scenes.made_scenes import scene_at

#: Cameras on an arc of this radius around the origin, every other one held out.
RADIUS, COUNT = 4.0, 7


def arc_scene() -> Scene:
    angles = torch.linspace(0, 1.5, COUNT)
    eyes = torch.stack([RADIUS * angles.cos(), RADIUS * angles.sin(), torch.zeros(COUNT)], dim=1)
    pose = look_at(eyes, torch.zeros(COUNT, 3), torch.tensor([0.0, 0.0, 1.0]))
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    return scene_at(
        pose.double(), SparsePoints.without_tracks(points, torch.zeros(200, 3, dtype=torch.uint8))
    )


def opened(scene: Scene, heldout: tuple[int, ...] = (1, 3, 5)) -> LoadedCapture:
    training = tuple(i for i in range(len(scene.photos)) if i not in heldout)
    names = [photo.name for photo in scene.photos]
    split = Split("made", tuple(names[i] for i in training), tuple(names[i] for i in heldout))
    return LoadedCapture(scene, split, training, heldout)


def test_a_tour_stands_exactly_at_every_heldout_camera() -> None:
    capture = opened(arc_scene())
    frames = target_frames(capture, "tour")
    assert target_frames(capture, None)[3].camera.viewmats.equal(frames[3].camera.viewmats), (
        "the default with held-out photos"
    )
    found = heldout_frames(frames, capture)
    assert [photo.name for _, photo in found] == list(capture.split.heldout)
    for index, photo in found:
        assert frames[index].camera.viewmats.equal(
            capture.scene.cameras[capture.scene.index(photo.name)].viewmats
        )
    assert len(frames) > 10
    turns = [
        frames[i].camera.viewmats[0, :3, :3] @ frames[i + 1].camera.viewmats[0, :3, :3].T
        for i in range(len(frames) - 1)
    ]
    assert (
        max(math.degrees(math.acos(min(1.0, (float(turn.trace()) - 1) / 2))) for turn in turns)
        <= 4.1
    )


def test_without_heldout_photos_the_path_goes_beyond_the_captured_cameras() -> None:
    capture = opened(arc_scene(), heldout=())
    centers = torch.cat([frame.camera.centers for frame in target_frames(capture, None)])
    first, last = capture.scene.cameras[0].centers[0], capture.scene.cameras[-1].centers[0]
    angles = torch.atan2(centers[:, 1], centers[:, 0])
    assert angles.min() < torch.atan2(first[1], first[0]) - 0.02
    assert angles.max() > torch.atan2(last[1], last[0]) + 0.02


def test_the_distance_is_that_of_the_points_or_of_where_the_cameras_look() -> None:
    scene = arc_scene()
    assert capture_distance(opened(scene)) == pytest.approx(RADIUS, rel=0.05)
    assert capture_distance(opened(replace(scene, points=None))) == pytest.approx(RADIUS, rel=0.05)


def test_a_file_of_cameras_is_resized_and_names_photos_only_where_they_were_taken(
    tmp_path: Path,
) -> None:
    capture = opened(arc_scene())
    scene = capture.scene
    larger = [camera.resized(80, 60) for camera in scene.cameras]
    frames = [
        CameraFrame(larger[1], scene.photos[1].name),
        CameraFrame(larger[2], scene.photos[3].name),
    ]
    write_cameras(tmp_path / "path.json", frames)
    found = target_frames(capture, str(tmp_path / "path.json"), size="40")
    assert [(frame.camera.width, frame.camera.height) for frame in found] == [(40, 30)] * 2
    assert [frame.photo for frame in found] == [scene.photos[1].name, None]
    assert [index for index, _ in heldout_frames(found, capture)] == [0]


def test_photos_of_another_lens_than_the_path_are_not_compared() -> None:
    scene = arc_scene()
    cameras = list(scene.cameras)
    cameras[3] = replace(cameras[3], model="fisheye")
    capture = opened(replace(scene, cameras=tuple(cameras)))
    frames = target_frames(capture, "heldout")
    assert [frame.photo for frame in frames] == [scene.photos[1].name, None, scene.photos[5].name]


@pytest.mark.parametrize("path", ["heldout", "file"])
def test_targets_that_are_the_training_views_leave_nothing_to_enhance(
    tmp_path: Path, path: str
) -> None:
    capture = opened(arc_scene(), heldout=())
    if path == "file":
        path = str(tmp_path / "path.json")
        write_cameras(
            Path(path), [CameraFrame(capture.scene.cameras[0], capture.scene.photos[0].name)]
        )
    with pytest.raises(
        InputError, match=r"there is nothing to enhance; give --path tour, spline, orbit"
    ):
        target_frames(capture, path)


def test_renders_have_the_models_size() -> None:
    capture = opened(arc_scene())
    frames = render_frames(target_frames(capture, "heldout"))
    assert {(frame.camera.width, frame.camera.height) for frame in frames} == {(16, 16)}, (
        "8x6 pixels at least a cell of the model's grid"
    )
    ray = capture.scene.cameras[1].unproject(torch.tensor([[[2.0, 3.0]]]))
    assert torch.allclose(frames[0].camera.unproject(torch.tensor([[[4.0, 8.0]]])), ray, atol=1e-6)


def test_an_orbit_has_as_many_frames_as_asked_for() -> None:
    frames = target_frames(opened(arc_scene()), "orbit", orbit_frames=17)
    assert len(frames) == 17
    pose = invert_rigid(frames[0].camera.viewmats)
    assert torch.isfinite(pose).all()
