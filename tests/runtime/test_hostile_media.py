"""Pictures, videos and arrays that were made to do harm: refused in one line, before anything is
started, waited for or allocated.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifixer.runtime import image_files, video_files
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import exif_orientation, image_size, read_image
from artifixer.runtime.npy import read_npy, write_npy
from artifixer.runtime.video_files import VideoWriter, read_video
from tests.runtime.test_files import in_time

#: Pipes, sockets, devices and links.
pytestmark = pytest.mark.posix

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n"


def small_image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8))


# Pictures ----------------------------------------------------------------------------------------


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called like Ghostscript that leaves a trace when it is started."""
    trace, tools = tmp_path / "started", tmp_path / "tools"
    tools.mkdir()
    for name in ("gs", "gswin64c"):
        (tools / name).write_text(f"#!/bin/sh\ntouch '{trace}'\n")
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for the program once
    return trace


def test_postscript_called_a_photo_starts_no_program(tmp_path: Path, ghostscript: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises(OSError), Image.open(path) as image:  # noqa: PT011 - what Pillow says does not matter here
        image.load()
    assert ghostscript.exists(), (
        "Pillow by itself starts Ghostscript; without that this test proves nothing"
    )
    ghostscript.unlink()
    for read in (read_image, image_size, exif_orientation):
        with pytest.raises(InputError, match=r"photo\.png: cannot read: none of PNG, JPEG"):
            read(path)
    assert not ghostscript.exists()


@pytest.mark.parametrize("name", ["a.gif", "a.ppm", "a.tga", "a.pcx", "a.ico", "a.sgi"])
def test_formats_nobody_asked_for_are_refused(tmp_path: Path, name: str) -> None:
    small_image().save(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "photo.png")
    with pytest.raises(InputError, match=r"photo\.png: cannot read: none of"):
        read_image(tmp_path / "photo.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, name: str) -> None:
    small_image().save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    (tmp_path / name).rename(tmp_path / "photo.dat")
    assert read_image(tmp_path / "photo.dat").shape == (12, 16, 3)


def claimed_png(path: Path, width: int, height: int) -> None:
    """A PNG whose header claims a size."""
    small_image().save(path)
    data = path.read_bytes()
    chunk = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    path.write_bytes(data[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:])


@pytest.mark.parametrize(
    ("width", "height"), [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (20_000, 8_001), (0, 5)]
)
def test_pictures_of_absurd_sizes_are_refused(tmp_path: Path, width: int, height: int) -> None:
    claimed_png(tmp_path / "photo.png", width, height)
    for read in (read_image, image_size):
        with pytest.raises(InputError, match=r"photo\.png: "):
            read(tmp_path / "photo.png")


def test_large_photos_are_converted_in_bands_to_the_same_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random.integers(0, 256, (31, 17, 4), np.uint8)).save(
        tmp_path / "rgba.png", exif=exif
    )
    Image.fromarray(random.integers(0, 65536, (31, 17)).astype(np.uint16)).save(
        tmp_path / "grey16.png"
    )
    small_image().convert("P").save(tmp_path / "palette.png")
    names = ("rgba.png", "grey16.png", "palette.png")
    whole = [read_image(tmp_path / name) for name in names]
    monkeypatch.setattr(image_files, "BAND_PIXELS", 40)
    for name, expected in zip(names, whole, strict=True):
        assert np.array_equal(read_image(tmp_path / name), expected)
    assert whole[0].shape == (17, 31, 3)


@pytest.mark.parametrize("value", ["six", 0, 9, 65535, b"\x06", 6.5])
def test_exif_orientations_that_are_none_count_as_upright(tmp_path: Path, value: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    try:
        small_image().save(tmp_path / "photo.jpg", exif=exif)
    except (TypeError, ValueError, struct.error):
        small_image().save(tmp_path / "photo.jpg", exif=_ascii_exif(0x0112, str(value).encode()))
    assert exif_orientation(tmp_path / "photo.jpg") == 1
    assert read_image(tmp_path / "photo.jpg").shape == (12, 16, 3)


def _ascii_exif(tag: int, text: bytes) -> bytes:
    """EXIF with a text under a tag where a number belongs."""
    text += b"\0"
    return (
        b"Exif\0\0II*\0\x08\0\0\0\x01\0"
        + struct.pack("<HHII", tag, 2, len(text), 26)
        + bytes(4)
        + text
    )


def test_exif_text_where_a_number_belongs_groups_cameras(tmp_path: Path) -> None:
    from artifixer.scenes.photo_files import open_photo
    from artifixer.scenes.photos import _camera_groups

    photos = []
    for name, text in {"a.jpg": b"fifty", "b.jpg": b"fifty", "c.jpg": b"35"}.items():
        inner = (
            struct.pack("<H", 1)
            + struct.pack("<HHII", 0x920A, 2, len(text) + 1, 44)
            + bytes(4)
            + text
            + b"\0"
        )
        outer = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x8769, 4, 1, 26) + bytes(4)
        small_image().save(tmp_path / name, exif=outer + inner)
        photos.append(open_photo(tmp_path / name, name))
    assert _camera_groups(photos) == [["a.jpg", "b.jpg"], ["c.jpg"]]


@pytest.mark.parametrize(
    "read",
    [read_image, image_size, read_npy, lambda path: next(read_video(path))],
    ids=["image", "size", "npy", "video"],
)
def test_pipes_are_not_waited_for(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "photo.png")
    assert "it is a FIFO" in in_time(lambda: read(tmp_path / "photo.png"))


# Videos ------------------------------------------------------------------------------------------


def write_video(path: Path, frames: int = 3) -> None:
    with VideoWriter(path, 32, 24, fps=10) as video:
        for number in range(frames):
            video.add(np.full((24, 32, 3), 40 * number, np.uint8))


def test_video_names_with_protocols_are_names_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("secret.mp4"), frames=5)
    for name in ("concat:secret.mp4", "file:secret.mp4", "subfile,,start,0,end,0,,:secret.mp4"):
        with pytest.raises(InputError, match="does not exist"):
            next(read_video(name))
        write_video(Path("own.mp4"), frames=2)
        Path("own.mp4").rename(name)
        assert len(list(read_video(name))) == 2


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP "
        "96\na=rtpmap:96 H264/90000\n",
    ],
    ids=["concat", "m3u8", "sdp"],
)
def test_play_lists_called_videos_open_nothing(tmp_path: Path, content: str) -> None:
    write_video(tmp_path / "secret.mp4")
    (tmp_path / "video.mp4").write_text(content)
    with pytest.raises(InputError, match=r"video\.mp4: cannot read"):
        next(read_video(tmp_path / "video.mp4"))


