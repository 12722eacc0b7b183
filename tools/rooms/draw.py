"""Rasterise a baked scene with OpenGL 3.3 through EGL; llvmpipe suffices, no GPU is needed.

In: geometry, light, pictures, sky. Out: photos [height, width, 3] uint8 and depth in metres along
the viewing axis. Poses are OpenGL camera-to-world; ``tangent`` is half the view's width and height
at distance 1.
"""

import moderngl
import numpy as np
import shaders
from probes import Geometry
from scene import Scene

SHADOW_SIZE = 3072
MIRROR_FACE, MIRROR_HEIGHT = 96, 128
NEAR, FAR = 0.05, 300.0
_VERTEX = "3f 3f 2f 3f 1f 1f", "p", "n", "t", "l", "m", "e"
_SQUARE = [0, 1, 2, 0, 2, 3]


def merge_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal rows of a float table -> (unique rows, index), by a 64-bit hash."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32).astype(np.uint64)
    rng = np.random.default_rng(1)
    a, b = (rng.integers(1, 2**63, bits.shape[1], dtype=np.uint64) for _ in range(2))
    key = (bits * a + (bits >> np.uint64(7)) * b).sum(1, dtype=np.uint64)
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return rows[first], inverse.astype(np.int32)


class Painter:
    """One OpenGL context with one scene. Set ``exposure`` and ``sky_strength`` before photos."""

    def __init__(self, scene: Scene, geometry: Geometry, light, layers, sky, size, oversample: int):
        lightmap, corner_light = light
        self.context = c = moderngl.create_context(standalone=True, backend="egl", require=330)
        lit = lightmap[lightmap.sum(-1) > 0]
        self.mean_light = float(np.median(lit.mean(-1))) if len(lit) else 1.0
        self.sky_strength, self.exposure = 1.0, (1.0, 1.0, 1.0)
        self.gloss, self.box, self.probe = 0.0, (np.zeros(3), np.ones(3)), np.zeros(3)
        self.sun, self.world_to_sun = None, np.eye(4)
        self._upload_triangles(scene, geometry, corner_light)
        self._upload_textures(scene, lightmap, layers, sky)
        triangle = c.buffer(np.array([-1, -1, 3, -1, -1, 3], "f4").tobytes())
        self.sky_program = c.program(shaders.SKY_VERTEX, shaders.SKY_FRAGMENT)
        self.sky_vao = c.vertex_array(self.sky_program, [(triangle, "2f", "q")])
        self.tone = c.program(shaders.TONE_VERTEX, shaders.TONE_FRAGMENT)
        self.tone_vao = c.vertex_array(self.tone, [(triangle, "2f", "q")])
        self._make_targets(size, oversample)
        self.shadow = c.depth_texture((4, 4))
        self.shadow.compare_func = "<="
        if scene.sun:
            self._cast_shadows(scene, geometry)

    def close(self) -> None:
        self.context.release()

    # ---- uploads

    def _upload_triangles(self, scene: Scene, geometry: Geometry, corner_light) -> None:
        rows = np.concatenate(
            [self._quad_rows(scene, geometry), _mesh_rows(geometry, corner_light)]
        )
        count = len(geometry.quads[0])
        rows, index = merge_rows(rows.astype(np.float32))
        quad_index, mesh_index = index[:count], index[count:]
        alpha = np.array([m.alpha for m in scene.materials])
        solid = np.repeat(alpha[geometry.m] >= 0.6, 3)
        owner = np.repeat(geometry.mesh_of, 3)
        # one range of indices per mesh, so that meshes out of view are skipped
        self.ranges, parts, at = [(0, count, None)], [quad_index], count
        corners = geometry.p.reshape(-1, 3)
        for k in range(len(scene.meshes)):
            own = mesh_index[(owner == k) & solid]
            if len(own):
                points = corners[owner == k]
                centre = (points.min(0) + points.max(0)) / 2
                radius = float(np.linalg.norm(points - centre, axis=1).max())
                self.ranges.append((at, len(own), (centre, radius)))
                parts.append(own)
                at += len(own)
        self.opaque_count, self.triangles = at, at // 3
        self.glass = at, int((~solid).sum())
        parts.append(mesh_index[~solid])
        c = self.context
        self.vertices = c.buffer(rows.astype("f4").tobytes())
        self.indices = c.buffer(np.concatenate(parts).astype("i4").tobytes())
        self.surface = c.program(shaders.SURFACE_VERTEX, shaders.SURFACE_FRAGMENT)
        self.vao = c.vertex_array(self.surface, [(self.vertices, *_VERTEX)], self.indices)

    @staticmethod
    def _quad_rows(scene: Scene, geometry: Geometry) -> np.ndarray:
        p, n, t, m = geometry.quads
        height, width, places = geometry.atlas
        uv = []
        for r, (x, y) in zip(scene.rects, places, strict=True):
            w, h = r.texels
            corners = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], float)
            uv.append((corners / [width, height])[_SQUARE])
        minus = np.full((len(p), 1), -1.0)
        material = np.repeat(m, 3)[:, None]
        rows = [p, n, t, minus, np.concatenate(uv), material, np.zeros((len(p), 1))]
        return np.concatenate(rows, 1)

    def _upload_textures(self, scene: Scene, lightmap, layers, sky) -> None:
        c, linear, nearest = self.context, (moderngl.LINEAR,) * 2, (moderngl.NEAREST,) * 2
        count, height, width = layers.shape[:3]
        pictures = np.ascontiguousarray(layers).tobytes()
        self.pictures = c.texture_array((width, height, count), 4, pictures)
        self.pictures.build_mipmaps()
        self.pictures.filter = moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR
        self.pictures.anisotropy = 2.0

        def floats(array, filtering):
            size = array.shape[1], array.shape[0]
            texture = c.texture(size, array.shape[2], array.astype("f4").tobytes(), dtype="f4")
            texture.filter = filtering
            return texture

        self.lightmap = floats(lightmap, linear)
        self.lightmap.repeat_x = self.lightmap.repeat_y = False
        table = np.zeros((2, len(scene.materials), 4), np.float32)
        for i, m in enumerate(scene.materials):
            table[0, i] = [*(np.clip(m.color, 0, 1) ** 2.2), m.layer]
            table[1, i] = [m.rough, m.metal, m.alpha, m.emit]
        self.table = floats(table, nearest)
        self.sky = floats(sky, linear)
        self.sky.repeat_y = False
        self.mirror = floats(np.zeros((2, 4, 3)), linear)

    def _make_targets(self, size, oversample: int) -> None:
        c, big = self.context, (size[0] * oversample, size[1] * oversample)
        self.size, self.oversample = size, oversample
        self.hdr = c.texture(big, 4, dtype="f2")
        self.hdr.filter = moderngl.NEAREST, moderngl.NEAREST
        self.depth = c.texture(big, 1, dtype="f4")
        self.frame = c.framebuffer([self.hdr, self.depth], c.depth_renderbuffer(big))
        self.final = c.framebuffer([c.texture(size, 3)])

    def _cast_shadows(self, scene: Scene, geometry: Geometry) -> None:
        """The shadow map, with sealing copies of an indoor scene's walls just outside them."""
        c, self.sun = self.context, scene.sun
        d = np.array(scene.sun["d"])
        right = np.cross(d, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(right, d), d])
        q = np.concatenate([geometry.quads[0], geometry.p.reshape(-1, 3)]) @ axes.T
        low, high = q.min(0) - 0.05, q.max(0) + 0.05
        self.world_to_sun = np.eye(4)
        self.world_to_sun[:3, :3] = axes * (2 / (high - low))[:, None]
        self.world_to_sun[:3, 3] = -(high + low) / (high - low)
        program = c.program(shaders.SHADOW_VERTEX, shaders.SHADOW_FRAGMENT)
        layout = "3f 12x 2f 12x 1f 4x", "p", "t", "m"
        vao = c.vertex_array(program, [(self.vertices, *layout)], self.indices)
        self.shadow = c.depth_texture((SHADOW_SIZE, SHADOW_SIZE))
        self.shadow.compare_func = "<="
        target = c.framebuffer(depth_attachment=self.shadow)
        target.use()
        target.clear(depth=1.0)
        c.enable(moderngl.DEPTH_TEST)
        c.disable(moderngl.CULL_FACE)
        program["world_to_sun"].write(self.world_to_sun.T.astype("f4").tobytes())
        program["pictures"], program["table"] = 0, 2
        self.pictures.use(0)
        self.table.use(2)
        vao.render(vertices=self.opaque_count)
        if scene.indoor:
            seal = c.buffer(_sealing_walls(scene).astype("f4").tobytes())
            c.vertex_array(program, [(seal, "3f 2f 1f", "p", "t", "m")]).render()

    # ---- pictures

    def _render(self, pose: np.ndarray, tangent) -> None:
        """Linear colours and depth into ``frame``; rows come top first."""
        c = self.context
        self.frame.use()
        self.frame.clear(0, 0, 0, 1, depth=1.0)
        self._set_uniforms(pose, tangent)
        c.enable(moderngl.DEPTH_TEST)
        c.disable(moderngl.CULL_FACE | moderngl.BLEND)
        for first, count, ball in self.ranges:
            if ball is None or _in_view(pose, tangent, *ball):
                self.vao.render(vertices=count, first=first)
        sky = self.sky_program
        turn = pose[:3, :3] @ np.diag([1.0, -1.0, 1.0])
        sky["turn"].write(turn.T.astype("f4").tobytes())
        sky["tangent"].write(np.asarray(tangent, "f4").tobytes())
        sky["sky"], sky["strength"] = 5, self.sky_strength
        self.sky.use(5)
        c.depth_func = "<="
        self.sky_vao.render()
        c.depth_func = "<"
        if self.glass[1]:
            self.surface["glass"] = 1
            c.enable(moderngl.BLEND)
            c.blend_func = moderngl.SRC_ALPHA, moderngl.ONE_MINUS_SRC_ALPHA
            self.frame.depth_mask = False
            self.frame.color_mask = ((True,) * 4, (False,) * 4)
            self.vao.render(vertices=self.glass[1], first=self.glass[0])
            self.frame.depth_mask = True
            self.frame.color_mask = ((True,) * 4, (True,) * 4)
            c.disable(moderngl.BLEND)

    def _set_uniforms(self, pose: np.ndarray, tangent) -> None:
        rotation, eye = pose[:3, :3], pose[:3, 3]
        view = np.eye(4)
        view[:3, :3], view[:3, 3] = rotation.T, -rotation.T @ eye
        projection = np.zeros((4, 4))
        projection[0, 0], projection[1, 1] = 1 / tangent[0], -1 / tangent[1]  # row 0 is the top
        projection[2, 2:] = -(FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)
        projection[3, 2] = -1
        arrays = {
            "world_to_clip": (projection @ view).T,
            "world_to_sun": self.world_to_sun.T,
            "eye": eye,
            "forward": -rotation[:, 2],
            "box_low": self.box[0],
            "box_high": self.box[1],
            "probe": self.probe,
        }
        if self.sun:
            arrays["sun_direction"] = self.sun["d"]
            arrays["sun_color"] = np.array(self.sun["color"]) * self.sun["strength"] / np.pi
        for name, value in arrays.items():
            if name in self.surface:
                self.surface[name].write(np.asarray(value, "f4").tobytes())
        textures = {
            "pictures": self.pictures,
            "lightmap": self.lightmap,
            "table": self.table,
            "mirror": self.mirror,
            "shadow": self.shadow,
        }
        values = {"mode": int(self.sun is not None), "glass": 0, "gloss": self.gloss}
        values["mean_light"] = self.mean_light
        for unit, (name, texture) in enumerate(textures.items()):
            texture.use(unit)
            values[name] = unit
        for name, value in values.items():
            if name in self.surface:
                self.surface[name] = value

    def _read(self, texture, dtype, channels: int) -> np.ndarray:
        width, height = (s * self.oversample for s in self.size)
        return np.frombuffer(texture.read(), dtype).reshape(height, width, channels)

    def linear(self, pose: np.ndarray, tangent) -> np.ndarray:
        self._render(pose, tangent)
        return self._read(self.hdr, np.float16, 4)[..., :3].astype(np.float32)

    def surface_colors(self, pose: np.ndarray, tangent) -> np.ndarray:
        """Linear colours [*, 3] of every third pixel that is not sky."""
        colors = self.linear(pose, tangent)[::3, ::3]
        return colors[self._read(self.depth, np.float32, 1)[::3, ::3, 0] > 0]

    def photo(self, pose: np.ndarray, tangent) -> tuple[np.ndarray, np.ndarray]:
        """Photo [height, width, 3] uint8 and depth [height, width] in metres, 0 for the sky."""
        self._render(pose, tangent)
        self.final.use()
        self.context.disable(moderngl.DEPTH_TEST)
        self.hdr.use(0)
        self.tone["hdr"], self.tone["n"] = 0, self.oversample
        self.tone["exposure"].write(np.asarray(self.exposure, "f4").tobytes())
        self.tone_vao.render()
        (width, height), k = self.size, self.oversample
        image = np.frombuffer(self.final.read(components=3, alignment=1), np.uint8)
        z = np.frombuffer(self.depth.read(), np.float32).reshape(height, k, width, k)
        return image.reshape(height, width, 3), pixel_depth(z.transpose(0, 2, 1, 3))

    def make_mirror(self, centre: np.ndarray, box) -> None:
        """Surroundings of a point as a small panorama with mip levels, for blurred reflections;
        ``box`` (low, high) is the room onto which they are projected.
        """
        size, oversample = self.size, self.oversample
        self._make_targets((MIRROR_FACE, MIRROR_FACE), 1)
        height, width = MIRROR_HEIGHT, 2 * MIRROR_HEIGHT
        latitude = np.pi / 2 - (np.arange(height) + 0.5) / height * np.pi
        longitude = np.pi - (np.arange(width) + 0.5) / width * 2 * np.pi
        level = np.cos(latitude)[:, None]
        up = np.repeat(np.sin(latitude)[:, None], width, 1)
        d = np.stack([level * np.cos(longitude), level * np.sin(longitude), up], -1)
        panorama = np.zeros((height, width, 3), np.float32)
        for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1)):
            forward = np.zeros(3)
            forward[axis] = sign
            right = np.cross(forward, [0, 1.0, 0] if axis == 2 else [0, 0, 1.0])
            upward = np.cross(right, forward)
            pose = np.eye(4)
            pose[:3] = np.stack([right, upward, -forward, centre], 1)
            image = self.linear(pose, (1.0, 1.0))
            z = d @ forward
            x, y = (d @ right) / np.maximum(z, 1e-6), (d @ upward) / np.maximum(z, 1e-6)
            seen = (z > 0) & (np.abs(x) <= 1.0001) & (np.abs(y) <= 1.0001)
            cells = ((1 - y[seen]) / 2, (x[seen] + 1) / 2)
            i, j = (np.clip((a * MIRROR_FACE).astype(int), 0, MIRROR_FACE - 1) for a in cells)
            panorama[seen] = image[i, j]
        self.mirror = self.context.texture((width, height), 3, panorama.tobytes(), dtype="f4")
        self.mirror.build_mipmaps()
        self.mirror.filter = moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR
        self.mirror.repeat_y = False
        self._make_targets(size, oversample)
        self.box, self.probe, self.gloss = box, np.asarray(centre), 1.0


