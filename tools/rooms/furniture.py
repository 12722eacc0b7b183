"""Furniture in groups: living, dining, bedroom, desk, office, kitchen; rugs and pictures.

``lit`` is 1 where the lamps are on, else 0.
"""

import math

import numpy as np
from scene import Scene, offset, top_height

PICTURE_FRAMES = [[0.1, 0.1, 0.1], [0.85, 0.84, 0.82], [0.4, 0.27, 0.15], [0.62, 0.5, 0.28]]


def hang_pictures(scene: Scene, count: int) -> None:
    rng = scene.rng
    for k in range(count * 4):
        if count <= 0:
            return
        wall = scene.walls[rng.integers(len(scene.walls))]
        key, aspect = scene.surfaces.art(f"art{k}")
        h = rng.uniform(0.3, 0.75)
        w = h * aspect
        if w > 1.4:
            h, w = h * 1.4 / w, 1.4
        if wall.length < w + 0.5:
            continue
        s, z = rng.uniform(w / 2 + 0.2, wall.length - w / 2 - 0.2), rng.uniform(1.45, 1.65)
        if any(s - w / 2 - 0.08 < q[1] and q[0] < s + w / 2 + 0.08 for q in wall.holes):
            continue
        base, half = wall.p + wall.t * s, w / 2 * np.abs(wall.t)
        ends = np.stack([base, base + wall.n * 0.1])
        reach = np.concatenate([ends.min(0) - half, ends.max(0) + half])
        if any(_overlap(reach, box) and top > z - h / 2 - 0.1 for box, _, top in scene.occupied):
            continue
        frame = scene.material(rng.choice(PICTURE_FRAMES), "", 0.4)
        canvas = scene.material((1, 1, 1), key, 0.5)
        b = rng.uniform(0.015, 0.04)
        left, right, low, high = s - w / 2, s + w / 2, z - h / 2, z + h / 2
        for s0, s1, z0, z1 in (
            (left - b, right + b, low - b, low),
            (left - b, right + b, high, high + b),
            (left - b, left, low, high),
            (right, right + b, low, high),
        ):
            scene.wall_box(wall, s0, s1, 0.0, 0.028, z0, z1, frame)
        along = wall.right()
        corner = np.append(base + wall.n * 0.012, low) - along * w / 2
        scene.rect(corner, along * w, (0, 0, h), canvas, whole_picture=True, texel=0.1)
        scene.take(reach, low, high)
        scene.note("Picture", corner)
        count -= 1


def _overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def lay_rug(scene: Scene, x, y, angle, key: str) -> None:
    """A rug around (x, y), moved so that it lies within the room."""
    image, aspect = scene.surfaces.rug(key)
    long = scene.rng.uniform(1.7, 2.6)
    w, d = long, long / max(aspect, 1 / aspect)
    if d > 1.8:
        w, d = w * 1.8 / d, 1.8
    if abs(math.sin(angle)) > 0.7:
        w, d = d, w
    room = scene.floor_rects[0]
    for r in scene.floor_rects:
        if r[0] <= x <= r[2] and r[1] <= y <= r[3]:
            room = r
    x = min(max(x, room[0] + w / 2 + 0.1), room[2] - w / 2 - 0.1)
    y = min(max(y, room[1] + d / 2 + 0.1), room[3] - d / 2 - 0.1)
    if w > room[2] - room[0] - 0.3 or d > room[3] - room[1] - 0.3:
        return
    mat = scene.material((1, 1, 1), image, 1.0)
    x0, x1, y0, y1, z = x - w / 2, x + w / 2, y - d / 2, y + d / 2, 0.012
    scene.box((x0, y0, 0.0), (x1, y1, 0.010), mat, "rug")
    if (w > d) == (aspect >= 1):
        origin, u, v = (x0, y0, z), (w, 0, 0), (0, d, 0)
    else:
        origin, u, v = (x1, y0, z), (0, d, 0), (-w, 0, 0)
    scene.rect(origin, u, v, mat, whole_picture=True, texel=0.045)
    scene.note("Rug", (x, y, 0), "own or listed")


