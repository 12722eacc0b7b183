"""Outdoor places: a back yard behind a house, or a street between two house fronts."""

import math

import numpy as np
from openings import METAL, add_wall, door, reveal
from scene import Scene, Wall
from surfaces import wall_color, without_mean

SKIES = [f"bpy:{k}" for k in ("courtyard", "city", "forest", "sunset", "sunrise")] * 2
SKIES += ["pm:park", "pm:venice", "pm:sunset"]
DOOR_COLORS = [
    [0.35, 0.12, 0.1],
    [0.15, 0.25, 0.2],
    [0.2, 0.25, 0.38],
    [0.4, 0.26, 0.16],
    [0.8, 0.8, 0.78],
]
#: Ground: picture and factor on its brightness.
PAVING = {
    "asphalt": ("tex_buildings/floor005.png", 1.3),
    "slabs": ("tex_buildings/floor021.png", 1.5),
    "crazy": ("tex_buildings/paving001.png", 0.95),
    "cobble": ("tex_buildings/tile02.png", 1.1),
    "gravel": ("tex_nature/railway.png", 1.1),
    "concrete": ("tex_trak/trak4_concrete5a.png", 1.2),
    "dirt": ("tex_nature/dirt003.png", 1.2),
}
#: Half the width of the ground around a place, metres.
FAR = 26
STOREY = 2.9


def compose_outdoor(scene: Scene) -> Scene:
    rng = scene.rng
    street = rng.random() < 0.4
    scene.kind, scene.plan, scene.indoor = ("street" if street else "yard"), "outdoor", False
    scene.light_name = "in sunshine" if rng.random() < 0.7 else "on an overcast day"
    scene.panorama, scene.sky_turn = str(rng.choice(SKIES)), float(rng.uniform(0, 6.28))
    scene.height = 30.0
    if street:
        w, d = rng.uniform(13, 18), rng.uniform(8, 11)
    else:
        w, d = rng.uniform(8, 13), rng.uniform(7, 11)
    scene.floor_rects = [(0.0, 0.0, w, d)]
    if scene.light_name == "in sunshine":
        _sun(scene)
    roof = _roof_picture(scene)
    trim = scene.material(np.array([0.85, 0.84, 0.81]) * rng.uniform(0.8, 1.05), "", 0.6)
    grass = _grass(scene)
    ground = _paving(scene, "asphalt") if street else grass
    _lay_ground(scene, ground, w, d)
    _surroundings(scene, street, w, d, trim, roof)
    (_furnish_street if street else _furnish_yard)(scene, w, d)
    _plant_trees(scene, street, w, d)
    return scene


def _sun(scene: Scene) -> None:
    """Sunlight, mostly on the house front (the wall at high y)."""
    rng = scene.rng
    azimuth, up = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.1)
    if rng.random() < 0.7:
        azimuth = rng.uniform(math.pi * 0.1, math.pi * 0.9)
    level = math.cos(up)
    d = [math.cos(azimuth) * level, math.sin(azimuth) * level, -math.sin(up)]
    scene.sun = {"d": d, "strength": float(rng.uniform(6, 12)), "color": [1.0, 0.93, 0.82]}


# ---- materials


def _masonry(scene: Scene) -> tuple[int, float]:
    """Brick or plaster: (material, metres a tile)."""
    rng, surf = scene.rng, scene.surfaces
    r, number = rng.random(), len(surf.pictures)
    if r < 0.25:
        photo = surf.ufo("tex_trak/" + str(rng.choice(["trak4_brick2.png", "trak4_brick2a.png"])))
        picture, rough, tile = np.clip(photo * 1.7, 0, 1), 0.9, 1.6
    elif r < 0.5:
        tints = [[0.72, 0.40, 0.30], [0.80, 0.68, 0.52], [0.9, 0.88, 0.84], [0.55, 0.50, 0.46]]
        bricks = without_mean(surf.robosuite("white-bricks"), 1.1, 0.85)
        picture, rough, tile = bricks * rng.choice(tints), 0.9, 1.5
    else:
        kinds = ["gray-plaster", "cream-plaster", "white-plaster", "yellow-plaster"]
        plaster = without_mean(surf.robosuite(rng.choice(kinds)), 0.8, 0.9)
        picture, rough, tile = plaster * np.clip(wall_color(rng), 0, 0.92), 0.95, 2.2
    return scene.material((1, 1, 1), surf.keep(f"masonry{number}", picture), rough), tile


