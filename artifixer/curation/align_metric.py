"""The camera scale of a pair: which unit of length the video model sees (``scenes/scale.py`` says what the two kinds mean).

``median_depth`` needs nothing but the sparse points. ``metric`` asks a depth network about some of the training photos; any function from
a photo to metres per pixel will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes.scale import median_depth_scale, metres_per_unit, metric_scale
from artifixer.scenes.scene import Scene

ScaleKind = Literal["median_depth", "metric"]

#: A photo and its camera -> camera z in metres per pixel, NaN where unknown.
MetricDepth = Callable[[UInt8[np.ndarray, "height width 3"], Cameras], Float[np.ndarray, "height width"]]


def camera_scale(scene: Scene, training: Sequence[int], kind: ScaleKind, depth: MetricDepth | None = None) -> float:
    """The factor on camera translations for a pair from these training views.

    depth: the network for ``metric``. Raises ``InputError`` when no sparse point is seen, or a metric scale is asked for without network.
    """
    if kind == "median_depth":
        return median_depth_scale(scene, training)
    if depth is None:
        raise InputError("camera scale metric: needs a depth network; expected one, or the camera scale median_depth")
    return metric_scale(scene_metres_per_unit(scene, training, depth))


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
