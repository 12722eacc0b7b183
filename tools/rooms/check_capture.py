"""Check that a capture's points, cameras and depth maps agree, and compare depth with ray casts.

    python check_capture.py CAPTURE... [--rays]

The points of sparse_pc.ply are projected into every third frame. With --rays the scene is rebuilt
from its seed and every twelfth depth map is compared with ray casts by Embree. Exit code 1 if fewer
than 95 % of the pixels compared agree within 2 cm + 1 %.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

POINT = np.dtype([("position", "<f4", 3), ("color", "u1", 3)])
MIN_AGREEMENT = 0.95


def read_points(path: Path) -> np.ndarray:
    """Positions [points, 3] of a PLY that write_ply wrote."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    count = next(int(s.split()[-1]) for s in header.split(b"\n") if s.startswith(b"element vertex"))
    return np.frombuffer(body, POINT, count)["position"].astype(np.float64)


def read_depth(folder: Path, meta: dict, frame: dict) -> np.ndarray:
    millimetres = np.asarray(Image.open(folder / frame["depth_file_path"]))
    return millimetres.astype(float) * meta["depth_unit_scale_factor"]


def agreement_of_points(folder: Path) -> float:
    """Share of the points that are not behind the depth map and lie on it."""
    meta = json.loads((folder / "transforms.json").read_text())
    points = read_points(folder / meta["ply_file_path"])
    on_surface = visible = 0
    for frame in meta["frames"][::3]:
        z = read_depth(folder, meta, frame)
        pose = np.array(frame["transform_matrix"])
        x, y, back = ((points - pose[:3, 3]) @ pose[:3, :3]).T
        d = np.maximum(-back, 1e-6)
        u, v = meta["fl_x"] * x / d + meta["cx"], -meta["fl_y"] * y / d + meta["cy"]
        inside = (-back > 0.05) & (u >= 0) & (u < meta["w"]) & (v >= 0) & (v < meta["h"])
        at = v[inside].astype(int), u[inside].astype(int)
        tolerance = 0.02 + 0.01 * d[inside]
        # against the pixel and its neighbours: small photos have large pixels
        before_far = d[inside] < maximum_filter(z, 3)[at] + tolerance
        behind_near = d[inside] > minimum_filter(z, 3)[at] - tolerance
        on_surface += (before_far & behind_near).sum()
        visible += before_far.sum()
    return float(on_surface / max(visible, 1))


def agreement_of_rays(folder: Path) -> float:
    """Share of the pixels whose depth equals that of a ray cast into the composed scene."""
    import rooms
    import triangles
    from catalog import Catalog
    from sources import Sources

    meta = json.loads((folder / "transforms.json").read_text())
    seed = json.loads((folder / "scene.json").read_text())["seed"]
    sources = Sources.from_environment()
    scene = rooms.compose(seed, sources, Catalog(sources.library))
    alpha = np.array([m.alpha for m in scene.materials])
    solid = [g.p.reshape(-1, 3, 3)[alpha[g.m] >= 0.6] for g in scene.meshes]
    quads = triangles.rect_triangles(scene)[0].reshape(-1, 3, 3)
    rays = triangles.Rays(np.concatenate([quads, *solid]))
    v, u = np.mgrid[0 : meta["h"], 0 : meta["w"]]
    x, y = (u + 0.5 - meta["cx"]) / meta["fl_x"], (v + 0.5 - meta["cy"]) / meta["fl_y"]
    local = np.stack([x, -y, -np.ones(u.shape)], -1).reshape(-1, 3)
    same = []
    for frame in meta["frames"][::12]:
        pose = np.array(frame["transform_matrix"])
        d = local @ pose[:3, :3].T
        # the ray's length along the viewing axis is 1, so its distance is the depth
        t, _ = rays.hit(np.repeat(pose[None, :3, 3], len(d), 0), d)
        z = read_depth(folder, meta, frame).ravel()
        both = np.isfinite(t) & (z > 0)
        same.append(np.abs(z - t)[both] < 0.02 + 0.01 * t[both])
    return float(np.concatenate(same).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("captures", type=Path, nargs="+")
    parser.add_argument("--rays", action="store_true", help="compare with ray casts as well")
    a = parser.parse_args()
    wrong = 0
    for folder in a.captures:
        shares = {"points": agreement_of_points(folder)}
        if a.rays:
            shares["rays"] = agreement_of_rays(folder)
        wrong += min(shares.values()) < MIN_AGREEMENT
        print(folder, ", ".join(f"{k} {100 * v:.2f} %" for k, v in shares.items()))
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
