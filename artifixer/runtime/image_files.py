"""Images on disk.

In and out: photos and frames as uint8 ``[height width 3]`` RGB in upright orientation. Pillow is
imported at first use. Files are written atomically, and the same pixels give the same bytes.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, open_regular, reason, write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pillow's names of the image formats that are read. Pillow detects the format from a file's
#: content, so without this list a PostScript file named ``photo.png`` would start Ghostscript.
#: Formats of plugins are read if the plugin is registered.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF", "HEIF")

#: Pillow's modules for the formats that it reads without plugins.
_PLUGINS = {
    "PNG": "PngImagePlugin",
    "JPEG": "JpegImagePlugin",
    "WEBP": "WebPImagePlugin",
    "TIFF": "TiffImagePlugin",
    "BMP": "BmpImagePlugin",
    "AVIF": "AvifImagePlugin",
}

#: Maximum number of pixels of an image or video frame, more than any camera has. A file of 150 KB
#: can decompress to this many.
MAX_PIXELS = 160_000_000

#: Number of pixels that are converted at a time, so that a large photo is in memory only twice: as
#: decoded and as RGB.
BAND_PIXELS = 1 << 22


#: Pillow's modes with more than 8 bits per channel; their values go from 0 to 65535.
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")

#: Operation that turns stored pixels upright, by EXIF orientation.
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


def read_image(path: str | Path) -> UInt8[np.ndarray, "height width 3"]:
    """An image as upright 8-bit RGB.

    Grey is repeated, 16 bit is rounded to 8 bit, colours with alpha are composited on black (like
    renders), EXIF rotation is applied; colour profiles are ignored. Raises ``InputError`` for a
    file that is missing, unreadable or truncated, has floating-point pixels, is in none of
    ``IMAGE_FORMATS``, or has more than ``MAX_PIXELS``.
    """
    path = Path(path)
    with opened_image(path) as image:
        operation = _UPRIGHT[_orientation(image)]
        pixels = _rgb(path, image)
    return pixels if operation is None else np.ascontiguousarray(operation(pixels))


@dataclass(frozen=True)
class ImageHeader:
    """Values from the header of an image file."""

    width: int
    """Width of the upright image in pixels."""

    height: int
    """Height of the upright image in pixels."""

    orientation: int
    """EXIF orientation, 1 to 8; 1 (upright) if the file has none or an invalid one."""

    has_alpha: bool
    """Whether there is an alpha channel or a transparent colour."""


def image_header(path: str | Path) -> ImageHeader:
    """Read the header of an image. Raises ``InputError`` as ``read_image`` does."""
    with opened_image(Path(path)) as image:
        width, height = image.size
        orientation = _orientation(image)
        if orientation >= 5:
            width, height = height, width
        return ImageHeader(width, height, orientation, bool(image.has_transparency_data))


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of the upright image, from the file's header alone. Raises ``InputError`` as
    ``read_image`` does.
    """
    header = image_header(path)
    return header.width, header.height


def image_format(path: str | Path) -> str:
    """The one of ``IMAGE_FORMATS`` that a file is in, by its content. Raises ``InputError`` as
    ``read_image`` does.
    """
    with opened_image(Path(path)) as image:
        return str(image.format)


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
    """EXIF orientation of ``ImageHeader``. Raises ``InputError`` as ``read_image`` does."""
    return image_header(path).orientation


@contextmanager
def opened_image(path: Path, content: bytes | None = None) -> Iterator[Image]:
    """Pillow's image of a file, not yet decoded. All images that the program reads are opened here.

    content: the image's bytes if it is a member of the archive ``path``. Errors while the image is
    open become an ``InputError`` that names the file.
    """
    from PIL import Image, UnidentifiedImageError

    stream: io.BufferedReader | io.BytesIO
    stream = open_regular(path, "an image") if content is None else io.BytesIO(content)
    try:
        with stream, Image.open(stream, formats=_known_formats(path, stream)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"{path}: {width}x{height} pixels, expected an image of at most {MAX_PIXELS:,}"
                )
            yield image
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: cannot read: none of {', '.join(IMAGE_FORMATS)}, expected an image"
        ) from None
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: {reason(error)}, expected an image of at most {MAX_PIXELS:,} pixels"
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


def _known_formats(path: Path, stream: io.BufferedReader | io.BytesIO) -> list[str]:
    """Formats of ``IMAGE_FORMATS`` to try for this file. The HEIC library is imported for HEIC
    photos only; raises ``InputError`` if it is missing.
    """
    from PIL import Image

    for name, plugin in _PLUGINS.items():
        # AVIF exists from Pillow 11.3 on
        if name not in Image.OPEN and importlib.util.find_spec(f"PIL.{plugin}") is not None:
            # registers itself; Pillow.init() would import all of its fifty plugins
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
    """Whether HEIC photos can be read in this environment."""
    return importlib.util.find_spec("pillow_heif") is not None


def reads_avif() -> bool:
    """Whether AVIF photos can be read in this environment."""
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
    """EXIF orientation, 1 to 8, from the file's header; 1 (upright) if absent or invalid."""
    from PIL import Image

    try:
        # PNG's own getexif decodes all pixels to find a chunk behind them; the base class reads the
        # header only
        value = Image.Image.getexif(image).get(0x0112, 1)
        return next((known for known in _UPRIGHT if known == value), 1)
    except PARSER_ERRORS:  # the pixels may be intact where the EXIF data is damaged
        return 1
