"""Triangles of a scene: ray casts, subdivision, rectangles as triangles.

Short names of arrays, here and in probes.py: p points, n normals, t texture coordinates,
m materials, e emission.
"""

import numpy as np
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh
from scene import Scene

#: A mesh is not subdivided beyond this number of triangles.
MAX_TRIANGLES = 60000
#: Rectangles are drawn larger by this (metres) so that no cracks open where they meet.
OVERLAP = 0.003


class Rays:
    """First hits against a triangle soup (Embree)."""

    def __init__(self, points: np.ndarray):
        self.points = np.ascontiguousarray(points, np.float32).reshape(-1, 3, 3)
        self.scene = rtcore_scene.EmbreeScene()
        TriangleMesh(self.scene, self.points)

    def hit(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance in units of the direction's length (inf: none) and triangle (-1: none)."""
        o, d = (np.ascontiguousarray(a, np.float32) for a in (origins, directions))
        out = self.scene.run(o, d, output=True)
        met = out["primID"] >= 0
        return np.where(met, out["tfar"], np.inf), np.where(met, out["primID"], -1)


def unit(a: np.ndarray) -> np.ndarray:
    return a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-9)


def subdivide(p, n, t, m, e, limit: float):
    """Split edges longer than ``limit`` at their middle; both neighbours split alike, so no
    cracks open. Returns p, n [triangles, 3, 3], t [triangles, 3, 2], m, e [triangles, 3].
    """
    p, n, t = p.reshape(-1, 3, 3), n.reshape(-1, 3, 3), t.reshape(-1, 3, 2)
    stack = np.concatenate([p, n, t, e.reshape(-1, 3, 1)], 2)
    for _ in range(6):
        corners = stack[..., :3]
        # edge k joins corners k and k + 1
        long = np.linalg.norm(corners - np.roll(corners, -1, 1), axis=2) > limit
        if not long.any():
            break
        middle = (stack + np.roll(stack, -1, 1)) / 2
        parts, owners = [stack[~long.any(1)]], [m[~long.any(1)]]
        for code in range(1, 8):
            bits = [(code >> k) & 1 for k in range(3)]
            rows = np.flatnonzero((long == np.array(bits, bool)).all(1))
            for corner in _split(stack[rows], middle[rows], bits) if len(rows) else []:
                parts.append(np.stack(corner, 1))
                owners.append(m[rows])
        stack, m = np.concatenate(parts), np.concatenate(owners)
        if len(m) > MAX_TRIANGLES:
            break
    return stack[..., :3], unit(stack[..., 3:6]), stack[..., 6:8], m, stack[..., 8]


def _split(a, mid, bits: list[int]):
    """New triangles for corners ``a`` and edge middles ``mid`` [*, 3, values]."""
    if sum(bits) == 3:
        return [
            (a[:, 0], mid[:, 0], mid[:, 2]),
            (mid[:, 0], a[:, 1], mid[:, 1]),
            (mid[:, 2], mid[:, 1], a[:, 2]),
            (mid[:, 0], mid[:, 1], mid[:, 2]),
        ]
    # the odd edge out: the only long one, or the only short one
    k = bits.index(1 if sum(bits) == 1 else 0)
    i, j = (k + 1) % 3, (k + 2) % 3
    if sum(bits) == 1:
        return [(a[:, k], mid[:, k], a[:, j]), (mid[:, k], a[:, i], a[:, j])]
    return [
        (mid[:, i], a[:, j], mid[:, j]),
        (a[:, k], a[:, i], mid[:, i]),
        (a[:, k], mid[:, i], mid[:, j]),
    ]


def rect_triangles(scene: Scene):
    """Two triangles a rectangle: p, n, t at the corners and m for each triangle."""
    points, normals, uvs, mats = [], [], [], []
    for r in scene.rects:
        du, dv = (OVERLAP * a / np.linalg.norm(a) for a in (r.u, r.v))
        far = r.origin + r.u + r.v + du + dv
        corners = [r.origin - du - dv, r.origin + r.u + du - dv, far, r.origin + r.v - du + dv]
        order = [0, 1, 2, 0, 2, 3]
        points.append(np.array(corners)[order])
        normals.append(np.tile(r.normal, (6, 1)))
        uvs.append(r.uv[order])
        mats += [r.material] * 2
    return *(np.concatenate(a) for a in (points, normals, uvs)), np.array(mats)
