"""Rays through a procedural world, in Numba: nearest hits, blocked sight lines, shaded colours,
baked indirect light.

In: plain arrays in three named tuples (``Solids``, ``Textures``, ``Light``). Out: distances along
rays, flags, and linear radiance. A solid is a unit shape under an affine map: a ray is carried into
the shape's own frame, where distances along it stay the same. A tree of bounding boxes, walked
without a stack, keeps the number of tests per ray small.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numba import njit

#: Unit shapes: |x|,|y|,|z| <= 1; unit ball; radius 1 and |z| <= 1; apex at z = 1 over a unit disc
#: at z = -1; gable roof along y.
BOX, BALL, CYLINDER, CONE, GABLE = range(5)

#: A hit closer than this to the ray's start belongs to the surface the ray starts from. World units
#: (metres).
NEAREST_HIT = 1e-4
#: Sight lines may end this far before their target without being blocked by the target's own
#: surface. World units (metres).
SIGHT_SLACK = 2e-3
#: What a ray that leaves the world returns as its distance.
FAR = 1e9

_FACE_CURVED, _FACE_SLOPE = 3, 4
_AXES = 6
#: Two rays of a pixel whose summed linear difference stays below this are taken for the whole
#: pixel.
_ALIKE = 0.05
_Vector = tuple[float, float, float]

_FAST = {"reassoc", "contract", "nsz", "arcp", "afn"}


class Solids(NamedTuple):
    """The shapes, and the tree over them in depth-first order.

    kind: BOX ... GABLE. to_local: world to the unit shape's frame. half: half sizes in metres.
    texture: index into ``Textures``. tiling: tiles per metre across and down. offset: added to the
    position in the solid's frame before tiling, metres. turned: 1 when the texture is rotated by 90
    degrees. tint: factor on the colour, linear. glow: emitted radiance. node_box: minimum and
    maximum corner. node_skip: where to go on when the box is missed. node_solid: solid of a leaf,
    or -1.
    """

    kind: Int[np.ndarray, " solids"]
    to_local: Float[np.ndarray, "solids 3 4"]
    half: Float[np.ndarray, "solids 3"]
    texture: Int[np.ndarray, " solids"]
    tiling: Float[np.ndarray, "solids 2"]
    offset: Float[np.ndarray, "solids 3"]
    turned: Int[np.ndarray, " solids"]
    tint: Float[np.ndarray, "solids 3"]
    glow: Float[np.ndarray, " solids"]
    node_box: Float[np.ndarray, "nodes 6"]
    node_skip: Int[np.ndarray, " nodes"]
    node_solid: Int[np.ndarray, " nodes"]


class Textures(NamedTuple):
    """texels: all mip levels of each texture, the finest first. size: side of the finest level."""

    texels: UInt8[np.ndarray, "textures texels 3"]
    size: int


class Light(NamedTuple):
    """Sun, lamps, sky, and the indirect light on a grid of probes.

    sun_direction: towards the sun, unit. sun_colour: radiance of a white surface facing it.
    sun_spread: softness of its shadows. lamps: position, colour (radiance of a white surface at 1
    m), radius for soft shadows.
    horizon, zenith, ground: radiance of the sky at two heights, and of what lies below the horizon.
    clouds: texture, or -1. grid_origin, grid_step: first probe and distance between probes. grid:
    radiance of a white surface facing +x -x +y -y +z -z. grid_free: 1 where a probe is outside all
    solids, else 0.
    """

    sun_direction: Float[np.ndarray, " 3"]
    sun_colour: Float[np.ndarray, " 3"]
    sun_spread: float
    lamps: Float[np.ndarray, "lamps 7"]
    horizon: Float[np.ndarray, " 3"]
    zenith: Float[np.ndarray, " 3"]
    ground: Float[np.ndarray, " 3"]
    clouds: int
    grid_origin: Float[np.ndarray, " 3"]
    grid_step: float
    grid: Float[np.ndarray, "nx ny nz 6 3"]
    grid_free: Float[np.ndarray, "nx ny nz"]


# Public kernels.


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def nearest_hits(
    solids: Solids, origins: Float[np.ndarray, "rays 3"], directions: Float[np.ndarray, "rays 3"]
) -> tuple[Float[np.ndarray, " rays"], Int[np.ndarray, " rays"]]:
    """Distance (in lengths of the direction) and solid of the first surface on each ray; ``FAR``
    and -1 when there is none.
    """
    distances = np.empty(len(origins))
    hit_solids = np.empty(len(origins), np.int64)
    for ray in range(len(origins)):
        origin = (origins[ray, 0], origins[ray, 1], origins[ray, 2])
        direction = (directions[ray, 0], directions[ray, 1], directions[ray, 2])
        distances[ray], hit_solids[ray], _ = _trace(solids, origin, direction, FAR)
    return distances, hit_solids


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def in_sight(
    solids: Solids, eye: Float[np.ndarray, " 3"], points: Float[np.ndarray, "points 3"]
) -> Bool[np.ndarray, " points"]:
    """True where nothing lies between the eye and the point. The point's own surface blocks it only
    from behind.
    """
    result = np.empty(len(points), np.bool_)
    origin = (eye[0], eye[1], eye[2])
    for i in range(len(points)):
        dx, dy, dz = points[i, 0] - eye[0], points[i, 1] - eye[1], points[i, 2] - eye[2]
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        direction = (dx / length, dy / length, dz / length)
        result[i] = not _is_blocked(solids, origin, direction, length - SIGHT_SLACK)
    return result


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def radiance_image(
    solids: Solids,
    textures: Textures,
    light: Light,
    eye: Float[np.ndarray, " 3"],
    directions: Float[np.ndarray, "rows columns 3"],
    samples: int,
    white: float,
) -> Float[np.ndarray, "height width 3"]:
    """Tone-mapped linear colours in [0,1), averaged over blocks of up to ``samples`` x ``samples``
    rays.

    directions are unit vectors, ``samples`` times finer than the image along both axes. ``white``
    is the radiance that is shown at half of the range. Every ray of a block uses its own point of
    each light, which softens the edges of shadows.
    """
    height, width = directions.shape[0] // samples, directions.shape[1] // samples
    image = np.zeros((height, width, 3))
    origin = (eye[0], eye[1], eye[2])
    middle_row, middle_column = directions.shape[0] // 2, directions.shape[1] // 2
    spread = 0.0
    for axis in range(3):
        neighbour = directions[middle_row, min(middle_column + 1, directions.shape[1] - 1), axis]
        spread += (neighbour - directions[middle_row, middle_column, axis]) ** 2
    spread = math.sqrt(spread)
    for row in range(height):
        for column in range(width):
            last = samples * samples - 1
            total = (0.0, 0.0, 0.0)
            taken = 0
            # Two opposite rays first; the others only where these differ: at edges, in fine
            # texture, in half shadow.
            for turn in range(last + 1):
                sample = turn if turn == 0 else (last if turn == 1 else turn - 1)
                d = directions[
                    row * samples + sample // samples, column * samples + sample % samples
                ]
                r, g, b = _radiance(
                    solids, textures, light, origin, (d[0], d[1], d[2]), spread, sample
                )
                r, g, b = r / (r + white), g / (g + white), b / (b + white)
                alike = (
                    turn == 1 and abs(r - total[0]) + abs(g - total[1]) + abs(b - total[2]) < _ALIKE
                )
                total = (total[0] + r, total[1] + g, total[2] + b)
                taken += 1
                if alike:
                    break
            for channel in range(3):
                image[row, column, channel] = total[channel] / taken
    return image


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def bake_grid(
    solids: Solids, textures: Textures, light: Light, directions: Float[np.ndarray, "directions 3"]
) -> Float[np.ndarray, "nx ny nz 6 3"]:
    """What ``light.grid`` becomes after one more bounce: every free probe looks in all directions
    and weighs what it sees by cosine.
    """
    nx, ny, nz = light.grid_free.shape
    grid = np.zeros((nx, ny, nz, _AXES, 3), np.float32)
    weights = np.zeros(_AXES)
    for k in range(len(directions)):
        for axis in range(3):
            weights[2 * axis] += max(directions[k, axis], 0.0)
            weights[2 * axis + 1] += max(-directions[k, axis], 0.0)
    for ix in range(nx):
        for iy in range(ny):
            for iz in range(nz):
                if light.grid_free[ix, iy, iz] == 0:
                    continue
                origin = (
                    light.grid_origin[0] + ix * light.grid_step,
                    light.grid_origin[1] + iy * light.grid_step,
                    light.grid_origin[2] + iz * light.grid_step,
                )
                for k in range(len(directions)):
                    d = (directions[k, 0], directions[k, 1], directions[k, 2])
                    seen = _radiance(solids, textures, light, origin, d, 0.3, 0)
                    for axis in range(3):
                        side = 2 * axis if d[axis] > 0 else 2 * axis + 1
                        share = abs(d[axis]) / weights[side]
                        for channel in range(3):
                            grid[ix, iy, iz, side, channel] += share * seen[channel]
    return grid


# Hits.


@njit(cache=True, inline="always")
def _hits_box(box: np.ndarray, origin: _Vector, inverse: _Vector, limit: float) -> bool:
    """Whether the ray enters a box of the tree before ``limit``."""
    near, far = 0.0, limit
    for axis in range(3):
        a = (box[axis] - origin[axis]) * inverse[axis]
        b = (box[axis + 3] - origin[axis]) * inverse[axis]
        near = max(near, min(a, b))
        far = min(far, max(a, b))
    return near <= far


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _slab(origin: _Vector, direction: _Vector) -> tuple[float, float, int]:
    """Where a ray enters the unit cube, where it leaves it, and the axis it enters along."""
    near, far, entered = -FAR, FAR, 0
    for axis in range(3):
        inverse = 1.0 / direction[axis] if abs(direction[axis]) > 1e-12 else 1e12
        a, b = (-1.0 - origin[axis]) * inverse, (1.0 - origin[axis]) * inverse
        if a > b:
            a, b = b, a
        if a > near:
            near, entered = a, axis
        far = min(far, b)
    return near, far, entered


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _enter(kind: int, origin: _Vector, direction: _Vector) -> tuple[float, int]:
    """Distance at which a ray from outside enters a unit shape (``FAR`` if never), and the face: an
    axis, curved, or slope.
    """
    ox, oy, oz = origin
    dx, dy, dz = direction
    if kind == BOX:
        near, far, entered = _slab(origin, direction)
        return (near, entered) if near < far and near > NEAREST_HIT else (FAR, 0)
    if kind == BALL:
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        root = b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)
        if root <= 0:
            return FAR, 0
        t = (-b - math.sqrt(root)) / a
        return (t, _FACE_CURVED) if t > NEAREST_HIT else (FAR, 0)
    best, face = FAR, 0
    if kind == GABLE:
        # The intersection of the cube with the two slopes |x| <= (1 - z) / 2.
        near, far, entered = _slab(origin, direction)
        face = entered
        for side in range(2):
            sign = 1.0 - 2.0 * side
            outside = sign * ox + 0.5 * oz - 0.5
            rate = sign * dx + 0.5 * dz
            if abs(rate) < 1e-12:
                if outside > 0:
                    return FAR, 0
                continue
            t = -outside / rate
            if rate < 0:
                if t > near:
                    near, face = t, _FACE_SLOPE + side
            else:
                far = min(far, t)
        return (near, face) if near < far and near > NEAREST_HIT else (FAR, 0)
    if kind == CYLINDER:
        a = dx * dx + dy * dy
        b = ox * dx + oy * dy
        c = ox * ox + oy * oy - 1.0
    else:
        # Cone: x^2 + y^2 = ((1 - z) / 2)^2.
        a = dx * dx + dy * dy - 0.25 * dz * dz
        b = ox * dx + oy * dy + 0.25 * (1.0 - oz) * dz
        c = ox * ox + oy * oy - 0.25 * (1.0 - oz) * (1.0 - oz)
    root = b * b - a * c
    if root > 0 and abs(a) > 1e-14:
        step = math.sqrt(root)
        for side in range(2):
            t = (-b - step) / a if side == 0 else (-b + step) / a
            z = oz + t * dz
            # Entering means coming from outside: the quadratic falls along the ray.
            if NEAREST_HIT < t < best and -1.0 < z < 1.0 and a * t + b < 0:
                best, face = t, _FACE_CURVED
    for side in range(2):
        cap = 1.0 - 2.0 * side
        if cap * dz < 0 and (kind == CYLINDER or side == 1):
            t = (cap - oz) / dz
            x, y = ox + t * dx, oy + t * dy
            if NEAREST_HIT < t < best and x * x + y * y < 1.0:
                best, face = t, 2
    return best, face


@njit(cache=True, inline="always")
def _carried(to_local: np.ndarray, origin: _Vector, direction: _Vector) -> tuple[_Vector, _Vector]:
    """The ray in a solid's frame."""
    return (
        (
            to_local[0, 0] * origin[0]
            + to_local[0, 1] * origin[1]
            + to_local[0, 2] * origin[2]
            + to_local[0, 3],
            to_local[1, 0] * origin[0]
            + to_local[1, 1] * origin[1]
            + to_local[1, 2] * origin[2]
            + to_local[1, 3],
            to_local[2, 0] * origin[0]
            + to_local[2, 1] * origin[1]
            + to_local[2, 2] * origin[2]
            + to_local[2, 3],
        ),
        (
            to_local[0, 0] * direction[0]
            + to_local[0, 1] * direction[1]
            + to_local[0, 2] * direction[2],
            to_local[1, 0] * direction[0]
            + to_local[1, 1] * direction[1]
            + to_local[1, 2] * direction[2],
            to_local[2, 0] * direction[0]
            + to_local[2, 1] * direction[1]
            + to_local[2, 2] * direction[2],
        ),
    )


