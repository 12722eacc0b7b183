"""Camera paths from files: ours and transforms.json, whose photos need not exist."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from capture_files import HEIGHT, WIDTH, transforms_content, write_colmap, write_transforms
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from artifixer.geometry.camera_file import write_cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes.camera_path_file import read_camera_path
from artifixer.scenes.formats import load_scene


def test_both_kinds_of_file_give_the_same_path(tmp_path: Path) -> None:
    """transforms.json keeps its order, which is the video's, and needs no photos."""
    content = transforms_content(5)
    content["frames"].reverse()
    content["frames"][1].pop("file_path")
    (tmp_path / "path.json").write_text(json.dumps(content))
    frames = read_camera_path(tmp_path / "path.json")
    assert [float(frame.camera.centers[0, 0]) for frame in frames] == [4, 3, 2, 1, 0]
    assert [frame.photo for frame in frames] == [
        "images/004.png",
        None,
        "images/002.png",
        "images/001.png",
        "images/000.png",
    ]
    assert (frames[0].camera.width, frames[0].camera.height) == (WIDTH, HEIGHT)
    write_cameras(tmp_path / "cameras.json", frames)
    for first, second in zip(frames, read_camera_path(tmp_path / "cameras.json"), strict=True):
        assert torch.equal(first.camera.viewmats, second.camera.viewmats)
        assert torch.equal(first.camera.Ks, second.camera.Ks)
        assert first.photo == second.photo


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist, expected a cameras.json, transforms.json, nerf"),
        ("{", "expected valid JSON"),
        (
            '{"format": "artifixer cameras", "version": 1, "frames": []}',
            "lists no cameras; expected at least one",
        ),
        (
            '{"format": "artifixer cameras", "version": 9, "frames": []}',
            "version 9; this program reads version 1",
        ),
        ('{"frames": []}', '"frames" is'),
        (
            json.dumps(transforms_content() | {"w": None, "cx": None}),
            'frame 0 has "w" = missing; expected a number of pixels here or in the file',
        ),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "path.json").write_text(content)
    with pytest.raises(InputError, match=rf"path\.json: .*{message}"):
        read_camera_path(tmp_path / "path.json")


def _poses(count: int = 3) -> Float[np.ndarray, "count 4 4"]:
    """camera_to_world in OpenCV axes, turned and moved."""
    turns = [Rotation.from_euler("xyz", [0.1 * i, 0.3 - i, 0.2]).as_matrix() for i in range(count)]
    poses = np.stack([np.eye(4)] * count)
    poses[:, :3, :3], poses[:, :3, 3] = turns, np.arange(3 * count).reshape(count, 3) - 2.5
    return poses


def _check_cameras(frames, poses: np.ndarray, focal: tuple[float, float]) -> None:
    """Every camera's pixels of some points agree with an independent projection."""
    points = np.random.default_rng(0).normal(loc=(0, 0, 6), size=(20, 3))  # in front of the camera
    for frame, pose in zip(frames, poses, strict=True):
        world = points @ pose[:3, :3].T + pose[:3, 3]
        pixels, _, _ = frame.camera.to(dtype=torch.float64).project(torch.from_numpy(world))
        expected = points[:, :2] / points[:, 2:] * focal + [
            frame.camera.width / 2,
            frame.camera.height / 2,
        ]
        assert np.abs(pixels[0].numpy() - expected).max() < 0.01


def test_cameras_of_gaussian_splatting(tmp_path: Path) -> None:
    content = [
        {
            "id": number,
            "img_name": f"{number}.png",
            "width": 640,
            "height": 480,
            "position": pose[:3, 3].tolist(),
            "rotation": pose[:3, :3].tolist(),
            "fx": 500.0,
            "fy": 510.0,
        }
        for number, pose in enumerate(_poses())
    ]
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    frames = read_camera_path(tmp_path / "cameras.json")
    assert [frame.photo for frame in frames] == ["0.png", "1.png", "2.png"]
    _check_cameras(frames, _poses(), (500, 510))


