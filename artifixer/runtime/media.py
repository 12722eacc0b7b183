"""Images, arrays and videos on disk.

In and out: photos and frames as uint8 ``[height width 3]`` RGB in upright orientation. Pillow and
PyAV are loaded when first used. Everything is written atomically, and the same pixels give the same
bytes.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from jaxtyping import UInt8

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import (
    PARSER_ERRORS,
    atomic_path,
    check_regular,
    open_regular,
    reason,
    write_bytes,
)

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pillow's names of the picture formats that are read. The format follows from a file's content and
#: not from its name, so without this list a PostScript file called ``photo.png`` would start
#: Ghostscript. Formats of plugins count only where the plugin is registered.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF", "HEIF")

#: Pillow's modules for those that it reads itself.
_PLUGINS = {
    "PNG": "PngImagePlugin",
    "JPEG": "JpegImagePlugin",
    "WEBP": "WebPImagePlugin",
    "TIFF": "TiffImagePlugin",
    "BMP": "BmpImagePlugin",
    "AVIF": "AvifImagePlugin",
}

#: FFmpeg's names of the containers that are read; others, such as play lists, open files of their
#: own choosing.
VIDEO_FORMATS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv")

#: Pixels of the largest picture or video frame: more than any camera has. A file of 150 KB can
#: decompress to this many.
MOST_PIXELS = 160_000_000

#: Pixels of a video that would be wider than this many times their height, or the reverse, are a
#: mistake of its header.
LARGEST_PIXEL_ASPECT = 4

#: Pixels that are converted at a time, so that a large photo is in memory in its own form and as
#: RGB, and in no third form.
BAND_PIXELS = 1 << 22


#: Pillow's modes with more than 8 bits per channel; their values go from 0 to 65535.
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")

#: What turns stored pixels of each EXIF orientation upright.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray] | None] = {
    1: None,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}

#: zlib level of PNGs: two thirds of the time of the default level for a few percent more bytes.
PNG_COMPRESSION = 4

#: x264's constant rate factor; 18 is visually lossless. Its macroblock tree stays off: for some
#: sizes (200x120, 96x54) it computes with memory that nobody has written, and the bytes would
#: change from run to run.
VIDEO_QUALITY = 18
X264_OPTIONS = {"crf": str(VIDEO_QUALITY), "preset": "fast", "x264-params": "mbtree=0"}


def read_image(path: str | Path) -> UInt8[np.ndarray, "height width 3"]:
    """An image as upright 8-bit RGB.

    Grey is repeated, 16 bit is rounded to 8, colours with alpha are composited on black (as renders
    are), EXIF rotation is applied; colour profiles are ignored. Raises ``InputError`` for a file
    that is missing, unreadable, truncated or of floating-point pixels, of another format than
    ``IMAGE_FORMATS`` or of more than ``MOST_PIXELS``.
    """
    path = Path(path)
    with opened_image(path) as image:
        operation = _UPRIGHT[_orientation(image)]
        pixels = _rgb(path, image)
    return pixels if operation is None else np.ascontiguousarray(operation(pixels))


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of the upright image, from the file's header alone. Raises ``InputError`` as
    ``read_image`` does.
    """
    with opened_image(Path(path)) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def image_format(path: str | Path) -> str:
    """Which of ``IMAGE_FORMATS`` a file is, by its content. Raises ``InputError`` as ``read_image``
    does.
    """
    with opened_image(Path(path)) as image:
        return str(image.format)


def has_alpha(path: str | Path) -> bool:
    """Whether an image has an alpha channel or a transparent colour, from the file's header alone.
    Raises ``InputError`` as ``read_image`` does.
    """
    with opened_image(Path(path)) as image:
        return bool(image.has_transparency_data)


