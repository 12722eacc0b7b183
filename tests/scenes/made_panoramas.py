"""Equirectangular photos of a procedural room, ray by ray, by formulas of their own; and their
poses.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.image_files import write_png
from artifixer.scenes import procedural
from artifixer.scenes.procedural.raycast import radiance_image
from artifixer.scenes.procedural.world import World

ROOM = "procedural:5:frames={count},width=64,height=64,place=room"


def room(count: int) -> tuple[World, Float[Tensor, "count 4 4"]]:
    """A room and places to stand in it, camera_to_world."""
    name = ROOM.format(count=count)
    return procedural.world_of(name), torch.cat(
        [camera.camera_to_world for camera in procedural.load(name).cameras]
    ).double()


def panorama(
    world: World, pose: Float[Tensor, "4 4"], width: int, samples: int
) -> UInt8[np.ndarray, "height width 3"]:
    """What is seen from a pose in all directions: columns are longitudes, rows latitudes."""
    longitude = [
        (2 * (column + 0.5) / (samples * width) - 1) * np.pi for column in range(samples * width)
    ]
    latitude = [
        ((row + 0.5) / (samples * width // 2) - 0.5) * np.pi for row in range(samples * width // 2)
    ]
    rays = np.empty((len(latitude), len(longitude), 3))
    for row, down in enumerate(latitude):
        rays[row, :, 0] = np.cos(down) * np.sin(longitude)
        rays[row, :, 1] = np.sin(down)
        rays[row, :, 2] = np.cos(down) * np.cos(longitude)
    rays = np.ascontiguousarray(rays @ pose[:3, :3].numpy().T)
    shown = radiance_image(
        world.solids,
        world.textures,
        world.light,
        pose[:3, 3].numpy().copy(),
        rays,
        samples,
        world.white,
    )
    return np.rint(np.sqrt(np.clip(shown, 0, 1)) * 255).astype(np.uint8)


def photograph(world: World, camera: Cameras) -> UInt8[np.ndarray, "height width 3"]:
    """An ordinary photo of the room."""
    return np.rint(procedural.render_world(world, camera).rgb[0].numpy() * 255).astype(np.uint8)


def write_capture(
    folder: Path, count: int, width: int, with_poses: bool, samples: int = 1
) -> Float[Tensor, "count 4 4"]:
    """``images/000.png`` ... of the room with ``samples`` x ``samples`` rays per pixel, and their
    poses as transforms.json.

    Returns camera_to_world in OpenCV axes.
    """
    world, poses = room(count)
    frames = []
    for index, pose in enumerate(poses):
        write_png(folder / "images" / f"{index:03d}.png", panorama(world, pose, width, samples))
        opengl = (pose @ torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))).tolist()
        frames.append({"file_path": f"images/{index:03d}.png", "transform_matrix": opengl})
    if with_poses:
        (folder / "transforms.json").write_text(
            json.dumps({"camera_model": "EQUIRECTANGULAR", "frames": frames})
        )
    return poses