@pytest.mark.parametrize("moved", [False, True])
def test_a_path_of_nerfstudio(tmp_path: Path, moved: bool) -> None:
    transform, scale = np.eye(4), 1.0
    if moved:
        transform[:3, :3] = Rotation.from_euler("xyz", [1.0, 0.2, -0.5]).as_matrix()
        transform[:3, 3], scale = [3, -1, 2], 0.25
        world = {"transform": transform[:3].tolist(), "scale": scale}
        (tmp_path / "dataparser_transforms.json").write_text(json.dumps(world))
    entries = []
    for pose in _poses():
        stored = transform @ pose @ np.diag([1.0, -1, -1, 1])
        stored[:3, 3] *= scale
        entries.append({"camera_to_world": stored.ravel().tolist(), "fov": 60.0, "aspect": 1.5})
    content = {
        "camera_type": "perspective",
        "render_width": 600,
        "render_height": 400,
        "camera_path": entries,
        "fps": 24,
    }
    (tmp_path / "camera_path.json").write_text(json.dumps(content))
    focal = 200 / math.tan(math.radians(30))
    _check_cameras(read_camera_path(tmp_path / "camera_path.json"), _poses(), (focal, focal))


def test_a_colmap_folder_is_a_path(tmp_path: Path) -> None:
    model = write_colmap(tmp_path, "OPENCV")
    scene = load_scene(tmp_path)
    frames = read_camera_path(tmp_path)
    assert [f"images/{frame.photo}" for frame in frames] == [photo.name for photo in scene.photos]
    for frame, camera in zip(frames, scene.cameras, strict=True):
        assert torch.equal(frame.camera.viewmats, camera.viewmats)
        assert torch.equal(frame.camera.Ks, camera.Ks)
        assert torch.equal(frame.camera.distortion, camera.distortion)
    assert len(frames) == len(model.images)
    assert len(read_camera_path(tmp_path / "sparse" / "0")) == len(frames)
    with pytest.raises(InputError, match="images: is a folder without a COLMAP model"):
        read_camera_path(tmp_path / "images")


def test_a_path_without_a_size_has_that_of_its_photos_or_of_the_capture(tmp_path: Path) -> None:
    content = transforms_content() | {"w": None, "h": None, "cx": None, "cy": None}
    path = write_transforms(tmp_path / "a", content)
    assert [(f.camera.width, f.camera.height) for f in read_camera_path(path)] == [(64, 48)] * 3
    (tmp_path / "b").mkdir()
    path = write_transforms(tmp_path / "b", content, views=0)
    frames = read_camera_path(path, size=(320, 240))
    assert [(f.camera.width, f.camera.height) for f in frames] == [(320, 240)] * 3
    assert frames[0].camera.Ks[0, 0, 2] == 160
    path.write_text(json.dumps(content | {"cx": 31.0, "cy": 25.0}))
    assert [(f.camera.width, f.camera.height) for f in read_camera_path(path)] == [(62, 50)] * 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"width": 4}], 'camera 0 has "height" = None'),
        ([7], "camera 0 is 7; expected an object"),
        ({"camera_path": 3, "render_width": 4, "render_height": 4}, '"camera_path" is 3'),
        ({"camera_path": [], "camera_type": "fisheye"}, '"camera_type" is'),
        (
            {"camera_path": [{"fov": 200}], "render_width": 4, "render_height": 4},
            'camera 0 has "fov" = 200',
        ),
        (
            {
                "camera_path": [{"fov": 50, "camera_to_world": [2] * 16}],
                "render_width": 4,
                "render_height": 4,
            },
            "that is not rigid",
        ),
    ],
)
def test_unusable_paths_of_other_tools_are_refused(tmp_path, content, message) -> None:
    (tmp_path / "path.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"path\.json: .*{message}"):
        read_camera_path(tmp_path / "path.json")
