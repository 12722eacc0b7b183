"""Walls and their openings: windows, curtains, doors. Positions are metres along a wall."""

import itertools

import numpy as np
from scene import Opening, Scene, Wall

DOOR_WIDTH, DOOR_HEIGHT = 0.84, 2.03
METAL = (0.7, 0.7, 0.7)


def add_wall(scene: Scene, wall: Wall, height, cuts, mat, tile, texel) -> None:
    """The masonry of a wall as rectangles around its openings."""
    ends = {min(max(c[i], 0), wall.length) for c in cuts for i in (0, 1)}
    edges = sorted({0.0, wall.length, *ends})
    flip = np.cross(np.append(wall.t, 0), [0, 0, 1]) @ np.append(wall.n, 0) < 0
    for a, b in itertools.pairwise(edges):
        spans = [(0.0, height)]
        for s0, s1, low, high in cuts:
            if s0 <= a + 1e-6 and s1 >= b - 1e-6:
                parts = [q for z0, z1 in spans for q in ((z0, min(z1, low)), (max(z0, high), z1))]
                spans = [q for q in parts if q[1] - q[0] > 1e-4]
        for z0, z1 in spans:
            up = (0, 0, z1 - z0)
            if flip:
                start, along = wall.p + wall.t * b, -wall.t * (b - a)
                uv = (wall.length - b, z0)
            else:
                start, along, uv = wall.p + wall.t * a, wall.t * (b - a), (a, z0)
            scene.rect(np.append(start, z0), np.append(along, 0), up, mat, uv, tile, texel)


def reveal(scene: Scene, wall: Wall, hole: Opening, depth, mat, floor=True) -> None:
    """The inner sides of an opening, going outward."""
    s0, s1, z0, z1 = hole
    out = np.append(-wall.n * depth, 0)
    up, along = np.array([0, 0, 1.0]), np.append(wall.t, 0)

    def corner(s, z):
        return np.append(wall.p + wall.t * s, z)

    faces = [
        (corner(s0, z0), up * (z1 - z0), along),
        (corner(s1, z0), up * (z1 - z0), -along),
        (corner(s0, z1), along * (s1 - s0), -up),
    ]
    if floor:
        faces.append((corner(s0, z0), along * (s1 - s0), up))
    for origin, side, facing in faces:
        if np.cross(side, out) @ facing > 0:
            scene.rect(origin, side, out, mat, texel=0.05)
        else:
            scene.rect(origin, out, side, mat, texel=0.05)


def window(scene: Scene, wall: Wall, hole: Opening, white: int, frame: int) -> None:
    """Reveal, frame, panes and sill of a window, and a light portal in it."""
    s0, s1, z0, z1 = hole
    depth, bar = 0.16, 0.05
    reveal(scene, wall, hole, depth, white)
    for a, b, c, d in (
        (s0, s1, z0, z0 + bar),
        (s0, s1, z1 - bar, z1),
        (s0, s0 + bar, z0, z1),
        (s1 - bar, s1, z0, z1),
    ):
        scene.wall_box(wall, a, b, -0.12, -0.07, c, d, frame)
    panes = max(1, round((s1 - s0) / scene.rng.uniform(0.6, 1.1)))
    for k in range(1, panes):
        s = s0 + (s1 - s0) * k / panes
        scene.wall_box(wall, s - 0.035, s + 0.035, -0.125, -0.065, z0, z1, frame)
    if scene.rng.random() < 0.4:
        z = z0 + (z1 - z0) * scene.rng.choice([0.5, 0.68])
        scene.wall_box(wall, s0, s1, -0.11, -0.08, z - 0.015, z + 0.015, frame)
    if z0 > 0.2:
        sill = z0 - 0.03, z0 + 0.005
        scene.wall_box(wall, s0 - 0.05, s1 + 0.05, -0.06, 0.05, *sill, white, "window sill")
    origin = np.append(wall.p + wall.t * s0 - wall.n * depth, z0)
    scene.portals.append(
        {
            "o": origin.tolist(),
            "u": np.append(wall.t * (s1 - s0), 0).tolist(),
            "v": [0, 0, z1 - z0],
            "n": np.append(wall.n, 0).tolist(),
        }
    )


