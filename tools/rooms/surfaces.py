"""Pictures for floors, walls, carpets and paintings: own generators and permissive photographs.

In: a random generator and the texture folders. Out: 512 x 512 RGBA pictures by key, and the
assets behind them with licence and creator. Colours are sRGB in [0, 1].
"""

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from sources import Sources

SIZE = 512
_RUGS = [f"carpet{k:03d}" for k in (8, 9, 10, 11, 18, 21, 23, 25)]
#: Width over height where it is not 1.
_RUG_ASPECT = {
    f"carpet{k:03d}": a for k, a in ((8, 2.0), (9, 0.5), (10, 0.5), (21, 0.5), (23, 0.5))
}
#: Excluded from walls: text or people.
_NO_ART = ("africa003", "africa014", "japan001")

WOOD_TINTS = [
    [0.72, 0.53, 0.36],
    [0.55, 0.38, 0.24],
    [0.80, 0.66, 0.48],
    [0.42, 0.27, 0.17],
    [0.66, 0.60, 0.53],
    [0.75, 0.58, 0.40],
]
TILE_TINTS = [
    [0.85, 0.84, 0.80],
    [0.62, 0.60, 0.57],
    [0.75, 0.66, 0.55],
    [0.45, 0.44, 0.43],
    [0.70, 0.45, 0.33],
    [0.88, 0.87, 0.86],
]
CARPET_COLORS = [
    [0.62, 0.57, 0.50],
    [0.45, 0.45, 0.47],
    [0.38, 0.42, 0.50],
    [0.50, 0.40, 0.34],
    [0.42, 0.47, 0.40],
]
WALL_COLORS = [
    (0.90, 0.89, 0.86),
    (0.92, 0.90, 0.84),
    (0.86, 0.82, 0.74),
    (0.78, 0.80, 0.78),
    (0.72, 0.77, 0.80),
    (0.83, 0.75, 0.66),
    (0.66, 0.72, 0.64),
    (0.88, 0.84, 0.80),
    (0.60, 0.66, 0.72),
    (0.82, 0.70, 0.62),
    (0.93, 0.92, 0.90),
    (0.75, 0.70, 0.72),
    (0.80, 0.78, 0.62),
    (0.55, 0.58, 0.55),
]


def ufo_table() -> dict[str, tuple[str, str]]:
    """texture -> (licence, creator) for the files of ufoai-textures that may be used."""
    path = Path(__file__).with_name("ufo_textures.tsv")
    with path.open(newline="", encoding="utf8") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {name: (licence, creator) for name, licence, creator in rows}


def wall_color(rng: np.random.Generator) -> np.ndarray:
    color = np.array(WALL_COLORS[rng.integers(len(WALL_COLORS))])
    return np.clip(color + rng.normal(size=3) * 0.02, 0.05, 0.95)


def without_mean(array: np.ndarray, contrast=1.0, level=0.85) -> np.ndarray:
    """A picture without its mean colour, to be tinted by a paint."""
    return np.clip(level * (array / np.maximum(array.mean((0, 1)), 1e-3)) ** contrast, 0, 1)


