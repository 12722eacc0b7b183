"""Camera path of a person with a phone: smooth, with clearance, scored by ray casts.

Out: OpenGL camera-to-world poses (x right, y up, looking along -z).
"""

import itertools
from dataclasses import dataclass

import numpy as np
from probes import Geometry
from scene import Scene
from scipy.ndimage import gaussian_filter1d, label
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from triangles import Rays

CELL = 0.08
ROUTES, TURNS = 18, 6
"""Candidates: routes over the floor, and variations of the rotation on each."""


def pose_of(position, yaw, pitch, roll=0.0) -> np.ndarray:
    """Camera-to-world [4, 4]; yaw 0 looks along x, radians."""
    level = np.cos(pitch)
    forward = np.array([np.cos(yaw) * level, np.sin(yaw) * level, np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    up = np.cross(right, forward)
    c, s = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3] = np.stack([c * right + s * up, c * up - s * right, -forward, position], 1)
    return pose


@dataclass
class Floor:
    """Cells where the camera may be; ``low`` is the corner of the grid in metres."""

    low: np.ndarray
    free: np.ndarray

    def __post_init__(self) -> None:
        self.cells = np.argwhere(self.free)
        self._index = np.full(self.free.shape, -1)
        self._index[tuple(self.cells.T)] = np.arange(len(self.cells))
        self._graph = self._neighbours()

    def _neighbours(self):
        nx, ny = self.free.shape
        rows, columns, lengths = [], [], []
        for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
            a = self._index[: nx - dx, max(0, -dy) : ny - max(0, dy)]
            b = self._index[dx:, max(0, dy) : ny + min(0, dy)]
            both = (a >= 0) & (b >= 0)
            rows.append(a[both])
            columns.append(b[both])
            lengths.append(np.full(both.sum(), np.hypot(dx, dy)))
        i, j, d = (np.concatenate(a) for a in (rows, columns, lengths))
        both_ways = np.r_[d, d], (np.r_[i, j], np.r_[j, i])
        return coo_matrix(both_ways, shape=(len(self.cells),) * 2).tocsr()

    def route(self, start, goal) -> np.ndarray | None:
        """Cells of the shortest path, or None."""
        distance, before = dijkstra(
            self._graph, indices=self._index[tuple(start)], return_predecessors=True
        )
        k, path = self._index[tuple(goal)], []
        if not np.isfinite(distance[k]):
            return None
        while k >= 0:
            path.append(k)
            k = before[k]
        return self.cells[path[::-1]]

    def contains(self, xy: np.ndarray) -> np.ndarray:
        cell = ((xy - self.low) / CELL).astype(int)
        return self.free[tuple(np.clip(cell, 0, np.array(self.free.shape) - 1).T)]


def free_floor(scene: Scene, rays: Rays, height: float, clearance: float):
    """(low, free): cells with nothing nearer than the clearance, by furniture boxes and rays."""
    boxes = np.array(scene.floor_rects)
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    nx, ny = np.ceil((high - low) / CELL).astype(int)
    x, y = low[0] + (np.arange(nx) + 0.5) * CELL, low[1] + (np.arange(ny) + 0.5) * CELL
    X, Y = np.meshgrid(x, y, indexing="ij")

    def within(box, pad):
        x0, y0, x1, y1 = box
        return (x0 - pad < X) & (x1 + pad > X) & (y0 - pad < Y) & (y1 + pad > Y)

    free = np.zeros((nx, ny), bool)
    for r in scene.floor_rects:
        free |= within(r, 0.0)
    for k in scene.keepout:
        free |= within(k, -0.25)
    for box, z0, z1 in scene.occupied:
        if z1 > 0.25 and z0 < 1.9:
            free &= ~within(box, 0.15)
    cells = np.argwhere(free)
    if len(cells):
        a = np.linspace(0, 2 * np.pi, 25)[:-1]
        rings = [
            np.stack([np.cos(a) * np.cos(b), np.sin(a) * np.cos(b), np.full(24, np.sin(b))], 1)
            for b in (-0.7, -0.3, 0.0, 0.35)
        ]
        d = np.concatenate(rings)
        eye = np.stack([X[free], Y[free], np.full(len(cells), height)], 1)
        t, _ = rays.hit(np.repeat(eye, len(d), 0), np.tile(d, (len(eye), 1)))
        free[tuple(cells.T)] = t.reshape(len(eye), -1).min(1) > clearance
    return low, free


def largest_floor(scene: Scene, rays: Rays, height: float) -> Floor | None:
    """The largest connected free floor, with as much clearance as leaves 1.6 square metres."""
    for clearance in (0.5, 0.38, 0.28):
        low, free = free_floor(scene, rays, height, clearance)
        parts, count = label(free, np.ones((3, 3)))
        if not count:
            continue
        free = parts == 1 + np.argmax([(parts == k + 1).sum() for k in range(count)])
        if free.sum() * CELL**2 > 1.6:
            break
    return Floor(low, free) if free.any() else None


def plan(scene: Scene, geometry: Geometry, rng, frames: int, tangent: tuple[float, float]):
    """The best of ROUTES x TURNS paths: (poses, figures), or (None, reason).

    tangent: half width and half height of the view at distance 1.
    """
    height = rng.uniform(1.25, 1.75)
    floor = largest_floor(scene, geometry.rays, height)
    if floor is None:
        return None, "no free floor"
    judge = Judge(scene, geometry, tangent)
    best = None
    for _ in range(ROUTES):
        walkway, length = _walkway(floor, rng, frames)
        bob = 0.025 * np.sin(np.arange(frames) * rng.uniform(0.15, 0.3))
        sway = gaussian_filter1d(rng.standard_normal(frames), 8) * 0.02
        position = np.c_[walkway, height + bob + sway]
        for _ in range(TURNS):
            poses, sweep = _turn(position, rng)
            score, close = judge(poses, length)
            if best is None or score > best[0]:
                figures = {
                    "score": round(float(score), 3),
                    "length_m": round(float(length), 2),
                    "sweep_deg": round(float(np.degrees(sweep)), 1),
                    "height_m": round(float(height), 2),
                    "close": round(float(close), 3),
                }
                best = score, poses, figures
    return best[1:]


def _walkway(floor: Floor, rng, frames: int) -> tuple[np.ndarray, float]:
    """Positions [frames, 2] on a smoothed path between far points, and its length in metres."""
    cells = floor.cells
    points = [cells[rng.integers(len(cells))]]
    for _ in range(int(rng.integers(2, 4))):
        far = cells[rng.integers(len(cells), size=12)]
        distance = np.linalg.norm(far - points[-1], axis=1) * rng.uniform(0.5, 1, 12)
        points.append(far[np.argmax(distance)])
    track = []
    for a, b in itertools.pairwise(points):
        path = floor.route(a, b)
        if path is not None:
            track.append(path[1:] if track else path)
    joined = np.concatenate(track) if track else np.array([points[0]] * 2)
    xy = floor.low + (joined + 0.5) * CELL
    if len(xy) < 4:
        xy = np.repeat(xy, 4, 0)
    along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))]
    length = min(along[-1], rng.uniform(3.0, 6.5))
    s = np.linspace(0, max(length, 1e-3), 400)
    fine = np.stack([np.interp(s, along, xy[:, k]) for k in (0, 1)], 1)
    for sigma in (60, 40, 25, 12, 6, 3):
        smooth = gaussian_filter1d(fine, sigma, axis=0, mode="nearest")
        if floor.contains(smooth).mean() > 0.985:
            break
    u = np.linspace(0, 1, frames)
    pace = np.sin(2 * np.pi * u * rng.integers(1, 4) + rng.uniform(0, 6))
    u = (u + 0.06 * pace * u * (1 - u) * 4) * 399
    return np.stack([np.interp(u, np.arange(400), smooth[:, k]) for k in (0, 1)], 1), length