def curtain(scene: Scene, wall: Wall, s0, s1, z0, z1, mat) -> None:
    """A wavy sheet a little in front of the wall."""
    width, folds = s1 - s0, max(3, int((s1 - s0) / 0.09))
    k = folds * 8 + 1
    s, rows = np.linspace(0, 1, k), np.linspace(0, 1, 7)
    slow = 0.8 * np.sin(2 * np.pi * 3 * s + scene.rng.uniform(0, 6))
    phase = 2 * np.pi * folds * s + slow
    sheet = []
    for r in rows:
        out = 0.09 + 0.035 * np.sin(phase) * (0.7 + 0.5 * r)
        along = s0 + width * (0.5 + (s - 0.5) * (0.94 + 0.06 * r))
        x = wall.p[0] + wall.t[0] * along + wall.n[0] * out
        y = wall.p[1] + wall.t[1] * along + wall.n[1] * out
        sheet.append(np.stack([x, y, np.full(k, z1 + (z0 - z1) * r)], 1))
    grid = np.array(sheet)
    normal = np.cross(np.gradient(grid, axis=1), np.gradient(grid, axis=0))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    flip = (normal[..., 0] * wall.n[0] + normal[..., 1] * wall.n[1]).mean() < 0
    if flip:
        normal = -normal
    uv = np.stack(np.meshgrid(s * width * 2.2, rows * (z1 - z0)), -1)
    cells = np.meshgrid(np.arange(len(rows) - 1), np.arange(k - 1), indexing="ij")
    i, j = (a.ravel() for a in cells)
    quad = [(i, j), (i, j + 1), (i + 1, j + 1), (i, j), (i + 1, j + 1), (i + 1, j)]
    if flip:
        quad = [quad[q] for q in (0, 2, 1, 3, 5, 4)]

    def corners(a):
        return np.stack([a[q] for q in quad], 1).reshape(-1, a.shape[-1])

    triangles = np.full(len(i) * 2, mat)
    scene.soup(corners(grid), corners(normal), corners(uv), triangles, "curtain")
    scene.note("Curtain", grid.mean((0, 1)))


def door(scene: Scene, wall: Wall, s, leaf: int, handle: int, casing: int) -> None:
    """A closed panelled door with its casing; the floor before it is kept free."""
    a, b, top = s - DOOR_WIDTH / 2, s + DOOR_WIDTH / 2, DOOR_HEIGHT
    scene.wall_box(wall, a - 0.08, a, 0.0, 0.025, 0, top + 0.08, casing)
    scene.wall_box(wall, b, b + 0.08, 0.0, 0.025, 0, top + 0.08, casing)
    scene.wall_box(wall, a, b, 0.0, 0.025, top, top + 0.08, casing)
    scene.wall_box(wall, a, b, 0.0, 0.008, 0, top, leaf)
    for z0, z1 in ((0.15, 0.85), (1.0, 1.88)):
        for c, d, e, f in (
            (a + 0.12, b - 0.12, z0, z0 + 0.03),
            (a + 0.12, b - 0.12, z1 - 0.03, z1),
            (a + 0.12, a + 0.15, z0, z1),
            (b - 0.15, b - 0.12, z0, z1),
        ):
            scene.wall_box(wall, c, d, 0.005, 0.018, e, f, leaf)
    scene.wall_box(wall, b - 0.10, b - 0.08, 0.008, 0.05, 0.99, 1.03, handle)
    scene.wall_box(wall, b - 0.20, b - 0.08, 0.045, 0.06, 1.0, 1.02, handle)
    c = wall.p + wall.t * s + wall.n * 0.45
    scene.keepout.append(np.array([c[0] - 0.55, c[1] - 0.55, c[0] + 0.55, c[1] + 0.55]))
    wall.holes.append((a - 0.1, b + 0.1, 0.0, top + 0.1))
    scene.note("Door", (*c, 0))
