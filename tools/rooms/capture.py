"""A rendered scene as a nerfstudio capture. In: photos, depths, poses. Out: a folder.

images/%05d.png     photos
depth/%05d.png      16 bit, millimetres along the viewing axis, 0 for the sky
transforms.json     cameras: OPENCV without distortion, OpenGL camera-to-world
sparse_pc.ply       about 5,000 coloured points
scene.json          contents, one sentence of description, assets with licence and creator
timing.json         seconds and memory: the only file that differs between two runs of a seed
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

POINTS = 5000
#: Parts of the shell, which the sentence does not mention.
UNMENTIONED = {"Door", "Window", "Picture", "Curtain", "Rug"}
LIGHT_PHRASES = {
    "day": "in daylight",
    "day with lamps": "in daylight with the lamps on",
    "evening": "in the evening with the lamps on",
    "night": "at night with the lamps on",
}


@dataclass(frozen=True)
class Views:
    """Photos [views, height, width, 3] uint8, depths [views, height, width] in metres, OpenGL
    camera-to-world poses [views, 4, 4] and the focal length in pixels.
    """

    photos: np.ndarray
    depths: np.ndarray
    poses: np.ndarray
    focal: float


def write_capture(folder: Path, views: Views, scene: dict, timing: dict, rng) -> None:
    """Write the folder, atomically."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "images").mkdir(parents=True)
    (part / "depth").mkdir()
    for k, (photo, z) in enumerate(zip(views.photos, views.depths, strict=True)):
        Image.fromarray(photo).save(part / f"images/{k:05d}.png", compress_level=3)
        millimetres = np.clip(np.round(z * 1000), 0, 65535).astype(np.uint16)
        Image.fromarray(millimetres).save(part / f"depth/{k:05d}.png", compress_level=3)
    write_json(part / "transforms.json", transforms(views))
    write_ply(part / "sparse_pc.ply", *sparse_points(views, rng))
    write_json(part / "scene.json", scene)
    write_json(part / "timing.json", timing)
    os.replace(part, folder)


def transforms(views: Views) -> dict:
    height, width = views.depths.shape[1:]
    return {
        "camera_model": "OPENCV",
        "fl_x": views.focal,
        "fl_y": views.focal,
        "cx": width / 2,
        "cy": height / 2,
        "w": width,
        "h": height,
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "ply_file_path": "sparse_pc.ply",
        "depth_unit_scale_factor": 0.001,
        "frames": [
            {
                "file_path": f"images/{k:05d}.png",
                "depth_file_path": f"depth/{k:05d}.png",
                "transform_matrix": pose.tolist(),
            }
            for k, pose in enumerate(views.poses)
        ],
    }


def sparse_points(views: Views, rng) -> tuple[np.ndarray, np.ndarray]:
    """Random surface points of all views: world [points, 3] and colours uint8."""
    height, width = views.depths.shape[1:]
    each = int(np.ceil(POINTS / len(views.poses)))
    points, colors = [], []
    for pose, photo, z in zip(views.poses, views.photos, views.depths, strict=True):
        v, u = np.nonzero(z > 0)
        if not len(v):
            continue
        chosen = rng.integers(len(v), size=each)
        u, v = u[chosen], v[chosen]
        d = z[v, u]
        x, y = (u + 0.5 - width / 2) / views.focal, (v + 0.5 - height / 2) / views.focal
        points.append(np.stack([x * d, -y * d, -d], 1) @ pose[:3, :3].T + pose[:3, 3])
        colors.append(photo[v, u])
    return np.concatenate(points), np.concatenate(colors)


def write_ply(path: Path, points: np.ndarray, colors: np.ndarray) -> None:
    fields = [(k, "<f4") for k in "xyz"] + [(k, "u1") for k in ("red", "green", "blue")]
    table = np.empty(len(points), fields)
    for i, name in enumerate("xyz"):
        table[name] = points[:, i]
    for i, name in enumerate(("red", "green", "blue")):
        table[name] = colors[:, i]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {'float' if t == '<f4' else 'uchar'} {n}" for n, t in fields]
    text = "\n".join([*header, "end_header\n"])
    path.write_bytes(text.encode() + table.tobytes())


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1))


def sentence(kind: str, light: str, objects: list[dict]) -> str:
    """One sentence with the eight largest kinds of objects."""
    named = [o for o in objects if o["name"] not in UNMENTIONED]
    count: dict[str, int] = {}
    size: dict[str, float] = {}
    for o in named:
        name = o["name"].lower()
        count[name] = count.get(name, 0) + 1
        size[name] = max(size.get(name, 0.0), float(np.prod(o.get("size", [0.0]))))
    listed = []
    for name in sorted(count, key=lambda n: -size[n])[:8]:
        listed.append(_article(name) if count[name] == 1 else f"{count[name]} {_plural(name)}")
    *others, last = listed or ["no furniture"]
    things = f"{', '.join(others)} and {last}" if others else last
    return f"{_article(kind).capitalize()} {LIGHT_PHRASES.get(light, light)} with {things}."


def _article(name: str) -> str:
    if name.endswith("s"):
        return name
    return ("an " if name[0] in "aeiou" else "a ") + name


def _plural(name: str) -> str:
    if name.endswith("ch"):
        return name + "es"
    return name if name.endswith("s") else name + "s"