@njit(cache=True, inline="always")
def _inverse(direction: _Vector) -> _Vector:
    """1 / direction with a large number in place of infinity."""
    return (
        1.0 / direction[0] if abs(direction[0]) > 1e-12 else 1e12,
        1.0 / direction[1] if abs(direction[1]) > 1e-12 else 1e12,
        1.0 / direction[2] if abs(direction[2]) > 1e-12 else 1e12,
    )


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _trace(
    solids: Solids, origin: _Vector, direction: _Vector, limit: float
) -> tuple[float, int, int]:
    """Distance, solid and face of the nearest hit before ``limit``; (FAR, -1, 0) when there is
    none.
    """
    inverse = _inverse(direction)
    best, found, found_face = limit, -1, 0
    node = 0
    while node < len(solids.node_skip):
        if not _hits_box(solids.node_box[node], origin, inverse, best):
            node = solids.node_skip[node]
            continue
        solid = solids.node_solid[node]
        if solid >= 0:
            local_origin, local_direction = _carried(solids.to_local[solid], origin, direction)
            t, face = _enter(solids.kind[solid], local_origin, local_direction)
            if t < best:
                best, found, found_face = t, solid, face
        node += 1
    if found < 0:
        return FAR, -1, 0
    return best, found, found_face


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _is_blocked(solids: Solids, origin: _Vector, direction: _Vector, limit: float) -> bool:
    """Whether anything lies on the ray before ``limit``."""
    inverse = _inverse(direction)
    node = 0
    while node < len(solids.node_skip):
        if not _hits_box(solids.node_box[node], origin, inverse, limit):
            node = solids.node_skip[node]
            continue
        solid = solids.node_solid[node]
        if solid >= 0:
            local_origin, local_direction = _carried(solids.to_local[solid], origin, direction)
            t, _ = _enter(solids.kind[solid], local_origin, local_direction)
            if t < limit:
                return True
        node += 1
    return False