def living_room(scene: Scene, lit: float) -> None:
    rng, catalog = scene.rng, scene.catalog
    got = scene.against_wall(scene.pick("sofas"))
    if got:
        _sofa_group(scene, lit, *got[1:])
    got = scene.against_wall(scene.pick("tv_stands"))
    if got:
        mesh, x, y, angle = got
        top = top_height(scene.meshes[mesh].p, x, y)
        if top and rng.random() < 0.7 and top < 1.0:
            scene.put(scene.pick("tvs"), x, y, top, angle)
        else:
            scene.clutter(mesh, catalog["table_clutter"], 3)
    for _ in range(int(rng.integers(1, 3))):
        scene.against_wall(scene.pick("shelves", "low_cupboards", "large_pieces"))
    if rng.random() < 0.5:
        dining_group(scene, lit)


def _sofa_group(scene: Scene, lit, x, y, angle) -> None:
    """Rug, coffee table, armchairs and a lamp around the sofa placed last."""
    rng, catalog = scene.rng, scene.catalog
    w, d, _ = catalog.size(scene.objects[-1]["asset"])
    table = scene.pick("coffee_tables")
    tw, td, _ = catalog.size(table)
    cx, cy = offset(x, y, angle, 0, d / 2 + 0.42 + td / 2)
    if rng.random() < 0.7:
        lay_rug(scene, cx, cy, angle, "rug0")
    mesh = scene.place(table, cx, cy, angle)
    if mesh is not None:
        scene.clutter(mesh, catalog["table_clutter"], int(rng.integers(1, 5)))
    for side in (-1, 1):
        if rng.random() < 0.5:
            front = d / 2 + 0.45 + td / 2
            ax, ay = offset(x, y, angle, side * (tw / 2 + 0.85), front)
            chair = scene.pick("armchairs")
            scene.place(chair, ax, ay, angle - side * math.pi / 2 + rng.normal() * 0.2)
    side = rng.choice([-1, 1])
    if rng.random() < 0.6:
        lx, ly = offset(x, y, angle, side * (w / 2 + 0.35), -d / 2 + 0.30)
        if rng.random() < 0.4:
            scene.place(scene.pick("floor_lamps"), lx, ly, angle, power=lit * 8)
        else:
            mesh = scene.place(scene.pick("nightstands"), lx, ly, angle)
            if mesh is not None:
                lamps = catalog["table_lamps"]
                scene.clutter(mesh, catalog["table_clutter"], 1, lamps, lit * 6)


def dining_group(scene: Scene, lit: float) -> None:
    """A table on free floor with chairs around it; a pendant lamp is added above it later."""
    rng, catalog = scene.rng, scene.catalog
    for _ in range(15):
        table = scene.pick("dining_tables")
        w, d, _ = catalog.size(table)
        r = scene.floor_rects[rng.integers(len(scene.floor_rects))]
        if r[2] - r[0] < w + 1.4 or r[3] - r[1] < d + 1.4:
            continue
        x = rng.uniform(r[0] + w / 2 + 0.5, r[2] - w / 2 - 0.5)
        y = rng.uniform(r[1] + d / 2 + 0.5, r[3] - d / 2 - 0.5)
        angle = rng.choice([0, math.pi / 2])
        if not scene.free(scene.footprint(table, x, y, angle, 0.45), 0.03, 1):
            continue
        if rng.random() < 0.3:
            lay_rug(scene, x, y, angle, "rug1")
        mesh = scene.place(table, x, y, angle)
        _chairs_around(scene, x, y, angle, w, d)
        scene.clutter(mesh, catalog["table_clutter"], int(rng.integers(1, 6)))
        scene.pendant = (x, y)
        return


def _chairs_around(scene: Scene, x, y, angle, w, d) -> None:
    rng = scene.rng
    chair = scene.pick("chairs")
    depth = scene.catalog.size(chair)[1]
    n = 2 if w > 1.3 else 1
    for side in (-1, 1):
        for k in range(n):
            if rng.random() < 0.12:
                continue
            front = side * (d / 2 + depth / 2 - rng.uniform(0.05, 0.25))
            px, py = offset(x, y, angle, (k - (n - 1) / 2) * w / 2, front)
            box = scene.footprint(chair, px, py, angle)
            if scene.inside(box):
                turn = angle + (math.pi if side > 0 else 0) + rng.normal() * 0.1
                scene.put(chair, px, py, 0, turn)
                scene.take(box, 0.03, 1)
        if w > 1.3 and rng.random() < 0.6:
            px, py = offset(x, y, angle, side * (w / 2 + depth / 2 - 0.1), 0)
            box = scene.footprint(chair, px, py, angle + math.pi / 2)
            if scene.inside(box):
                turn = angle - side * math.pi / 2 + rng.normal() * 0.1
                scene.put(chair, px, py, 0, turn)
                scene.take(box, 0.03, 1)


