"""Builds the scene of a seed: a furnished room or an outdoor place."""

import math

import numpy as np
from catalog import Catalog
from furniture import GROUPS, hang_pictures
from outdoor import compose_outdoor
from scene import Scene
from shell import Windows, build_shell
from sources import Sources
from surfaces import Surfaces

DAY_SKIES = [
    *(f"bpy:{k}" for k in ("courtyard", "city", "forest", "sunset", "sunrise")),
    *(f"pm:{k}" for k in ("city", "forest", "park", "sunrise", "sunset", "venice")),
]
NIGHT_SKIES = ["bpy:night", "pm:night"]
#: Light of the sky relative to a normalised panorama.
SKY_STRENGTH = {"day": 1.0, "evening": 0.08, "night": 0.004}
OUTDOOR_FRACTION = 0.2


def compose(seed: int, sources: Sources, catalog: Catalog) -> Scene:
    """The scene of a seed; the same seed gives the same scene."""
    scene = Scene(seed, catalog, Surfaces(np.random.default_rng(seed), sources))
    outdoors = np.random.default_rng(seed + 77777).random() < OUTDOOR_FRACTION
    return compose_outdoor(scene) if outdoors else compose_room(scene)


def compose_room(scene: Scene) -> Scene:
    rng = scene.rng
    scene.kind = str(rng.choice(list(GROUPS)))
    lights = ["day", "day with lamps", "evening", "night"]
    scene.light_name = light = str(rng.choice(lights, p=[0.45, 0.25, 0.12, 0.18]))
    lit = 0.0 if light == "day" else 1.0
    warm = rng.uniform(0, 1)
    scene.lamp_color = [1.0, 0.86 - 0.16 * warm, 0.70 - 0.30 * warm]
    scene.panorama = str(rng.choice(NIGHT_SKIES if light == "night" else DAY_SKIES))
    scene.sky_strength = SKY_STRENGTH[light.split()[0]] * rng.uniform(0.8, 1.3)
    scene.sky_turn = float(rng.uniform(0, 2 * math.pi))
    windows = build_shell(scene, scene.kind)
    if light.startswith("day") and rng.random() < 0.6 and scene.portals:
        _sun_through_a_window(scene)
    GROUPS[scene.kind](scene, lit)
    if scene.plan == "two":
        other = [k for k in GROUPS if k not in (scene.kind, "kitchen")]
        _furnish_second_room(scene, str(rng.choice(other)), lit)
    for _ in range(int(rng.integers(1, 4))):
        scene.against_wall(scene.pick("plants"), gap=0.05, corner=True)
    for _ in range(int(rng.integers(1, 5))):
        scene.against_wall(scene.pick("floor_clutter"), gap=0.08)
    _radiators(scene, windows)
    hang_pictures(scene, int(rng.integers(1, 6)))
    _ceiling_lamps(scene, lit)
    return scene


def _sun_through_a_window(scene: Scene) -> None:
    rng = scene.rng
    n = np.array(scene.portals[rng.integers(len(scene.portals))]["n"])
    up, side = rng.uniform(0.35, 0.9), rng.uniform(-0.7, 0.7)
    d = n + side * np.array([-n[1], n[0], 0]) + [0, 0, -up]
    scene.sun = {
        "d": (d / np.linalg.norm(d)).tolist(),
        "strength": float(rng.uniform(3, 9)),
        "color": [1.0, 0.93 - 0.08 * rng.random(), 0.82 - 0.15 * rng.random()],
    }


def _furnish_second_room(scene: Scene, kind: str, lit: float) -> None:
    floors, walls = scene.floor_rects, scene.walls
    scene.floor_rects, scene.walls = floors[1:], [w for w in walls if w.room == 1]
    GROUPS[kind](scene, lit)
    scene.floor_rects, scene.walls = floors, walls


def _radiators(scene: Scene, windows: Windows) -> None:
    """Radiators below some windows."""
    for wall, hole in windows:
        if scene.rng.random() >= 0.35 or hole[2] <= 0.7:
            continue
        model = scene.pick("radiators")
        _, depth, height = scene.catalog.size(model)
        x, y = wall.p + wall.t * (hole[0] + hole[1]) / 2 + wall.n * (depth / 2 + 0.02)
        box = scene.footprint(model, x, y, wall.angle)
        if height < hole[2] - 0.15 and scene.free(box, 0.05, 0.7):
            scene.put(model, x, y, 0.1, wall.angle)
            scene.take(box, 0.1, 0.8)


def _ceiling_lamps(scene: Scene, lit: float) -> None:
    """One in each room, above the dining table of the first if there is one."""
    rng = scene.rng
    bright = 0.8 if scene.light_name == "day with lamps" else 1.0
    for k, r in enumerate(scene.floor_rects):
        office_like = scene.kind in ("office", "kitchen") and rng.random() < 0.6
        lamp = scene.pick("office_lights" if office_like else "pendants")
        x, y = (r[0] + r[2]) / 2, (r[1] + r[3]) / 2
        at = scene.pendant
        if k == 0 and at and r[0] < at[0] < r[2] and r[1] < at[1] < r[3]:
            x, y = at
        area = (r[2] - r[0]) * (r[3] - r[1])
        z = scene.height - scene.catalog.size(lamp)[2]
        turn = rng.choice([0, math.pi / 2])
        scene.put(lamp, x, y, z, turn, power=lit * area * rng.uniform(1.2, 2.6) * bright)
