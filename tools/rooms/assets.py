# SPDX-License-Identifier: GPL-3.0-or-later
# This program runs inside Blender's Python module (bpy), whose licence it shares. It is a separate
# program: the rest of the tool reads the files that it writes.
"""Converts furniture archives to one small .npz per model and index.json. Runs once.

    python assets.py FURNITURE_FOLDER LIBRARY_FOLDER

Every model is triangulated, reduced, scaled to its catalogue size in metres, centred in x and y,
stands on z = 0 and faces -y. Pictures are named relative to the furniture folder.
"""

import json
import re
import sys
from pathlib import Path

import bpy
import numpy as np

#: Maximum number of triangles by the largest side in metres.
MAX_TRIANGLES, MEDIUM, SMALL = 7000, (0.8, 3500), (0.3, 1500)
#: The same for models with leaves, which reduction would destroy, and their categories.
MAX_FOLIAGE = 26000
FOLIAGE = {
    "Plant",
    "Decorative plant",
    "Indoor plant",
    "Spathiphyllum",
    "Yucca",
    "Ficus",
    "Bush",
    "Bamboo",
    "Spider plant",
}
SKIPPED_CATEGORIES = {"Characters", "Staircases"}
LICENCES = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Reallusion": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}
PLAIN = {
    "color": [0.7, 0.7, 0.7],
    "image": "",
    "rough": 0.6,
    "alpha": 1.0,
    "emit": 0.0,
    "metal": 0.0,
}


def main(root: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    index = []
    for item in catalogue(root):
        name = f"{item['pack']}__{Path(item['path']).stem}"
        try:
            p, n, t, m, materials, size = convert(item, root)
        except (RuntimeError, ValueError) as error:
            print("bad", name, error, flush=True)
            continue
        if not len(p) or not np.isfinite(p).all() or len(m) > 60000:
            print("skipped", name, len(m))
            continue
        np.savez(out / f"{name}.npz", p=p, n=n, t=t, m=m)
        index.append(record(item, name, materials, size))
    (out / "index.json").write_text(json.dumps(index, indent=0))
    print("models", len(index))


def catalogue(root: Path):
    """The entries of all archives that have a model and are not skipped."""
    for pack in sorted(p.name for p in root.iterdir()):
        text = (root / pack / "PluginFurnitureCatalog.properties").read_text(encoding="latin1")
        items: dict[int, dict[str, str]] = {}
        for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*)$", text, re.M):
            items.setdefault(int(number), {})[key] = value.strip()
        for _, item in sorted(items.items()):
            path = f"{root}/{pack}{item.get('model', '')}"
            known = path.endswith(".obj") and Path(path).exists()
            if known and item.get("category") not in SKIPPED_CATEGORIES:
                yield {**item, "path": path, "pack": pack}


def record(item, name: str, materials, size) -> dict:
    entry = {
        "id": name,
        "name": item["name"],
        "category": item["category"],
        "creator": item.get("creator", "?"),
        "pack": item["pack"],
        "licence": LICENCES[item["pack"]],
        "size": size.tolist(),
        "materials": materials,
    }
    if "lightSourceX" in item:
        x, y, z = (float(item[f"lightSource{k}"].split()[0]) / 100 for k in "XYZ")
        entry["light"] = [x - size[0] / 2, size[1] / 2 - y, z]
    return entry


