"""What a run's camera scale is found from (``scenes/scale.py``): the sparse points of the training
views, or their renders without any."""

from __future__ import annotations

import torch

from artifixer.imaging.resize import fit_size
from artifixer.pipeline.capture import OpenCapture
from artifixer.pipeline.render_path import PROBE_SIZE
from artifixer.scenes.metric_depth import metric_depth
from artifixer.scenes.scale import CameraScale, DepthView, Observations, ScaleKind, camera_scale, sparse_observations
from artifixer.splats.render import render
from artifixer.splats.splats import Splats

#: Most training views that are rendered.
MOST_RENDERED_VIEWS = 16

#: Renders show a surface where they are more opaque than this.
OPAQUE_ABOVE = 0.5


def find_camera_scale(
    kind: ScaleKind, capture: OpenCapture, splats: Splats, given: float | None = None, depth_model: str | None = None
) -> CameraScale:
    """The scale for a model of this kind; a depth network is asked about the training photos.
    Raises ``InputError`` as ``camera_scale``."""
    observed = sparse_observations(capture.scene, capture.training)
    if not len(observed.depths):
        observed = rendered_observations(capture, splats)
    try:
        return camera_scale(kind, observed, given=given, depth_model=depth_model, device=str(splats.means.device))
    finally:
        metric_depth.cache_clear()  # the video model needs the memory


def rendered_observations(capture: OpenCapture, splats: Splats) -> Observations:
    """Depth of the splats' surfaces in the training photos, at the pixels of small renders."""
    scene, training = capture.scene, capture.training
    count = min(MOST_RENDERED_VIEWS, len(training))
    views = [_rendered_view(capture, splats, training[step * len(training) // count]) for step in range(count)]
    return Observations(f"the renders of {count} training views of {scene.name}", views, scene.metres_per_unit)


def _rendered_view(capture: OpenCapture, splats: Splats, index: int) -> DepthView:
    camera = capture.scene.cameras[index]
    small = camera.resized(*fit_size(camera.width, camera.height, PROBE_SIZE))
    with torch.no_grad():
        renders = render(splats, small.to(splats.means.device))
    depth = renders.depth[0].cpu()
    rows, columns = ((renders.opacity[0].cpu() > OPAQUE_ABOVE) & (depth > 0)).nonzero().unbind(-1)
    photo_size = torch.tensor([camera.width / small.width, camera.height / small.height])
    pixels = ((torch.stack([columns, rows], dim=-1) + 0.5) * photo_size).long()
    return DepthView(capture.scene.photos[index].read, camera, pixels, depth[rows, columns])
