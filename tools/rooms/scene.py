"""A scene under construction: materials, rectangles, meshes, lights, and occupied floor.

Units are metres, z points up. Everything random comes from ``Scene.rng``, in a fixed order.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from catalog import Catalog
from surfaces import Surfaces

#: Span of a wall and height: from, to (metres along the wall), from, to (metres up).
Opening = tuple[float, float, float, float]


@dataclass
class Material:
    color: list[float]
    image: str
    rough: float
    alpha: float
    emit: float
    metal: float
    layer: int = -1
    """Index into the picture layers, -1 without a picture; set by ``layers.load_layers``."""
    mean: list[float] = field(default_factory=list)
    """Mean linear colour, for baking; set by ``layers.load_layers``."""


@dataclass
class Rect:
    """A flat rectangle with a lightmap; its normal is u x v."""

    origin: np.ndarray
    u: np.ndarray
    v: np.ndarray
    material: int
    uv: np.ndarray
    texels: tuple[int, int]

    @property
    def normal(self) -> np.ndarray:
        n = np.cross(self.u, self.v)
        return n / np.linalg.norm(n)


@dataclass
class Mesh:
    """A triangle soup lit at its corners: p, n [3 triangles, 3], t [3 triangles, 2]."""

    p: np.ndarray
    n: np.ndarray
    t: np.ndarray
    m: np.ndarray
    name: str
    e: np.ndarray
    """Emission at the corners [3 triangles]."""
    lamp: bool
    from_library: bool = False


@dataclass
class Wall:
    """A vertical wall from ``p`` along ``t``; ``n`` points into the room. All [2]."""

    p: np.ndarray
    t: np.ndarray
    n: np.ndarray
    length: float
    room: int = 0
    outside: bool = True
    cuts: list[Opening] = field(default_factory=list)
    """Openings in the masonry."""
    holes: list[Opening] = field(default_factory=list)
    """Spans that furniture must leave free: openings, doors, curtains."""

    @property
    def angle(self) -> float:
        """Turn of a piece of furniture that stands with its back to this wall."""
        return math.atan2(self.n[0], -self.n[1])

    def right(self) -> np.ndarray:
        """The direction along the wall for which right x up points into the room, [3]."""
        along = np.append(self.t, 0.0)
        return along if np.cross(along, [0, 0, 1]) @ np.append(self.n, 0) > 0 else -along


def rotation(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def offset(x: float, y: float, angle: float, along: float, front: float) -> tuple[float, float]:
    """A point beside a piece at (x, y): metres along its width and in front of it."""
    c, s = math.cos(angle), math.sin(angle)
    return x + c * along + s * front, y + s * along - c * front


def top_height(points: np.ndarray, x: float, y: float) -> float | None:
    """Highest surface of a triangle soup at (x, y), or None."""
    a, b, c = points.reshape(-1, 3, 3).transpose(1, 0, 2)
    d = (b[:, 1] - c[:, 1]) * (a[:, 0] - c[:, 0]) + (c[:, 0] - b[:, 0]) * (a[:, 1] - c[:, 1])
    d = np.where(np.abs(d) < 1e-12, np.nan, d)
    u = ((b[:, 1] - c[:, 1]) * (x - c[:, 0]) + (c[:, 0] - b[:, 0]) * (y - c[:, 1])) / d
    v = ((c[:, 1] - a[:, 1]) * (x - c[:, 0]) + (a[:, 0] - c[:, 0]) * (y - c[:, 1])) / d
    inside = (u >= -1e-6) & (v >= -1e-6) & (u + v <= 1 + 1e-6)
    if not inside.any():
        return None
    z = u * a[:, 2] + v * b[:, 2] + (1 - u - v) * c[:, 2]
    return float(z[inside].max())


class Scene:
    """The scene as read by the later steps; filled by rooms.py or outdoor.py."""

    def __init__(self, seed: int, catalog: Catalog, surfaces: Surfaces):
        self.seed, self.catalog, self.surfaces = seed, catalog, surfaces
        self.rng = surfaces.rng
        self.kind = self.plan = self.light_name = ""
        self.indoor = True
        self.materials: list[Material] = []
        self.meshes: list[Mesh] = []
        self.rects: list[Rect] = []
        self.lights: list[dict] = []
        self.portals: list[dict] = []
        self.sun: dict | None = None
        self.lamp_color = [1.0, 0.9, 0.8]
        self.panorama, self.sky_strength, self.sky_turn = "", 1.0, 0.0
        self.height = 0.0
        self.assets: dict[str, dict] = {}
        self.objects: list[dict] = []
        #: Boxes x0, y0, x1, y1: floors, areas to keep free, occupied areas (with z).
        self.floor_rects: list[tuple] = []
        self.keepout: list[np.ndarray] = []
        self.occupied: list[tuple[np.ndarray, float, float]] = []
        self.walls: list[Wall] = []
        self.pendant: tuple[float, float] | None = None

    # ---- materials and geometry

    def material(self, color=(1, 1, 1), image="", rough=0.8, alpha=1.0, emit=0.0, metal=0.0) -> int:
        rgb = [float(c) for c in color]
        values = (float(v) for v in (rough, alpha, emit, metal))
        self.materials.append(Material(rgb, image, *values))
        return len(self.materials) - 1

    def rect(self, origin, u, v, mat, uv=(0, 0), tile=1.0, texel=0.06, whole_picture=False) -> None:
        """Add a lit rectangle. The picture repeats every ``tile`` metres, or fills it once;
        ``texel`` is the size of a lightmap texel in metres.
        """
        origin, u, v = (np.asarray(a, float) for a in (origin, u, v))
        lu, lv = np.linalg.norm(u), np.linalg.norm(v)
        if lu < 1e-4 or lv < 1e-4:
            return
        box = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
        if not whole_picture:
            box = (box * [lu, lv] + uv) / tile
        texels = (max(2, round(lu / texel)), max(2, round(lv / texel)))
        self.rects.append(Rect(origin, u, v, mat, box, texels))

    def soup(self, p, n, t, m, name="", emission=None, lamp=False, from_library=False) -> None:
        e = np.zeros(len(p), np.float32) if emission is None else emission
        p, n, t = (np.asarray(a, np.float32) for a in (p, n, t))
        self.meshes.append(Mesh(p, n, t, np.asarray(m, np.int32), name, e, lamp, from_library))

    def box(self, low, high, mat, name="") -> None:
        """Add an axis-aligned box; its picture repeats every metre."""
        low, high = np.asarray(low, float), np.asarray(high, float)
        points, normals, uvs = [], [], []
        for axis in range(3):
            i, j = (axis + 1) % 3, (axis + 2) % 3
            for side in (0, 1):
                c = np.zeros((4, 3))
                c[:, axis] = (low, high)[side][axis]
                c[:, i] = [low[i], high[i], high[i], low[i]]
                c[:, j] = [low[j], low[j], high[j], high[j]]
                order = [0, 1, 2, 0, 2, 3] if side else [0, 2, 1, 0, 3, 2]
                normal = np.zeros(3)
                normal[axis] = 1 if side else -1
                points.append(c[order])
                normals.append(np.tile(normal, (6, 1)))
                uvs.append(c[order][:, [i, j]])
        self.soup(*(np.concatenate(a) for a in (points, normals, uvs)), np.full(12, mat), name)

    def wall_box(self, wall: Wall, s0, s1, out0, out1, z0, z1, mat, name="") -> None:
        """Add a box in a wall's coordinates: along it, out of it into the room, up."""
        a = wall.p + wall.t * s0 + wall.n * out0
        b = wall.p + wall.t * s1 + wall.n * out1
        self.box(np.append(np.minimum(a, b), z0), np.append(np.maximum(a, b), z1), mat, name)

    def put(self, model: str, x, y, z=0.0, angle=0.0, power=0.0, size=None) -> int:
        """Insert a library model and return its mesh; ``power`` lights its lamp (watts)."""
        record, shape = self.catalog.models[model], self.catalog.geometry(model)
        turn = rotation(angle)
        scale = np.ones(3) if size is None else np.asarray(size) / record["size"]
        p = (shape["p"] * scale) @ turn.T + [x, y, z]
        first_material = len(self.materials)
        for m in record["materials"]:
            color = np.ones(3) if m["image"] else np.clip(np.array(m["color"]), 0, 1)
            values = m["rough"], m["alpha"], m["emit"] * 0.5, m["metal"]
            self.material(color, m["image"], *values)
        emission = None
        if "light" in record and power:
            bulb = turn @ (np.array(record["light"]) * scale) + [x, y, z]
            squared = ((p - bulb) ** 2).sum(1)
            emission = np.minimum(0.10 / (squared + 0.02), 3.0).astype(np.float32)
            self.lights.append(
                {"p": bulb.tolist(), "power": power, "color": self.lamp_color, "radius": 0.07}
            )
        slots = shape["m"] + first_material
        lamp = "light" in record
        self.soup(p, shape["n"] @ turn.T, shape["t"], slots, record["name"], emission, lamp, True)
        self.assets[model] = {
            "name": record["name"],
            "pack": "sweethome3d-furniture 1.8-1 / " + record["pack"],
            "licence": record["licence"],
            "creator": record["creator"],
        }
        self.note(
            record["name"],
            (x, y, z),
            model,
            angle_deg=round(math.degrees(angle), 1),
            size=[round(float(v), 3) for v in np.array(record["size"]) * scale],
        )
        return len(self.meshes) - 1

    def note(self, name: str, position, asset="own", **more) -> None:
        """Record an object for captions and scene.json."""
        where = [round(float(v), 3) for v in position]
        self.objects.append({"name": name, "position": where, **more, "asset": asset})

    def pick(self, *purposes: str) -> str:
        """A random model of the pools named."""
        return str(self.rng.choice([i for p in purposes for i in self.catalog[p]]))

    # ---- free floor

    def footprint(self, model: str, x, y, angle, pad=0.0) -> np.ndarray:
        """Axis-aligned box x0, y0, x1, y1 of a rotated model."""
        w, d, _ = self.catalog.size(model)
        c, s = abs(math.cos(angle)), abs(math.sin(angle))
        hx, hy = (w * c + d * s) / 2 + pad, (w * s + d * c) / 2 + pad
        return np.array([x - hx, y - hy, x + hx, y + hy])

    def inside(self, box) -> bool:
        eps = 0.012
        x0, y0, x1, y1 = box[0] + eps, box[1] + eps, box[2] - eps, box[3] - eps
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        corners = [(x0, y0), (x1, y0), (x0, y1), (x1, y1), middle]
        return all(
            any(r[0] <= x <= r[2] and r[1] <= y <= r[3] for r in self.floor_rects)
            for x, y in corners
        )

    def free(self, box, z0=0.0, z1=2.0) -> bool:
        def overlaps(o) -> bool:
            return box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3]

        if not self.inside(box) or any(overlaps(k) for k in self.keepout):
            return False
        return not any(overlaps(o) and z0 < top and low < z1 for o, low, top in self.occupied)

    def take(self, box, z0=0.0, z1=2.0) -> None:
        self.occupied.append((np.asarray(box), z0, z1))

    def place(self, model: str, x, y, angle, pad=0.0, power=0.0) -> int | None:
        """Put a model on the floor if there is room; returns its mesh or None."""
        height = self.catalog.size(model)[2]
        if not self.free(self.footprint(model, x, y, angle, pad), 0.03, height):
            return None
        self.take(self.footprint(model, x, y, angle), 0.03, height)
        return self.put(model, x, y, 0.0, angle, power)

    def along_wall(self, width, depth, height, tries=30, corner=None):
        """A free place with its back to a wall: (x, y, angle, wall), or None.

        corner: True puts it into a corner, False anywhere, None into a corner in a third.
        """
        rng = self.rng
        for _ in range(tries):
            wall = self.walls[rng.integers(len(self.walls))]
            if wall.length < width + 0.04:
                continue
            s = rng.uniform(width / 2 + 0.02, wall.length - width / 2 - 0.02)
            if corner or (corner is None and rng.random() < 0.35):
                left = rng.random() < 0.5
                s = width / 2 + 0.03 if left else wall.length - width / 2 - 0.03
            if any(
                s - width / 2 < h[1] and h[0] < s + width / 2 and height > h[2] for h in wall.holes
            ):
                continue
            x, y = wall.p + wall.t * s + wall.n * (depth / 2 + 0.02)
            c, sn = abs(math.cos(wall.angle)), abs(math.sin(wall.angle))
            hx, hy = (width * c + depth * sn) / 2, (width * sn + depth * c) / 2
            if self.free(np.array([x - hx, y - hy, x + hx, y + hy]), 0.03, height):
                return x, y, wall.angle, wall
        return None

    def against_wall(self, model: str, gap=0.0, corner=None):
        """Put a model with its back to a wall: (mesh, x, y, angle), or None."""
        w, d, h = self.catalog.size(model)
        spot = self.along_wall(w, d + gap, h, corner=corner)
        if spot is None:
            return None
        x, y, angle, _ = spot
        self.take(self.footprint(model, x, y, angle), 0.03, h)
        return self.put(model, x, y, 0.0, angle), x, y, angle

    def clutter(self, mesh: int, pool: list[str], count: int, lamps=(), power=0.0) -> None:
        """Small things on top of a placed piece, the first one a lamp if any are given."""
        rng = self.rng
        p = self.meshes[mesh].p
        low, high = p.min(0), p.max(0)
        done: list[tuple[float, float, float]] = []
        for _ in range(count * 6):
            if len(done) >= count:
                break
            model = str(rng.choice(lamps)) if lamps and not done else str(rng.choice(pool))
            w, d, _ = self.catalog.size(model)
            radius = math.hypot(w, d) / 2
            if high[0] - low[0] < w or high[1] - low[1] < d:
                continue
            x = rng.uniform(low[0] + w / 2, high[0] - w / 2)
            y = rng.uniform(low[1] + d / 2, high[1] - d / 2)
            if any(math.hypot(x - a, y - b) < radius + r for a, b, r in done):
                continue
            places = ((0, 0), (-1, -1), (1, -1), (-1, 1), (1, 1))
            tops = [top_height(p, x + a * w / 2.2, y + b * d / 2.2) for a, b in places]
            if any(z is None for z in tops) or max(tops) - min(tops) > 0.012:
                continue
            if not 0.25 <= max(tops) <= 1.5:
                continue
            done.append((x, y, radius))
            turn = rng.uniform(-0.6, 0.6)
            quarter = rng.integers(4) * math.pi / 2 * (model not in self.catalog["screens"])
            lit = power if "light" in self.catalog.models[model] else 0.0
            self.put(model, x, y, max(tops), turn + quarter, lit)