def convert(item, root: Path):
    """(points, normals, texture coordinates, slots, materials, size) of one model."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.wm.obj_import(filepath=item["path"])
    bodies = [o for o in bpy.context.scene.objects if o.type == "MESH"]
    reduce_bodies(bodies, most_triangles(item))
    parts, materials = [], []
    for body in bodies:
        arrays = read_mesh(body)
        if arrays is None:
            continue
        *corners, slots = arrays
        parts.append((*corners, slots + len(materials)))
        materials += [material_record(m, root) for m in (body.data.materials or [None])]
    p, n, t, m = (np.concatenate(a) for a in zip(*parts, strict=True))
    if "modelRotation" in item:
        r = np.array([float(v) for v in item["modelRotation"].split()]).reshape(3, 3)
        p, n = (rotate_y_up(a, r) for a in (p, n))
    size = np.array([float(item[k]) / 100 for k in ("width", "depth", "height")])
    low, high = p.min(0), p.max(0)
    scale = size / np.maximum(high - low, 1e-6)
    p = (p - [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]]) * scale
    n = n / scale
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
    return *(a.astype(np.float32) for a in (p, n, t)), m.astype(np.int32), materials, size


def rotate_y_up(a, rotation):
    """Apply a rotation that is given in the catalogue's axes (y up) to vectors with z up."""
    y_up = np.stack([a[:, 0], a[:, 2], -a[:, 1]], 1) @ rotation.T
    return y_up[:, [0, 2, 1]] * [1, -1, 1]


def most_triangles(item) -> int:
    largest = max(float(item[k]) / 100 for k in ("width", "depth", "height"))
    if (item["category"] == "Exterior" and largest > 2.0) or item["name"] in FOLIAGE:
        return MAX_FOLIAGE
    return next((most for below, most in (SMALL, MEDIUM) if largest < below), MAX_TRIANGLES)


def reduce_bodies(bodies, most: int) -> None:
    polygons = sum(len(b.data.polygons) for b in bodies)
    triangles = sum(len(p.vertices) - 2 for b in bodies for p in b.data.polygons)
    for body in bodies:
        if polygons > most / 2 and len(body.data.polygons) > 60:
            body.modifiers.new("triangulate", "TRIANGULATE")
            if triangles > most:
                body.modifiers.new("decimate", "DECIMATE").ratio = most / triangles


def read_mesh(body):
    """Corner points, normals, texture coordinates and material slots of triangles, or None."""
    mesh = body.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    mesh.transform(body.matrix_world)
    mesh.calc_loop_triangles()
    count = len(mesh.loop_triangles)
    if not count:
        return None

    def values(collection, name: str, width: int, kind):
        out = np.empty(len(collection) * width, kind)
        collection.foreach_get(name, out)
        return out.reshape(-1, width) if width > 1 else out

    loops = values(mesh.loop_triangles, "loops", 3, np.int32).ravel()
    slots = values(mesh.loop_triangles, "material_index", 1, np.int32)
    vertex = values(mesh.loops, "vertex_index", 1, np.int32)
    points = values(mesh.vertices, "co", 3, np.float32)[vertex[loops]]
    normals = values(mesh.corner_normals, "vector", 3, np.float32)[loops]
    layer = mesh.uv_layers.active
    uv = values(layer.data, "uv", 2, np.float32)[loops] if layer else np.zeros((count * 3, 2))
    return points, normals, uv.astype(np.float32), slots


def material_record(material, root: Path) -> dict:
    out = dict(PLAIN)
    nodes = material.node_tree.nodes if material is not None and material.use_nodes else []
    node = next((n for n in nodes if n.type == "BSDF_PRINCIPLED"), None)
    if node is None:
        return out
    base = node.inputs["Base Color"]
    out["color"] = [float(c) for c in base.default_value[:3]]
    source = base.links[0].from_node if base.is_linked else None
    if source is not None and source.type == "TEX_IMAGE" and source.image:
        path = Path(bpy.path.abspath(source.image.filepath)).resolve()
        if path.is_relative_to(root.resolve()) and path.is_file():
            out["image"] = path.relative_to(root.resolve()).as_posix()
    for key, name in (("rough", "Roughness"), ("metal", "Metallic"), ("alpha", "Alpha")):
        out[key] = float(node.inputs[name].default_value)
    glows = max(node.inputs["Emission Color"].default_value[:3]) > 0.05
    out["emit"] = float(glows and node.inputs["Emission Strength"].default_value > 0)
    return out


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