# Colours.


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _bilinear(texels: np.ndarray, first: int, size: int, u: float, v: float) -> _Vector:
    """Linear colour of one mip level at (u, v) in tiles."""
    x, y = u * size - 0.5, v * size - 0.5
    ix, iy = math.floor(x), math.floor(y)
    fx, fy = x - ix, y - iy
    x0, y0 = int(ix) & (size - 1), int(iy) & (size - 1)
    x1, y1 = (x0 + 1) & (size - 1), (y0 + 1) & (size - 1)
    a, b = texels[first + y0 * size + x0], texels[first + y0 * size + x1]
    c, d = texels[first + y1 * size + x0], texels[first + y1 * size + x1]
    wa, wb, wc, wd = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    red = (wa * a[0] + wb * b[0] + wc * c[0] + wd * d[0]) / 255
    green = (wa * a[1] + wb * b[1] + wc * c[1] + wd * d[1]) / 255
    blue = (wa * a[2] + wb * b[2] + wc * c[2] + wd * d[2]) / 255
    return red * red, green * green, blue * blue


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _texture_colour(
    textures: Textures, texture: int, u: float, v: float, footprint: float
) -> _Vector:
    """Linear colour at (u, v) in tiles, averaged over ``footprint`` tiles by mixing two mip
    levels.
    """
    texels = textures.texels[texture]
    size, first = textures.size, 0
    level = math.log2(max(footprint * size, 1.0))
    while level >= 1 and size > 1:
        first += size * size
        size >>= 1
        level -= 1
    fine = _bilinear(texels, first, size, u, v)
    if size == 1 or level <= 0.02:
        return fine
    coarse = _bilinear(texels, first + size * size, size >> 1, u, v)
    return (
        fine[0] + level * (coarse[0] - fine[0]),
        fine[1] + level * (coarse[1] - fine[1]),
        fine[2] + level * (coarse[2] - fine[2]),
    )


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _sky(textures: Textures, light: Light, direction: _Vector) -> _Vector:
    """Radiance of the sky: brighter at the horizon, clouds on a plane above, a glow around
    the sun.
    """
    up = direction[2]
    if up < 0:
        return light.ground[0], light.ground[1], light.ground[2]
    blend = math.sqrt(up)
    red = light.horizon[0] + blend * (light.zenith[0] - light.horizon[0])
    green = light.horizon[1] + blend * (light.zenith[1] - light.horizon[1])
    blue = light.horizon[2] + blend * (light.zenith[2] - light.horizon[2])
    if light.clouds >= 0:
        reach = 0.22 / (up + 0.12)
        cloud, _, _ = _texture_colour(
            textures, light.clouds, direction[0] * reach, direction[1] * reach, 0.004 * reach
        )
        cover = cloud * min(4 * up, 1.0)
        bright = light.horizon[0] + light.horizon[1] + light.horizon[2]
        red += cover * (0.45 * bright - red)
        green += cover * (0.45 * bright - green)
        blue += cover * (0.46 * bright - blue)
    sun = light.sun_direction
    facing = max(direction[0] * sun[0] + direction[1] * sun[1] + direction[2] * sun[2], 0.0)
    glow = 0.12 * facing**16
    return (
        red + glow * light.sun_colour[0],
        green + glow * light.sun_colour[1],
        blue + glow * light.sun_colour[2],
    )


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _indirect(light: Light, point: _Vector, normal: _Vector) -> _Vector:
    """Radiance of a white surface under the baked light, from the eight probes around a point
    lifted off the surface.
    """
    nx, ny, nz = light.grid_free.shape
    px = (point[0] + normal[0] * light.grid_step - light.grid_origin[0]) / light.grid_step
    py = (point[1] + normal[1] * light.grid_step - light.grid_origin[1]) / light.grid_step
    pz = (point[2] + normal[2] * light.grid_step - light.grid_origin[2]) / light.grid_step
    outside = px < -1.5 or py < -1.5 or pz < -1.5 or px > nx + 0.5 or py > ny + 0.5 or pz > nz + 0.5
    red, green, blue, total = 0.0, 0.0, 0.0, 0.0
    if not outside:
        px, py, pz = (
            min(max(px, 0.0), nx - 1.001),
            min(max(py, 0.0), ny - 1.001),
            min(max(pz, 0.0), nz - 1.001),
        )
        ix, iy, iz = int(px), int(py), int(pz)
        fx, fy, fz = px - ix, py - iy, pz - iz
        for corner in range(8):
            cx, cy, cz = corner & 1, (corner >> 1) & 1, corner >> 2
            weight = (fx if cx else 1 - fx) * (fy if cy else 1 - fy) * (fz if cz else 1 - fz)
            weight *= light.grid_free[ix + cx, iy + cy, iz + cz]
            if weight <= 0:
                continue
            probe = light.grid[ix + cx, iy + cy, iz + cz]
            total += weight
            for axis in range(3):
                side = 2 * axis if normal[axis] > 0 else 2 * axis + 1
                share = weight * normal[axis] * normal[axis]
                red += share * probe[side, 0]
                green += share * probe[side, 1]
                blue += share * probe[side, 2]
    if total > 1e-3:
        return red / total, green / total, blue / total
    # Beyond the grid: half a hemisphere of sky, the rest ground.
    sky = 0.5 + 0.5 * normal[2]
    return (
        sky * 0.5 * (light.horizon[0] + light.zenith[0]) + (1 - sky) * light.ground[0],
        sky * 0.5 * (light.horizon[1] + light.zenith[1]) + (1 - sky) * light.ground[1],
        sky * 0.5 * (light.horizon[2] + light.zenith[2]) + (1 - sky) * light.ground[2],
    )


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _surface(solids: Solids, solid: int, face: int, local: _Vector) -> tuple[_Vector, float, float]:
    """World normal (unit) and texture position (metres across and down) of a hit at ``local`` in
    the solid's frame.
    """
    kind = solids.kind[solid]
    half, offset = solids.half[solid], solids.offset[solid]
    x, y, z = local
    nx, ny, nz = 0.0, 0.0, 0.0
    if kind == BALL:
        nx, ny, nz = x, y, z
        across, down = math.atan2(y, x) * half[0], -math.asin(min(max(z, -1.0), 1.0)) * half[2]
    elif face == _FACE_CURVED:
        nx, ny = x, y
        if kind == CONE:
            nz = 0.25 * (1.0 - z)
        across, down = math.atan2(y, x) * max(half[0], half[1]), -z * half[2]
    elif face >= _FACE_SLOPE:
        nx, nz = (1.0 if face == _FACE_SLOPE else -1.0), 0.5
        across, down = y * half[1], abs(x) * math.sqrt(half[0] * half[0] + 4 * half[2] * half[2])
    elif face == 0:
        nx = 1.0 if x > 0 else -1.0
        across, down = y * half[1], -z * half[2]
    elif face == 1:
        ny = 1.0 if y > 0 else -1.0
        across, down = x * half[0], -z * half[2]
    else:
        nz = 1.0 if z > 0 else -1.0
        across, down = x * half[0], y * half[1]
    # Normals go to the world by the transpose of the map that brings points here.
    m = solids.to_local[solid]
    wx = m[0, 0] * nx + m[1, 0] * ny + m[2, 0] * nz
    wy = m[0, 1] * nx + m[1, 1] * ny + m[2, 1] * nz
    wz = m[0, 2] * nx + m[1, 2] * ny + m[2, 2] * nz
    length = math.sqrt(wx * wx + wy * wy + wz * wz)
    if face == 0:
        across, down = across + offset[1], down - offset[2]
    elif face == 2:
        across, down = across + offset[0], down + offset[1]
    else:
        across, down = across + offset[0], down - offset[2]
    if solids.turned[solid] == 1:
        across, down = down, across
    return (wx / length, wy / length, wz / length), across, down


