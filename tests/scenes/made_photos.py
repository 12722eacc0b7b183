"""Small photo files with an orientation, and a camera without symmetry, for tests of loaders."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from artifixer.geometry.cameras import Cameras

WIDTH, HEIGHT = 16, 10

#: float32 projections.
PIXEL_TOLERANCE = 1e-4


def write_photo(path: Path, stored: np.ndarray, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)


def made_camera(width: int = WIDTH, height: int = HEIGHT) -> Cameras:
    """Anything but symmetric: off-centre, different focal lengths, tangential distortion, a turned
    pose.
    """
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    )[0]
    viewmat[:3, :3] *= torch.linalg.det(viewmat[:3, :3])
    viewmat[:3, 3] = torch.tensor([0.3, -0.2, 0.5])
    K = torch.tensor([[1.1 * width, 0, 0.45 * width], [0, 1.2 * width, 0.6 * height], [0, 0, 1]])
    distortion = torch.tensor([[0.1, -0.05, 0.01, 0, 0, 0, 0.02, -0.03]])
    return Cameras(viewmat[None], K[None], width, height, "pinhole", distortion)


def world_points(camera: Cameras) -> torch.Tensor:
    """Random points in front of the camera."""
    generator = torch.Generator().manual_seed(0)
    in_camera = torch.cat([0.2 * torch.randn(50, 2, generator=generator), torch.ones(50, 1)], dim=1)
    pose = camera.camera_to_world[0]
    return in_camera @ pose[:3, :3].T + pose[:3, 3]