def read_alpha(path: str | Path) -> UInt8[np.ndarray, "height width"]:
    """The alpha of an image, upright; 255 everywhere where it has none. Raises ``InputError`` as
    ``read_image`` does.
    """
    with opened_image(Path(path)) as image:
        operation = _UPRIGHT[_orientation(image)]
        if image.has_transparency_data:
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
        else:
            alpha = np.full((image.height, image.width), 255, np.uint8)
    return np.ascontiguousarray(alpha if operation is None else operation(alpha))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels of a photo with this EXIF orientation, turned upright."""
    operation = _UPRIGHT[orientation]
    return pixels if operation is None else np.ascontiguousarray(operation(pixels))


def exif_orientation(path: Path) -> int:
    """EXIF orientation, 1-8; 1 (upright) when the file has none that makes sense. Raises
    ``InputError`` as ``read_image`` does.
    """
    with opened_image(path) as image:
        return _orientation(image)


@contextmanager
def opened_image(path: Path, content: bytes | None = None) -> Iterator[Image]:
    """Pillow's image of a file, its pixels still undecoded; every picture that the program reads is
    opened here.

    content: the file's bytes where they were read from somewhere inside ``path``. What goes wrong
    while the image is open becomes an ``InputError`` that names the file.
    """
    from PIL import Image, UnidentifiedImageError

    stream: BinaryIO = open_regular(path, "an image") if content is None else io.BytesIO(content)
    try:
        with stream, Image.open(stream, formats=_known_formats(path, stream)) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise InputError(
                    f"{path}: {width}x{height} pixels, expected an image of at most {MOST_PIXELS:,}"
                )
            yield image
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: cannot read: none of {', '.join(IMAGE_FORMATS)}, expected an image"
        ) from None
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: {reason(error)}, expected an image of at most {MOST_PIXELS:,} pixels"
        ) from error
    except PARSER_ERRORS as error:
        raise InputError(f"{path}: cannot read: {reason(error)}, expected an image") from error


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write uint8 pixels, ``[height width 3]`` RGB or ``[height width]`` grey, as PNG."""
    from PIL import Image

    pixels = np.asarray(pixels)
    assert pixels.dtype == np.uint8, f"{path}: pixels are {pixels.dtype}, expected uint8"
    assert pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3), (
        f"{path}: pixels have shape {pixels.shape}"
    )
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        buffer, "png", compress_level=PNG_COMPRESSION
    )
    write_bytes(path, buffer.getbuffer())


