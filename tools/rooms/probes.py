"""A scene as flat arrays: triangles to draw, probes where light is baked, and which probes light
which corner.

Rectangles get one probe for each lightmap texel. Meshes get one for each voxel and side, on the
most open of a few triangles there. Probes that are hidden, enclosed or see a mesh from inside have
a low weight.
"""

from dataclasses import dataclass

import numpy as np
from scene import Scene
from scipy.spatial import cKDTree
from triangles import Rays, rect_triangles, subdivide, unit

VOXEL, EDGE_LIMIT = 0.07, 0.13
"""Metres between the probes of a mesh; longest edge."""
MAX_MESH_PROBES = 30000
ATLAS_WIDTH = 1024
NEAREST = 8
"""Probes that light one corner."""


@dataclass
class Probes:
    """Where light is baked: positions, normals and half edges of tiny triangles, [*, 3]."""

    p: np.ndarray
    n: np.ndarray
    u: np.ndarray
    v: np.ndarray


@dataclass
class Geometry:
    """The input of baking, drawing and path planning."""

    quads: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    """Rectangles as triangles: p, n, t at corners, m for each triangle."""
    p: np.ndarray
    n: np.ndarray
    t: np.ndarray
    m: np.ndarray
    e: np.ndarray
    mesh_of: np.ndarray
    """Index of the mesh of each triangle."""
    opaque: np.ndarray
    rays: Rays
    """Rectangles first (``quads``), then the opaque triangles of the meshes."""
    atlas: tuple[int, int, list[tuple[int, int]]]
    """Height and width of the lightmap and the corner of each rectangle in it."""
    hidden: np.ndarray
    """Texels behind skirting or under cupboards, to be filled from their neighbours."""
    probes: Probes
    """Texels of the rectangles first (``len(hidden)``), then ``mesh_probes``."""
    owner: np.ndarray
    """Mesh of each mesh probe."""
    trust: np.ndarray
    """Weight of each mesh probe in (0, 1]."""
    mesh_p: np.ndarray
    mesh_n: np.ndarray
    voxel: float
    nearest: np.ndarray
    """Mesh probes that light each corner, [corners, NEAREST]."""
    weight: np.ndarray


def flatten(scene: Scene) -> Geometry:
    quads = rect_triangles(scene)
    parts = [subdivide(g.p, g.n, g.t, g.m, g.e, EDGE_LIMIT) for g in scene.meshes]
    p, n, t, m, e = (np.concatenate(a) for a in zip(*parts, strict=True))
    p = p.astype(np.float32)
    mesh_of = np.concatenate([np.full(len(a[3]), k) for k, a in enumerate(parts)])
    opaque = np.array([mat.alpha for mat in scene.materials])[m] > 0.5
    rays = Rays(np.concatenate([quads[0].reshape(-1, 3, 3), p[opaque]]))
    rng = np.random.default_rng(0)
    texels, atlas = _texel_probes(scene)
    hidden = _openness(rays, texels, rng, 5) < 0.05
    looker = Outlook(rays, np.concatenate([np.full(len(quads[3]), -2), mesh_of[opaque], [-1]]), rng)
    foreign = np.array([g.from_library for g in scene.meshes])[mesh_of]
    cross = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    area = np.linalg.norm(cross, axis=1)
    shuffle = rng.random(len(p))
    face = _outer_faces(cross / np.maximum(area, 1e-12)[:, None], n, p, mesh_of, foreign, looker)
    chosen, voxel, probe_n, trust, wrong = _mesh_probes(
        p, face, area, mesh_of, foreign, shuffle, looker
    )
    centre = p.mean(1)[chosen]
    side = np.where(np.abs(probe_n[:, 2:]) < 0.9, [[0, 0, 1]], [[1, 0, 0]])
    tangent = unit(np.cross(probe_n, side))
    small = np.sqrt(np.maximum(area[chosen], 1e-8))[:, None] * 0.3
    bitangent = np.cross(probe_n, tangent)
    mesh_probes = Probes(centre + probe_n * 0.004, probe_n, tangent * small, bitangent * small)
    owner = mesh_of[chosen]
    nearest, weight, flipped = _probes_of_corners(
        p, n, face, mesh_of, chosen, owner, trust, wrong, voxel
    )
    n[flipped] *= -1
    both = (
        np.concatenate([getattr(texels, k), getattr(mesh_probes, k)]).astype(np.float32)
        for k in "pnuv"
    )
    return Geometry(
        quads=quads,
        p=p,
        n=n,
        t=t,
        m=m,
        e=e,
        mesh_of=mesh_of,
        opaque=opaque,
        rays=rays,
        atlas=atlas,
        hidden=hidden,
        probes=Probes(*both),
        owner=owner,
        trust=trust,
        mesh_p=centre,
        mesh_n=probe_n,
        voxel=voxel,
        nearest=nearest,
        weight=weight,
    )


