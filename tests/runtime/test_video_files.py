"""Videos: there and back, same bytes for same frames, rotation and aspect ratio."""

import ctypes
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from artifixer.runtime.errors import InputError
from artifixer.runtime.video_files import VideoWriter, read_video

# levels: quantisation of H.264 at its quality setting, and halved colour resolution, on a smooth
# picture
VIDEO_ERROR = 6


def smooth_frames(count: int, height: int, width: int) -> list[np.ndarray]:
    y, x = np.mgrid[:height, :width]
    return [
        np.stack([x * 3 + 4 * i, y * 3, 0 * x + 90], axis=-1).clip(0, 255).astype(np.uint8)
        for i in range(count)
    ]


def smooth_frame(width: int = 64, height: int = 48) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing"):
        list(read_video(tmp_path / "nothing"))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47)])
def test_video_there_and_back(tmp_path: Path, height: int, width: int) -> None:
    frames = smooth_frames(5, height, width)
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(tmp_path / name, width, height, fps=24) as video:
            for frame in frames:
                video.add(frame)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    decoded = list(read_video(tmp_path / "a.mp4"))
    assert len(decoded) == len(frames)
    for ours, theirs in zip(frames, decoded, strict=True):
        assert theirs.shape[0] == height + height % 2
        assert np.abs(theirs[:height, :width].astype(int) - ours).mean() < VIDEO_ERROR


#: The matrix in an MP4's track header by which a phone says how it was held, and the
#: counterclockwise quarter turns that it asks for.
HELD = {
    "upside down": ((-1, 0, 0, -1), 2),
    "turned right": ((0, 1, -1, 0), -1),
    "turned left": ((0, -1, 1, 0), 1),
}


@pytest.mark.parametrize("held", HELD)
def test_videos_of_a_turned_phone_come_upright(tmp_path: Path, held: str) -> None:
    (a, b, c, d), quarter_turns = HELD[held]
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32], frame[:24, 32:], frame[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    with VideoWriter(tmp_path / "a.mp4", 64, 48) as video:
        video.add(frame)
    content = (tmp_path / "a.mp4").read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = content.index(upright, content.index(b"tkhd"))
    turned = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(content[:at] + turned + content[at + 36 :])
    (shown,) = read_video(tmp_path / "a.mp4")
    expected = np.rot90(frame, quarter_turns)
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 4, "but for compression"


#: glibc's option that fills fresh memory with a pattern.
M_PERTURB = -6


@pytest.mark.parametrize(("width", "height"), [(32, 24), (96, 54)])
def test_video_bytes_do_not_depend_on_what_memory_held_before(
    tmp_path: Path, width: int, height: int
) -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        pytest.skip("needs glibc's malloc")
    y, x = np.mgrid[:height, :width]
    picture = np.stack([(3 * x + y) % 256, 5 * y % 256, x * y % 256], axis=-1).astype(np.uint8)
    contents = set()
    try:
        for pattern in (0, 85, 170, 200):
            libc.mallopt(M_PERTURB, pattern)
            with VideoWriter(tmp_path / "a.mp4", width, height) as video:
                for shift in range(8):
                    video.add(np.roll(picture, (shift, 2 * shift), axis=(0, 1)))
            contents.add((tmp_path / "a.mp4").read_bytes())
    finally:
        libc.mallopt(M_PERTURB, 0)
    assert len(contents) == 1


def test_failure_leaves_no_video(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with VideoWriter(tmp_path / "a.mp4", 32, 32) as video:
            video.add(np.zeros((32, 32, 3), np.uint8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_anamorphic_video_gets_square_pixels(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(smooth_frame(48, 48), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = list(read_video(path))
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    assert np.abs(frames[0].astype(int) - smooth_frame(64, 48)).mean() < 8
