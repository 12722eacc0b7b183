"""Photos, exact depth and exact visibility of a procedural world.

In: a ``World`` and ``Cameras`` of any lens model. Out: display-encoded pixels, camera z per pixel,
surface points, and which cameras see which of them.

The sky of a yard is background at infinity: photos show its gradient and clouds, its depth is
``inf``, and it counts as no surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.scenes.procedural.raycast import (
    in_sight,
    nearest_hits,
    radiance_image,
)
from artifixer.scenes.procedural.world import World

#: ``seen_by`` where a pixel shows the sky.
NO_SURFACE = -1


@dataclass(frozen=True)
class WorldViews:
    """rgb ``[views height width 3]`` in [0,1], display-encoded; depth ``[views height width]``:
    camera z, metres, of the surface at the pixel's centre, ``inf`` where there is sky. Both
    float32.
    """

    rgb: Float[Tensor, "views height width 3"]
    depth: Float[Tensor, "views height width"]


def render_world(world: World, cameras: Cameras, samples: int = 2) -> WorldViews:
    """Photos of the world and exact depth; ``samples`` x ``samples`` rays per pixel. Any lens
    model.
    """
    shape = (len(cameras), cameras.height, cameras.width)
    rgb, depth = np.empty((*shape, 3), np.float32), np.empty(shape, np.float32)
    for view in range(len(cameras)):
        rgb[view] = display_colours(world, cameras[view], samples)
        depth[view] = _depth(world, cameras[view])
    return WorldViews(torch.from_numpy(rgb), torch.from_numpy(depth))


def seen_by(world: World, cameras: Cameras, others: Cameras) -> Int[Tensor, "views height width"]:
    """For each pixel of ``cameras``, how many of ``others`` see the surface point at its centre.

    Exact: a point is seen when it projects inside the other's image and nothing blocks the line of
    sight (with a slack of 2 mm at the point). Outside the image is unseen. Pixels that show the sky
    are ``NO_SURFACE``.
    """
    counts = torch.empty(len(cameras), cameras.height, cameras.width, dtype=torch.int64)
    for view in range(len(cameras)):
        points, hit = surface_points(world, cameras[view], ray_directions(cameras[view], 1))
        seen = is_seen(world, others, points).sum(axis=0)
        counts[view] = torch.from_numpy(np.where(hit, seen, NO_SURFACE)).reshape(
            cameras.height, cameras.width
        )
    return counts


def display_colours(
    world: World, camera: Cameras, samples: int
) -> Float[np.ndarray, "height width 3"]:
    """Display-encoded colours in [0,1]."""
    eye = camera.centers[0].double().numpy()
    fine = ray_directions(camera, samples).reshape(
        camera.height * samples, camera.width * samples, 3
    )
    shown = radiance_image(
        world.solids, world.textures, world.light, eye, fine, samples, world.white
    )
    colours: np.ndarray = np.sqrt(np.clip(shown, 0, 1))
    return colours


def _depth(world: World, camera: Cameras) -> Float[np.ndarray, "height width"]:
    """Camera z of the surface at each pixel's centre, ``inf`` where there is sky."""
    directions = ray_directions(camera, 1)
    eye = camera.centers[0].double().numpy()
    distance, solid = nearest_hits(
        world.solids, np.broadcast_to(eye, directions.shape).copy(), directions
    )
    forward = camera.viewmats[0, 2, :3].double().numpy()
    return np.where(solid >= 0, distance * (directions @ forward), np.inf).reshape(
        camera.height, camera.width
    )


def ray_directions(camera: Cameras, samples: int) -> Float[np.ndarray, "rays 3"]:
    """Unit world directions through a grid of ``samples`` x ``samples`` points in each pixel of one
    view, row by row.
    """
    rows = (torch.arange(camera.height * samples, dtype=torch.float64) + 0.5) / samples
    columns = (torch.arange(camera.width * samples, dtype=torch.float64) + 0.5) / samples
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(1, -1, 2)
    return pixel_directions(camera, pixels[0])


def pixel_directions(
    camera: Cameras, pixels: Float[Tensor, "pixels 2"]
) -> Float[np.ndarray, "pixels 3"]:
    camera = camera.to(dtype=torch.float64)
    return np.ascontiguousarray(
        (camera.unproject(pixels[None])[0] @ camera.viewmats[0, :3, :3]).numpy()
    )


def surface_points(
    world: World, camera: Cameras, directions: Float[np.ndarray, "rays 3"]
) -> tuple[np.ndarray, np.ndarray]:
    """First surface points along rays of one view ``[rays 3]`` (the eye itself where there is
    none), and whether there is one.
    """
    eye = camera.to(dtype=torch.float64).centers[0].numpy()
    distance, solid = nearest_hits(
        world.solids, np.broadcast_to(eye, directions.shape).copy(), directions
    )
    hit = solid >= 0
    return eye + np.where(hit, distance, 0.0)[:, None] * directions, hit


def is_seen(
    world: World, cameras: Cameras, points: Float[np.ndarray, "points 3"]
) -> Bool[np.ndarray, "views points"]:
    """Whether each view sees each point: inside the image, and nothing in between."""
    precise = cameras.to(dtype=torch.float64)
    pixels, _, valid = precise.project(torch.from_numpy(points))
    size = torch.tensor([cameras.width, cameras.height])
    inside = (valid & ((pixels >= 0) & (pixels < size)).all(dim=-1)).numpy()
    for view in range(len(cameras)):
        inside[view, inside[view]] = in_sight(
            world.solids, precise.centers[view].numpy(), np.ascontiguousarray(points[inside[view]])
        )
    return inside
