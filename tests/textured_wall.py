"""A slanted wall with a known texture: exact photos and depth from any camera."""

import cv2
import torch

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.rays import pixel_rays

HEIGHT, WIDTH = 120, 160


def camera(x: float = 0.0, y: float = 0.0, distortion: float = 0.0) -> Cameras:
    """Looks along z from (x, y, 0)."""
    viewmat = torch.eye(4)
    viewmat[:2, 3] = -torch.tensor([x, y])
    Ks = torch.tensor([[140.0, 0, WIDTH / 2], [0, 140, HEIGHT / 2], [0, 0, 1]])
    radial = torch.tensor([[distortion, *[0.0] * 7]])
    return Cameras(viewmat[None], Ks[None], WIDTH, HEIGHT, "pinhole", radial)


def wall(view: Cameras, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Photo and depth of a textured wall at z = 3, which is slanted: z = 3 + 0.2 x."""
    center, directions = pixel_rays(view)
    directions = directions[0]
    along = (3 + 0.2 * center[0, 0]) / (directions[..., 2] - 0.2 * directions[..., 0])
    x, y = ((center[0] + directions * along[..., None])[..., axis] for axis in (0, 1))
    waves = torch.rand(12, 4, generator=torch.Generator().manual_seed(seed))
    channels = [
        sum(
            torch.sin(x * (8 * a - 4) * size + y * (8 * b - 4) * size + 6 * c + channel * d)
            for (a, b, c, d), size in zip(
                waves.tolist(), torch.linspace(0.5, 8, 12).tolist(), strict=True
            )
        )
        for channel in range(3)
    ]
    return 0.5 + 0.1 * torch.stack(channels, dim=-1), directions[..., 2] * along


def blurred(picture: torch.Tensor, sigma: float = 1.5) -> torch.Tensor:
    return torch.from_numpy(
        cv2.GaussianBlur(picture.numpy(), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    )
