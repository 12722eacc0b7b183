"""Camera scale of renders: world units to the units of the video model, from the renders' depth.

In: renders, their cameras, and the model's rule. Out: the scale and how it was determined
(``scenes/scale.py`` has the rules).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from artifixer.enhance.sources import RenderSource
from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.geometry.paths import focus_point
from artifixer.runtime.errors import InputError
from artifixer.scenes.depth_models import metric_depth_model
from artifixer.scenes.scale import (
    ASSUMED_MEDIAN_DEPTH,
    CameraScale,
    DepthView,
    camera_scale,
    metric_scale,
    scale_depth_model,
)
from artifixer.video.model import CameraScaleRule

#: Number of renders whose depth determines the camera scale, evenly spaced along the clip.
DEPTH_SAMPLES = 8


def render_scale(
    source: RenderSource,
    cameras: Cameras,
    kind: CameraScaleRule,
    *,
    given: float | None = None,
    depth_model: str | None = None,
    device: str = "cpu",
) -> CameraScale:
    """Scale from world units to the model's units.

    kind: the model's rule. given: the scale itself, or None. depth_model: metric depth model by
    folder or hub name, for the rule ``metric``. Raises ``InputError`` for a depth model where the
    renders have no depth to compare with.
    """
    views = sampled_depths(source, cameras)
    if views or given is not None:
        name = scale_depth_model(kind, given, None, depth_model)
        network = None if name is None else metric_depth_model(name, device)
        metric_depth_model.cache_clear()  # the video model needs the memory
        return camera_scale(kind, views, "the renders", network, given)
    if depth_model is not None and kind == "metric":
        raise InputError(
            f"--depth-model {depth_model}: the renders have no depth to compare with metres; "
            "expected --camera-scale"
        )
    ends = concatenate([cameras[0], cameras[len(cameras) // 2], cameras[-1]])
    distance = float((ends.centers - focus_point(ends)).norm(dim=1).median())
    distance = distance if distance > 0 else 1.0
    value = (
        1 / distance if kind == "median_depth" else metric_scale(ASSUMED_MEDIAN_DEPTH / distance)
    )
    return CameraScale(
        value,
        kind,
        "the renders have no depth; it is guessed from where the cameras look",
        is_guess=True,
    )


def sampled_depths(source: RenderSource, cameras: Cameras) -> list[DepthView]:
    """Depths in world units of up to ``DEPTH_SAMPLES`` renders, evenly spaced along the clip.
    Renders without depth and empty renders are omitted.
    """
    count = min(DEPTH_SAMPLES, len(source))
    chosen = sorted({step * (len(source) - 1) // max(1, count - 1) for step in range(count)})
    views = []
    for index in chosen:
        depth = source.depth(index)
        if depth is None:
            continue
        rows, columns = np.nonzero((depth > 0) & np.isfinite(depth))
        if len(rows):
            pixels = torch.from_numpy(np.stack([columns, rows], axis=-1) + 0.5)
            views.append(
                DepthView(
                    cameras[index],
                    partial(source.rgb, index),
                    pixels,
                    torch.from_numpy(depth[rows, columns]),
                )
            )
    return views
