# SPDX-License-Identifier: GPL-3.0-or-later
# This program runs inside Blender's Python module (bpy), whose licence it shares. It is a separate
# program: the rest of the tool starts it as a process and exchanges files with it.
"""Irradiance at probe points, path traced by Cycles.

    python bake.py IN.npz OUT.npy SAMPLES

Probes are tiny triangles that no ray can hit; each of their three corners is one estimate. Of a sun
only the bounced light is baked: its direct light is drawn with a shadow map. In: ``spec`` (JSON:
colors, portals, lights, sun), ``probe_p/n/u/v``, ``sky``, ``solid_p/m`` and ``lamp_p/m`` (triangles
and their materials). Out: [probes, 3 estimates, rgb] float32.
"""

import json
import sys
import time

import bpy
import numpy as np
from mathutils import Matrix, Vector

SEED = 0
UNSEEN = ("diffuse", "glossy", "transmission", "shadow", "volume_scatter")


def main(source: str, target: str, samples: int) -> None:
    with np.load(source, allow_pickle=False) as file:
        data = {k: file[k] for k in file.files}
    spec = json.loads(str(data["spec"]))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    configure(scene)
    materials = [diffuse(c) for c in spec["colors"]]
    for name in ("solid", "lamp"):
        if len(data[name + "_m"]):
            body = add_mesh(scene, name, data[name + "_p"], data[name + "_m"], materials)
            if name == "lamp":  # the bulb inside must shine through its shade
                body.visible_shadow = body.visible_diffuse = False
    tri, back = probe_triangles(data)
    probes = add_mesh(scene, "probe", tri.reshape(-1, 3), None, [diffuse((0.8, 0.8, 0.8))])
    for kind in UNSEEN:
        setattr(probes, f"visible_{kind}", False)
    add_sky(scene, data["sky"])
    for portal in spec["portals"]:
        add_portal(scene, portal)
    for lamp in spec["lights"]:
        add_lamp(scene, lamp)
    sun = add_sun(scene, spec["sun"]) if spec["sun"] else None
    attribute = probes.data.color_attributes.new("light", "FLOAT_COLOR", "CORNER")
    probes.data.color_attributes.active_color = attribute
    bpy.ops.object.select_all(action="DESELECT")
    probes.select_set(True)
    bpy.context.view_layer.objects.active = probes
    if sun is None:
        light = bake(scene, attribute, {"DIRECT", "INDIRECT"}, samples)
    else:
        light = bake(scene, attribute, {"INDIRECT"}, samples)
        sun.hide_render = True
        light += bake(scene, attribute, {"DIRECT"}, samples)
    light[back] = light[back][:, [0, 2, 1]]
    np.save(target, light)


def configure(scene) -> None:
    scene.render.engine = "CYCLES"
    scene.render.threads_mode, scene.render.threads = "FIXED", 2
    cycles = scene.cycles
    cycles.device, cycles.seed = "CPU", SEED
    cycles.max_bounces = cycles.diffuse_bounces = 6
    cycles.use_denoising = cycles.use_adaptive_sampling = False
    cycles.sample_clamp_indirect = 8.0
    cycles.caustics_reflective = cycles.caustics_refractive = False


def add_mesh(scene, name: str, points, slots, materials):
    """A mesh object from the corners of triangles [3 triangles, 3]."""
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(points))
    mesh.vertices.foreach_set("co", np.ascontiguousarray(points, np.float32).ravel())
    mesh.loops.add(len(points))
    mesh.loops.foreach_set("vertex_index", np.arange(len(points), dtype=np.int32))
    mesh.polygons.add(len(points) // 3)
    mesh.polygons.foreach_set("loop_start", np.arange(0, len(points), 3, dtype=np.int32))
    for material in materials:
        mesh.materials.append(material)
    if slots is not None:
        mesh.polygons.foreach_set("material_index", np.ascontiguousarray(slots, np.int32))
    mesh.update(calc_edges=True)
    body = bpy.data.objects.new(name, mesh)
    scene.collection.objects.link(body)
    return body


def diffuse(color):
    material = bpy.data.materials.new("diffuse")
    material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    out = tree.nodes.new("ShaderNodeOutputMaterial")
    node = tree.nodes.new("ShaderNodeBsdfDiffuse")
    node.inputs["Color"].default_value = (*color, 1)
    tree.links.new(node.outputs[0], out.inputs[0])
    return material


def probe_triangles(data):
    """Triangles [probes, 3, 3] wound along their normals, and which were turned."""
    p, u, v = data["probe_p"], data["probe_u"], data["probe_v"]
    tri = np.stack([p - 0.4 * u - 0.35 * v, p + 0.4 * u - 0.35 * v, p + 0.4 * v], 1)
    normal = np.cross(tri[:, 1] - tri[:, 0], tri[:, 2] - tri[:, 0])
    back = (normal * data["probe_n"]).sum(1) < 0
    tri[back] = tri[back][:, [0, 2, 1]]
    return tri, back


def add_sky(scene, sky) -> None:
    world = bpy.data.worlds.new("sky")
    scene.world = world
    world.use_nodes = True
    tree = world.node_tree
    node = tree.nodes.new("ShaderNodeTexEnvironment")
    h, w = sky.shape[:2]
    image = bpy.data.images.new("sky", w, h, float_buffer=True, is_data=True)
    pixels = np.concatenate([sky[::-1], np.ones((h, w, 1))], 2).astype(np.float32)
    image.pixels.foreach_set(pixels.ravel())
    node.image = image
    tree.links.new(node.outputs[0], tree.nodes["Background"].inputs[0])
    world.cycles.sampling_method, world.cycles.sample_map_resolution = "MANUAL", 256


def add_light(scene, kind: str):
    light = bpy.data.lights.new(kind.lower(), kind)
    body = bpy.data.objects.new(kind.lower(), light)
    scene.collection.objects.link(body)
    return light, body


def add_portal(scene, portal) -> None:
    """A light portal of Cycles in a window."""
    u, v, n = Vector(portal["u"]), Vector(portal["v"]), Vector(portal["n"])
    light, body = add_light(scene, "AREA")
    light.shape, light.size, light.size_y = "RECTANGLE", u.length, v.length
    light.cycles.is_portal = True
    x, y, z = u.normalized(), v.normalized(), -n
    if x.cross(y).dot(z) < 0:
        x = -x
    pose = Matrix((x, y, z)).transposed().to_4x4()
    pose.translation = Vector(portal["o"]) + (u + v) / 2
    body.matrix_world = pose


def add_lamp(scene, lamp) -> None:
    light, body = add_light(scene, "POINT")
    light.energy, light.color = lamp["power"], lamp["color"]
    light.shadow_soft_size = lamp["radius"]
    body.location = lamp["p"]


def add_sun(scene, sun):
    light, body = add_light(scene, "SUN")
    light.energy, light.color, light.angle = sun["strength"], sun["color"], 0.02
    body.rotation_euler = Vector(sun["d"]).to_track_quat("-Z", "Y").to_euler()
    return body


def bake(scene, attribute, parts: set[str], samples: int):
    scene.cycles.samples = samples
    start = time.time()
    bpy.ops.object.bake(type="DIFFUSE", pass_filter=parts, target="VERTEX_COLORS")
    values = np.empty(len(attribute.data) * 4, np.float32)
    attribute.data.foreach_get("color", values)
    print("BAKED", "+".join(sorted(parts)), samples, f"{time.time() - start:.1f} s", flush=True)
    return values.reshape(-1, 3, 4)[..., :3].copy()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
