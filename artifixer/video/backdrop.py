"""Fine structure for what a small model invented, lent by the reference photos.

In: reference photos with their cameras, the cameras of frames. Out: what to add to the frames where nothing was rendered.
Squared error answers a question with many answers by their mean, which is a blur. The photos hang, as it were, on a sphere around the
scene, in front of their cameras and mirrored beyond their borders; a frame's invented parts get the fine structure, not the colours, of
what its camera sees there. A place on the sphere shows the same to every camera, so that structure stays where it is when the camera moves,
and depends on neither the cutting in blocks nor a resume. The paper's models are large enough to need none of this.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.rays import pixel_rays

#: Radius of the sphere, in median depths of the scene.
RADIUS = 2.0

#: Structure is what a Gaussian of this size takes from a photo, in longer sides.
COARSENESS = 0.03

#: Frames whose emptiness is nowhere larger than this have nothing to add.
UNSEEN = 0.02


@dataclass(frozen=True)
class Backdrop:
    """structure: of the photos, [0,1] colours without their blur. viewmats: of their cameras; half_angles: of their fields of view, to the
    side and down, radians, as of an ideal lens that looks at the photo's middle. center, radius: of the sphere, world units."""

    structure: Float[Tensor, "views 3 height width"]
    viewmats: Float[Tensor, "views 4 4"]
    half_angles: Float[Tensor, "views 2"]
    center: Float[Tensor, " 3"]
    radius: float

    @staticmethod
    def of(photos: Shaped[Tensor, "views height width 3"], cameras: Cameras, depth: float) -> Backdrop:
        """At least one photo, uint8 or floats in [0,1]; cameras on the photos' device. depth: median depth of the scene, world units."""
        pixels = photos.permute(0, 3, 1, 2).to(torch.float32) / (255 if photos.dtype == torch.uint8 else 1)
        cameras = cameras.to(dtype=torch.float32)
        sides = cameras.Ks.new_tensor([cameras.width, cameras.height])
        half_angles = torch.atan(sides / 2 / cameras.Ks[:, [0, 1], [0, 1]])
        center = cameras.centers.mean(dim=0)
        return Backdrop(pixels - _blurred(pixels), cameras.viewmats, half_angles, center, RADIUS * depth)

    def seen_by(self, cameras: Cameras) -> Float[Tensor, "frames height width 3"]:
        """The structure that these cameras see."""
        origins, directions = pixel_rays(cameras.to(dtype=torch.float32))
        places = self._places(origins[:, None, None].expand_as(directions), directions)
        nearest = torch.full(places.shape[:3], torch.inf, device=places.device)
        seen = torch.zeros_like(places)
        for structure, viewmat, half_angles in zip(self.structure, self.viewmats, self.half_angles, strict=True):
            x, y, z = (places @ viewmat[:3, :3].mT + viewmat[:3, 3]).unbind(dim=-1)
            angles = torch.stack([torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))], dim=-1) / half_angles
            distance = angles.abs().amax(dim=-1)  # from the middle of the photo; up to 1 is within it
            closer = distance < nearest
            if not bool(closer.any()):
                continue
            images = structure.expand(len(angles), -1, -1, -1)
            lent = F.grid_sample(images, angles, padding_mode="reflection", align_corners=False).permute(0, 2, 3, 1)
            seen = torch.where(closer[..., None], lent, seen)
            nearest = torch.minimum(nearest, distance)
        return seen

    def lend(
        self, frames: Float[Tensor, "frames height width 3"], opacity: Float[Tensor, "frames height width"], cameras: Cameras
    ) -> Float[Tensor, "frames height width 3"]:
        """The frames with structure where they are empty, little where they are half. Waits for the device that holds the opacity."""
        emptiness = 1 - opacity
        needs = emptiness.amax(dim=(1, 2)) > UNSEEN
        if not bool(needs.any()):
            return frames
        chosen = torch.nonzero(needs)[:, 0]
        frames = frames.clone()
        frames[chosen] += emptiness[chosen, ..., None].square() * self.seen_by(cameras[chosen]).to(frames.dtype)
        return frames

    def _places(self, origins: Float[Tensor, "*any 3"], directions: Float[Tensor, "*any 3"]) -> Float[Tensor, "*any 3"]:
        """Where rays leave the sphere; where they come nearest to its centre if they miss it, and ahead in any case."""
        offset = origins - self.center
        along = -(offset * directions).sum(dim=-1)
        within = along.square() - offset.square().sum(dim=-1) + self.radius**2
        length = along + within.clamp(min=0).sqrt()
        length = torch.where(length > 0, length, self.radius)
        return origins + length[..., None] * directions


def _blurred(pixels: Float[Tensor, "views 3 height width"]) -> Float[Tensor, "views 3 height width"]:
    """Through a Gaussian of ``COARSENESS``, mirrored at the borders."""
    sigma = COARSENESS * max(pixels.shape[2:])
    reach = min(round(3 * sigma), min(pixels.shape[2:]) - 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=pixels.device) / sigma).square())
    weights = weights / weights.sum()
    padded = F.pad(pixels, (reach, reach, reach, reach), mode="reflect")
    for kernel in (weights.view(1, 1, -1, 1), weights.view(1, 1, 1, -1)):
        padded = F.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)
    return padded
