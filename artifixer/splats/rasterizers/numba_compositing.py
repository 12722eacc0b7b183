"""Numba kernels over tiles of pixels: which Gaussians touch which tile, blending front to back, and
its backward.

A tile's pixels lie in one flat buffer, so that the innermost loops run over contiguous memory and
turn into vector instructions; there are no branches in them. Both kernels walk the Gaussians front
to back; the backward knows the sums behind every Gaussian because it starts from the totals and
takes off what it passes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from artifixer.splats.rasterizers import constants
from artifixer.splats.rasterizers.numba_projection import (
    DEPTH,
    INVERSE_G2,
    OPACITY,
    P0,
    P1,
    P2,
    RED,
)

#: Side of a tile in pixels: one row of it fills one vector register of 8 floats.
TILE = 8
PIXELS = TILE * TILE

#: Finite numbers only, any order of sums: the inputs are checked before, and a kernel's order does
#: not depend on the threads.
FAST = {"reassoc", "contract", "nsz", "arcp", "nnan", "ninf"}

#: Gaussians between two checks of whether all pixels of a tile are finished; a power of two.
CHECK_EVERY = 8

ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
MAX_ALPHA = np.float32(constants.MAX_ALPHA)
MIN_ALPHA = np.float32(constants.MIN_ALPHA)
MIN_TRANSMITTANCE = np.float32(constants.MIN_TRANSMITTANCE)

#: exp is needed down to MIN_ALPHA, exp(-5.54); its argument is halved three times, moved to the
#: middle, and a polynomial does the rest.
EXP_LOWEST, EXP_SCALE, EXP_SHIFT, EXP_FACTOR = (
    np.float32(-5.6),
    np.float32(1 / 8),
    np.float32(0.35),
    np.float32(np.exp(-0.35)),
)
EXP_2, EXP_3, EXP_4, EXP_5, EXP_6, EXP_7 = (
    np.float32(1 / factorial) for factorial in (2, 6, 24, 120, 720, 5040)
)


_Shape = tuple[
    np.float32,
    np.float32,
    np.float32,
    np.float32,
    np.float32,
    np.float32,
    np.float32,
    np.float32,
    np.float32,
    np.float32,
]
_Response = tuple[
    np.float32,
    np.float32,
    np.float32,
    np.float32,
    np.float32,
    np.float32,
    np.float32,
    np.float32,
    np.float32,
]


class Pairs(NamedTuple):
    """Pairs of a feature row and a tile it touches, listed tile by tile: ``rows[offsets[t] :
    offsets[t + 1]]`` are tile t's rows, front to back. Row r's pairs are at places ``slots[first[r]
    : first[r + 1]]`` of that list."""

    rows: np.ndarray
    offsets: np.ndarray
    first: np.ndarray
    slots: np.ndarray


class Image(NamedTuple):
    """``color`` ``[height width 4]``: red, green, blue, z, weighted; ``transmittance`` ``[height
    width]``, both float32.
    """

    color: np.ndarray
    transmittance: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def pair_up(
    boxes: np.ndarray, front_to_back: np.ndarray, tiles_x: int, tiles_y: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Count and list the pairs of rows and tiles."""
    count = boxes.shape[0]
    first = np.zeros(count + 1, np.int64)
    offsets = np.zeros(tiles_x * tiles_y + 1, np.int64)
    for row in range(count):
        left, top, right, bottom = (
            boxes[row, 0] // TILE,
            boxes[row, 1] // TILE,
            boxes[row, 2] // TILE,
            boxes[row, 3] // TILE,
        )
        first[row + 1] = first[row] + (right - left + 1) * (bottom - top + 1)
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                offsets[y * tiles_x + x + 1] += 1
    for tile in range(tiles_x * tiles_y):
        offsets[tile + 1] += offsets[tile]
    next_slot = offsets[:-1].copy()
    rows = np.empty(first[count], np.int32)
    slots = np.empty(first[count], np.int32)
    for row in front_to_back:
        left, top, right, bottom = (
            boxes[row, 0] // TILE,
            boxes[row, 1] // TILE,
            boxes[row, 2] // TILE,
            boxes[row, 3] // TILE,
        )
        pair = first[row]
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                slot = next_slot[y * tiles_x + x]
                next_slot[y * tiles_x + x] = slot + 1
                rows[slot] = row
                slots[pair] = slot
                pair += 1
    return rows, offsets, first, slots


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def composite(
    start: int,
    stop: int,
    rays: np.ndarray,
    features: np.ndarray,
    boxes: np.ndarray,
    pairs: Pairs,
    image: Image,
    shown: np.ndarray,
) -> None:
    """Blend tiles ``start`` to ``stop`` into ``image``. ``shown``, zeros before, becomes 1 for
    pairs that contribute to a pixel: about a third does not, in the corners of boxes and behind
    opaque ones."""
    height, width = image.transmittance.shape
    tiles_x = (width + TILE - 1) // TILE
    buffer = np.zeros((10, PIXELS), np.float32)
    columns, dx, dy, dz, T, live = buffer[0], buffer[1], buffer[2], buffer[3], buffer[4], buffer[5]
    red, green, blue, depth = buffer[6], buffer[7], buffer[8], buffer[9]
    for tile in range(start, stop):
        left, top = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        _load_tile(left, top, rays, columns, dx, dy, dz, T, live)
        red[:] = ZERO
        green[:] = ZERO
        blue[:] = ZERO
        depth[:] = ZERO
        slot = pairs.offsets[tile]
        while slot < pairs.offsets[tile + 1]:
            if (slot & (CHECK_EVERY - 1)) == 0:
                alive = ZERO
                for p in range(PIXELS):
                    alive += live[p]
                if alive == ZERO:
                    break
            row = pairs.rows[slot]
            shape = _shape(features, row)
            opacity = features[row, OPACITY]
            c0, c1, c2, c3 = (
                features[row, RED],
                features[row, RED + 1],
                features[row, RED + 2],
                features[row, DEPTH],
            )
            middle, reach, first, end = _clip(boxes, row, left, top)
            total = ZERO
            for p in range(first, end):
                inside = abs(columns[p] - middle) <= reach
                _, _, _, _, _, _, _, alpha, alive_p = _respond(
                    shape, opacity, dx[p], dy[p], dz[p], T[p], live[p], inside
                )
                live[p] = alive_p
                weight = alpha * T[p]
                T[p] -= weight
                red[p] += weight * c0
                green[p] += weight * c1
                blue[p] += weight * c2
                depth[p] += weight * c3
                total += weight
            shown[slot] = total > ZERO
            slot += 1
        for y in range(min(TILE, height - top)):
            for x in range(min(TILE, width - left)):
                p = y * TILE + x
                image.transmittance[top + y, left + x] = T[p]
                color = image.color[top + y, left + x]
                color[0], color[1], color[2], color[3] = red[p], green[p], blue[p], depth[p]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def composite_backward(
    start: int,
    stop: int,
    rays: np.ndarray,
    features: np.ndarray,
    boxes: np.ndarray,
    pairs: Pairs,
    image: Image,
    shown: np.ndarray,
    gradient: Image,
    per_pair: np.ndarray,
) -> None:
    """Gradients of the feature rows from tiles ``start`` to ``stop``, one row of ``per_pair`` for
    each pair that is shown, in the order of ``pairs.rows``. ``gradient``: of the image's arrays."""
    height, width = image.transmittance.shape
    tiles_x = (width + TILE - 1) // TILE
    buffer = np.zeros((18, PIXELS), np.float32)
    columns, dx, dy, dz, T, live = buffer[0], buffer[1], buffer[2], buffer[3], buffer[4], buffer[5]
    red, green, blue, depth, behind = buffer[6], buffer[7], buffer[8], buffer[9], buffer[10]
    weights, opacity_bar, p0_bar, p1_bar, p2_bar, g_bar = (
        buffer[11],
        buffer[12],
        buffer[13],
        buffer[14],
        buffer[15],
        buffer[16],
    )
    for tile in range(start, stop):
        left, top = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        _load_tile(left, top, rays, columns, dx, dy, dz, T, live)
        for y in range(min(TILE, height - top)):
            for x in range(min(TILE, width - left)):
                p = y * TILE + x
                color, bar = image.color[top + y, left + x], gradient.color[top + y, left + x]
                red[p], green[p], blue[p], depth[p] = bar[0], bar[1], bar[2], bar[3]
                behind[p] = (
                    bar[0] * color[0] + bar[1] * color[1] + bar[2] * color[2] + bar[3] * color[3]
                )
                behind[p] += (
                    gradient.transmittance[top + y, left + x]
                    * image.transmittance[top + y, left + x]
                )
        for slot in range(pairs.offsets[tile], pairs.offsets[tile + 1]):
            if not shown[slot]:
                continue
            row = pairs.rows[slot]
            shape = _shape(features, row)
            opacity, inverse_g2 = features[row, OPACITY], features[row, INVERSE_G2]
            c0, c1, c2, c3 = (
                features[row, RED],
                features[row, RED + 1],
                features[row, RED + 2],
                features[row, DEPTH],
            )
            middle, reach, first, end = _clip(boxes, row, left, top)
            for p in range(first, end):
                inside = abs(columns[p] - middle) <= reach
                p0, p1, p2, inverse, q, falloff, unclamped, alpha, alive_p = _respond(
                    shape, opacity, dx[p], dy[p], dz[p], T[p], live[p], inside
                )
                live[p] = alive_p
                weight = alpha * T[p]
                value = c0 * red[p] + c1 * green[p] + c2 * blue[p] + c3 * depth[p]
                remaining = behind[p] - weight * value
                behind[p] = remaining
                alpha_bar = T[p] * value - remaining / (ONE - alpha)
                alpha_bar = alpha_bar if alpha > ZERO else ZERO
                alpha_bar = alpha_bar if unclamped < MAX_ALPHA else ZERO
                T[p] -= weight
                weights[p] = weight
                opacity_bar[p] = alpha_bar * falloff
                q_bar = -HALF * alpha * alpha_bar
                sideways = TWO * q_bar * inverse * (ONE - q * inverse_g2)
                p0_bar[p] = sideways * p0
                p1_bar[p] = sideways * p1
                p2_bar[p] = -TWO * q_bar * q * inverse * p2
                g_bar[p] = -q_bar * q * q
            out = per_pair[slot]
            a0, a1, a2, b0, b1, b2, d0, d1, d2 = (
                ZERO,
                ZERO,
                ZERO,
                ZERO,
                ZERO,
                ZERO,
                ZERO,
                ZERO,
                ZERO,
            )
            for p in range(first, end):
                a0 += p0_bar[p] * dx[p]
                a1 += p0_bar[p] * dy[p]
                a2 += p0_bar[p] * dz[p]
                b0 += p1_bar[p] * dx[p]
                b1 += p1_bar[p] * dy[p]
                b2 += p1_bar[p] * dz[p]
                d0 += p2_bar[p] * dx[p]
                d1 += p2_bar[p] * dy[p]
                d2 += p2_bar[p] * dz[p]
            e0, e1, f0, f1, f2, f3 = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
            for p in range(first, end):
                e0 += g_bar[p]
                e1 += opacity_bar[p]
                f0 += weights[p] * red[p]
                f1 += weights[p] * green[p]
                f2 += weights[p] * blue[p]
                f3 += weights[p] * depth[p]
            out[P0], out[P0 + 1], out[P0 + 2] = a0, a1, a2
            out[P1], out[P1 + 1], out[P1 + 2] = b0, b1, b2
            out[P2], out[P2 + 1], out[P2 + 2] = d0, d1, d2
            out[INVERSE_G2], out[OPACITY] = e0, e1
            out[RED], out[RED + 1], out[RED + 2], out[DEPTH] = f0, f1, f2, f3