def test_titles_in_latin_1_do_not_matter(tmp_path: Path) -> None:
    import av

    path = tmp_path / "video.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "placeholder"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for _ in range(3):
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8), format="rgb24")
                )
            )
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert b"placeholder" in data
    path.write_bytes(data.replace(b"placeholder", b"Caf\xe9 in M\xfcnch"[:11]))
    with pytest.raises(UnicodeDecodeError), av.open(str(path)):
        pass
    assert len(list(read_video(path))) == 3


def test_videos_of_absurd_sizes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "video.mp4")
    monkeypatch.setattr(video_files, "MAX_PIXELS", 32 * 24 - 1)
    with pytest.raises(InputError, match=r"video\.mp4: 32x24 pixels, expected at most 767"):
        next(read_video(tmp_path / "video.mp4"))


# Arrays ------------------------------------------------------------------------------------------


def claimed_npy(path: Path, header: str, body: bytes = bytes(96)) -> None:
    """An array file with a header of one's own."""
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + body)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -6), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (12,), }",
        "{'descr': '<U2', 'fortran_order': False, 'shape': (12,), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (24,), }",
        "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (24,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (24,), 'x': '''",
        "nonsense",
    ],
)
def test_arrays_whose_headers_lie_are_refused(tmp_path: Path, header: str) -> None:
    claimed_npy(tmp_path / "depth.npy", header)
    with pytest.raises(InputError, match=r"depth\.npy: ") as caught:
        read_npy(tmp_path / "depth.npy")
    assert "\n" not in str(caught.value)


def test_arrays_come_back(tmp_path: Path) -> None:
    for array in (
        np.zeros((0, 3), np.float32),
        np.arange(6.0).reshape(2, 3),
        np.arange(6, dtype=np.int16).reshape(3, 2).T,
        np.array(5),
    ):
        write_npy(tmp_path / "a.npy", array)
        assert np.array_equal(read_npy(tmp_path / "a.npy"), array)


def test_an_archive_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"a\.npy: cannot read"):
        read_npy(tmp_path / "a.npy")
