"""Camera files: exact there and back, and one line for what is wrong."""

from __future__ import annotations

import json

import pytest
import torch

from artifixer.geometry.camera_file import (
    CameraFrame,
    is_camera_file,
    read_cameras,
    read_references,
    write_cameras,
)
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.runtime.errors import InputError


def frame(model: str = "pinhole", photo: str | None = "images/ä b.jpg") -> CameraFrame:
    pose = look_at(
        torch.randn(1, 3, generator=torch.Generator().manual_seed(0)),
        torch.zeros(1, 3),
        torch.tensor([0.0, 1.0, 0.0]),
    )
    K = torch.tensor([[[300.1, 0, 160.3], [0, 299.7, 120.9], [0, 0, 1]]])
    distortion = torch.tensor([[0.1, -0.02, 0.003, 0.0004, 0, 0, 0, 0]])
    return CameraFrame(Cameras(invert_rigid(pose), K, 320, 240, model, distortion), photo)


def test_a_file_read_and_written_again_is_the_same_file(tmp_path):
    frames = [frame(), frame("fisheye", None)]
    write_cameras(tmp_path / "a.json", frames, [(frames[0], "references/00000.png")])
    again = read_cameras(tmp_path / "a.json")
    write_cameras(tmp_path / "b.json", again, read_references(tmp_path / "a.json"))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    for before, after in zip(frames, again, strict=True):
        assert before.photo == after.photo and before.camera.model == after.camera.model
        for name in ("viewmats", "Ks", "distortion"):
            assert torch.equal(getattr(before.camera, name), getattr(after.camera, name)), name
    assert is_camera_file(tmp_path / "a.json")


def broken(key: str, value: object) -> object:
    return pytest.param(key, value, id=f"{key}-{str(value)[:12]}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        broken("width", 0),
        broken("width", 1.5),
        broken("height", "240"),
        broken("model", "omni"),
        broken("fx", -1.0),
        broken("fy", float("nan")),
        broken("cx", None),
        broken("photo", 3),
        broken("distortion", [1, 2]),
        broken("distortion", {"k1": "x"}),
        broken("world_to_camera", [[1, 0, 0, 0]] * 4),
        broken("world_to_camera", [[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
        broken("world_to_camera", "identity"),
    ],
)
def test_wrong_values_are_named(tmp_path, key, value):
    path = tmp_path / "cameras.json"
    write_cameras(path, [frame()])
    content = json.loads(path.read_text())
    content["frames"][0][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        read_cameras(path)
    assert (
        str(path) in str(error.value)
        and "frame 0" in str(error.value)
        and "expected" in str(error.value)
    )


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"format": "artifixer cameras", "version": 99}',
        "{",
        '{"format": 3, "frames": 1}',
    ],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "cameras.json"
    path.write_text(content)
    with pytest.raises(InputError):
        read_cameras(path)


def test_references_stay_inside_the_folder(tmp_path):
    path = tmp_path / "cameras.json"
    write_cameras(path, [frame()], [(frame(), "../secret.png")])
    with pytest.raises(InputError, match="inside the folder"):
        read_references(path)