@njit(cache=True, nogil=True, inline="always")
def _load_tile(
    left: int,
    top: int,
    rays: np.ndarray,
    columns: np.ndarray,
    dx: np.ndarray,
    dy: np.ndarray,
    dz: np.ndarray,
    T: np.ndarray,
    live: np.ndarray,
) -> None:
    """Rays of a tile; pixels beyond the border repeat the last one and are not live."""
    height, width = rays.shape[0], rays.shape[1]
    for y in range(TILE):
        for x in range(TILE):
            p = y * TILE + x
            ray = rays[min(top + y, height - 1), min(left + x, width - 1)]
            columns[p] = x
            dx[p], dy[p], dz[p] = ray[0], ray[1], ray[2]
            T[p] = ONE
            live[p] = ONE if left + x < width and top + y < height else ZERO


@njit(cache=True, nogil=True, inline="always")
def _shape(features: np.ndarray, row: int) -> _Shape:
    """The first ten features as scalars, which stay in registers."""
    f = features[row]
    return f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9]


@njit(cache=True, nogil=True, inline="always")
def _clip(
    boxes: np.ndarray, row: int, left: int, top: int
) -> tuple[np.float32, np.float32, np.uint64, np.uint64]:
    """A row's box within a tile: middle and half length of its columns, and the range of buffer
    indices of its rows.
    """
    middle = np.float32(boxes[row, 0] + boxes[row, 2]) * HALF - np.float32(left)
    reach = np.float32(boxes[row, 2] - boxes[row, 0]) * HALF
    first = np.uint64(max(boxes[row, 1] - top, 0) * TILE)
    end = np.uint64(min(boxes[row, 3] - top + 1, TILE) * TILE)
    return middle, reach, first, end