class VideoWriter:
    """An MP4 that every player opens (H.264, 4:2:0, BT.709), written frame by frame::

        with VideoWriter(path, width, height, fps=30) as video:
            for frame in frames:
                video.add(frame)

    The file appears when the context ends without an error. Odd sides are padded by repeating the
    last row or column (4:2:0 needs even ones). One encoder thread: with several, the bytes would
    depend on the machine. Raises ``InputError`` where the file cannot be written.
    """

    def __init__(self, path: str | Path, width: int, height: int, fps: float = 30.0) -> None:
        assert width > 0 and height > 0, f"{path}: video of {width}x{height}"
        assert fps > 0, f"{path}: {fps} frames per second"
        self.path = Path(path)
        self.width, self.height, self.fps = width, height, fps

    def __enter__(self) -> VideoWriter:
        self._encoder = _encoder(
            self.path, self.width + self.width % 2, self.height + self.height % 2, self.fps
        )
        self._encode = self._encoder.__enter__()
        return self

    def add(self, frame: UInt8[np.ndarray, "height width 3"]) -> None:
        """Append one frame."""
        frame = np.asarray(frame)
        assert frame.shape == (self.height, self.width, 3), (
            f"{self.path}: frame {frame.shape}, expected {(self.height, self.width, 3)}"
        )
        assert frame.dtype == np.uint8, f"{self.path}: frame is {frame.dtype}, expected uint8"
        self._encode(
            np.pad(frame, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._encoder.__exit__(kind, error, traceback)


def read_video(path: str | Path) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The frames of a video's first video stream in display order, upright, with square pixels.

    Raises ``InputError`` when it cannot be read to its end, is no container of ``VIDEO_FORMATS``,
    or has frames of more than ``MOST_PIXELS``.
    """
    path = Path(path)
    with opened_video(path) as container:
        for frame in container.decode(video=0):
            if frame.width * frame.height > MOST_PIXELS:
                raise InputError(
                    f"{path}: frames of {frame.width}x{frame.height} pixels, expected at most "
                    f"{MOST_PIXELS:,}"
                )
            quarter_turns = round(frame.rotation / 90)
            width = _square_pixel_width(container.streams.video[0], frame.width)
            if width * frame.height > MOST_PIXELS:
                width = frame.width
            pixels = frame.reformat(width=width, format="rgb24").to_ndarray()
            yield np.ascontiguousarray(np.rot90(pixels, quarter_turns))


def _square_pixel_width(stream: Any, width: int) -> int:
    """Width of the frames when their pixels are made square: anamorphic video stores them narrower
    or wider than they are shown.
    """
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if not aspect or aspect == 1 or not 1 / LARGEST_PIXEL_ASPECT <= aspect <= LARGEST_PIXEL_ASPECT:
        return width
    return max(1, round(width * float(aspect)))


@contextmanager
def opened_video(path: Path) -> Iterator[Any]:
    """PyAV's container of a video file with a video stream; every video that the program reads is
    opened here.

    The path is a file and nothing else: no protocol (``concat:``, ``http:``), and no format that
    names further files. Titles in other encodings than UTF-8 don't matter. What goes wrong while
    the video is open becomes an ``InputError`` that names the file.
    """
    import av

    check_regular(path, "a video file")
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(VIDEO_FORMATS)}
    try:
        with av.open(
            f"file:{path.absolute()}", options=options, metadata_errors="ignore"
        ) as container:
            streams = container.streams.video
            if not streams:
                raise InputError(f"{path}: has no video stream, expected a video file")
            if streams[0].width * streams[0].height > MOST_PIXELS:
                raise InputError(
                    f"{path}: {streams[0].width}x{streams[0].height} pixels, expected at most "
                    f"{MOST_PIXELS:,}"
                )
            yield container
    except av.error.FFmpegError as error:
        raise InputError(f"{path}: cannot read: {reason(error)}, expected a video file") from error
    except PARSER_ERRORS as error:
        raise InputError(f"{path}: cannot read: {reason(error)}, expected a video file") from error


def _known_formats(path: Path, stream: BinaryIO) -> list[str]:
    """Those of ``IMAGE_FORMATS`` that can be read here. HEIC's library is loaded for HEIC photos
    only. Raises ``InputError`` where it is missing for one.
    """
    from PIL import Image

    for name, plugin in _PLUGINS.items():
        # AVIF came with Pillow 11.3
        if name not in Image.OPEN and importlib.util.find_spec(f"PIL.{plugin}") is not None:
            # registers itself; Pillow would load all of its fifty
            importlib.import_module(f"PIL.{plugin}")
    head = stream.read(12)
    stream.seek(0)
    if head[4:8] != b"ftyp" or head[8:12] in (b"avif", b"avis"):
        return [name for name in IMAGE_FORMATS if name in Image.OPEN and name != "HEIF"]
    if not reads_heic():
        raise InputError(
            f"{path}: a HEIC photo, which needs pillow-heif (pip install 'artifixer[formats]'); "
            f"expected one of {', '.join(_PLUGINS)}"
        )
    import pillow_heif

    pillow_heif.register_heif_opener()
    return ["HEIF"]


def reads_heic() -> bool:
    """Whether HEIC photos can be read here."""
    return importlib.util.find_spec("pillow_heif") is not None


def reads_avif() -> bool:
    """Whether AVIF photos can be read here."""
    from PIL import features

    return bool(features.check("avif"))


def _rgb(path: Path, image: Image) -> UInt8[np.ndarray, "height width 3"]:
    """The stored pixels as 8-bit RGB, converted band by band."""
    if image.mode == "F":
        raise InputError(f"{path}: floating-point pixels, expected 8 or 16 bit")
    image.load()
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = image if rows >= height else image.crop((0, top, width, bottom))
        if image.mode in _SIXTEEN_BIT_MODES:
            values = np.asarray(band).astype(np.int64)
            if values.min() < 0 or values.max() > 65535:
                raise InputError(
                    f"{path}: pixel values from {values.min()} to {values.max()}, expected 8 or 16 "
                    "bit"
                )
            pixels[top:bottom] = ((values + 128) // 257).astype(np.uint8)[..., None]
        elif image.has_transparency_data:
            rgba = np.asarray(band.convert("RGBA")).astype(np.uint16)
            pixels[top:bottom] = (rgba[..., :3] * rgba[..., 3:] + 127) // 255
        else:
            pixels[top:bottom] = np.asarray(band if image.mode == "RGB" else band.convert("RGB"))
    return pixels


def _orientation(image: Image) -> int:
    """EXIF orientation, 1-8, as far as the header tells; 1 (upright) when absent or no such
    number.
    """
    from PIL import Image

    try:
        # PNG's own getexif decodes all pixels to look for a tag behind them; the base class reads
        # what stands before them.
        value = Image.Image.getexif(image).get(0x0112, 1)
        return next((known for known in _UPRIGHT if known == value), 1)
    except PARSER_ERRORS:  # damaged EXIF says nothing, and the pixels may be good
        return 1


@contextmanager
def _encoder(
    path: Path, width: int, height: int, fps: float
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends one frame of even size to the video."""
    import av
    from av.codec.context import Flags
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    rate = Fraction(fps).limit_denominator(1001)
    # the index in front for the web; no version or time in the file
    muxing = {"movflags": "+faststart", "fflags": "+bitexact"}
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options=muxing) as container,
    ):
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
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709
            )
            picture.pts, picture.time_base = count, 1 / rate
            container.mux(stream.encode(picture))
            count += 1

        yield encode
        assert count, f"{path}: a video without frames"
        container.mux(stream.encode(None))
