"""Free-space loss: penalises opacity seen from random cameras that no training view supports. Ours,
not the paper's; off by default.

The photometric loss says nothing about space that no photo shows, so Gaussians spill into it:
beyond the edge of what the photos cover, behind surfaces, and in front of everything where a single
photo decides. A pixel of a virtual camera counts as supported when the point it shows lies on a
surface that a training photo shows, by the rendered depth of the photos' cameras; the mean opacity
of all other pixels is the loss. Where photos do show something, the photometric loss outweighs it.

With it, the opacity of a render tells the generator which regions to invent. The render itself
gets worse in these regions: black is farther from the truth than smeared colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.rays import pixel_rays
from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.splats.render import Renders, render
from artifixer.splats.splats import Splats

#: Names of ``FreeSpaceLoss.state_tensors``.
STATE_PREFIX = "free_space.depth."


@dataclass(frozen=True)
class FreeSpaceConfig:
    """Settings of the loss."""

    weight: float = 0.0
    """Weight of the mean opacity of pixels without support; 0 turns the loss off, and no virtual
    camera is rendered.
    """
    start: float = 0.6
    """Fraction of the iterations before the first virtual camera, so that surfaces have formed."""
    interval: int = 4
    """Iterations between two virtual cameras."""
    depth_interval: int = 200
    """Iterations between two updates of the photos' depth maps."""
    tolerance: float = 0.1
    """A point is on a surface when its depth differs by at most this fraction of the surface's
    depth.
    """
    position_spread: float = 0.15
    """Standard deviation of a virtual camera's position around the line between two photos,
    relative to the scene's extent.
    """
    angle_spread: float = 0.4
    """Standard deviation of the angle between a virtual camera's direction and a photo's, radians.
    """
    downscale: int = 3
    """A virtual camera's image is smaller than the photo by this factor."""


class PhotoDepth(NamedTuple):
    """A photo's camera (a single view) and the splats' depth from it."""

    camera: Cameras
    depth: Float[Tensor, "height width"]


class FreeSpaceLoss:
    """The loss, and its state between iterations: the depth maps of the photos' cameras.

    cameras: of the photos. extent: the scene's, world units. near: near plane, world units.
    """

    def __init__(
        self, cameras: Sequence[Cameras], extent: float, near: float, config: FreeSpaceConfig
    ) -> None:
        self.cameras = cameras
        self.extent = extent
        self.near = near
        self.config = config
        self.depths: list[Float[Tensor, "height width"]] = []

    def is_due(self, iteration: int, iterations: int) -> bool:
        """Whether the loss is computed at ``iteration`` of ``iterations``."""
        inside = iteration >= self.config.start * iterations
        return self.config.weight > 0 and inside and iteration % self.config.interval == 0

    def loss(self, splats: Splats, iteration: int, generator: torch.Generator) -> Float[Tensor, ""]:
        """Weighted mean opacity of a virtual camera's pixels without support (others count as 0);
        differentiable in the splats.
        """
        if not self.depths or iteration % self.config.depth_interval == 0:
            with torch.no_grad():
                self.depths = [
                    render(splats, camera, sh_degree=0, near=self.near).depth[0]
                    for camera in self.cameras
                ]
        camera = sample_virtual_camera(self.cameras, self.extent, self.config, generator)
        renders = render(splats, camera, sh_degree=0, near=self.near)
        photos = [PhotoDepth(*view) for view in zip(self.cameras, self.depths, strict=True)]
        empty = ~supported(renders, camera, photos, self.config.tolerance)
        return self.config.weight * (renders.opacity[0] * empty).mean()

    def state_tensors(self) -> dict[str, Tensor]:
        """The state that a continued fit needs, by flat name."""
        return {f"{STATE_PREFIX}{view}": depth for view, depth in enumerate(self.depths)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of ``state_tensors``; other names are ignored."""
        count = sum(name.startswith(STATE_PREFIX) for name in tensors)
        self.depths = [tensors[f"{STATE_PREFIX}{view}"] for view in range(count)]


def sample_virtual_camera(
    cameras: Sequence[Cameras], extent: float, config: FreeSpaceConfig, generator: torch.Generator
) -> Cameras:
    """A single random camera near the line through two of the given ones, turned away from the
    first's direction, with a smaller image.

    extent: of the scene, world units.
    """
    first, second = (int(torch.randint(len(cameras), (), generator=generator)) for _ in range(2))
    model = cameras[first]
    device = model.viewmats.device
    along = 1.5 * torch.rand((), generator=generator) - 0.25
    offset = config.position_spread * extent * torch.randn(3, generator=generator)
    axis = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
    half = config.angle_spread / 2 * torch.randn((), generator=generator)
    turn = quaternion_to_matrix(torch.cat([half.cos()[None], half.sin() * axis])).to(device)
    center = torch.lerp(model.centers[0], cameras[second].centers[0], along.to(device)) + offset.to(
        device
    )
    viewmat = torch.eye(4, device=device)
    viewmat[:3, :3] = turn @ model.viewmats[0, :3, :3]
    viewmat[:3, 3] = -viewmat[:3, :3] @ center
    size = (max(1, model.width // config.downscale), max(1, model.height // config.downscale))
    return replace(model, viewmats=viewmat[None]).resized(*size)


@torch.no_grad()
def supported(
    renders: Renders,
    camera: Cameras,
    photos: Sequence[PhotoDepth],
    tolerance: float,
) -> Bool[Tensor, "height width"]:
    """Per pixel of a single view: whether the point it shows lies on the surface that one of the
    ``photos`` shows there.
    """
    origin, directions = pixel_rays(camera)
    forward = camera.camera_to_world[0, :3, 2]
    rays = directions[0].reshape(-1, 3)
    shown = renders.depth[0].flatten().isfinite()
    points = (
        origin[0]
        + rays[shown] * (renders.depth[0].flatten()[shown] / (rays[shown] @ forward))[:, None]
    )
    found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for view, depth in photos:
        pixels, z, valid = (values[0] for values in view.project(points))
        column, row = pixels.floor().long().unbind(dim=1)
        inside = valid & (column >= 0) & (row >= 0) & (column < view.width) & (row < view.height)
        surface = depth[row.clamp(0, view.height - 1), column.clamp(0, view.width - 1)]
        found |= inside & ((z - surface).abs() <= tolerance * surface)
    result = torch.zeros_like(shown)
    result[shown] = found
    return result.reshape(camera.height, camera.width)
