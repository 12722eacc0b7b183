"""The camera scale of a pair: which unit of length the video model sees (``scenes/scale.py`` says what the two kinds mean).

``median_depth`` needs nothing but the sparse points. ``metric`` asks a depth network about the training photos: Depth Anything V2 (metric)
or another depth model of transformers, or any function from a photo to metres per pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, reason
from artifixer.scenes.scale import median_depth_scale, metres_per_unit, metric_scale
from artifixer.scenes.scene import Scene

ScaleKind = Literal["median_depth", "metric"]

#: A photo and its camera -> camera z in metres per pixel, NaN where unknown.
MetricDepth = Callable[[UInt8[np.ndarray, "height width 3"], Cameras], Float[np.ndarray, "height width"]]

#: What Depth Anything reads: photos whose shorter side is this long, sides in multiples of its patches, normalised colours.
DEPTH_SIDE = 518
DEPTH_GRID = 14
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def camera_scale(scene: Scene, training: Sequence[int], kind: ScaleKind, depth: MetricDepth | None = None) -> float:
    """The factor on camera translations for a pair from these training views.

    depth: the network for ``metric``. Raises ``InputError`` when no sparse point is seen, or a metric scale is asked for without network.
    """
    if kind == "median_depth":
        return median_depth_scale(scene, training)
    if depth is None:
        raise InputError("camera scale metric: needs a depth network; expected one, or the camera scale median_depth")
    return metric_scale(scene_metres_per_unit(scene, training, depth))


@functools.cache
def depth_network(name: str) -> MetricDepth:
    """A depth model of transformers that gives metres (``depth-anything/Depth-Anything-V2-Metric-Indoor-Base-hf``), by folder or hub name.

    Raises ``InputError`` when it cannot be loaded or gives relative depth.
    """
    from transformers import AutoModelForDepthEstimation

    try:
        # Weights in safetensors alone, and no code that a folder brings.
        network = AutoModelForDepthEstimation.from_pretrained(name, use_safetensors=True, trust_remote_code=False).eval()
    except PARSER_ERRORS as error:
        raise InputError(f"depth model {name}: {reason(error)}") from error
    if getattr(network.config, "depth_estimation_type", "metric") != "metric":
        raise InputError(f"depth model {name}: gives relative depth; expected a metric one")

    def depth(photo: UInt8[np.ndarray, "height width 3"], camera: Cameras) -> Float[np.ndarray, "height width"]:
        height, width = photo.shape[:2]
        factor = DEPTH_SIDE / min(height, width)
        size = [max(1, round(side * factor / DEPTH_GRID)) * DEPTH_GRID for side in (height, width)]
        pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].to(torch.float32) / 255
        pixels = torch.nn.functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
        with torch.no_grad():
            metres = network(pixel_values=(pixels - mean) / deviation).predicted_depth
        return torch.nn.functional.interpolate(metres[None], size=(height, width), mode="bilinear")[0, 0].numpy()

    return depth


def scene_metres_per_unit(scene: Scene, training: Sequence[int], depth: MetricDepth) -> float:
    """Metres per world unit from a depth network at the sparse points that the training views observe."""
    points = scene.points
    if points is None or not points.has_tracks:
        raise InputError(f"{scene.name}: metric scale needs sparse points with tracks")
    world, metric = [], []
    for view in training:
        camera, observed = scene.cameras[view], points.observed_view == view
        metres = torch.from_numpy(np.asarray(depth(scene.photos[view].read(), camera), dtype=np.float64))
        pixels = points.observed_pixel[observed].long()
        columns, rows = pixels[:, 0].clamp(0, camera.width - 1), pixels[:, 1].clamp(0, camera.height - 1)
        viewmat = camera.viewmats[0].to(torch.float64)
        world.append(points.xyz[points.observed_point[observed]].to(torch.float64) @ viewmat[2, :3] + viewmat[2, 3])
        metric.append(metres[rows, columns])
    world_depths = torch.cat(world)
    return metres_per_unit(world_depths, torch.cat(metric), torch.ones_like(world_depths))
