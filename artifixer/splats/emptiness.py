"""Empty stays empty: during reconstruction, cameras that stray from the photos look for what no photo shows.

The photometric loss says nothing about such places, so Gaussians spill into them: beyond the edge of what the photos cover, behind
things, and in front of everything where a single photo decides. A stray camera's pixel counts as supported when the point it shows
lies on a surface that a training photo shows, which the rendered depth of the photos' cameras tells; the opacity of all other pixels
is pulled to zero. What photos do show holds against that pull, because its own loss is stronger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.rays import pixel_rays
from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.splats.render import Renders, render
from artifixer.splats.splats import Splats

#: Names of ``EmptinessPull.state_tensors``.
STATE_PREFIX = "emptiness.depth."


@dataclass(frozen=True)
class EmptinessConfig:
    """weight: of the mean opacity of pixels without support; 0 turns all of this off.
    start: share of the iterations before the first stray camera, so that surfaces have formed.
    every: iterations between two of them.
    refresh: iterations between two updates of the photos' depth maps.
    tolerance: how far off a surface, relative to its depth, a point still counts as on it.
    wander: standard deviation of a stray camera's position around the line between two photos, relative to the scene's extent.
    turn: standard deviation of the angle by which it turns away from a photo's direction, radians.
    shrink: its image is smaller than the photos by this factor.
    """

    weight: float = 0.3
    start: float = 0.6
    every: int = 4
    refresh: int = 200
    tolerance: float = 0.1
    wander: float = 0.15
    turn: float = 0.4
    shrink: int = 3


class EmptinessPull:
    """The loss, and what it remembers between iterations: the depth that the photos' cameras show.

    cameras: of the photos. extent: the scene's, world units. near: near plane, world units.
    """

    def __init__(self, cameras: Sequence[Cameras], extent: float, near: float, config: EmptinessConfig) -> None:
        self.cameras = cameras
        self.extent = extent
        self.near = near
        self.config = config
        self.depths: list[Float[Tensor, "height width"]] = []

    def is_turn(self, iteration: int, iterations: int) -> bool:
        inside = iteration >= self.config.start * iterations
        return self.config.weight > 0 and inside and iteration % self.config.every == 0

    def loss(self, splats: Splats, iteration: int, generator: torch.Generator) -> Float[Tensor, ""]:
        """Weighted mean opacity of a stray camera's image, only pixels without support counted; differentiable in the splats."""
        if not self.depths or iteration % self.config.refresh == 0:
            with torch.no_grad():
                self.depths = [render(splats, camera, sh_degree=0, near=self.near).depth[0] for camera in self.cameras]
        camera = stray_camera(self.cameras, self.extent, self.config, generator)
        renders = render(splats, camera, sh_degree=0, near=self.near)
        empty = ~supported(renders, camera, self.cameras, self.depths, self.config.tolerance)
        return self.config.weight * (renders.opacity[0] * empty).mean()

    def state_tensors(self) -> dict[str, Tensor]:
        """What has to be kept to continue exactly, by flat name."""
        return {f"{STATE_PREFIX}{view}": depth for view, depth in enumerate(self.depths)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of ``state_tensors``; other names are ignored."""
        count = sum(name.startswith(STATE_PREFIX) for name in tensors)
        self.depths = [tensors[f"{STATE_PREFIX}{view}"] for view in range(count)]


def stray_camera(cameras: Sequence[Cameras], extent: float, config: EmptinessConfig, generator: torch.Generator) -> Cameras:
    """A camera near the line through two of the given ones, turned away from the first's direction; smaller than it."""
    first, second = (int(torch.randint(len(cameras), (), generator=generator)) for _ in range(2))
    model = cameras[first]
    device = model.viewmats.device
    along = 1.5 * torch.rand((), generator=generator) - 0.25
    offset = config.wander * extent * torch.randn(3, generator=generator)
    axis = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
    half = config.turn / 2 * torch.randn((), generator=generator)
    turn = quaternion_to_matrix(torch.cat([half.cos()[None], half.sin() * axis])).to(device)
    center = torch.lerp(model.centers[0], cameras[second].centers[0], along.to(device)) + offset.to(device)
    viewmat = torch.eye(4, device=device)
    viewmat[:3, :3] = turn @ model.viewmats[0, :3, :3]
    viewmat[:3, 3] = -viewmat[:3, :3] @ center
    size = (max(1, model.width // config.shrink), max(1, model.height // config.shrink))
    return replace(model, viewmats=viewmat[None]).resized(*size)


@torch.no_grad()
def supported(
    renders: Renders,
    camera: Cameras,
    seeing: Sequence[Cameras],
    depths: Sequence[Float[Tensor, "height width"]],
    tolerance: float,
) -> Bool[Tensor, "height width"]:
    """Per pixel of a single view: does the point it shows lie on the surface that one of the ``seeing`` cameras shows there?"""
    origin, directions = pixel_rays(camera)
    forward = camera.camera_to_world[0, :3, 2]
    rays = directions[0].reshape(-1, 3)
    shown = renders.depth[0].flatten().isfinite()
    points = origin[0] + rays[shown] * (renders.depth[0].flatten()[shown] / (rays[shown] @ forward))[:, None]
    found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for view, depth in zip(seeing, depths, strict=True):
        pixels, z, valid = (values[0] for values in view.project(points))
        column, row = pixels.floor().long().unbind(dim=1)
        inside = valid & (column >= 0) & (row >= 0) & (column < view.width) & (row < view.height)
        surface = depth[row.clamp(0, view.height - 1), column.clamp(0, view.width - 1)]
        found |= inside & ((z - surface).abs() <= tolerance * surface)
    result = torch.zeros_like(shown)
    result[shown] = found
    return result.reshape(camera.height, camera.width)
