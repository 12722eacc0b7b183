"""Image sizes and resizing: of photos when they are loaded, of tensors to the video model's grid.

In: uint8 photos, or float images ``[*batch height width channels]``. Out: the same at another size.
"""

from __future__ import annotations

import re

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.runtime.errors import InputError

#: Sides of the video model's frames are multiples of this: 8 for the autoencoder times 2 for the
#: patches.
GRID = 16

#: Maximum side of a requested size, pixels: 16k video.
MAX_SIDE = 16_384


def fit_size(
    width: int, height: int, size: int | str | None, *, enlarge: bool = False
) -> tuple[int, int]:
    """The (width, height) requested by ``--size``.

    size: the longest side (aspect kept); "WxH" for exactly that size; None for the input's size.
    Numbers may be strings. enlarge: allow a longest side above the input's, which improves renders
    but not photos. Raises ``InputError`` for any other value.
    """
    if size is None:
        return width, height
    exact = re.fullmatch(r"(\d{1,6})x(\d{1,6})", str(size))
    numbers = (
        [int(side) for side in exact.groups()]
        if exact
        else [int(size)]
        if re.fullmatch(r"\d{1,6}", str(size))
        else []
    )
    if not numbers or min(numbers) < 1 or max(numbers) > MAX_SIDE:
        raise InputError(
            f"size {str(size)[:40]!r}: expected the longest side in pixels, or WIDTHxHEIGHT, at "
            f"most {MAX_SIDE}"
        )
    if exact:
        return numbers[0], numbers[1]
    factor = numbers[0] / max(width, height)
    if not enlarge:
        factor = min(1.0, factor)
    return max(1, round(width * factor)), max(1, round(height * factor))


def multiple_of_16(width: int, height: int) -> tuple[int, int]:
    """The nearest size that the video model accepts, at least 16; halves are rounded to the even
    multiple (Python's ``round``).
    """
    return max(GRID, round(width / GRID) * GRID), max(GRID, round(height / GRID) * GRID)


def resize_photo(
    photo: UInt8[np.ndarray, "height width 3"], width: int, height: int
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """A photo resized by an antialiasing Lanczos filter in integer arithmetic: the same bytes on
    every machine.
    """
    from PIL import Image

    assert photo.dtype == np.uint8, f"photo is {photo.dtype}, expected uint8"
    if photo.shape[:2] == (height, width):
        return photo
    return np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS))


def resize_bilinear(
    images: Float[Tensor, "*batch height width channels"], width: int, height: int
) -> Float[Tensor, "*batch new_height new_width channels"]:
    """Images resized bilinearly without antialiasing, pixel centres at half-integers
    (``align_corners=False``), as in the video model's protocol.
    """
    if images.shape[-3:-1] == (height, width):
        return images
    planes = images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2)
    resized = F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(*images.shape[:-3], height, width, images.shape[-1])


def at_size(
    pixels: UInt8[np.ndarray, "rows columns *channels"], width: int, height: int
) -> UInt8[np.ndarray, "height width *channels"]:
    """8-bit pixels resized by ``resize_bilinear`` and rounded: renders and frames are brought from
    the model's size to the user's this way, once.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32)
    resized = resize_bilinear(planes.reshape(*pixels.shape[:2], -1), width, height)
    return resized.round().to(torch.uint8).numpy().reshape(height, width, *pixels.shape[2:])
