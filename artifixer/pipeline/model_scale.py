"""The camera scale of a run: which unit of length the video model sees for this capture, and where the number comes from."""

from __future__ import annotations

from dataclasses import dataclass

from artifixer.geometry.paths import alike
from artifixer.pipeline.capture import OpenCapture
from artifixer.pipeline.render_path import seen_distance
from artifixer.runtime.errors import InputError
from artifixer.scenes.scale import median_depth, metric_scale
from artifixer.splats.splats import Splats
from artifixer.video.models import CameraScaleRule

#: Median depth, metres, that is assumed where weights want metres and nothing tells how long the capture's unit is: a room or a yard.
ASSUMED_MEDIAN_DEPTH = 3.0


@dataclass(frozen=True)
class CameraScale:
    """value: factor on camera translations. source: where it comes from, one line. is_guess: a warning is due."""

    value: float
    source: str
    is_guess: bool = False


def find_camera_scale(rule: CameraScaleRule, capture: OpenCapture, splats: Splats) -> CameraScale:
    """The scale that a model's config asks for (``scenes/scale.py``). Sparse points tell the median depth, renders where there are none."""
    try:
        depth, source = median_depth(capture.scene, capture.training), "median depth of the sparse points that the training views see"
    except InputError:
        views = alike([capture.scene.cameras[i] for i in capture.training])
        depth, source = seen_distance(splats, views.to(splats.means.device)), "median depth of the training views' renders"
    if rule == "median_depth":
        return CameraScale(1 / depth, source)
    assumption = f"metres, assuming a {source} of {ASSUMED_MEDIAN_DEPTH:g} m"
    return CameraScale(metric_scale(ASSUMED_MEDIAN_DEPTH / depth), assumption, is_guess=True)
