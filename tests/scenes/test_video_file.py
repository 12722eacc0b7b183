"""Videos as captures: which frames become photos, and their poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from capture_files import noise
from hypothesis import given
from hypothesis import strategies as st

from artifixer.imaging.resize import resize_photo
from artifixer.runtime.errors import InputError
from artifixer.runtime.video_files import VideoWriter
from artifixer.scenes import procedural, video_file
from artifixer.scenes.formats import load_scene
from artifixer.scenes.sfm import SfmConfig
from artifixer.scenes.video_file import VideoConfig, find_video, frame_sharpness, sharp_frames

QUICK = VideoConfig(frames=5, sfm=SfmConfig(features=800))


def write_video(path: Path, frames: list[np.ndarray]) -> Path:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height) as video:
        for frame in frames:
            video.add(frame)
    return path


def blurred(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    return resize_photo(resize_photo(frame, width // 4, height // 4), width, height)


def test_a_video_becomes_photos_with_poses(tmp_path: Path) -> None:
    """Every second frame is out of focus."""
    truth = procedural.load("procedural:1:frames=48,width=240,height=180")
    frames = [truth.photos[number].read() for number in range(10)]
    frames = [blurred(frame) if number % 2 else frame for number, frame in enumerate(frames)]
    path = write_video(tmp_path / "walk.mp4", frames)
    steps: list[str] = []
    scene = video_file.load(path, tmp_path / "work", QUICK, steps.append)
    assert (scene.name, scene.format) == ("walk", "video")
    assert [photo.name for photo in scene.photos] == [
        f"images/{number:05d}.png" for number in range(0, 10, 2)
    ]
    assert np.abs(scene.photos[2].read().astype(float) - frames[4]).mean() < 4, (
        "the frame, but for compression"
    )
    assert any("keeping 5 of 10 frames" in step for step in steps)

    steps.clear()
    again = video_file.load(path, tmp_path / "work", QUICK, steps.append)
    assert not steps, "nothing is computed twice"
    in_memory = video_file.load(path, config=QUICK)
    for other in (again, in_memory):
        assert np.array_equal(other.photos[0].read(), scene.photos[0].read())
    assert all(photo.path is None for photo in in_memory.photos), (
        "without a work folder nothing is left to read from"
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 20))
def test_frames_are_spread_and_sharp(sharpness: list[float], count: int) -> None:
    chosen = sharp_frames(sharpness, count)
    assert len(chosen) == min(count, len(sharpness))
    assert chosen == sorted(set(chosen))
    part = len(sharpness) / len(chosen)
    for number, position in enumerate(chosen):
        assert int(number * part) <= position < (number + 1) * part
        assert sharpness[position] >= max(
            sharpness[int(number * part) : int((number + 1) * part)], default=0
        )


def test_blur_lowers_sharpness() -> None:
    frame = noise(64, 48)
    assert frame_sharpness(blurred(frame)) < 0.5 * frame_sharpness(frame)


def test_a_video_of_one_frame_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", [noise(64, 48)])
    with pytest.raises(InputError, match=r"short\.mp4: the video has 1 frame; expected at least 2"):
        load_scene(path)


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mp4: .*expected a video file"):
        load_scene(tmp_path / "a.mp4")


def test_the_only_video_of_a_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.MOV").touch()
    (tmp_path / ".b.mp4").touch()
    assert find_video(tmp_path) == tmp_path / "a.MOV"
    (tmp_path / "c.mp4").touch()
    assert find_video(tmp_path) is None
