"""Square, tileable textures for procedural worlds: brick, wood, tiles, fabric, stone, leaves,
paintings and photographs.

In: a kind, three colours, a cell count and a seed. Out: display-encoded uint8 colours with all
their mip levels in one flat array, so that a ray can look up a surface at the size of its pixel. A
texture repeats without a seam (photographs are mirrored instead).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from artifixer.scenes.procedural.texture_patterns import KINDS, paint


@dataclass(frozen=True)
class Texture:
    """One texture to bake.

    kind: one of ``KINDS``.
    colours: main colour, second colour, colour of gaps and details; ``[3 3]`` in [0,1],
    display-encoded. cells: how many bricks, planks, stripes ... fit along one side of the tile.
    seed: of everything random in it.
    """

    kind: str
    colours: Float[np.ndarray, "3 3"]
    cells: int
    seed: int


def bake(texture: Texture, size: int) -> UInt8[np.ndarray, "texels 3"]:
    """All mip levels of a texture of ``size`` x ``size`` (a power of two), the finest first, each
    row by row.
    """
    colours = np.ascontiguousarray(texture.colours, dtype=np.float64)
    return _with_mip_levels(
        paint(KINDS.index(texture.kind), colours, texture.cells, texture.seed, size)
    )


def bake_photograph(
    photo: UInt8[np.ndarray, "height width 3"], size: int
) -> UInt8[np.ndarray, "texels 3"]:
    """A texture whose first quarter shows the picture; the rest is mirrored, so that it repeats
    without a seam.
    """
    from PIL import Image

    quarter = (
        np.asarray(
            Image.fromarray(photo).resize((size // 2, size // 2), Image.Resampling.LANCZOS),
            dtype=np.float64,
        )
        / 255
    )
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    return _with_mip_levels(np.concatenate([half, half[::-1]], axis=0))


def _with_mip_levels(finest: Float[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, "texels 3"]:
    """Each level averages 2 x 2 texels of the one before, in linear light, down to one texel."""
    assert finest.shape[0] & (finest.shape[0] - 1) == 0, (
        f"a texture's size is a power of two, got {finest.shape[0]}"
    )
    linear = finest.astype(np.float32) ** 2
    levels: list[np.ndarray] = [linear]
    while levels[-1].shape[0] > 1:
        fine = levels[-1]
        levels.append(
            (fine[0::2, 0::2] + fine[1::2, 0::2] + fine[0::2, 1::2] + fine[1::2, 1::2]) / 4
        )
    return np.concatenate(
        [np.rint(np.sqrt(level) * 255).astype(np.uint8).reshape(-1, 3) for level in levels]
    )
