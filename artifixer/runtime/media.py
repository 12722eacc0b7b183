"""Images, arrays and videos on disk.

In and out: photos and frames as uint8 ``[height width 3]`` RGB in upright orientation. Pillow and PyAV are loaded when first used.
Everything is written atomically, and the same pixels give the same bytes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from artifixer.runtime.errors import InputError
from artifixer.runtime.run_folder import atomic_path, write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

#: What Pillow's decoders raise for damaged files, besides its own error for files it does not know (an OSError).
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error, zlib.error)

#: Pillow's modes with more than 8 bits per channel; their values go from 0 to 65535.
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")

#: What turns an image of each EXIF orientation upright (names of Pillow's transpositions).
_UPRIGHT = {
    1: None,
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

#: zlib level of PNGs: two thirds of the time of the default level for a few percent more bytes.
PNG_COMPRESSION = 4

#: x264's constant rate factor; 18 is visually lossless. Its macroblock tree stays off: for some sizes (200x120, 96x54) it computes with
#: memory that nobody has written, and the bytes would change from run to run.
VIDEO_QUALITY = 18
X264_OPTIONS = {"crf": str(VIDEO_QUALITY), "preset": "fast", "x264-params": "mbtree=0"}


def read_image(path: str | Path) -> UInt8[np.ndarray, "height width 3"]:
    """An image as upright 8-bit RGB.

    Grey is repeated, 16 bit is rounded to 8, colours with alpha are composited on black (as renders are), EXIF rotation is applied;
    colour profiles are ignored. Raises ``InputError`` for a file that is missing, unreadable, truncated or of floating-point pixels.
    """
    path = Path(path)
    with _opened(path) as image:
        image = _upright(image)
        if image.mode in _SIXTEEN_BIT_MODES:
            values = np.asarray(image).astype(np.int64)
            if values.min() < 0 or values.max() > 65535:
                raise InputError(f"{path}: pixel values from {values.min()} to {values.max()}, expected 8 or 16 bit")
            grey = ((values + 128) // 257).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if image.mode == "F":
            raise InputError(f"{path}: floating-point pixels, expected 8 or 16 bit")
        if image.has_transparency_data:
            rgba = np.asarray(image.convert("RGBA")).astype(np.uint16)
            return ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)
        return np.array(image.convert("RGB"))


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of the upright image, from the file's header alone. Raises ``InputError`` as ``read_image`` does."""
    with _opened(Path(path)) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write uint8 pixels, ``[height width 3]`` RGB or ``[height width]`` grey, as PNG."""
    from PIL import Image

    pixels = np.asarray(pixels)
    assert pixels.dtype == np.uint8, f"{path}: pixels are {pixels.dtype}, expected uint8"
    assert pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3), f"{path}: pixels have shape {pixels.shape}"
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png", compress_level=PNG_COMPRESSION)
    write_bytes(path, buffer.getbuffer())


def read_npy(path: str | Path) -> np.ndarray:
    """An array from a .npy file (never unpickles). Raises ``InputError`` when the file is missing or damaged."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"{path}: cannot read: {_reason(error)}, expected a NumPy array file") from error


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """Write an array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), allow_pickle=False)
    write_bytes(path, buffer.getbuffer())


class VideoWriter:
    """An MP4 that every player opens (H.264, 4:2:0, BT.709), written frame by frame::

        with VideoWriter(path, width, height, fps=30) as video:
            for frame in frames:
                video.add(frame)

    The file appears when the context ends without an error. Odd sides are padded by repeating the last row or column (4:2:0 needs even
    ones). One encoder thread: with several, the bytes would depend on the machine. Raises ``InputError`` where the file cannot be written.
    """

    def __init__(self, path: str | Path, width: int, height: int, fps: float = 30.0) -> None:
        assert width > 0 and height > 0, f"{path}: video of {width}x{height}"
        assert fps > 0, f"{path}: {fps} frames per second"
        self.path = Path(path)
        self.width, self.height, self.fps = width, height, fps

    def __enter__(self) -> VideoWriter:
        self._encoder = _encoder(self.path, self.width + self.width % 2, self.height + self.height % 2, self.fps)
        self._encode = self._encoder.__enter__()
        return self

    def add(self, frame: UInt8[np.ndarray, "height width 3"]) -> None:
        """Append one frame."""
        frame = np.asarray(frame)
        assert frame.shape == (self.height, self.width, 3), f"{self.path}: frame {frame.shape}, expected {(self.height, self.width, 3)}"
        assert frame.dtype == np.uint8, f"{self.path}: frame is {frame.dtype}, expected uint8"
        self._encode(np.pad(frame, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._encoder.__exit__(kind, error, traceback)


def read_video(path: str | Path) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The frames of a video's first video stream in display order, upright. Raises ``InputError`` when it cannot be read to its end."""
    import av

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: does not exist, expected a video file")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: has no video stream, expected a video file")
            for frame in container.decode(video=0):
                quarter_turns = round(frame.rotation / 90)
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))
    except av.error.FFmpegError as error:
        raise InputError(f"{path}: cannot read: {_reason(error)}, expected a video file") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """The image, its pixels still undecoded; what goes wrong while it is open becomes an ``InputError`` that names the file."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist, expected an image") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: {error}") from error
    except _DECODE_ERRORS as error:
        raise InputError(f"{path}: cannot read: {_reason(error)}, expected an image") from error


def _orientation(image: Image) -> int:
    """EXIF orientation, 1-8, as far as the header tells; 1 (upright) when absent or out of range."""
    from PIL import Image

    # PNG's own getexif decodes all pixels to look for a tag behind them; the base class reads what stands before them.
    value = Image.Image.getexif(image).get(0x0112, 1)
    return value if value in _UPRIGHT else 1


def _upright(image: Image) -> Image:
    from PIL import Image

    operation = _UPRIGHT[_orientation(image)]
    return image if operation is None else image.transpose(Image.Transpose[operation])


@contextmanager
def _encoder(path: Path, width: int, height: int, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends one frame of even size to the video."""
    import av
    from av.codec.context import Flags
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    rate = Fraction(fps).limit_denominator(1001)
    muxing = {"movflags": "+faststart", "fflags": "+bitexact"}  # the index in front for the web; no version or time in the file
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4", options=muxing) as container:
        stream = container.add_stream("libx264", rate=rate, options=dict(X264_OPTIONS))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.flags |= Flags.bitexact
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        count = 0

        def encode(frame: np.ndarray) -> None:
            nonlocal count
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            picture.pts, picture.time_base = count, 1 / rate
            container.mux(stream.encode(picture))
            count += 1

        yield encode
        assert count, f"{path}: a video without frames"
        container.mux(stream.encode(None))


def _reason(error: Exception) -> str:
    """One line of a library's message, without the path that stands before it in ours."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
