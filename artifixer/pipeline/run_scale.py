"""The camera scale of a run: factor from world units to the video model's units.

In: the capture, the options, the splats of the first fit. Out: ``CameraScale`` (``scenes/scale``).
"""

from __future__ import annotations

from artifixer.geometry.paths import alike
from artifixer.pipeline.render import splat_depths
from artifixer.pipeline.run_config import RunConfig
from artifixer.pipeline.run_context import RunContext
from artifixer.pipeline.run_stages import INITIAL
from artifixer.scenes.depth_models import metric_depth_model
from artifixer.scenes.scale import (
    SPARSE_POINTS,
    CameraScale,
    DepthView,
    ScaleKind,
    camera_scale,
    point_depths,
)


def find_scale(
    context: RunContext, config: RunConfig, kind: ScaleKind, depth_model: str | None
) -> CameraScale:
    """The scale from the sparse points that training views observe, or from the splats if there are
    none. depth_model: name or folder of a metric depth model; None for none.
    """
    capture = context.capture
    views, where = point_depths(capture.scene, capture.training), SPARSE_POINTS
    if not any(len(view.depths) for view in views) and config.camera_scale is None:
        views, where = _splat_depths(context), "the training views' renders"
    network = None if depth_model is None else metric_depth_model(depth_model, context.device)
    metric_depth_model.cache_clear()  # frees memory for the video model
    return camera_scale(
        kind, views, where, network, config.camera_scale, capture.scene.metres_per_unit
    )


def _splat_depths(context: RunContext) -> list[DepthView]:
    capture, splats = context.capture, context.splats(INITIAL)
    views = alike([capture.scene.cameras[i] for i in capture.training])
    return splat_depths(splats, views.to(splats.means.device))