def _turn(position: np.ndarray, rng) -> tuple[list[np.ndarray], float]:
    """Poses that sweep 120 to 250 degrees with slow pitch and hand shake."""
    frames = len(position)

    def tremble(sigma):
        return gaussian_filter1d(rng.standard_normal(frames), sigma)

    sweep = rng.choice([-1, 1]) * rng.uniform(np.radians(120), np.radians(250))
    v = np.linspace(0, 1, frames)
    turn = sweep * (v - rng.uniform(0, 0.09) * np.sin(2 * np.pi * v * rng.integers(1, 4)))
    yaw = rng.uniform(0, 2 * np.pi) + turn + tremble(9) * 0.12
    level = np.radians(rng.uniform(-16, -3))
    nod = np.radians(5) * np.sin(2 * np.pi * v * rng.uniform(0.5, 1.6) + rng.uniform(0, 6))
    pitch = level + nod + tremble(7) * 0.02
    roll = tremble(10) * np.radians(3)
    every = zip(position, yaw, pitch, roll, strict=True)
    return [pose_of(p, a, b, c) for p, a, b, c in every], sweep


class Judge:
    """Scores a path by ray casts: furniture in view, few bare walls, no near object filling it."""

    def __init__(self, scene: Scene, geometry: Geometry, tangent):
        self.geometry = geometry
        self.shell = len(geometry.quads[3])
        # rays meet opaque triangles only
        self.mesh_of = geometry.mesh_of[geometry.opaque]
        self.furniture = np.array([g.from_library for g in scene.meshes])[self.mesh_of]
        self.near_wall = 1.6 if scene.indoor else 3.0
        x, y = np.linspace(-0.9, 0.9, 12) * tangent[0], np.linspace(-0.9, 0.9, 9) * tangent[1]
        grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        self.local = np.c_[grid, -np.ones(len(grid))]

    def __call__(self, poses: list[np.ndarray], length: float) -> tuple[float, float]:
        """(score, largest fraction of a view that is nearer than 1 m)."""
        seen = poses[:: max(1, len(poses) // 18)]
        d = np.concatenate([self.local @ p[:3, :3].T for p in seen])
        origin = np.repeat([p[:3, 3] for p in seen], len(self.local), 0)
        t, tri = (a.reshape(len(seen), -1) for a in self.geometry.rays.hit(origin, d))
        mesh_tri = np.clip(tri - self.shell, 0, len(self.mesh_of) - 1)
        on_mesh = tri >= self.shell
        close = (t < 1.0).mean(1)
        things = (on_mesh & self.furniture[mesh_tri]).mean(1)
        sky = np.isinf(t).mean(1)
        bare = ((t < self.near_wall) & ~on_mesh & (tri >= 0)).mean(1)
        owner = np.where(on_mesh & (t < 2.6), self.mesh_of[mesh_tri], -1)
        largest = [np.bincount(o[o >= 0]).max() if (o >= 0).any() else 0 for o in owner]
        slab = np.maximum(np.array(largest) / owner.shape[1] - 0.30, 0)
        score = 2 * np.minimum(things, 0.5).mean()
        score -= 3 * close.mean() + 3 * np.maximum(close - 0.20, 0).max()
        score -= 1.5 * (np.median(np.where(np.isinf(t), 9, t), 1) < 1.3).mean()
        score -= 3 * slab.mean() + 1.5 * slab.max()
        score -= 1.0 * bare.mean() + 1.5 * np.maximum(bare - 0.5, 0).max()
        score -= np.maximum(sky - 0.35, 0).mean()
        score += 0.6 * min(length / 3.5, 1.0)
        score += 0.15 * np.minimum(np.where(np.isinf(t), 3, t), 3).mean()
        return score, close.max()
