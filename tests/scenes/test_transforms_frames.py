"""Frames of transforms files: axes, lenses, and which intrinsics count."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from capture_files import (
    HEIGHT,
    WIDTH,
    pose_matrix,
    transforms_content,
    write_transforms,
)

from artifixer.runtime.errors import InputError
from artifixer.scenes import transforms_json
from artifixer.scenes.scene import Scene


def _load(capture, content: object, views: int = 3) -> Scene:
    return transforms_json.load(capture, write_transforms(capture, content, views=views))


def test_cameras_look_along_minus_z_with_y_up(tmp_path):
    content = transforms_content()
    content["frames"][0]["transform_matrix"] = pose_matrix((1, 2, 3))
    camera = _load(tmp_path, content).cameras[0]
    points = torch.tensor([[1.0, 2, -7], [2, 2, -7], [1, 3, -7]])  # ahead, to the right, above
    pixels, depth, _ = camera.project(points)
    torch.testing.assert_close(pixels[0], torch.tensor([[31.0, 25], [31 + 6.4, 25], [31, 25 - 6]]))
    torch.testing.assert_close(depth[0], torch.full((3,), 10.0))
    torch.testing.assert_close(camera.centers[0], torch.tensor([1.0, 2, 3]))


def test_frames_may_bring_their_own_intrinsics(tmp_path):
    """nerfstudio's per-frame style gives the same cameras as the values at the top; a frame's own
    values win.
    """
    content = transforms_content()
    top = {key: content[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")} | {
        "k1": 0.1,
        "p2": 0.01,
    }
    at_top = _load(tmp_path / "top", content | top)
    frames = [frame | top for frame in content["frames"]]
    frames[2] = frames[2] | {"fl_x": 70.0, "k1": 0.2}
    in_frames = _load(tmp_path / "frames", {"frames": frames})
    mixed = _load(tmp_path / "mixed", content | top | {"fl_x": 999.0, "k1": 0.9, "frames": frames})
    for scene in (in_frames, mixed):
        assert torch.equal(scene.cameras[0].Ks, at_top.cameras[0].Ks)
        assert torch.equal(scene.cameras[0].distortion, at_top.cameras[0].distortion)
        assert scene.cameras[2].Ks[0, 0, 0] == 70
        assert scene.cameras[2].distortion[0, 0] == pytest.approx(0.2)
    assert at_top.cameras[0].distortion[0].tolist() == pytest.approx([0.1, 0, 0, 0, 0, 0, 0, 0.01])


def test_instant_ngp_files_without_focal_length_size_and_endings(tmp_path):
    frames = [
        {
            "file_path": f"./images/{i:03d}",
            "transform_matrix": pose_matrix((i, 0, 0)),
            "sharpness": 30,
        }
        for i in range(3)
    ]
    scene = _load(tmp_path, {"camera_angle_x": math.radians(90), "aabb_scale": 4, "frames": frames})
    assert [photo.name for photo in scene.photos] == [
        "images/000.png",
        "images/001.png",
        "images/002.png",
    ]
    expected = torch.tensor([[WIDTH / 2, 0, WIDTH / 2], [0, WIDTH / 2, HEIGHT / 2], [0, 0, 1]])
    torch.testing.assert_close(scene.cameras[0].Ks[0], expected)


def test_paths_with_backslashes_and_poses_of_three_rows(tmp_path):
    content = transforms_content()
    content["frames"][0]["file_path"] = ".\\images\\000.png"
    content["frames"][1]["transform_matrix"] = pose_matrix((1, 0, 0))[:3]
    scene = _load(tmp_path, content)
    assert scene.photos[0].name == "images/000.png"
    torch.testing.assert_close(scene.cameras[1].centers[0], torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize("lens", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}])
def test_fisheye_lenses(tmp_path, lens):
    camera = _load(
        tmp_path, transforms_content() | lens | {"k1": 0.05, "k4": 0.01, "p1": 0.5}
    ).cameras[0]
    assert camera.model == "fisheye"
    # fisheye lenses have no p1
    assert camera.distortion[0].tolist() == pytest.approx([0.05, 0, 0, 0.01, 0, 0, 0, 0])


def test_k4_of_opencv_multiplies_the_eighth_power_as_nerfstudio_defines_it(tmp_path):
    """It was taken for OpenCV's k4, which divides: 0.25 pixels of error in photos like these."""
    lens = {"fl_x": 40.0, "fl_y": 40.0, "cx": 32.0, "cy": 24.0, "k1": 0.03, "k4": 0.02}
    content = transforms_content() | lens | {"camera_model": "OPENCV"}
    x, y = np.meshgrid(np.linspace(-0.7, 0.7, 15), np.linspace(-0.5, 0.5, 11))
    x, y = x.ravel(), y.ravel()
    r2 = x**2 + y**2
    factor = 1 + 0.03 * r2 + 0.02 * r2**4
    expected = np.stack([40 * x * factor + 32, 40 * y * factor + 24], axis=1)
    camera = _load(tmp_path, content).cameras[0]
    rays = torch.from_numpy(np.stack([x, y, np.ones_like(x)], axis=1)).float()
    pixels, _, _ = replace(camera, viewmats=torch.eye(4)[None]).project(rays)
    assert np.abs(pixels[0].numpy() - expected).max() < 0.005


