"""Camera paths from files: ours and transforms.json, whose photos need not exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from capture_files import HEIGHT, WIDTH, transforms_content

from artifixer.geometry.camera_file import write_cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes.camera_path_file import read_camera_path


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