def _resized(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray((np.clip(array, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.resize(size)) / 255.0


class Surfaces:
    """Collects pictures by key, and the assets behind them."""

    def __init__(self, rng: np.random.Generator, sources: Sources):
        self.rng, self.sources = rng, sources
        self.pictures: dict[str, np.ndarray] = {}
        self.assets: dict[str, dict] = {}
        self._ufo = ufo_table()

    def keep(self, key: str, array: np.ndarray) -> str:
        """Store a picture [*, *, 3] in [0, 1]; returns its key."""
        image = Image.fromarray((np.clip(array, 0, 1) * 255).astype(np.uint8))
        self.pictures[key] = np.asarray(image.resize((SIZE, SIZE), Image.LANCZOS).convert("RGBA"))
        return key

    def robosuite(self, name: str) -> np.ndarray:
        self.assets[f"robosuite/{name}"] = {
            "name": str(name),
            "pack": "robosuite 1.5.2",
            "licence": "MIT",
            "creator": "robosuite authors",
        }
        return self._load(self.sources.robosuite_textures / f"{name}.png")

    def ufo(self, name: str) -> np.ndarray:
        licence, creator = self._ufo[name]
        self.assets[f"ufoai/{name}"] = {
            "name": str(name),
            "pack": "ufoai-textures 2.5-2",
            "licence": licence,
            "creator": creator,
        }
        return self._load(self.sources.ufo_textures / name)

    @staticmethod
    def _load(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path).convert("RGB"), np.float32) / 255

    def noise(self, n: int, octaves=(4, 8, 16, 32, 64), gain=0.6) -> np.ndarray:
        """Seamless noise [n, n, 1] of unit deviation."""
        total, amplitude = np.zeros((n, n)), 1.0
        for k in octaves:
            grid = np.pad(self.rng.standard_normal((k, k)), ((0, 1), (0, 1)), "wrap")
            image = Image.fromarray(grid.astype(np.float32)).resize((n, n), Image.BICUBIC)
            total += amplitude * np.asarray(image)
            amplitude *= gain
        return (total / total.std())[..., None]

    def planks(self) -> str:
        """Parquet: crops of one wood photograph, a tint for each plank, dark seams."""
        rng, n = self.rng, 1024
        photo = self.robosuite(rng.choice(["red-wood", "light-wood", "gray-woodgrain"]))
        wood = without_mean(photo, rng.uniform(0.6, 1.1), 0.8)
        if wood.shape[0] < wood.shape[1] * 0.9:
            wood = wood[:, : wood.shape[0]]
        tint = np.array(WOOD_TINTS[rng.integers(len(WOOD_TINTS))])
        rows = int(rng.choice([8, 10, 14]))
        height = n // rows
        out = np.ones((height * rows, n, 3), np.float32)
        spread = rng.uniform(0.03, 0.10)
        for row in range(rows):
            x = -int(rng.integers(0, n // 2))
            while x < n:
                length = int(rng.uniform(0.35, 0.75) * n)
                shade = 1 + rng.normal() * spread
                warm = rng.normal() * spread * 0.3
                y0 = rng.integers(0, max(1, wood.shape[1] - height))
                x0 = rng.integers(0, max(1, wood.shape[0] // 3))
                crop = _resized(wood[x0:, y0 : y0 + height].transpose(1, 0, 2), (length, height))
                crop = crop / crop.mean() * 0.95 * shade * tint * [1 + warm, 1, 1 - warm]
                crop[:2] *= 0.6
                crop[:, :2] *= 0.6
                a, b = max(x, 0), min(x + length, n)
                if b > a:
                    out[row * height : (row + 1) * height, a:b] = crop[:, a - x : b - x]
                x += length
        return self.keep("planks", out)

    def tiles(self) -> str:
        """Floor tiles in one or two colours with grout."""
        rng, n = self.rng, 512
        kinds = ["ceramic", "gray-plaster", "pink-plaster", "light-gray-plaster", "steel-scratched"]
        base = without_mean(self.robosuite(rng.choice(kinds)), rng.uniform(0.3, 0.9), 0.9)
        base = _resized(base, (n, n))
        tint = np.array(TILE_TINTS[rng.integers(len(TILE_TINTS))])
        k = int(rng.choice([2, 3, 4]))
        step = n // k
        out = base * tint
        second = tint * rng.uniform(0.3, 1.0) if rng.random() < 0.3 else None
        for i in range(k):
            for j in range(k):
                cell = out[i * step : (i + 1) * step, j * step : (j + 1) * step]
                cell *= 1 + rng.normal() * 0.03
                if second is not None and (i + j) % 2:
                    cell *= second / tint
        grout = rng.uniform(0.35, 0.8) * np.array([0.9, 0.88, 0.85])
        for i in range(k):
            out[i * step : i * step + 3] = grout
            out[:, i * step : i * step + 3] = grout
        return self.keep("tiles", out)

    def paint(self, key: str, color: np.ndarray) -> str:
        plasters = ["white-plaster", "light-gray-plaster", "cream-plaster", "white-plaster"]
        photo = self.robosuite(self.rng.choice(plasters))
        return self.keep(key, without_mean(photo, 0.7, 0.95) * color)

    def wallpaper(self, key: str, color: np.ndarray) -> str:
        """Stripes, dots, a lattice or waves in two shades of one colour."""
        rng, n = self.rng, 512
        y, x = np.mgrid[0:n, 0:n] / n
        kind = rng.integers(4)
        k = int(rng.integers(3, 9))
        turn = 2 * np.pi * k
        if kind == 0:
            mask = (np.sin(turn * x) > rng.uniform(-0.5, 0.6)).astype(float)
        elif kind == 1:
            mask = ((np.cos(turn * x) * np.cos(turn * y)) > rng.uniform(0.3, 0.8)).astype(float)
        elif kind == 2:
            lattice = np.cos(turn * (x + y)) + np.cos(turn * (x - y))
            mask = (lattice + 0.6 * np.cos(2 * turn * x) > 0.7).astype(float)
        else:
            mask = np.clip(0.5 + 0.5 * np.sin(turn * x + 3 * np.sin(turn / 2 * y)), 0, 1) ** 3
        second = np.clip(color * rng.uniform(0.65, 0.92) + rng.normal(size=3) * 0.04, 0, 1)
        out = color * (1 - mask[..., None]) + second * mask[..., None]
        return self.keep(key, out * (1 + 0.02 * self.noise(n)))

    def fabric(self, key: str, color: np.ndarray) -> str:
        """Woven cloth, sometimes with stripes."""
        rng, n = self.rng, 256
        y, x = np.mgrid[0:n, 0:n]
        weave = 1 + 0.05 * np.sin(x * 1.6)[..., None] * np.sin(y * 1.6)[..., None]
        out = np.ones((n, n, 3)) * color * weave * (1 + 0.04 * self.noise(n))
        if rng.random() < 0.4:
            k = int(rng.integers(3, 10))
            other = np.clip(color + rng.uniform(-0.35, 0.35, 3), 0.05, 0.95)
            stripe = (np.sin(2 * np.pi * k * x / n) > rng.uniform(-0.2, 0.8))[..., None]
            out = np.where(stripe, other * weave, out)
        return self.keep(key, out)

    def fitted_carpet(self) -> str:
        color = np.array(CARPET_COLORS[self.rng.integers(len(CARPET_COLORS))])
        return self.keep("felt", without_mean(self.robosuite("gray-felt"), 0.6, 0.9) * color)

    def rug(self, key: str) -> tuple[str, float]:
        """A rug: (key, width / height)."""
        if self.rng.random() < 0.5:
            name = str(self.rng.choice(_RUGS))
            photo = self.ufo(f"tex_buildings/{name}.png")
            photo = 0.75 * photo + 0.25 * photo.mean(-1, keepdims=True)  # less saturated
            return self.keep(key, photo), _RUG_ASPECT.get(name, 1.0)
        color = self.rng.uniform(0.25, 0.85) * np.ones(3) + self.rng.normal(size=3) * 0.08
        return self.fabric(key, np.clip(color, 0.08, 0.9)), 1.4

    def art(self, key: str) -> tuple[str, float]:
        """A painting or print: (key, width / height)."""
        names = [
            f for f in self._ufo if f.startswith("tex_pics/") and not any(s in f for s in _NO_ART)
        ]
        names += ["tex_misc/books005.jpg", "tex_misc/books008.jpg"]
        if self.rng.random() < 0.65:
            photo = self.ufo(str(self.rng.choice(names)))
            return self.keep(key, photo), photo.shape[1] / photo.shape[0]
        # an abstract colour field
        a, b, c = self.rng.uniform(0.1, 0.9, (3, 1)) + self.rng.normal(size=(3, 3)) * 0.12
        u, v = self.noise(256, (2, 4, 8)), self.noise(256, (2, 3, 6))
        out = a + (b - a) / (1 + np.exp(-3 * u)) * 0.9
        out = out + (c - out) * (v > 0.6)
        return self.keep(key, np.clip(out, 0, 1)), float(self.rng.choice([0.7, 1.0, 1.4]))