def test_k4_of_full_opencv_divides(tmp_path):
    content = transforms_content() | {"camera_model": "FULL_OPENCV", "k4": 0.02}
    assert _load(tmp_path, content).cameras[0].distortion[0, 3] == pytest.approx(0.02)


def test_an_eighth_power_that_folds_over_is_refused_by_name(tmp_path):
    content = transforms_content() | {"fl_x": 20.0, "fl_y": 20.0, "k4": -1.0}
    with pytest.raises(InputError, match=r'"k4" = -1.0; expected a factor of r\^8'):
        _load(tmp_path, content)


def test_huge_integers_are_refused(tmp_path):
    text = json.dumps(transforms_content()).replace("31.0", "1" + "0" * 400)
    path = write_transforms(tmp_path, {})
    path.write_text(text)
    with pytest.raises(InputError, match="expected a finite number"):
        transforms_json.load(tmp_path, path)


@pytest.mark.parametrize("model", ["opencv_fisheye", "FISHEYE", "SIMPLE_RADIAL_FISHEYE"])
def test_fisheye_lenses_under_their_other_names_are_read(tmp_path, model):
    assert (
        _load(tmp_path, transforms_content() | {"camera_model": model}).cameras[0].model
        == "fisheye"
    )


@pytest.mark.parametrize(
    "lens",
    [{"camera_model": "FISHEYE"}, {"camera_model": "opencv_fisheye"}, {"is_fisheye": True}],
)
def test_fisheye_lenses_without_coefficients_are_told(tmp_path, lens):
    """Photos of an ordinary lens under such a name are read 1.4 pixels off at 160, in silence."""
    scene = _load(tmp_path, transforms_content() | lens)
    (note,) = [note for note in scene.notes if "ideal fisheye" in note]
    assert note.startswith("transforms.json: 3 photos have a fisheye lens without distortion")
    for k1 in ({"k1": 0.01}, {"k4": 0.01}):
        scene = _load(tmp_path, transforms_content() | lens | k1)
        assert not any("ideal fisheye" in note for note in scene.notes)


def test_fields_of_view_of_oblong_pixels_are_refused(tmp_path):
    """The vertical angle of another picture format stretched everything by a third, in silence."""
    angle = 2 * math.atan(WIDTH / 2 / 64)
    content = {"frames": transforms_content()["frames"], "camera_angle_x": angle}
    message = "pixels 1.33 times as high as wide.*leave camera_angle_y out"
    with pytest.raises(InputError, match=message):
        _load(tmp_path, content | {"camera_angle_y": angle})
    scene = _load(tmp_path, content)
    assert scene.cameras[0].Ks[0, 0, 0] == scene.cameras[0].Ks[0, 1, 1] == 64
    right = {"camera_angle_y": 2 * math.atan(HEIGHT / 2 / 62)}
    assert _load(tmp_path, content | right).cameras[0].Ks[0, 1, 1] == pytest.approx(62)
    oblong = {"fl_x": 64.0, "fl_y": 48.0}  # said in so many words
    assert _load(tmp_path, content | oblong).cameras[0].Ks[0, 1, 1] == 48