@njit(cache=True, nogil=True, inline="always", fastmath=FAST)
def _respond(
    shape: _Shape,
    opacity: np.float32,
    dx: np.float32,
    dy: np.float32,
    dz: np.float32,
    T: np.float32,
    live: np.float32,
    inside: bool,
) -> _Response:
    """A Gaussian's alpha at a pixel (0 where skipped), whether the pixel goes on, and what the
    backward needs on the way.
    """
    p0 = shape[0] * dx + shape[1] * dy + shape[2] * dz
    p1 = shape[3] * dx + shape[4] * dy + shape[5] * dz
    p2 = shape[6] * dx + shape[7] * dy + shape[8] * dz
    s = p0 * p0 + p1 * p1
    inverse = ONE / (s * shape[9] + p2 * p2)
    q = s * inverse
    falloff = _exp(-HALF * q)
    unclamped = opacity * falloff
    alpha = min(unclamped, MAX_ALPHA)
    alpha = alpha if (alpha >= MIN_ALPHA) & inside else ZERO
    alpha = alpha * live
    stops = T * (ONE - alpha) <= MIN_TRANSMITTANCE
    alpha = ZERO if stops else alpha
    live = ZERO if stops else live
    return p0, p1, p2, inverse, q, falloff, unclamped, alpha, live


@njit(cache=True, nogil=True, inline="always", fastmath=FAST)
def _exp(x: np.float32) -> np.float32:
    """exp for x <= 0, right to float32 rounding above EXP_LOWEST and too large below, where it is
    not used.
    """
    y = max(x, EXP_LOWEST) * EXP_SCALE + EXP_SHIFT
    e = EXP_7
    e = e * y + EXP_6
    e = e * y + EXP_5
    e = e * y + EXP_4
    e = e * y + EXP_3
    e = e * y + EXP_2
    e = e * y + ONE
    e = e * y + ONE
    e *= EXP_FACTOR
    e *= e
    e *= e
    return e * e