def _mesh_rows(geometry: Geometry, corner_light: np.ndarray) -> np.ndarray:
    points, normals, uvs = geometry.p.reshape(-1, 3), geometry.n.reshape(-1, 3), geometry.t
    material, emission = np.repeat(geometry.m, 3)[:, None], geometry.e.reshape(-1, 1)
    light = np.maximum(corner_light, 0)
    return np.concatenate([points, normals, uvs.reshape(-1, 2), light, material, emission], 1)


def _sealing_walls(scene: Scene) -> np.ndarray:
    """Larger copies of all rectangles 3 cm behind them, so that no sun leaks through corners."""
    seal = []
    for r in scene.rects:
        du, dv = (0.05 * a / np.linalg.norm(a) for a in (r.u, r.v))
        o, far = r.origin, r.origin + r.u + r.v
        corners = np.array([o - du - dv, o + r.u + du - dv, far + du + dv, o + r.v - du + dv])
        seal.append(np.c_[corners - r.normal * 0.03, np.zeros((4, 3))][_SQUARE])
    return np.concatenate(seal)


def _in_view(pose: np.ndarray, tangent, centre: np.ndarray, radius: float) -> bool:
    """Whether a sphere may intersect the view frustum."""
    x, y, z = pose[:3, :3].T @ (centre - pose[:3, 3])
    if z > radius:
        return False
    margins = (radius * np.hypot(1, k) for k in tangent)
    return all(abs(a) <= -z * k + r for a, k, r in zip((x, y), tangent, margins, strict=True))


def pixel_depth(z: np.ndarray) -> np.ndarray:
    """Depth at pixel centres from samples [height, width, k, k]; 0 where there is none.

    1 / z is linear over a plane, so its mean is the value at the centre. At edges the nearer
    surface counts, at the border of the sky the median.
    """
    z = z.reshape(*z.shape[:2], -1)
    low, high = z.min(-1), z.max(-1)
    plane = 1 / (1 / np.maximum(z, 1e-6)).mean(-1)
    edge = np.where(low > 0, low, np.median(z, -1))
    return np.where((low > 0) & (high < low * 1.04), plane, edge)