#: Points of a disc that the rays of a block take in turn, for soft shadows.
_DISC = ((0.35, 0.55), (-0.6, 0.3), (0.55, -0.4), (-0.3, -0.6))


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _sunlight(solids: Solids, light: Light, point: _Vector, normal: _Vector, sample: int) -> float:
    """Cosine of the sun on the surface, 0 in shadow."""
    sun = light.sun_direction
    cosine = normal[0] * sun[0] + normal[1] * sun[1] + normal[2] * sun[2]
    if cosine <= 0 or light.sun_colour[0] + light.sun_colour[1] + light.sun_colour[2] <= 0:
        return 0.0
    a, b = _DISC[sample & 3]
    # Two directions across the sun's; any will do, the disc is round.
    ax, ay = -sun[1], sun[0]
    bx, by, bz = -sun[2] * ay, sun[2] * ax, sun[0] * ay - sun[1] * ax
    a, b = a * light.sun_spread, b * light.sun_spread
    towards = (sun[0] + a * ax + b * bx, sun[1] + a * ay + b * by, sun[2] + b * bz)
    return 0.0 if _is_blocked(solids, point, towards, FAR) else cosine


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _radiance(
    solids: Solids,
    textures: Textures,
    light: Light,
    origin: _Vector,
    direction: _Vector,
    spread: float,
    sample: int,
) -> _Vector:
    """Linear colour seen along a unit direction. ``spread`` is the ray's angle, ``sample`` picks
    the point of each light.
    """
    distance, solid, face = _trace(solids, origin, direction, FAR)
    if solid < 0:
        return _sky(textures, light, direction)
    point = (
        origin[0] + distance * direction[0],
        origin[1] + distance * direction[1],
        origin[2] + distance * direction[2],
    )
    local, _ = _carried(solids.to_local[solid], point, direction)
    normal, across, down = _surface(solids, solid, face, local)
    slant = -(normal[0] * direction[0] + normal[1] * direction[1] + normal[2] * direction[2])
    tiling = solids.tiling[solid]
    # Seen at a slant a pixel covers more texture one way only: the square root is the middle
    # between blur and shimmer.
    footprint = distance * spread * max(tiling[0], tiling[1]) / math.sqrt(max(slant, 0.04))
    red, green, blue = _texture_colour(
        textures, solids.texture[solid], across * tiling[0], down * tiling[1], footprint
    )
    tint, glow = solids.tint[solid], solids.glow[solid]
    red, green, blue = red * tint[0], green * tint[1], blue * tint[2]
    lifted = (point[0] + 1e-4 * normal[0], point[1] + 1e-4 * normal[1], point[2] + 1e-4 * normal[2])
    light_red, light_green, light_blue = _indirect(light, point, normal)
    sun = _sunlight(solids, light, lifted, normal, sample)
    light_red += sun * light.sun_colour[0] + glow
    light_green += sun * light.sun_colour[1] + glow
    light_blue += sun * light.sun_colour[2] + glow
    a, b = _DISC[sample & 3]
    for i in range(len(light.lamps)):
        lamp = light.lamps[i]
        dx = lamp[0] + a * lamp[6] - lifted[0]
        dy = lamp[1] + b * lamp[6] - lifted[1]
        dz = lamp[2] - lifted[2]
        cosine = dx * normal[0] + dy * normal[1] + dz * normal[2]
        if cosine <= 0:
            continue
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        if _is_blocked(solids, lifted, (dx / length, dy / length, dz / length), length):
            continue
        strength = cosine / (length * (length * length + 0.1))
        light_red += strength * lamp[3]
        light_green += strength * lamp[4]
        light_blue += strength * lamp[5]
    return red * light_red, green * light_green, blue * light_blue
