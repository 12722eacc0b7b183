"""Layers of a view: colour, opacity, depth, and photos projected onto the splats.

In: a ``ViewedScene``, a camera, the title of a layer. Out: 8-bit pictures. Opacity is grey, white
where the splats are opaque; depth is coloured from near (red) to far (blue), black where empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.rays import lens_directions
from artifixer.imaging.resize import fit_size
from artifixer.splats.render import Renders, render
from artifixer.splats.render_folder import to_uint8
from artifixer.splats.splats import Splats
from artifixer.viewer.scene import Picture, ViewedScene

#: Kinds of layers of each set of splats; "" is colour.
KINDS = ("", "opacity", "depth", "photo blend")

#: Longest side in pixels of projected photos and of the depth maps for their occlusion; tolerance
#: of the occlusion test, relative to the depth.
BLEND_SIZE, OCCLUSION_SIZE, OCCLUSION_MARGIN = 640, 160, 0.03

#: Number of photos that are blended, the nearest ones, and of photos that are cached.
BLENDED, KEPT_PHOTOS = 3, 16


def layer_titles(scene: ViewedScene) -> list[str]:
    """``Plain splats``, ``Plain splats: opacity`` ...; photo blend if there are photos. The
    pictures of a running job come last.
    """
    kinds = KINDS if scene.photos else KINDS[:-1]
    titles = [f"{name}: {kind}" if kind else name for name in scene.splats for kind in kinds]
    return [*titles, *scene.pictures]


@dataclass
class _LoadedPhoto:
    camera: Cameras
    pixels: Float[Tensor, "3 height width"]
    depth: Float[Tensor, "height width"]


@dataclass
class LayerPainter:
    """Paints the layers of a scene, with a cache of photos. Not thread-safe."""

    scene: ViewedScene
    """The scene that is shown."""

    _photos: dict[tuple[str, int], _LoadedPhoto] = field(default_factory=dict)

    def paint(self, titles: Sequence[str], camera: Cameras) -> list[Picture]:
        """A picture of each layer at the camera's size. Layers of the same splats share a render;
        unknown titles give black pictures.
        """
        renders: dict[str, Renders] = {}
        return [self._painted(title, camera, renders) for title in titles]

    def _painted(self, title: str, camera: Cameras, renders: dict[str, Renders]) -> Picture:
        name, _, kind = title.partition(": ")
        if title in self.scene.pictures:
            return letterboxed(self.scene.pictures[title], camera.width, camera.height)
        splats = self.scene.splats.get(name)
        if splats is None:
            return np.zeros((camera.height, camera.width, 3), np.uint8)
        if name not in renders:
            with torch.no_grad():
                renders[name] = render(splats, camera.to(splats.means.device))
        found = renders[name]
        match kind:
            case "opacity":
                grey = to_uint8(found.opacity[0]).numpy()
                return np.repeat(grey[..., None], 3, axis=2)
            case "depth":
                return depth_picture(found.depth[0].cpu())
            case "photo blend":
                return to_uint8(self._blended(splats, camera, found)).numpy()
            case _:
                return to_uint8(found.rgb[0]).numpy()

    def _blended(
        self, splats: Splats, camera: Cameras, found: Renders
    ) -> Float[Tensor, "height width 3"]:
        """Blend of the nearest photos, each projected onto the surface that it sees."""
        rgb, depth = found.rgb[0].cpu(), found.depth[0].cpu()
        seen = (torch.isfinite(depth) & (found.opacity[0].cpu() > 0.5)).flatten()
        directions = lens_directions(camera)[0]
        # depth is camera z, so the directions are scaled to z = 1
        in_camera = directions / directions[:, 2:].clamp(min=1e-6) * depth.flatten()[:, None]
        pose = camera.camera_to_world[0]
        points = in_camera @ pose[:3, :3].mT + pose[:3, 3]
        total = torch.zeros(len(points), 3)
        weight = torch.zeros(len(points), 1)
        for rank, index in enumerate(self._nearest(camera)):
            photo = self._photo(index, splats)
            colors, visible = _projected(photo, points)
            share = (visible & seen).float()[:, None] / (1 + rank)
            total, weight = total + share * colors, weight + share
        mixed = total / weight.clamp(min=1e-6)
        return torch.where(weight > 0, mixed, rgb.flatten(0, 1)).view_as(rgb)

    def _nearest(self, camera: Cameras) -> list[int]:
        """Indices of the photos with the nearest positions and directions."""
        scene = self.scene
        known = [i for i, frame in enumerate(scene.frames) if frame.photo in scene.photos]

        def difference(index: int) -> float:
            there = scene.frames[index].camera
            shift = float((there.centers - camera.centers).norm()) / scene.distance
            turn = 1 - float(there.viewmats[0, 2, :3] @ camera.viewmats[0, 2, :3])
            return shift + turn

        return sorted(known, key=difference)[:BLENDED]

    def _photo(self, index: int, splats: Splats) -> _LoadedPhoto:
        frame = self.scene.frames[index]
        assert frame.photo is not None
        key = (frame.photo, id(splats))
        if key not in self._photos:
            while len(self._photos) >= KEPT_PHOTOS:
                self._photos.pop(next(iter(self._photos)))
            camera = frame.camera
            pixels = thumbnail(self.scene.photos[frame.photo](), BLEND_SIZE)
            small = camera.resized(*fit_size(camera.width, camera.height, OCCLUSION_SIZE))
            with torch.no_grad():
                depth = render(splats, small.to(splats.means.device)).depth[0].cpu()
            planes = torch.from_numpy(pixels).permute(2, 0, 1) / 255
            self._photos[key] = _LoadedPhoto(camera, planes, depth)
        return self._photos[key]


def _projected(
    photo: _LoadedPhoto, points: Float[Tensor, "points 3"]
) -> tuple[Float[Tensor, "points 3"], Tensor]:
    """Colours of the photo at world points, and whether it sees them."""
    pixels, depth, valid = photo.camera.project(torch.nan_to_num(points))
    size = torch.tensor([photo.camera.width, photo.camera.height])
    place = (2 * pixels[0] / size - 1)[None, None]
    inside = valid[0] & (place[0, 0].abs() < 1).all(dim=-1)
    colors = F.grid_sample(photo.pixels[None], place, align_corners=False)[0, :, 0].mT
    there = F.grid_sample(photo.depth[None, None], place, mode="nearest", align_corners=False)
    is_hidden = depth[0] > there[0, 0, 0] * (1 + OCCLUSION_MARGIN)
    return colors, inside & ~is_hidden


def depth_picture(depth: Float[Tensor, "height width"]) -> Picture:
    """Camera z as colours on a logarithmic scale from the 2nd to the 98th percentile."""
    import cv2

    known = torch.isfinite(depth) & (depth > 0)
    if not bool(known.any()):
        return np.zeros((*depth.shape, 3), np.uint8)
    logs = torch.log(torch.where(known, depth, torch.ones_like(depth)))
    # a sample is enough for the percentiles
    low, high = np.quantile(logs[known].numpy()[::7], [0.02, 0.98])
    share = 1 - ((logs - float(low)) / max(float(high - low), 1e-6)).clamp(0, 1)
    colors = cv2.applyColorMap(to_uint8(share).numpy(), cv2.COLORMAP_TURBO)[..., ::-1].copy()
    colors[~known.numpy()] = 0
    return np.asarray(colors, np.uint8)


def side_by_side(left: Picture, right: Picture, divider: float) -> Picture:
    """``left`` up to the fraction ``divider`` of the width, then a line, then ``right``."""
    width = left.shape[1]
    column = round(divider * width)
    picture = np.concatenate([left[:, :column], right[:, column:]], axis=1)
    picture[:, max(0, column - 1) : column + 1] = 255
    return picture


def thumbnail(pixels: UInt8[np.ndarray, "height width 3"], longest: int) -> Picture:
    """The picture reduced to this longest side; unchanged if it is smaller."""
    import cv2

    height, width = pixels.shape[:2]
    size = fit_size(width, height, longest)
    if size == (width, height):
        return pixels
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def letterboxed(
    pixels: Picture, width: int, height: int
) -> UInt8[np.ndarray, "out_height out_width 3"]:
    """The picture scaled to fit into this size, with black borders."""
    import cv2

    factor = min(width / pixels.shape[1], height / pixels.shape[0])
    inner = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    inner = (min(inner[0], width), min(inner[1], height))
    scaled = cv2.resize(pixels, inner, interpolation=cv2.INTER_AREA)
    picture = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
    picture[top : top + inner[1], left : left + inner[0]] = scaled
    return picture