def bedroom(scene: Scene, lit: float) -> None:
    rng, catalog = scene.rng, scene.catalog
    bed = scene.pick("beds")
    w, d, h = catalog.size(bed)
    for _ in range(6):
        spot = scene.along_wall(w + rng.choice([0.0, 1.0]), d, 0.7, corner=False)
        if spot:
            break
        bed = scene.pick("beds")
        w, d, h = catalog.size(bed)
    if spot:
        x, y, angle, _ = spot
        if rng.random() < 0.6:
            lay_rug(scene, *offset(x, y, angle, 0, d / 2), angle, "rug0")
        scene.take(scene.footprint(bed, x, y, angle), 0.03, h)
        scene.put(bed, x, y, 0, angle)
        stand = scene.pick("nightstands")
        sw, sd, _ = catalog.size(stand)
        for side in (-1, 1):
            at = offset(x, y, angle, side * (w / 2 + sw / 2 + 0.06), -d / 2 + sd / 2 + 0.02)
            mesh = scene.place(stand, *at, angle)
            if mesh is not None:
                count = int(rng.integers(1, 3))
                lamps = catalog["table_lamps"]
                scene.clutter(mesh, catalog["table_clutter"], count, lamps, lit * 6)
    for purposes in (
        ("wardrobes",),
        ("wardrobes", "low_cupboards"),
        ("shelves", "low_cupboards"),
    ):
        if rng.random() < 0.85:
            got = scene.against_wall(scene.pick(*purposes))
            if got:
                scene.clutter(got[0], catalog["table_clutter"], 2)
    if rng.random() < 0.5:
        desk_group(scene, lit)
    if rng.random() < 0.4:
        scene.against_wall(scene.pick("armchairs"), gap=0.1)


def desk_group(scene: Scene, lit: float) -> None:
    """A desk against a wall, a chair, a screen and small things."""
    rng, catalog = scene.rng, scene.catalog
    desk = scene.pick("desks")
    w, d, h = catalog.size(desk)
    spot = scene.along_wall(w, d + 0.75, h)
    if not spot:
        return
    x, y, angle, wall = spot
    x, y = np.array([x, y]) - wall.n * 0.375
    scene.take(scene.footprint(desk, x, y, angle), 0.03, h)
    mesh = scene.put(desk, x, y, 0, angle)
    chair = scene.pick("office_chairs" if rng.random() < 0.7 else "chairs")
    sideways = rng.normal() * 0.1
    front = d / 2 + catalog.size(chair)[1] / 2 - 0.15 + rng.uniform(0, 0.3)
    cx, cy = offset(x, y, angle, sideways, front)
    box = scene.footprint(chair, cx, cy, angle)
    if scene.inside(box):
        scene.put(chair, cx, cy, 0, angle + math.pi + rng.normal() * 0.3)
        scene.take(box, 0.03, 1)
    points = scene.meshes[mesh].p
    top = top_height(points, *offset(x, y, angle, 0, 0.05))
    if not top or top <= 0.5:
        return
    screen = scene.pick("screens")
    sx, sy = offset(x, y, angle, rng.uniform(-0.1, 0.1), 0.0)
    scene.put(screen, sx, sy, top, angle + rng.normal() * 0.15)
    scene.take(scene.footprint(screen, sx, sy, angle), top, top + 0.4)
    things = [scene.pick("desk_lamps")]
    small = catalog["desk_clutter"] + catalog["table_clutter"][:6]
    things += [str(rng.choice(small)) for _ in range(rng.integers(1, 5))]
    used = [(0.0, 0.28)]
    for thing in things:
        kw, kd, _ = catalog.size(thing)
        r = max(kw, kd) / 2
        for _ in range(8):
            a = rng.uniform(-w / 2 + r, w / 2 - r) if w / 2 > r else 0
            b = rng.uniform(-d / 2 + r, d / 2 - r) if d / 2 > r else 0
            z = top_height(points, *offset(x, y, angle, a, b))
            if z is None or abs(z - top) > 0.01 or any(abs(a - u) < r + q for u, q in used):
                continue
            turn = angle + rng.normal() * 0.3
            power = lit * 4 if "light" in catalog.models[thing] else 0.0
            scene.put(thing, *offset(x, y, angle, a, b), z, turn, power)
            used.append((a, r))
            break


