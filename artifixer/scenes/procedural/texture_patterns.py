"""What the textures of procedural worlds show: noise, and a pattern for each kind of surface, in
Numba.

In: a position on the tile in [0,1], a cell count and a seed. Out: how much of each colour is there.
Patterns repeat without a seam.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

#: What a texture can show; the position is the number that ``paint`` branches on.
KINDS = (
    "plaster",
    "clouds",
    "planks",
    "grain",
    "bricks",
    "tiles",
    "checker",
    "stripes",
    "marble",
    "fabric",
    "terrazzo",
    "grass",
    "leaves",
    "pebbles",
    "shingles",
    "painting",
    "rug",
    "concrete",
    "ornament",
    "gradient",
)

(
    PLASTER,
    CLOUDS,
    PLANKS,
    GRAIN,
    BRICKS,
    TILES,
    CHECKER,
    STRIPES,
    MARBLE,
    FABRIC,
    TERRAZZO,
    GRASS,
    LEAVES,
    PEBBLES,
    SHINGLES,
    PAINTING,
    RUG,
    CONCRETE,
    ORNAMENT,
    GRADIENT,
) = range(len(KINDS))


# Noise --------------------------------------------------------------------------------------------


# Coordinates run from 0 to 1 over the tile; a lattice of ``period`` cells wraps around.


# Signatures: numba otherwise compiles ``_octaves`` 20 times, for each set of constants it is called
# with.


@njit("float64(int64, int64, int64)", cache=True)
def _random(ix: int, iy: int, seed: int) -> float:
    """A number in [0,1) for each lattice point: an integer hash (multiply, shift, xor)."""
    h = (ix * 0x27D4EB2D + iy * 0x165667B1 + seed * 0x9E3779B1) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    h = ((h ^ (h >> 12)) * 0x297A2D39) & 0xFFFFFFFF
    return ((h ^ (h >> 15)) & 0xFFFFFF) / 16777216.0


@njit("float64(float64, float64, int64, int64, int64)", cache=True)
def _noise(x: float, y: float, period_x: int, period_y: int, seed: int) -> float:
    """Value noise in [0,1] of a lattice of ``period_x`` x ``period_y`` cells."""
    x *= period_x
    y *= period_y
    ix, iy = math.floor(x), math.floor(y)
    u, v = x - ix, y - iy
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    x0, y0 = int(ix) % period_x, int(iy) % period_y
    x1, y1 = (x0 + 1) % period_x, (y0 + 1) % period_y
    top = (1 - u) * _random(x0, y0, seed) + u * _random(x1, y0, seed)
    bottom = (1 - u) * _random(x0, y1, seed) + u * _random(x1, y1, seed)
    return (1 - v) * top + v * bottom


@njit("float64(float64, float64, int64, int64, int64, int64)", cache=True)
def _octaves(x: float, y: float, period_x: int, period_y: int, count: int, seed: int) -> float:
    """Noise of several octaves, each half as large and 0.55 as strong as the one before; mean
    0.5.
    """
    total, weights, weight = 0.0, 0.0, 1.0
    for octave in range(count):
        total += weight * _noise(x, y, period_x << octave, period_y << octave, seed + octave)
        weights += weight
        weight *= 0.55
    return total / weights


@njit(cache=True)
def _nearest_cell(x: float, y: float, period: int, seed: int) -> tuple[float, float, float]:
    """Cells around scattered points: distance to the nearest point, how much farther the second is,
    a number in [0,1) per cell.
    """
    x *= period
    y *= period
    ix, iy = math.floor(x), math.floor(y)
    first, second, owner = 9.0, 9.0, 0.0
    for cy in range(iy - 1, iy + 2):
        for cx in range(ix - 1, ix + 2):
            wx, wy = cx % period, cy % period
            dx = cx + _random(wx, wy, seed) - x
            dy = cy + _random(wx, wy, seed + 1) - y
            distance = math.sqrt(dx * dx + dy * dy)
            if distance < first:
                first, second, owner = distance, first, _random(wx, wy, seed + 2)
            elif distance < second:
                second = distance
    return first, second - first, owner


@njit(cache=True)
def _step(low: float, high: float, x: float) -> float:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


# Patterns -----------------------------------------------------------------------------------------


#: Mix of colours 0 and 1, mix with the gap colour, brightness factor.
_Pattern = tuple[float, float, float]


@njit(cache=True)
def _planks(x: float, y: float, cells: int, seed: int) -> _Pattern:
    row = math.floor(y * cells)
    across = y * cells - row
    shifted = x * 2 + _random(int(row), 1, seed) * 2
    board = math.floor(shifted) % 2
    along = shifted - math.floor(shifted)
    number = int(row) * 2 + board
    wobble = 0.06 * _octaves(x, y, 3, cells, 2, seed + 5)
    grain = _octaves(x + 0.37 * number, y + wobble, 3, cells * 6, 3, seed + number)
    gap = 1 - _step(0.0, 0.06, min(across, 1 - across)) * _step(0.0, 0.012, min(along, 1 - along))
    return (
        min(max(0.6 * _random(number, 2, seed) + 0.9 * (grain - 0.3), 0.0), 1.0),
        0.85 * gap,
        0.85 + 0.3 * grain,
    )


@njit(cache=True)
def _grain(x: float, y: float, cells: int, seed: int) -> _Pattern:
    wobble = 0.12 * _octaves(x, y, 2, 2, 3, seed)
    rings = 0.5 + 0.5 * math.sin(2 * math.pi * cells * (y + wobble))
    fine = _octaves(x, y + wobble, 4, 48, 3, seed + 9)
    return min(max(0.55 * rings + 0.8 * (fine - 0.3), 0.0), 1.0), 0.0, 0.9 + 0.2 * fine


@njit(cache=True)
def _bricks(x: float, y: float, cells: int, seed: int) -> _Pattern:
    rows = 2 * cells
    row = math.floor(y * rows)
    shifted = x * cells + 0.5 * (int(row) % 2)
    column = math.floor(shifted)
    down, along = y * rows - row, shifted - column
    own = _random(int(column) % cells, int(row), seed)
    rough = _octaves(x, y, 8 * cells, 8 * cells, 3, seed + 7)
    edge = min(min(down, 1 - down), 2 * min(along, 1 - along)) + 0.10 * (rough - 0.5)
    mortar = 1 - _step(0.07, 0.12, edge)
    return (
        min(max(0.75 * own + 0.5 * (rough - 0.4), 0.0), 1.0),
        mortar,
        0.78 + 0.25 * rough + 0.2 * own,
    )


@njit(cache=True)
def _tiles(x: float, y: float, cells: int, seed: int) -> _Pattern:
    column, row = math.floor(x * cells), math.floor(y * cells)
    u, v = x * cells - column, y * cells - row
    own = _random(int(column), int(row), seed)
    cloudy = _octaves(x, y, 2 * cells, 2 * cells, 4, seed + 3)
    gap = 1 - _step(0.02, 0.04, min(min(u, 1 - u), min(v, 1 - v)))
    return (
        min(max(0.35 * own + 0.8 * (cloudy - 0.25), 0.0), 1.0),
        0.9 * gap,
        0.9 + 0.12 * own + 0.1 * cloudy,
    )


@njit(cache=True)
def _checker(x: float, y: float, cells: int, seed: int) -> _Pattern:
    column, row = math.floor(x * cells), math.floor(y * cells)
    u, v = x * cells - column, y * cells - row
    cloudy = _octaves(x, y, 2 * cells, 2 * cells, 4, seed)
    odd = (int(column) + int(row)) % 2
    gap = 1 - _step(0.01, 0.025, min(min(u, 1 - u), min(v, 1 - v)))
    return 0.85 * odd + 0.15 * cloudy, 0.5 * gap, 0.85 + 0.3 * cloudy


@njit(cache=True)
def _stripes(x: float, y: float, cells: int, seed: int) -> _Pattern:
    position = x * cells
    band = math.floor(position)
    across = position - band
    width = 0.3 + 0.4 * _random(band % 3, 3, seed)
    inside = _step(0.0, 0.04, across) * (1 - _step(width, width + 0.04, across))
    thread = 0.5 + 0.5 * math.sin(2 * math.pi * 60 * y)
    thin = 1 - _step(0.02, 0.05, abs(across - 0.5 * (1 + width)))
    rough = _octaves(x, y, 8, 8, 4, seed + 4)
    return inside, 0.6 * thin, 0.88 + 0.06 * thread + 0.14 * rough


@njit(cache=True)
def _marble(x: float, y: float, cells: int, seed: int) -> _Pattern:
    warp = _octaves(x, y, cells, cells, 4, seed)
    vein = abs(2 * _octaves(x + 0.25 * warp, y + 0.15 * warp, cells, cells, 4, seed + 11) - 1)
    cloud = _octaves(x, y, 2, 2, 4, seed + 21)
    return _step(0.25, 0.75, cloud), 0.75 * (1 - _step(0.0, 0.10, vein)), 0.92 + 0.14 * warp


@njit(cache=True)
def _fabric(x: float, y: float, cells: int, seed: int) -> _Pattern:
    weave = math.sin(2 * math.pi * 64 * x) * math.sin(2 * math.pi * 64 * y)
    column = _random(math.floor(x * cells) % cells, 5, seed)
    row = _random(math.floor(y * cells) % cells, 6, seed)
    rough = _octaves(x, y, 6, 6, 4, seed + 2)
    line = 0.0
    if column > 0.72 and row > 0.72:
        line = 0.6
    elif column > 0.72 or row > 0.72:
        line = 0.3
    return 0.5 * (column + row), line, 0.84 + 0.10 * weave + 0.22 * rough


@njit(cache=True)
def _terrazzo(x: float, y: float, cells: int, seed: int) -> _Pattern:
    distance, margin, own = _nearest_cell(x, y, 3 * cells, seed)
    fine = _noise(x, y, 48, 48, seed + 8)
    chip = _step(0.10, 0.16, margin) * (1 - _step(0.3, 0.5, distance))
    return min(own * chip * 1.3, 1.0), 0.7 * chip * _step(0.7, 0.72, own), 0.86 + 0.2 * fine


@njit(cache=True)
def _grass(x: float, y: float, cells: int, seed: int) -> _Pattern:
    patch = _octaves(x, y, 2 * cells, 2 * cells, 4, seed)
    blades = _octaves(x + 0.03 * patch, y, 56, 24, 2, seed + 5)
    cross = _octaves(x, y + 0.03 * patch, 28, 50, 2, seed + 15)
    blade = max(blades, cross)
    return _step(0.3, 0.75, patch), 0.55 * (1 - _step(0.35, 0.55, blade)), 0.35 + 1.1 * blade


@njit(cache=True)
def _leaves(x: float, y: float, cells: int, seed: int) -> _Pattern:
    distance, margin, own = _nearest_cell(x, y, 6 * cells, seed)
    _, _, below = _nearest_cell(x + 0.013, y + 0.021, 4 * cells, seed + 3)
    light = _octaves(x, y, 3, 3, 3, seed + 6)
    gap = (1 - _step(0.02, 0.14, margin)) * _step(0.25, 0.5, distance)
    return (
        0.6 * own + 0.4 * light,
        min(0.9 * gap + 0.5 * (below > 0.72), 1.0),
        0.55 + 0.65 * own + 0.35 * (light - 0.5),
    )


@njit(cache=True)
def _pebbles(x: float, y: float, cells: int, seed: int) -> _Pattern:
    distance, margin, own = _nearest_cell(x, y, 3 * cells, seed)
    fine = _octaves(x, y, 24, 24, 3, seed + 4)
    gap = 1 - _step(0.03, 0.16, margin)
    return (
        min(max(0.8 * own + 0.5 * (fine - 0.4), 0.0), 1.0),
        0.9 * gap,
        (1.1 - 0.45 * distance) * (0.8 + 0.4 * fine),
    )


@njit(cache=True)
def _shingles(x: float, y: float, cells: int, seed: int) -> _Pattern:
    rows = 2 * cells
    row = math.floor(y * rows)
    shifted = x * cells * 2 + 0.5 * (int(row) % 2)
    column = math.floor(shifted)
    down, along = y * rows - row, shifted - column
    own = _random(int(column) % (2 * cells), int(row), seed)
    rough = _octaves(x, y, 8 * cells, 4 * cells, 3, seed + 2)
    gap = 1 - _step(0.02, 0.07, min(along, 1 - along))
    shade = 0.62 + 0.5 * _step(0.0, 0.9, 1 - down)
    return (
        min(max(0.7 * own + 0.5 * (rough - 0.35), 0.0), 1.0),
        max(0.7 * gap, 1 - _step(0.0, 0.10, down)),
        shade * (0.8 + 0.4 * rough),
    )


@njit(cache=True)
def _painting(x: float, y: float, cells: int, seed: int) -> _Pattern:
    """A landscape or an abstraction: horizon, hills, a few blots and brush strokes."""
    strokes = _octaves(x, y, 10, 30, 3, seed)
    hills = 0.35 + 0.4 * _octaves(x, 0.5, 3, 1, 4, seed + 4)
    below = _step(hills - 0.01, hills + 0.01, y)
    blot, _, own = _nearest_cell(x, y, cells, seed + 9)
    figure = (1 - _step(0.22, 0.26, blot)) * _step(0.45, 0.46, own)
    cloud = _octaves(x, y, 3, 5, 4, seed + 14)
    return (
        min(max(below * 0.9 + 0.5 * (cloud - 0.5), 0.0), 1.0),
        0.9 * figure,
        0.7 + 0.6 * strokes * (0.6 + 0.4 * cloud),
    )


@njit(cache=True)
def _rug(x: float, y: float, cells: int, seed: int) -> _Pattern:
    """Borders along the edge, and a figure mirrored about both axes inside."""
    edge = min(min(x, 1 - x), min(y, 1 - y))
    u, v = abs(x - 0.5), abs(y - 0.5)
    figure = math.sin(2 * math.pi * cells * (u + v)) * math.cos(
        2 * math.pi * cells * (u - v) * (1 + 2 * _random(1, 1, seed))
    )
    medallion = 1 - _step(0.30, 0.32, math.sqrt(1.5 * u * u + v * v) + 0.02 * figure)
    rough = _octaves(x, y, 40, 40, 2, seed)
    mix = 0.9 * _step(-0.1, 0.1, figure - 0.3 + 0.6 * medallion)
    border = 0.0
    if 0.03 < edge < 0.05 or 0.11 < edge < 0.125:
        border = 0.95
    elif edge < 0.11:
        mix = 1.0 - mix
    return mix, max(border, 0.55 * _step(0.55, 0.6, figure * medallion)), 0.8 + 0.35 * rough


@njit(cache=True)
def _concrete(x: float, y: float, cells: int, seed: int) -> _Pattern:
    stain = _octaves(x, y, 2, 3, 5, seed)
    fine = _octaves(x, y, 32, 32, 2, seed + 7)
    crack = abs(2 * _octaves(x, y, cells, cells, 4, seed + 13) - 1)
    return (
        _step(0.3, 0.75, stain),
        0.5 * (1 - _step(0.0, 0.012, crack)),
        0.82 + 0.2 * fine + 0.15 * (stain - 0.5),
    )


@njit(cache=True)
def _ornament(x: float, y: float, cells: int, seed: int) -> _Pattern:
    """Wallpaper: one figure per cell, mirrored left and right, every second row shifted."""
    row = math.floor(y * cells)
    shifted = x * cells + 0.5 * (int(row) % 2)
    u, v = abs(shifted - math.floor(shifted) - 0.5), y * cells - row - 0.5
    angle, radius = math.atan2(v, u + 1e-9), math.sqrt(u * u + v * v)
    petals = 0.22 + 0.14 * math.cos(
        (3 + 2 * int(3 * _random(1, 2, seed))) * angle + 6.28 * _random(2, 2, seed)
    )
    figure = 1 - _step(petals - 0.02, petals + 0.02, radius)
    ring = 1 - _step(0.0, 0.03, abs(radius - 0.40))
    rough = _octaves(x, y, 8, 8, 4, seed + 3)
    return 0.8 * figure, 0.6 * max(ring, figure * (radius < 0.09)), 0.9 + 0.2 * rough


@njit(cache=True)
def paint(kind: int, colours: np.ndarray, cells: int, seed: int, size: int) -> np.ndarray:
    """The finest level, ``[size size 3]`` in [0,1]."""
    image = np.empty((size, size, 3))
    for row in range(size):
        for column in range(size):
            x, y = (column + 0.5) / size, (row + 0.5) / size
            mix, gap, brightness = 0.0, 0.0, 1.0
            if kind == PLASTER:
                fine = _octaves(x, y, 24, 24, 3, seed)
                mix, brightness = _octaves(x, y, 2, 2, 4, seed + 9), 0.93 + 0.14 * fine
            elif kind == CLOUDS:
                mix, brightness = _step(0.25, 0.75, _octaves(x, y, cells, cells, 6, seed)), 1.0
            elif kind == PLANKS:
                mix, gap, brightness = _planks(x, y, cells, seed)
            elif kind == GRAIN:
                mix, gap, brightness = _grain(x, y, cells, seed)
            elif kind == BRICKS:
                mix, gap, brightness = _bricks(x, y, cells, seed)
            elif kind == TILES:
                mix, gap, brightness = _tiles(x, y, cells, seed)
            elif kind == CHECKER:
                mix, gap, brightness = _checker(x, y, cells, seed)
            elif kind == STRIPES:
                mix, gap, brightness = _stripes(x, y, cells, seed)
            elif kind == MARBLE:
                mix, gap, brightness = _marble(x, y, cells, seed)
            elif kind == FABRIC:
                mix, gap, brightness = _fabric(x, y, cells, seed)
            elif kind == TERRAZZO:
                mix, gap, brightness = _terrazzo(x, y, cells, seed)
            elif kind == GRASS:
                mix, gap, brightness = _grass(x, y, cells, seed)
            elif kind == LEAVES:
                mix, gap, brightness = _leaves(x, y, cells, seed)
            elif kind == PEBBLES:
                mix, gap, brightness = _pebbles(x, y, cells, seed)
            elif kind == SHINGLES:
                mix, gap, brightness = _shingles(x, y, cells, seed)
            elif kind == PAINTING:
                mix, gap, brightness = _painting(x, y, cells, seed)
            elif kind == RUG:
                mix, gap, brightness = _rug(x, y, cells, seed)
            elif kind == CONCRETE:
                mix, gap, brightness = _concrete(x, y, cells, seed)
            elif kind == ORNAMENT:
                mix, gap, brightness = _ornament(x, y, cells, seed)
            elif kind == GRADIENT:
                mix, brightness = y, 0.95 + 0.1 * _octaves(x, y, 6, 6, 4, seed)
            for channel in range(3):
                colour = (1 - mix) * colours[0, channel] + mix * colours[1, channel]
                colour = ((1 - gap) * colour + gap * colours[2, channel]) * brightness
                image[row, column, channel] = min(max(colour, 0.0), 1.0)
    return image
