"""Make photo-like captures of static scenes, one per seed.

    python make_rooms.py OUT FIRST LAST [--size 192x144] [--samples 64] [--oversample 3]

compose -> geometry -> path -> bake the light once -> rasterise the views -> write the capture.
Seeds whose folder exists are skipped, so the same command continues an interrupted run.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import light
import numpy as np
import probes
import rooms
import walk
from capture import Views, sentence, write_capture
from catalog import Catalog
from draw import Painter
from layers import load_layers
from scene import Scene
from sources import Sources

#: Number of probes that ``--samples`` refers to; scenes with more take fewer paths each.
REFERENCE_PROBES = 50000


@dataclass(frozen=True)
class Settings:
    size: tuple[int, int]
    """Width and height of the photos in pixels."""
    samples: int
    """Paths from each corner of a probe at REFERENCE_PROBES probes."""
    oversample: int
    """Samples of a pixel along each side."""


class Clock:
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.time()

    def lap(self, step: str) -> None:
        now = time.time()
        self.seconds[step] = round(now - self._start, 2)
        self._start = now


def make_capture(seed: int, folder: Path, sources: Sources, catalog: Catalog, settings: Settings):
    """Write the capture of a seed. Returns False if no good camera path exists."""
    clock = Clock()
    scene = rooms.compose(seed, sources, catalog)
    rng = np.random.default_rng(seed + 1000003)
    pictures = load_layers(scene)
    clock.lap("compose")
    geometry = probes.flatten(scene)
    clock.lap("geometry")
    sky = load_sky(sources.panorama(scene.panorama), scene.sky_turn)
    # the path comes first: scenes without a good one are not baked
    frames = int(rng.integers(90, 151))
    focal = float(np.round(rng.uniform(0.7, 1.05) * settings.size[0], 2))
    tangent = settings.size[0] / 2 / focal, settings.size[1] / 2 / focal
    poses, judged = walk.plan(scene, geometry, rng, frames, tangent)
    clock.lap("path")
    if poses is None or judged["score"] < 0.0:
        print(f"seed {seed}: no good path: {judged}", flush=True)
        return False
    raw = bake(scene, geometry, sky, sources, settings.samples)
    clock.lap("bake")
    lit = light.filter_light(scene, geometry, raw)
    clock.lap("filter")
    painter = Painter(scene, geometry, lit, pictures, sky, settings.size, settings.oversample)
    expose(painter, scene, poses, tangent, lit[0], sky, rng)
    clock.lap("exposure")
    photos, depths = zip(*(painter.photo(pose, tangent) for pose in poses), strict=True)
    painter.close()
    clock.lap("frames")
    memory = [resource.getrusage(who).ru_maxrss / 1e6 for who in (0, -1)]
    timing = {"seconds": clock.seconds, "memory_gb": [round(m, 2) for m in memory]}
    views = Views(np.stack(photos), np.stack(depths), np.stack(poses), focal)
    write_capture(folder, views, describe(scene, judged, frames), timing, rng)
    print(f"seed {seed}: {scene.kind}, {scene.light_name}, {clock.seconds}", flush=True)
    return True


def load_sky(path: Path, turn: float) -> np.ndarray:
    """A panorama [height, width, 3], linear, turned, with the upper half's mean light at 1."""
    import OpenEXR

    channels = OpenEXR.File(str(path)).channels()
    pixels = next(channels[k].pixels for k in ("RGB", "RGBA") if k in channels)[..., :3]
    # ringing of lossy compression: some panoramas reach -3,900, which would bake negative light
    sky = np.clip(np.nan_to_num(pixels.astype(np.float32)), 0.0, None)
    half = len(sky) // 2
    weight = np.cos(np.linspace(np.pi / 2, -np.pi / 2, len(sky)))[:, None]
    brightness = sky.mean(-1)
    calm = np.minimum(brightness, np.percentile(brightness, 98) * 3) * weight
    level = calm[:half].sum() / (weight[:half].sum() * sky.shape[1])
    sky = np.minimum(sky / level, 40.0)
    return np.ascontiguousarray(np.roll(sky, int(turn / (2 * np.pi) * sky.shape[1]), 1))