def _roof_picture(scene: Scene) -> str:
    n = 256
    y, x = np.mgrid[0:n, 0:n] / n
    rows = 0.75 + 0.25 * np.abs(np.sin(6 * np.pi * x)) - 0.35 * ((6 * y) % 1 < 0.12)
    colors = [[0.50, 0.24, 0.17], [0.32, 0.30, 0.30], [0.42, 0.30, 0.22]]
    tint = np.array(colors[scene.rng.integers(3)])
    picture = rows[..., None] * tint * (1 + 0.08 * scene.surfaces.noise(n))
    return scene.surfaces.keep("roof", np.clip(picture, 0, 1))


def _grass(scene: Scene) -> int:
    rng, surf = scene.rng, scene.surfaces
    photo = surf.ufo("tex_nature/" + str(rng.choice(["jungle001.png", "jungle002.png"])))
    picture = photo * rng.uniform(1.3, 1.9) * [1.05, 1.0, 0.85]
    return scene.material((1, 1, 1), surf.keep("grass", np.clip(picture, 0, 1)), 1.0)


def _paving(scene: Scene, kind: str) -> int:
    file, gain = PAVING[kind]
    picture = np.clip(scene.surfaces.ufo(file) * gain, 0, 1)
    return scene.material((1, 1, 1), scene.surfaces.keep(f"pave_{kind}", picture), 0.9)


# ---- ground, fronts, fences


def _lay_ground(scene: Scene, ground: int, w, d) -> None:
    """The middle with a fine lightmap, the far ground in coarse pieces."""
    xs = [(-FAR, -FAR / 2), (-FAR / 2, 0), (0, w), (w, w + FAR / 2), (w + FAR / 2, w + FAR)]
    ys = [(-FAR, -FAR / 2), (-FAR / 2, 0), (0, d), (d, d + FAR / 2), (d + FAR / 2, d + FAR)]
    for x0, x1 in xs:
        for y0, y1 in ys:
            if (x0, y0) != (0, 0):
                sides = (x1 - x0, 0, 0), (0, y1 - y0, 0)
                scene.rect((x0, y0, 0), *sides, ground, (x0, y0), 2.0, 0.8)
    scene.rect((0, 0, 0), (w, 0, 0), (0, d, 0), ground, (0, 0), 2.0, 0.10)


def _surroundings(scene: Scene, street: bool, w, d, trim: int, roof: str) -> None:
    """The house front at high y; a second front across the street, or the yard's borders."""
    rng = scene.rng
    masonry = _masonry(scene)
    sides = [
        ((0, d), (1, 0), (0, -1), w),
        ((0, 0), (0, 1), (1, 0), d),
        ((w, 0), (0, 1), (-1, 0), d),
        ((0, 0), (1, 0), (0, 1), w),
    ]
    for side, (p, t, n, length) in enumerate(sides):
        wall = Wall(*(np.array(a, float) for a in (p, t, n)), length)
        if side == 0:
            _facade(scene, wall, masonry, int(rng.integers(1, 3)), trim, roof)
        elif street and side == 3:
            wall.p = wall.p - wall.n * rng.uniform(3, 6)
            _facade(scene, wall, _masonry(scene), int(rng.integers(1, 3)), trim, roof)
            continue
        elif street:
            continue
        else:
            _border(scene, wall, side, trim)
        scene.walls.append(wall)


def _border(scene: Scene, wall: Wall, side: int, trim: int) -> None:
    """A fence, a low wall, a hedge or nothing."""
    rng, surf = scene.rng, scene.surfaces
    r = rng.random()
    if r < 0.45:
        tints = [[0.55, 0.38, 0.24], [0.6, 0.58, 0.54], [0.85, 0.84, 0.8], [0.42, 0.3, 0.22]]
        wood = without_mean(surf.robosuite("gray-woodgrain"), 0.9, 0.8) * rng.choice(tints)
        _fence(scene, wall, scene.material((1, 1, 1), surf.keep(f"fence{side}", wood), 0.9))
    elif r < 0.75:
        mat, tile = _masonry(scene)
        h = rng.uniform(1.2, 2.2)
        add_wall(scene, wall, h, [], mat, tile, 0.12)
        scene.wall_box(wall, 0, wall.length, -0.22, 0.05, h, h + 0.07, trim)
    elif r < 0.95:
        bushes = scene.catalog["bushes"]
        hedge = str(rng.choice([b for b in bushes if "edge" in b] or bushes))
        width, depth, _ = scene.catalog.size(hedge)
        s = width / 2
        while s < wall.length:
            x, y = wall.p + wall.t * s - wall.n * depth / 2 * 0.5
            scene.put(hedge, x, y, 0, wall.angle)
            s += width * 0.92
        ends = np.stack([wall.p, wall.p + wall.t * wall.length])
        scene.take(np.concatenate([ends.min(0) - 0.5, ends.max(0) + 0.5]), 0.03, 2)


