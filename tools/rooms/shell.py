"""The shell of a flat: floor plan, floors, ceilings, walls, windows, doors, skirting."""

import numpy as np
from openings import METAL, add_wall, curtain, door, reveal, window
from scene import Opening, Scene, Wall
from surfaces import wall_color, without_mean

Windows = list[tuple[Wall, Opening]]


class Finish:
    """Materials of one flat: (material, metres a tile) where a picture repeats."""

    def __init__(self, scene: Scene, kind: str):
        rng, surf = scene.rng, scene.surfaces
        base = wall_color(rng)
        style = rng.random()
        papered = style < 0.25
        key = surf.wallpaper("wall", base) if papered else surf.paint("wall", base)
        paint = scene.material((1, 1, 1), key, 0.9)
        self.wall = paint, (rng.uniform(0.7, 1.3) if papered else 1.6)
        self.accent = self._accent(scene) if rng.random() < 0.4 else None
        self.white = scene.material(np.array([0.86, 0.85, 0.83]) * rng.uniform(0.9, 1.05), "", 0.6)
        plain = rng.random() < 0.75
        self.trim = self.white if plain else scene.material((0.35, 0.23, 0.14), "", 0.5)
        frames = [[0.9, 0.9, 0.89], [0.30, 0.20, 0.13], [0.2, 0.2, 0.21], [0.55, 0.38, 0.24]]
        self.frame = scene.material(rng.choice(frames), "", 0.4)
        white = np.array([0.93, 0.92, 0.90])
        self.ceiling = scene.material(white * rng.uniform(0.92, 1.0), "", 0.95)
        picture, self.floor_tile, rough = self._floor(scene, kind)
        self.floor = scene.material((1, 1, 1), picture, rough)

    @staticmethod
    def _accent(scene: Scene) -> tuple[int, float]:
        """Accent of one wall: bricks, panels or another colour."""
        rng, surf = scene.rng, scene.surfaces
        r = rng.random()
        if r < 0.35:
            bricks = without_mean(surf.robosuite("white-bricks"), 0.9, 0.9)
            tints = [[0.95, 0.94, 0.92], [0.72, 0.42, 0.33], [0.6, 0.58, 0.56]]
            key, rough, tile = surf.keep("accent", bricks * rng.choice(tints)), 0.9, 1.4
        elif r < 0.5:
            panels = surf.robosuite("wood-varnished-panels") * 0.6 + 0.15
            key, rough, tile = surf.keep("accent", panels), 0.5, 2.0
        else:
            color = np.clip(wall_color(rng) * rng.uniform(0.5, 0.9), 0, 1)
            key, rough, tile = surf.paint("accent", color), 0.9, 1.6
        return scene.material((1, 1, 1), key, rough), tile

    @staticmethod
    def _floor(scene: Scene, kind: str) -> tuple[str, float, float]:
        """Picture, metres a tile, roughness."""
        rng, surf = scene.rng, scene.surfaces
        f = rng.random()
        if kind == "kitchen":  # mostly tiles, never carpet
            f = 0.7 if rng.random() < 0.7 else min(f, 0.8)
        if f < 0.55:
            return surf.planks(), rng.uniform(1.5, 2.2), rng.uniform(0.25, 0.5)
        if f < 0.62:
            return surf.keep("floor", surf.robosuite("wood-tiles") * 0.95), 1.5, 0.4
        if f < 0.82:
            return surf.tiles(), rng.uniform(0.9, 1.6), rng.uniform(0.15, 0.4)
        if f < 0.95:
            return surf.fitted_carpet(), 1.0, 1.0
        concrete = without_mean(surf.ufo("tex_trak/trak4_concrete5a.png"), 0.6, 0.85)
        return surf.keep("floor", concrete * [0.62, 0.61, 0.59]), 2.0, 0.5