def _texel_probes(scene: Scene):
    """One probe for each lightmap texel, and where each rectangle lies in the lightmap."""
    found, corners = [], []
    x = y = row = 0
    for r in scene.rects:
        w, h = r.texels
        if x + w + 2 > ATLAS_WIDTH:
            x, y, row = 0, y + row, 0
        corners.append((x + 1, y + 1))
        x, row = x + w + 2, max(row, h + 2)
        i, j = np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h)
        centre = r.origin + i.reshape(-1, 1) * r.u + j.reshape(-1, 1) * r.v
        same = (np.tile(a, (w * h, 1)) for a in (r.normal, r.u / w, r.v / h))
        found.append((centre + r.normal * 0.004, *same))
    probes = Probes(*(np.concatenate(a) for a in zip(*found, strict=True)))
    return probes, (y + row, ATLAS_WIDTH, corners)


def _around(normals: np.ndarray, rng, dtype=np.float64) -> np.ndarray:
    """Random directions around normals, cosine-weighted."""
    d = rng.standard_normal(normals.shape).astype(dtype)
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    d = normals * 1.02 + d
    return d / np.linalg.norm(d, axis=1, keepdims=True)


def _openness(rays: Rays, probes: Probes, rng, count: int) -> np.ndarray:
    """Mean free distance, at most 1 m."""
    total = np.zeros(len(probes.p))
    for _ in range(count):
        total += np.minimum(rays.hit(probes.p, _around(probes.n, rng))[0], 1.0)
    return total / count