def _fence(scene: Scene, wall: Wall, mat: int) -> None:
    rng = scene.rng
    s, height, step = 0.0, rng.uniform(1.1, 1.9), rng.uniform(0.11, 0.16)
    gap = rng.choice([0.008, 0.03])
    while s < wall.length - step:
        top = height + rng.uniform(-0.01, 0.01)
        scene.wall_box(wall, s, s + step - gap, -0.02, 0.0, 0.05, top, mat)
        s += step
    for z in (0.35, height - 0.3):
        scene.wall_box(wall, 0, wall.length, -0.06, -0.02, z, z + 0.09, mat)


def _facade(scene: Scene, wall: Wall, masonry, storeys: int, trim: int, roof: str) -> None:
    """A house front: windows with dark panes, one door, plinth, eave and roof."""
    rng = scene.rng
    height = STOREY * storeys + 0.3
    glass = scene.material((0.10, 0.12, 0.14), "", 0.05)
    cloths = [[0.75, 0.72, 0.66], [0.5, 0.5, 0.5], [0.35, 0.3, 0.28]]
    cloth = scene.material(rng.choice(cloths), "", 0.9)
    frames = [[0.9, 0.9, 0.88], [0.25, 0.17, 0.11], [0.2, 0.22, 0.24]]
    frame = scene.material(rng.choice(frames), "", 0.4)
    pitch = rng.uniform(2.0, 3.2)
    count = max(1, int(wall.length / pitch))
    pitch = wall.length / count
    door_at = rng.integers(count)
    width, tall = rng.uniform(0.8, 1.4), rng.uniform(1.1, 1.5)
    cuts = []
    for level in range(storeys):
        for k in range(count):
            s = pitch * (k + 0.5)
            if level == 0 and k == door_at:
                leaf = scene.material(rng.choice(DOOR_COLORS), "", 0.4)
                door(scene, wall, s, leaf, scene.material(METAL, "", 0.3, metal=1.0), trim)
                continue
            z0 = STOREY * level + 0.95
            hole = (s - width / 2, s + width / 2, z0, z0 + tall)
            cuts.append(hole)
            wall.holes.append(hole)
            _facade_window(scene, wall, hole, glass, cloth, frame, trim)
    add_wall(scene, wall, height, cuts, *masonry, 0.12)
    plinth = scene.material((0.45, 0.44, 0.42), "", 0.9)
    scene.wall_box(wall, 0, wall.length, 0, 0.03, 0, 0.35, plinth, "plinth")
    scene.wall_box(wall, -0.2, wall.length + 0.2, -0.1, 0.45, height, height + 0.14, trim)
    rise = rng.uniform(1.5, 2.5)
    tiles = scene.material((1, 1, 1), roof, 0.8)
    corner = np.append(wall.p + wall.n * 0.48 - wall.t * 0.2, height + 0.12)
    u, v = np.append(wall.t * (wall.length + 0.4), 0), np.append(-wall.n * 4.0, rise)
    if np.cross(u, v)[2] > 0:
        scene.rect(corner, u, v, tiles, tile=1.2, texel=0.4)
    else:
        scene.rect(corner + u, -u, v, tiles, tile=1.2, texel=0.4)


def _facade_window(scene: Scene, wall: Wall, hole, glass, cloth, frame, trim) -> None:
    rng = scene.rng
    s0, s1, z0, z1 = hole
    width, tall, s = s1 - s0, z1 - z0, (s0 + s1) / 2
    reveal(scene, wall, hole, 0.14, trim)
    along = wall.right()
    corner = np.append(wall.p - wall.n * 0.10 + wall.t * s, z0) - along * width / 2
    scene.rect(corner, along * width, (0, 0, tall), glass, texel=0.3)
    drawn = rng.uniform(0.1, 0.5)
    if rng.random() < 0.6:
        inner = corner + np.append(wall.n * 0.004, 0)
        scene.rect(inner, along * width * drawn, (0, 0, tall), cloth, texel=0.3)
    for a, b, low, high in (
        (s0, s1, z0, z0 + 0.06),
        (s0, s1, z1 - 0.06, z1),
        (s0, s0 + 0.06, z0, z1),
        (s1 - 0.06, s1, z0, z1),
        (s - 0.03, s + 0.03, z0, z1),
    ):
        scene.wall_box(wall, a, b, -0.10, -0.06, low, high, frame)
    scene.wall_box(wall, s0 - 0.06, s1 + 0.06, -0.05, 0.06, z0 - 0.06, z0, trim)


# ---- things