def build_shell(scene: Scene, kind: str) -> Windows:
    """Add one room, an L, or two rooms joined by a doorway; returns the windows."""
    rng = scene.rng
    scene.height = height = rng.uniform(2.45, 2.85)
    scene.plan = str(rng.choice(["one", "L", "two"], p=[0.4, 0.3, 0.3]))
    scene.floor_rects, doorways = _floor_plan(scene)
    finish = Finish(scene, kind)
    for x0, y0, x1, y1 in scene.floor_rects:
        wide, deep = (x1 - x0, 0, 0), (0, y1 - y0, 0)
        scene.rect((x0, y0, 0), wide, deep, finish.floor, (x0, y0), finish.floor_tile, 0.045)
        scene.rect((x0, y0, height), deep, wide, finish.ceiling, (0, 0), 1.5, 0.10)
    for k, r in enumerate(scene.floor_rects):
        for side, wall in enumerate(_sides(r, k)):
            wall.cuts = _shared_openings(scene, wall, k, side, doorways, finish)
            wall.holes = list(wall.cuts)
            scene.walls.append(wall)
    windows = _cut_windows(scene, finish)
    _close_walls(scene, finish)
    _dress_windows(scene, windows, finish, kind)
    return windows


def _floor_plan(scene: Scene) -> tuple[list, list[Opening]]:
    """Rectangles x0, y0, x1, y1 and the doorways between them (along y)."""
    rng = scene.rng
    width, depth = rng.uniform(4.0, 6.2), rng.uniform(3.6, 5.0)
    rooms, doorways = [(0.0, 0.0, width, depth)], []
    if scene.plan == "L":
        a, b = sorted(rng.uniform(0, width, 2))
        if b - a < 1.8:
            left = rng.random() < 0.5
            a, b = (0.0, rng.uniform(1.9, 3)) if left else (width - rng.uniform(1.9, 3), width)
        rooms.append((a, depth, b, depth + rng.uniform(1.6, 3.0)))
    if scene.plan == "two":
        gap, second = 0.12, rng.uniform(3.0, 4.2)
        low, high = rng.uniform(0, 0.6), depth - rng.uniform(0, 0.6)
        rooms.append((width + gap, low, width + gap + second, high))
        c, half = rng.uniform(1.3, depth - 1.3), rng.choice([0.45, 0.7, 0.95])
        doorways.append((c - half, c + half, 0.0, rng.uniform(2.05, 2.3)))
    return rooms, doorways


def _sides(r, room: int) -> list[Wall]:
    """The four sides of a rectangle: low y, high x, high y, low x."""
    x0, y0, x1, y1 = r
    sides = [
        ((x0, y0), (1, 0), (0, 1), x1 - x0),
        ((x1, y0), (0, 1), (-1, 0), y1 - y0),
        ((x0, y1), (1, 0), (0, -1), x1 - x0),
        ((x0, y0), (0, 1), (1, 0), y1 - y0),
    ]
    return [Wall(*(np.array(a, float) for a in s[:3]), s[3], room) for s in sides]


def _shared_openings(scene, wall, room, side, doorways, finish) -> list[Opening]:
    """The part of a wall that is shared with the other rectangle, with a doorway's lining."""
    cuts = []
    if scene.plan == "L" and (room, side) in ((0, 2), (1, 0)):
        other = scene.floor_rects[1]
        a, b = other[0] - wall.p[0], other[2] - wall.p[0]
        cuts.append((max(a, 0), min(b, wall.length), 0.0, scene.height))
        wall.outside = False
    if scene.plan == "two" and (room, side) in ((0, 1), (1, 3)):
        for s0, s1, z0, z1 in doorways:
            hole = (s0 - wall.p[1], s1 - wall.p[1], z0, z1)
            cuts.append(hole)
            wall.outside = False
            if room == 0:
                reveal(scene, wall, hole, 0.12, finish.trim, floor=False)
                origin, step = (wall.p[0], s0, 0), (0, s1 - s0, 0)
                uv = wall.p[0], s0
                scene.rect(origin, (0.12, 0, 0), step, finish.floor, uv, finish.floor_tile, 0.05)
            for a, b in ((hole[0] - 0.07, hole[0]), (hole[1], hole[1] + 0.07)):
                scene.wall_box(wall, a, b, 0, 0.02, 0, z1 + 0.07, finish.trim)
            scene.wall_box(wall, hole[0], hole[1], 0, 0.02, z1, z1 + 0.07, finish.trim)
            c = wall.p + wall.t * (hole[0] + hole[1]) / 2
            scene.keepout.append(np.array([c[0] - 0.9, c[1] - 0.75, c[0] + 0.9, c[1] + 0.75]))
    return cuts