class Outlook:
    """Visibility from one side of a surface. ``owners`` maps a ray's triangle to its mesh."""

    def __init__(self, rays: Rays, owners: np.ndarray, rng):
        self.rays, self.owners, self.rng = rays, owners, rng

    def __call__(self, at, normal, own, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean distance (at most 1 m), and fraction of rays that miss the surface's own mesh."""
        reach, away = np.zeros(len(at)), np.zeros(len(at))
        for _ in range(count):
            d = _around(normal, self.rng, np.float32)
            free, met = self.rays.hit(at + normal * 0.003, d)
            reach += np.minimum(free, 1.0) / count
            away += (self.owners[met] != own) / count
        return reach, away


def _outer_faces(face, n, p, mesh_of, foreign, look: Outlook) -> np.ndarray:
    """Face normals on the side of the shading normals; faces of library models that are turned
    inwards are turned, their ``n`` in place.
    """
    mean_n = n.mean(1)
    against = (face * mean_n).sum(1, keepdims=True)
    face = np.where(against < -0.2 * np.linalg.norm(mean_n, axis=1, keepdims=True), -face, face)
    centre = p.mean(1)
    (r0, a0), (r1, a1) = look(centre, face, mesh_of, 4), look(centre, -face, mesh_of, 4)
    inside_out = ((r0 < 0.10) & (r1 > 2.5 * r0)) | ((a0 == 0) & (a1 >= 0.5))
    inside_out &= foreign
    face[inside_out] *= -1
    n[inside_out] *= -1
    return face


def _mesh_probes(p, face, area, mesh_of, foreign, shuffle, look: Outlook):
    """The triangles that carry a probe: (triangles, voxel, normals, trust, turned)."""
    centre, voxel = p.mean(1), VOXEL
    while True:
        group = _groups(centre, face, mesh_of, voxel)
        # the two largest triangles of a voxel and side, and three at random
        largest = _rank(np.lexsort((-area, group)), group) < 2
        random = _rank(np.lexsort((shuffle, group)), group) < 3
        chosen = np.flatnonzero(largest | random)
        chosen = chosen[area[chosen] > 1e-9]
        if len(np.unique(group[chosen])) <= MAX_MESH_PROBES:
            break
        voxel *= 1.15
    at, normal = centre[chosen], face[chosen].copy()
    reach0, away0 = look(at, normal, mesh_of[chosen], 8)
    reach1, away1 = look(at, -normal, mesh_of[chosen], 8)
    reach, away = np.maximum(reach0, reach1), np.maximum(away0, away1)
    best = np.lexsort((-away - 0.5 * reach, group[chosen]))
    best = best[np.r_[True, np.diff(group[chosen][best]) > 0]]
    chosen, normal, reach, away = chosen[best], normal[best], reach[best], away[best]
    reach0, reach1, away0, away1 = (a[best] for a in (reach0, reach1, away0, away1))
    # enclosed between two layers, or seeing only its own mesh from inside
    trust = np.clip((reach - 0.04) / 0.3, 0.002, 1.0) ** 1.5
    trust = np.where(away == 0, 2e-4, trust * np.clip(3 * away, 0.2, 1.0))
    wrong = ((reach0 < 0.12) & (reach1 > 2.5 * reach0)) | ((away0 == 0) & (away1 >= 0.4))
    wrong &= foreign[chosen]
    normal[wrong] *= -1
    return chosen, voxel, normal, trust, wrong


def _groups(centre, face, mesh_of, voxel: float) -> np.ndarray:
    """One number for each voxel, side and mesh."""
    axis = np.abs(face).argmax(1)
    side = axis * 2 + (np.take_along_axis(face, axis[:, None], 1)[:, 0] > 0)
    cell = np.floor(centre / voxel).astype(int)
    key = np.concatenate([mesh_of[:, None], cell, side[:, None]], 1)
    key = key - key.min(0)
    code = np.zeros(len(key), int)
    for k, size in zip(key.T, key.max(0) + 1, strict=True):
        code = code * size + k
    return np.unique(code, return_inverse=True)[1]


def _rank(order: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Place of every triangle within its group, in the given order (sorted by group first)."""
    count = np.arange(len(order))
    start = np.r_[True, np.diff(group[order]) > 0]
    rank = np.empty(len(order), int)
    rank[order] = count - np.maximum.accumulate(np.where(start, count, 0))
    return rank


def _probes_of_corners(p, n, face, mesh_of, chosen, owner, trust, wrong, voxel: float):
    """The nearest probes of the corner's own mesh that face the same way, with weights, and the
    triangles whose nearest probe was turned.
    """
    corner_n, corner_p = n.reshape(-1, 3), p.reshape(-1, 3)
    nearest = np.zeros((len(corner_p), NEAREST), np.int64)
    weight = np.zeros((len(corner_p), NEAREST), np.float32)
    flipped = np.zeros(len(p), bool)
    for k in range(mesh_of.max() + 1):
        own = np.flatnonzero(owner == k)
        if not len(own):
            own = np.array([0])
        tris = np.flatnonzero(mesh_of == k)
        probe = chosen[own]
        tree = cKDTree(np.concatenate([p[probe].mean(1) / voxel, face[probe] * 3.0], 1))
        corners = (tris[:, None] * 3 + np.arange(3)).ravel()
        facing = np.repeat(face[tris], 3, 0) * 1.2 + corner_n[corners] * 1.8
        d, i = tree.query(np.concatenate([corner_p[corners] / voxel, facing], 1), k=NEAREST)
        i = np.minimum(np.where(np.isfinite(d), i, 0), len(own) - 1)
        nearest[corners] = own[i]
        near = np.where(np.isfinite(d), 1 / (d**2 + 0.25) ** 1.3, 0)
        weight[corners] = near * trust[nearest[corners]]
        flipped[tris] = wrong[own[i.reshape(-1, 3, NEAREST)[:, 0, 0]]]
    return nearest, weight / weight.sum(1, keepdims=True), flipped