def bake(scene: Scene, geometry, sky, sources: Sources, samples: int) -> np.ndarray:
    """Light at the probes [probes, 3 estimates, rgb], by bake.py in Blender's environment."""
    lamp = np.array([g.lamp for g in scene.meshes])[geometry.mesh_of]
    solid, lamp = geometry.opaque & ~lamp, geometry.opaque & lamp
    points, _, _, mats = geometry.quads
    small = sky
    if sky.shape[1] > 512:
        small = sky.reshape(sky.shape[0] // 2, 2, sky.shape[1] // 2, 2, 3).mean((1, 3))
    if scene.sun:  # the sun is a separate light
        small = np.minimum(small, 6.0)
    spec = {
        "colors": [m.mean for m in scene.materials],
        "portals": scene.portals,
        "lights": scene.lights,
        "sun": scene.sun,
    }
    given = geometry.probes
    paths = samples * REFERENCE_PROBES / len(given.p) * (0.75 if scene.sun else 1.0)
    with tempfile.TemporaryDirectory(prefix="rooms_") as scratch:
        source, target = Path(scratch) / "scene.npz", Path(scratch) / "light.npy"
        np.savez(
            source,
            spec=json.dumps(spec),
            probe_p=given.p,
            probe_n=given.n,
            probe_u=given.u,
            probe_v=given.v,
            sky=small * scene.sky_strength,
            solid_p=np.concatenate([points, geometry.p[solid].reshape(-1, 3)]),
            solid_m=np.concatenate([mats, geometry.m[solid]]),
            lamp_p=geometry.p[lamp].reshape(-1, 3),
            lamp_m=geometry.m[lamp],
        )
        program = str(Path(__file__).with_name("bake.py"))
        command = [sources.blender_python, program, source, target, str(max(16, round(paths)))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not target.exists():
            raise RuntimeError(f"bake.py failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        return np.nan_to_num(np.load(target), posinf=0, neginf=0)


def expose(painter: Painter, scene: Scene, poses, tangent, lightmap, sky, rng) -> None:
    """Exposure, white balance and reflections similar to a phone camera's."""
    seen = poses[:: max(1, len(poses) // 10)]
    painter.sky_strength = scene.sky_strength
    sample = np.concatenate([painter.surface_colors(p, tangent) for p in seen])
    brightness = np.clip(np.nan_to_num(sample), 0, 1e3).mean(-1)
    level = np.exp(np.log(brightness + 1e-3 * np.median(brightness) + 1e-6).mean())
    # the median goes to about 0.25, the brightest 5 % to less than twice white
    exposure = 0.27 / level * rng.uniform(0.8, 1.15)
    exposure = min(exposure, 1.9 / np.percentile(brightness, 95))
    # white balance by the light, not by the surfaces
    white = np.median(lightmap[lightmap.sum(-1) > 0], 0)
    if scene.sun:
        sunlight = np.array(scene.sun["color"]) * scene.sun["strength"] / np.pi
        white = white + sunlight * (0.03 if scene.indoor else 0.5)
    white = (white / white.mean()) ** -rng.uniform(0.6, 0.95)
    painter.exposure = tuple(exposure * white)
    if scene.indoor:  # the view through windows is at most about 2.5 times white
        horizon = np.median(sky[sky.shape[0] // 3 : sky.shape[0] * 2 // 3].mean(-1))
        most = rng.uniform(1.2, 3.5) / (horizon * exposure)
        painter.sky_strength = min(scene.sky_strength, most)
    x, y, _ = np.mean([p[:3, 3] for p in poses], 0)
    around = [r for r in scene.floor_rects if r[0] < x < r[2] and r[1] < y < r[3]]
    x0, y0, x1, y1 = (around or scene.floor_rects)[0]
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2, 1.3])
    painter.make_mirror(centre, (np.array([x0, y0, 0.0]), np.array([x1, y1, scene.height])))


def describe(scene: Scene, judged: dict, frames: int) -> dict:
    """The content of scene.json."""
    pack, name = scene.panorama.split(":")
    package = "bpy 4.5.15 studiolights" if pack == "bpy" else "@pmndrs/assets 1.7.0"
    panorama = {"name": name, "pack": package, "licence": "CC0-1.0", "creator": "Poly Haven"}
    return {
        "seed": scene.seed,
        "kind": scene.kind,
        "plan": scene.plan,
        "light": scene.light_name,
        "description": sentence(scene.kind, scene.light_name, scene.objects),
        "path": judged,
        "frames": frames,
        "objects": scene.objects,
        "assets": {**scene.assets, **scene.surfaces.assets, scene.panorama: panorama},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--size", default="192x144", help="width x height in pixels")
    parser.add_argument("--samples", type=int, default=64, help="paths from a probe's corner")
    parser.add_argument("--oversample", type=int, default=3, help="samples along a pixel's side")
    a = parser.parse_args()
    try:
        width, height = (int(v) for v in a.size.split("x"))
    except ValueError:
        parser.error(f"--size must be WIDTHxHEIGHT: '{a.size}'")
    sources = Sources.from_environment()
    catalog = Catalog(sources.library)
    settings = Settings((width, height), a.samples, a.oversample)
    a.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for seed in range(a.first, a.last + 1):
        folder = a.out / f"{seed:05d}"
        if folder.exists():
            continue
        try:
            make_capture(seed, folder, sources, catalog, settings)
        except RuntimeError as error:
            print(f"seed {seed}: {error}", file=sys.stderr, flush=True)
            failed.append(seed)
    if failed:
        raise SystemExit(f"seeds that failed: {failed}")


if __name__ == "__main__":
    main()
