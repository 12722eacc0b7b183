"""Images, arrays, videos: there and back, same bytes for same pixels, unusual and damaged files."""

import ctypes
import importlib.util
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifixer.runtime.errors import InputError
from artifixer.runtime.media import (
    VideoWriter,
    has_alpha,
    image_size,
    read_image,
    read_video,
    write_png,
)
from artifixer.runtime.npy import read_npy, write_npy

# levels: quantisation of H.264 at its quality setting, and halved colour resolution, on a smooth
# picture
VIDEO_ERROR = 6


def random_photo(height: int = 12, width: int = 17) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_frames(count: int, height: int, width: int) -> list[np.ndarray]:
    y, x = np.mgrid[:height, :width]
    return [
        np.stack([x * 3 + 4 * i, y * 3, 0 * x + 90], axis=-1).clip(0, 255).astype(np.uint8)
        for i in range(count)
    ]


def test_png_there_and_back_and_same_bytes(tmp_path: Path) -> None:
    photo = random_photo()
    write_png(tmp_path / "a.png", photo)
    write_png(tmp_path / "b.png", photo)
    assert np.array_equal(read_image(tmp_path / "a.png"), photo)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_npy_there_and_back(tmp_path: Path) -> None:
    depth = np.array([[1.5, np.nan]], dtype=np.float32)
    write_npy(tmp_path / "depth.npy", depth)
    assert np.array_equal(read_npy(tmp_path / "depth.npy"), depth, equal_nan=True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photos_come_upright(tmp_path: Path, orientation: int) -> None:
    stored = random_photo()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    turned = [stored, stored[:, ::-1], stored[::-1, ::-1], stored[::-1], stored.swapaxes(0, 1)]
    turned += [np.rot90(stored, -1), stored[::-1, ::-1].swapaxes(0, 1), np.rot90(stored)]
    upright = read_image(tmp_path / "photo.png")
    assert np.array_equal(upright, turned[orientation - 1])
    assert image_size(tmp_path / "photo.png") == (upright.shape[1], upright.shape[0])


def test_grey_16_bit_and_alpha(tmp_path: Path) -> None:
    grey = random_photo()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("grey.png", "deep.png"):
        assert np.array_equal(read_image(tmp_path / name), grey[..., None].repeat(3, axis=2))
    rgba = np.zeros((1, 2, 4), np.uint8)
    rgba[0, :] = [[200, 100, 50, 255], [200, 100, 50, 0]]
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png").tolist() == [[[200, 100, 50], [0, 0, 0]]]


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_damaged_photo_is_named(tmp_path: Path, name: str, share: float) -> None:
    Image.fromarray(random_photo(64, 64)).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=rf"{name}: cannot read: .*, expected an image"):
        read_image(tmp_path / name)


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (read_image, image_size, read_npy, lambda path: list(read_video(path))):
        with pytest.raises(InputError, match="nothing"):
            read(tmp_path / "nothing")


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


def _smooth(width: int = 64, height: int = 48) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".heic", ".avif", ".jfif", ".jpg"])
def test_photos_of_phones_are_read_by_content(tmp_path: Path, suffix: str) -> None:
    """HEIC also under the name of a JPEG."""
    path = tmp_path / f"photo{suffix}"
    if suffix in (".heic", ".jpg"):
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(Image.fromarray(_smooth())).save(path, quality=95)
    else:
        kind = "AVIF" if suffix == ".avif" else "JPEG"
        Image.fromarray(_smooth()).save(path, kind, quality=95)
    assert image_size(path) == (64, 48)
    assert np.abs(read_image(path).astype(int) - _smooth()).mean() < 4
    assert not has_alpha(path)


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_turned_photos_of_phones_come_upright(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(_smooth())))
    path = tmp_path / f"photo{suffix}"
    if suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
        stored.save(path, "HEIF", quality=95, exif=exif.tobytes())
    else:
        stored.save(path, "AVIF", quality=95, exif=exif.tobytes())
    assert image_size(path) == (64, 48)
    assert np.abs(read_image(path).astype(int) - _smooth()).mean() < 4


def test_heic_without_its_library_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100)
    with pytest.raises(InputError, match=r"a\.jpg: cannot read"):
        read_image(tmp_path / "a.jpg")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs pillow-heif \(pip install 'artifixer\[formats\]'"):
        read_image(tmp_path / "a.jpg")


def test_anamorphic_video_gets_square_pixels(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(_smooth(48, 48), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = list(read_video(path))
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    assert np.abs(frames[0].astype(int) - _smooth(64, 48)).mean() < 8