def office(scene: Scene, lit: float) -> None:
    rng = scene.rng
    for _ in range(int(rng.integers(1, 4))):
        desk_group(scene, lit)
    for _ in range(int(rng.integers(2, 4))):
        got = scene.against_wall(scene.pick("shelves", "low_cupboards", "office_storage"))
        if got:
            scene.clutter(got[0], scene.catalog["desk_clutter"], 2)
    if rng.random() < 0.5:
        scene.against_wall(scene.pick("sofas", "armchairs"), gap=0.05)


def kitchen(scene: Scene, lit: float) -> None:
    """A row of base units with fridge, sink and stove, wall units above; a dining table."""
    rng, catalog = scene.rng, scene.catalog
    style = str(rng.choice(["cc0", "by"]))
    base = f"{style}_base"
    row = [scene.pick("fridges")] + [scene.pick(base) for _ in range(rng.integers(1, 3))]
    row += [scene.pick(f"{style}_sink"), scene.pick(base), scene.pick(f"{style}_stove")]
    row += [scene.pick(base) for _ in range(rng.integers(0, 3))]
    if rng.random() < 0.5:
        row = row[::-1]
    for _ in range(12):
        total = sum(catalog.size(m)[0] for m in row)
        depth = max(catalog.size(m)[1] for m in row)
        spot = scene.along_wall(total, depth, 0.9, tries=25)
        if spot:
            break
        row.pop(1 if len(row) > 4 else -1)
        if not row:
            return
    if not spot:
        return
    x, y, angle, wall = spot
    a = -total / 2
    for model in row:
        w, d, h = catalog.size(model)
        px, py = offset(x, y, angle, a + w / 2, -depth / 2 + d / 2 - 0.01)
        mesh = scene.put(model, px, py, 0, angle)
        scene.take(scene.footprint(model, px, py, angle), 0.03, h)
        if model in catalog[base] and rng.random() < 0.85:
            scene.clutter(mesh, catalog["kitchen_clutter"], int(rng.integers(1, 3)))
        is_stove = model in catalog[f"{style}_stove"]
        if h < 1.0 and not is_stove and rng.random() < 0.8:
            _wall_unit(scene, f"{style}_wall", x, y, angle, wall, a, w, depth)
        a += w
    dining_group(scene, lit)
    if rng.random() < 0.5:
        scene.against_wall(scene.pick("shelves", "low_cupboards"))


def _wall_unit(scene: Scene, pool, x, y, angle, wall, a, w, row_depth, z=1.45) -> None:
    """A wall unit stretched to the width of the base unit below it."""
    catalog = scene.catalog
    if scene.rng.random() < 0.5:
        unit = min(catalog[pool], key=lambda u: abs(catalog.size(u)[0] - w))
    else:
        unit = scene.pick(pool)
    uw, ud, uh = catalog.size(unit)
    ux, uy = offset(x, y, angle, a + w / 2, -row_depth / 2 + ud / 2)
    s = (np.array([ux, uy]) - wall.p) @ wall.t
    blocked = any(s - uw / 2 < q[1] and q[0] < s + uw / 2 and q[3] > z for q in wall.holes)
    if uw <= w + 0.02 and not blocked:
        scene.put(unit, ux, uy, z, angle, size=(w, ud, uh))
        scene.take(scene.footprint(unit, ux, uy, angle), z, z + uh)


GROUPS = {
    "living room": living_room,
    "bedroom": bedroom,
    "office": office,
    "kitchen": kitchen,
}
