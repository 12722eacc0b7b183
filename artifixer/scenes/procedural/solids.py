"""Solids of a procedural world: the arrays and the bounding-box tree of the ray caster, and the
distance from points to the nearest solid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from artifixer.scenes.procedural.materials import Material
from artifixer.scenes.procedural.raycast import (
    BALL,
    CONE,
    CYLINDER,
    Solids,
)


@dataclass(frozen=True)
class Solid:
    kind: int
    to_world: Float[np.ndarray, "3 4"]
    half: Float[np.ndarray, " 3"]
    material: Material
    offset: Float[np.ndarray, " 3"]


def clearance(
    solids: Solids, points: Float[np.ndarray, "points 3"]
) -> Float[np.ndarray, " points"]:
    """A lower bound of the distance from each point to the nearest solid, 0 inside. Exact for
    boxes, upright cylinders and balls.
    """
    local = (
        np.einsum("sij,pj->psi", solids.to_local[:, :, :3], points) + solids.to_local[None, :, :, 3]
    )
    half = solids.half[None]
    beyond = np.maximum(np.abs(local) - 1, 0) * half
    to_box = np.linalg.norm(beyond, axis=2)
    radial = np.maximum(np.linalg.norm(local[..., :2], axis=2) - 1, 0) * half[..., :2].min(axis=2)
    to_cylinder = np.hypot(radial, beyond[..., 2])
    to_ball = np.maximum(np.linalg.norm(local, axis=2) - 1, 0) * half.min(axis=2)
    kind = solids.kind[None]
    distance = np.where(
        kind == BALL, to_ball, np.where((kind == CYLINDER) | (kind == CONE), to_cylinder, to_box)
    )
    nearest: np.ndarray = distance.min(axis=1)
    return nearest


def arrange(parts: Sequence[Solid]) -> Solids:
    """The arrays, solids in the order of the tree's leaves."""
    to_world = np.stack([part.to_world for part in parts])
    extent = np.abs(to_world[:, :, :3]).sum(axis=2)
    low, high = to_world[:, :, 3] - extent, to_world[:, :, 3] + extent
    boxes: list[Float[np.ndarray, " 6"]] = []
    skips: list[int] = []
    leaves: list[int] = []

    def grow(members: np.ndarray) -> None:
        """Adds the tree over the members, depth first; halves are split at the median along the
        longest side.
        """
        node = len(boxes)
        boxes.append(
            np.concatenate([low[members].min(axis=0) - 1e-6, high[members].max(axis=0) + 1e-6])
        )
        skips.append(0)
        leaves.append(int(members[0]) if len(members) == 1 else -1)
        if len(members) > 1:
            first, second = _halves(low[members], high[members])
            grow(members[first])
            grow(members[second])
        skips[node] = len(boxes)

    grow(np.arange(len(parts)))
    inverse = np.linalg.inv(to_world[:, :, :3])
    to_local = np.concatenate([inverse, -inverse @ to_world[:, :, 3:]], axis=2)
    return Solids(
        kind=np.array([part.kind for part in parts]),
        to_local=to_local,
        half=np.stack([part.half for part in parts]),
        texture=np.array([part.material.texture for part in parts]),
        tiling=np.array([_tiling(part) for part in parts]),
        offset=np.stack([part.offset for part in parts]),
        turned=np.array([int(part.material.turned) for part in parts]),
        tint=np.array([part.material.tint for part in parts], float),
        glow=np.array([part.material.glow for part in parts], float),
        node_box=np.stack(boxes),
        node_skip=np.array(skips),
        node_solid=np.array(leaves),
    )


def _halves(
    low: Float[np.ndarray, "solids 3"], high: Float[np.ndarray, "solids 3"]
) -> tuple[np.ndarray, np.ndarray]:
    """Two groups with the least summed surface x count over all cuts along the three axes (the
    surface area heuristic).
    """
    best: tuple[float, np.ndarray, int] | None = None
    count = len(low)
    for axis in range(3):
        order = np.argsort(low[:, axis] + high[:, axis], kind="stable")
        before = _surfaces(np.minimum.accumulate(low[order]), np.maximum.accumulate(high[order]))
        after = _surfaces(
            np.minimum.accumulate(low[order][::-1]), np.maximum.accumulate(high[order][::-1])
        )[::-1]
        numbers = np.arange(1, count)
        costs = before[:-1] * numbers + after[1:] * (count - numbers)
        cut = int(np.argmin(costs))
        if best is None or costs[cut] < best[0]:
            best = (float(costs[cut]), order, cut + 1)
    assert best is not None
    return best[1][: best[2]], best[1][best[2] :]


def _surfaces(
    low: Float[np.ndarray, "boxes 3"], high: Float[np.ndarray, "boxes 3"]
) -> Float[np.ndarray, " boxes"]:
    x, y, z = (high - low).T
    surfaces: np.ndarray = x * y + y * z + z * x
    return surfaces


def _tiling(part: Solid) -> tuple[float, float]:
    """Tiles per metre across and down."""
    if not part.material.fitted:
        return 1 / part.material.metres, 1 / part.material.metres
    # A fitted picture lies on the two longer sides: flat on the floor, or upright with its face
    # along x or y.
    tile = part.material.metres * 2
    thin = int(np.argmin(part.half))
    across = part.half[1] if thin == 0 else part.half[0]
    down = part.half[1] if thin == 2 else part.half[2]
    return 1 / (tile * across), 1 / (tile * down)