def _cut_windows(scene: Scene, finish: Finish) -> Windows:
    """Windows in some outer walls, and a door in another."""
    rng = scene.rng
    outer = [w for w in scene.walls if w.outside and w.length > 1.6]
    rng.shuffle(outer)
    count = int(rng.integers(1, 4) if len(scene.floor_rects) == 1 else rng.integers(2, 5))
    windows = []
    for wall in outer[:count]:
        many = 2 if wall.length > 4.4 and rng.random() < 0.4 else 1
        for q in range(many):
            span = wall.length / many
            width = min(rng.uniform(0.9, 2.3), span - 0.7)
            if width < 0.6:
                continue
            if rng.random() < 0.2:  # down to the floor
                z0, z1 = 0.08, rng.uniform(2.05, 2.2)
            else:
                z0, z1 = rng.uniform(0.75, 1.0), rng.uniform(1.95, 2.25)
            c = span * q + span / 2 + rng.uniform(-0.5, 0.5) * (span - width - 0.6)
            hole = (c - width / 2, c + width / 2, z0, min(z1, scene.height - 0.15))
            wall.holes.append(hole)
            wall.cuts.append(hole)
            windows.append((wall, hole))
    for wall in outer[count : count + 1]:
        at = rng.uniform(0.6, wall.length - 0.6)
        colors = [[0.85, 0.84, 0.82], [0.45, 0.30, 0.19], [0.62, 0.45, 0.30]]
        leaf = scene.material(rng.choice(colors), "", 0.45)
        door(scene, wall, at, leaf, scene.material(METAL, "", 0.3, metal=1.0), finish.trim)
    return windows


def _close_walls(scene: Scene, finish: Finish) -> None:
    """Masonry and skirting of all walls, one of them in the accent's material."""
    rng = scene.rng
    accent = rng.integers(len(scene.walls)) if finish.accent else -1
    skirting = rng.uniform(0.06, 0.11)
    for q, wall in enumerate(scene.walls):
        mat, tile = finish.accent if q == accent else finish.wall
        add_wall(scene, wall, scene.height, wall.cuts, mat, tile, 0.06)
        gaps = sorted((h[0], h[1]) for h in wall.holes if h[2] < 0.05)
        s = 0.0
        for a, b in [*gaps, (wall.length, wall.length)]:
            if a - s > 0.03:
                scene.wall_box(wall, s, a, 0, 0.013, 0, skirting, finish.trim, "skirting")
            s = max(s, b)


def _dress_windows(scene: Scene, windows: Windows, finish: Finish, kind: str) -> None:
    rng, cloth, over = scene.rng, None, 0.28
    for wall, hole in windows:
        window(scene, wall, hole, finish.white, finish.frame)
        middle = wall.p + wall.t * (hole[0] + hole[1]) / 2
        scene.note("Window", (*middle, (hole[2] + hole[3]) / 2))
        if rng.random() >= 0.6 or kind == "kitchen":
            continue
        if cloth is None:
            color = np.clip(rng.uniform(0.35, 0.92) + rng.normal(size=3) * 0.08, 0.05, 0.93)
            cloth = scene.material((1, 1, 1), scene.surfaces.fabric("curtain", color), 1.0)
        top = min(hole[3] + 0.18, scene.height - 0.03)
        bottom = 0.03 if rng.random() < 0.7 else max(0.03, hole[2] - 0.15)
        drawn = rng.uniform(0.10, 0.30) * (hole[1] - hole[0])
        left, right = max(hole[0] - over, 0.02), min(hole[1] + over, wall.length - 0.02)
        curtain(scene, wall, left, hole[0] + drawn, bottom, top, cloth)
        curtain(scene, wall, hole[1] - drawn, right, bottom, top, cloth)
        ends = max(hole[0] - over - 0.05, 0), min(hole[1] + over + 0.05, wall.length)
        scene.wall_box(wall, *ends, 0.08, 0.1, top - 0.005, top + 0.015, finish.frame)
        wall.holes += [
            (hole[0] - over, hole[0] + drawn, bottom, top),
            (hole[1] - drawn, hole[1] + over, bottom, top),
        ]