def _furnish_street(scene: Scene, w, d) -> None:
    """Pavement, kerb, parked cars and street furniture before the house front."""
    rng, catalog = scene.rng, scene.catalog
    pavement = _paving(scene, str(rng.choice(["slabs", "concrete", "cobble"])))
    edge = rng.uniform(2.2, 3.2)
    sides = (w + 2 * FAR, 0, 0), (0, edge, 0)
    scene.rect((-FAR, d - edge, 0.12), *sides, pavement, (0, 0), 1.6, 0.16)
    stone = scene.material((0.55, 0.54, 0.52), "", 0.9)
    scene.box((-FAR, d - edge - 0.12, 0.0), (w + FAR, d - edge, 0.122), stone, "kerb")
    x = rng.uniform(0.5, 3)
    while x < w - 1:
        if rng.random() >= 0.6:
            x += 2.5
            continue
        car = scene.pick("cars")
        wide, long, tall = catalog.size(car)
        at = x + long / 2, d - edge - 0.35 - wide / 2
        scene.put(car, *at, 0, math.pi / 2 * rng.choice([-1, 1]))
        scene.objects[-1]["name"] = "Car"
        scene.take(scene.footprint(car, *at, math.pi / 2), 0.03, tall)
        x += long + rng.uniform(0.6, 1.5)
    for _ in range(int(rng.integers(3, 8))):
        model = scene.pick("street_things", "cycles")
        wide, deep, tall = catalog.size(model)
        x = rng.uniform(0.5, w - 0.5)
        y = d - rng.choice([deep / 2 + 0.1, edge - max(wide, deep) / 2 - 0.1])
        angle = rng.choice([0, math.pi])
        box = scene.footprint(model, x, y, angle)
        if scene.free(box, 0.03, tall):
            scene.take(box, 0.03, tall)
            scene.put(model, x, y, 0.12, angle)


def _furnish_yard(scene: Scene, w, d) -> None:
    """A patio before the house with a table, a path, garden things and bushes."""
    rng = scene.rng
    depth = rng.uniform(2.0, 4.0)
    patio = _paving(scene, str(rng.choice(["slabs", "crazy", "cobble", "concrete"])))
    x0, x1 = rng.uniform(0, w * 0.3), rng.uniform(w * 0.6, w)
    scene.rect((x0, d - depth, 0.02), (x1 - x0, 0, 0), (0, depth, 0), patio, (0, 0), 1.7, 0.10)
    if rng.random() < 0.5:
        path = _paving(scene, str(rng.choice(["gravel", "slabs", "dirt"])))
        scene.rect((x0 + 0.5, 0, 0.012), (1.1, 0, 0), (0, d - depth, 0), path, (0, 0), 1.5, 0.12)
    for _ in range(4):
        table = scene.pick("garden_tables")
        x, y = rng.uniform(x0 + 1, x1 - 1), d - rng.uniform(1.2, max(1.3, depth - 0.8))
        if scene.free(scene.footprint(table, x, y, 0, 0.6), 0.03, 1):
            _garden_table(scene, table, x, y)
            break
    for _ in range(int(rng.integers(5, 11))):
        model = scene.pick("garden")
        if rng.random() < 0.5:
            scene.against_wall(model, gap=0.1)
        else:
            x, y = rng.uniform(1, w - 1), rng.uniform(1, d - 1)
            scene.place(model, x, y, rng.uniform(0, 6.28))
    for _ in range(int(rng.integers(2, 7))):
        scene.against_wall(scene.pick("bushes", "plants"), gap=0.02)


def _garden_table(scene: Scene, table: str, x, y) -> None:
    rng, catalog = scene.rng, scene.catalog
    mesh = scene.place(table, x, y, 0)
    chair = scene.pick("garden_chairs")
    radius = max(catalog.size(table)[:2]) / 2 + catalog.size(chair)[1] / 2 - 0.05
    for k in range(int(rng.integers(2, 5))):
        a = k * math.pi / 2 + rng.normal() * 0.15
        at = x + radius * math.cos(a), y + radius * math.sin(a)
        box = scene.footprint(chair, *at, a - math.pi / 2)
        if scene.inside(box):
            scene.put(chair, *at, 0.02, a - math.pi / 2)
            scene.take(box, 0.03, 1)
    scene.clutter(mesh, catalog["table_clutter"], int(rng.integers(0, 4)))


def _plant_trees(scene: Scene, street: bool, w, d) -> None:
    """Trees beyond the borders, smaller than their catalogue size."""
    rng = scene.rng
    for _ in range(int(rng.integers(1, 5))):
        tree = scene.pick("trees")
        side, q = rng.integers(3), rng.uniform(0, 1)
        places = [
            (-rng.uniform(1, 6), q * d),
            (w + rng.uniform(1, 6), q * d),
            (q * w, -rng.uniform(1, 6)),
        ]
        if street and side == 2:
            continue
        turn = rng.uniform(0, 6.28)
        size = np.array(scene.catalog.size(tree)) * rng.uniform(0.6, 1.0)
        scene.put(tree, *places[side], 0, turn, size=size)
