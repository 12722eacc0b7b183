"""Camera paths of the viewer: edits, timing, files of four tools there and back, suggestions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.paths import timed
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.runtime.errors import InputError
from artifixer.scenes.camera_path_file import read_camera_path
from artifixer.splats.render import render
from artifixer.splats.splats import Splats
from artifixer.viewer.trajectory import (
    MAX_SEEN,
    MIN_SEEN,
    Keyframe,
    PathFormat,
    Trajectory,
    loaded,
    path_bytes,
    suggest,
)


def camera(x: float, z: float = 0.0) -> Cameras:
    eye = torch.tensor([x, 0.1 * x, z])
    pose = look_at(eye, torch.tensor([0.0, 0.0, 4.0]), torch.tensor([0.0, -1.0, 0.0]))
    K = torch.tensor([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]])
    return Cameras.pinhole(invert_rigid(pose)[None], K[None], 64, 48)


def trajectory() -> Trajectory:
    keys = (Keyframe(camera(-1.0), 1.0), Keyframe(camera(0.0), 0.5, "a.jpg"), Keyframe(camera(1.0)))
    return Trajectory(keys, fps=10)


def test_keyframes_are_frames_at_their_times() -> None:
    frames = trajectory().frames()
    assert len(frames) == 16
    for index, x in ((0, -1.0), (10, 0.0), (15, 1.0)):
        assert torch.equal(frames[index].camera.viewmats, camera(x).viewmats)
    assert [i for i, frame in enumerate(frames) if frame.photo] == [10]
    centers = torch.cat([frame.camera.centers for frame in frames])
    assert float(centers.diff(dim=0).norm(dim=1).max()) < 0.5, "no jumps"


def test_edits_reorder_replace_and_remove() -> None:
    path = trajectory()
    assert [key.photo for key in path.moved(1, -1).keyframes] == ["a.jpg", None, None]
    assert path.moved(0, -1) == path
    assert len(path.removed(1).keyframes) == 2
    assert path.replaced(0, Keyframe(camera(3.0))).keyframes[0].camera.centers[0, 0] == 3.0
    assert Trajectory().frames() == []
    assert len(Trajectory((Keyframe(camera(0.0)),)).frames()) == 1


@pytest.mark.parametrize("kind", ["artifixer", "nerfstudio", "3dgs"])
def test_a_saved_path_is_read_as_path_file(kind: PathFormat, tmp_path: Path) -> None:
    path, file = trajectory(), tmp_path / "file.json"
    file.write_bytes(path_bytes(path, kind))
    read, made = read_camera_path(file), path.frames()
    assert len(read) == len(made)
    for ours, theirs in zip(made, read, strict=True):
        assert torch.allclose(ours.camera.viewmats, theirs.camera.viewmats, atol=1e-5)
        assert torch.allclose(ours.camera.Ks, theirs.camera.Ks, atol=1e-3)
        assert (theirs.camera.width, theirs.camera.height) == (64, 48)


@pytest.mark.parametrize("kind", ["artifixer", "nerfstudio", "3dgs"])
def test_a_loaded_path_goes_where_it_went(kind: PathFormat) -> None:
    path = trajectory()
    again = loaded(path_bytes(path, kind), "file.json", path.fps)
    ours, theirs = path.frames(), again.frames()
    assert len(theirs) == len(ours)
    assert torch.allclose(theirs[-1].camera.viewmats, ours[-1].camera.viewmats, atol=1e-5)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"[1]",
        b"{",
        b'{"camera_path": 3, "render_width": 8, "render_height": 8}',
        b'{"camera_path": [{}], "render_width": 8, "render_height": 8}',
        b'{"camera_path": [{"camera_to_world": [1], "fov": 50}], "render_width": 8,'
        b' "render_height": 8}',
        b'{"camera_path": [], "render_width": 1e9, "render_height": 8}',
        b'[{"position": [0,0,0], "rotation": [[2,0,0],[0,1,0],[0,0,1]], "fx": 9, "fy": 9,'
        b' "width": 8, "height": 8}]',
        b'[{"position": [0,0,NaN], "rotation": [], "fx": 9, "fy": 9, "width": 8, "height": 8}]',
        b'[{"position": [0,0,0], "rotation": [[1,0,0],[0,1,0],[0,0,1]], "fx": 9, "fy": -9,'
        b' "width": 8, "height": 8}]',
        b'[{"position": [0,0,0], "rotation": {"a": 1}, "width": 8, "height": 8}]',
    ],
)
def test_a_broken_file_is_named(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^my path\.json"):
        loaded(content, "my path.json", 10)


def test_nerfstudio_files_say_degrees_and_opengl_axes() -> None:
    content = json.loads(path_bytes(Trajectory((Keyframe(camera(0.0)),)), "nerfstudio"))
    (entry,) = content["camera_path"]
    pose = torch.tensor(entry["camera_to_world"]).view(4, 4)
    # it looks along +z of the world: OpenGL's camera looks along its -z
    assert torch.allclose(-pose[:3, 2], torch.tensor([0.0, 0.0, 1.0]), atol=1e-6)
    assert entry["fov"] == pytest.approx(2 * 57.29578 * torch.atan(torch.tensor(24 / 50)).item())


def wall() -> Splats:
    """A wall of opaque Gaussians at z = 4, two units wide."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, 21), torch.linspace(-1, 1, 21), indexing="ij")
    means = torch.stack([x.flatten(), y.flatten(), torch.full((441,), 4.0)], dim=1)
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(441, 1)
    return Splats(
        means, quats, torch.full((441, 3), -2.6), torch.full((441,), 6.0), torch.ones(441, 1, 3)
    )


def test_suggested_views_are_half_empty_and_before_the_wall() -> None:
    from artifixer.geometry.camera_file import CameraFrame

    frames = [CameraFrame(camera(x)) for x in (-0.5, 0.0, 0.5)]
    found = suggest(wall(), frames, 4.0)
    assert 1 < len(found.keyframes) <= 6
    for key in found.keyframes:
        with torch.no_grad():
            seen = float(render(wall(), key.camera).opacity.mean())
        assert MIN_SEEN - 0.05 <= seen <= MAX_SEEN + 0.05
        x, y, z = key.camera.centers[0].tolist()
        assert z < 4 or max(abs(x), abs(y)) > 1, "behind the wall"
        nearest = (key.camera.centers - torch.cat([f.camera.centers for f in frames])).norm(dim=1)
        assert float(nearest.min()) < 0.81 * 4.0


def test_without_cameras_nothing_is_suggested() -> None:
    assert suggest(wall(), [], 4.0).notes


def test_timed_takes_the_frames_that_it_is_told() -> None:
    keys = camera(-1.0)
    from artifixer.geometry.cameras import concatenate

    path = timed(concatenate([keys, camera(0.0), camera(1.0)]), [3, 1])
    assert path.stops == (0, None, None, 1, 2)
