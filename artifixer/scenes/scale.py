"""``camera_scale``: the scale from a capture's world units to the video model's units. Camera
translations are multiplied by it.

A model's config names one of two kinds, and pairs, runs and enhanced clips find the value by this
one function:

``metric``         metres x 0.01 (released weights)
``median_depth``   1 / median positive depth, so that the median depth is one unit (our weights)

The paper aligns the scale of every reconstruction with a metric depth estimator (section 4.1, data
curation).

Both read the same observations: the camera z, in world units, of points or pixels that the training
views (or the renders) see. For metres they are compared with the depth in metres that a network
predicts at the same pixels (``metric_depth.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes.metric_depth import MetricDepth, check_depth_model, default_depth_model, metric_depth
from artifixer.scenes.scene import Scene

ScaleKind = Literal["metric", "median_depth"]

#: The released weights see metres times this.
METRIC_FACTOR = 0.01

#: Median depth in metres that is assumed where weights want metres and nothing says how long the
#: capture's unit is: a room or a yard.
ASSUMED_MEDIAN_DEPTH = 3.0


@dataclass(frozen=True)
class CameraScale:
    """value: factor on camera translations. source: where it comes from. warning: one line when it
    is a guess, with what to do about it."""

    value: float
    kind: ScaleKind
    source: str
    warning: str | None = None


@dataclass(frozen=True)
class DepthView:
    """One picture, and the camera z of some of its pixels.

    read: the picture, uint8; None where there is none, so that it says nothing about metres.
    camera: of one view, of the picture's size. pixels: column and row. depths: world units,
    positive.
    """

    read: Callable[[], UInt8[np.ndarray, "height width 3"]] | None
    camera: Cameras
    pixels: Int[Tensor, "observations 2"]
    depths: Float[Tensor, " observations"]


@dataclass(frozen=True)
class Observations:
    """What is known of a capture's depth. label: what was observed, for messages. metres_per_unit:
    where the capture itself knows it."""

    label: str
    views: Sequence[DepthView]
    metres_per_unit: float | None = None

    @property
    def depths(self) -> Float[Tensor, " observations"]:
        """Of all views together, float64."""
        return torch.cat([torch.zeros(0, dtype=torch.float64), *(view.depths.to(torch.float64) for view in self.views)])

    def median_depth(self) -> float:
        """World units; the lower one of two in the middle. Raises ``InputError`` when there are
        none."""
        depths = self.depths
        if not len(depths):
            raise InputError(f"{self.label}: none is seen; the median depth is unknown")
        return float(depths.median())


def camera_scale(
    kind: ScaleKind,
    observed: Observations,
    *,
    given: float | None = None,
    depth_model: str | None = None,
    may_assume: bool = True,
    device: str = "cpu",
) -> CameraScale:
    """The scale for a model, or for training pairs, of this kind. The first of these that there is:

    1. given: the user's own value.
    2. ``median_depth``: 1 / median depth of the observations.
    3. ``metric``: depth_model, a network that predicts metres, by folder or hub name; metres that
       the capture itself knows; MoGe-2 when its package is installed.
    4. ``metric`` without any: a median depth of ``ASSUMED_MEDIAN_DEPTH`` metres, with a warning;
       unless may_assume is False.

    Raises ``InputError`` for a value that is not positive and finite, observations that are needed
    and absent, a depth model that cannot be used or finds nothing, and when only assuming is left
    and not allowed.
    """
    if given is not None:
        if not 0 < given < math.inf:
            raise InputError(f"camera scale {given:g}: expected a positive finite number")
        return CameraScale(given, kind, "given")
    if kind == "median_depth":
        return CameraScale(1 / observed.median_depth(), kind, f"median depth of {observed.label}")
    if depth_model is None and observed.metres_per_unit is not None:
        return CameraScale(metric_scale(observed.metres_per_unit), kind, "the capture knows its unit in metres")
    found, problem = depth_model_for(kind, observed.metres_per_unit, given, depth_model), ""
    if found is not None:
        try:
            metres = observed_metres_per_unit(observed, metric_depth(found, device))
            return CameraScale(metric_scale(metres), kind, f"metres by {found} at {observed.label}, {metres:.4g} per unit")
        except InputError as error:
            if depth_model is not None or not may_assume:
                raise
            problem = f" ({error})"
    remedy = "give --depth-model (a network that predicts metres) or --camera-scale (metres per unit x 0.01)"
    if not may_assume:
        raise InputError(f"camera scale metric: nothing says how many metres a unit of this capture is; {remedy}")
    value = metric_scale(ASSUMED_MEDIAN_DEPTH / observed.median_depth())
    assumption = f"assumed: the median depth of {observed.label} is {ASSUMED_MEDIAN_DEPTH:g} m"
    warning = f"the model knows metres, and nothing says how many a unit of this capture is{problem}; {assumption}; {remedy}"
    return CameraScale(value, kind, assumption, warning)


def depth_model_for(kind: ScaleKind, metres_per_unit: float | None, given: float | None, depth_model: str | None) -> str | None:
    """The depth network that ``camera_scale`` asks, or None."""
    if kind != "metric" or given is not None:
        return None
    if depth_model is None and metres_per_unit is None:
        return default_depth_model()
    return depth_model


def metric_scale(metres: float) -> float:
    """``camera_scale`` of kind ``metric``; metres: per world unit."""
    return METRIC_FACTOR * metres


def check_scale_options(kind: ScaleKind, given: float | None, depth_model: str | None, model: str) -> None:
    """Raise ``InputError`` for ``--camera-scale`` and ``--depth-model`` that do not fit each other
    or the model, before anything is read."""
    if given is not None and not 0 < given < math.inf:
        raise InputError(f"camera scale {given:g}: expected a positive finite number")
    if depth_model is None:
        return
    if given is not None:
        raise InputError(f"--depth-model {depth_model}: --camera-scale {given:g} is given as well; expected one of them")
    if kind != "metric":
        raise InputError(f"--depth-model {depth_model}: model {model} measures in median depths, not in metres; expected none")
    check_depth_model(depth_model)


# Observations -------------------------------------------------------------------------------------
# ------------------------------------


def sparse_observations(scene: Scene, training: Sequence[int]) -> Observations:
    """The sparse points that the training views see, in the photos. training: indices into
    ``scene.photos``.

    Every observation of a point by a training view counts once, at the observed pixel; without
    tracks, every point in front of a view and inside its picture does, hidden or not.
    """
    views = [_sparse_view(scene, view) for view in training] if scene.points is not None else []
    label = f"the sparse points that the {len(training)} training views of {scene.name} see"
    return Observations(label, views, scene.metres_per_unit)


def _sparse_view(scene: Scene, view: int) -> DepthView:
    points, camera = scene.points, scene.cameras[view]
    assert points is not None, "a scene without points"
    exact, xyz = camera.to(dtype=torch.float64), points.xyz.to(torch.float64)
    if points.has_tracks:
        observed = points.observed_view == view
        xyz, pixels = xyz[points.observed_point[observed]], points.observed_pixel[observed].to(torch.float64)
        z = xyz @ exact.viewmats[0, 2, :3] + exact.viewmats[0, 2, 3]
        seen = z > 0
    else:
        projected, depths, is_imaged = exact.project(xyz)
        pixels, z = projected.reshape(-1, 2), depths.flatten()
        size = pixels.new_tensor([camera.width, camera.height])
        seen = is_imaged.flatten() & (pixels >= 0).all(-1) & (pixels <= size).all(-1) & (z > 0)
    return DepthView(scene.photos[view].read, camera, _inside(pixels[seen], camera), z[seen])


def _inside(pixels: Float[Tensor, "observations 2"], camera: Cameras) -> Int[Tensor, "observations 2"]:
    """Column and row, truncated and clamped to the picture."""
    return torch.minimum(pixels.long().clamp(min=0), torch.tensor([camera.width - 1, camera.height - 1]))


def observed_depths(scene: Scene, training: Sequence[int]) -> Float[Tensor, " observations"]:
    """Positive camera z (float64) of each sparse point in each training view that sees it, see
    ``sparse_observations``."""
    return sparse_observations(scene, training).depths


def median_depth(scene: Scene, training: Sequence[int]) -> float:
    """Their median; raises ``InputError`` when no point qualifies."""
    depths = observed_depths(scene, training)
    if not len(depths):
        raise InputError(f"{scene.name}: no sparse point is seen by the {len(training)} training views; its median depth is unknown")
    return float(depths.median())


# Metres -------------------------------------------------------------------------------------------
# ------------------------------------


def observed_metres_per_unit(observed: Observations, depth: MetricDepth) -> float:
    """Metres per world unit: the weighted median of the network's depth over the observed one, all
    views together.

    Sky (infinite depth) and pixels without a depth have weight 0. Raises ``InputError`` when
    nothing counts.
    """
    world, metric = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
    for view in observed.views:
        if view.read is None or not len(view.depths):
            continue
        metres = torch.from_numpy(np.asarray(depth(view.read(), view.camera), dtype=np.float64))
        columns, rows = view.pixels.unbind(-1)
        world.append(view.depths.to(torch.float64))
        metric.append(metres[rows, columns])
    metres = torch.cat(metric)
    return metres_per_unit(torch.cat(world), metres, metres.isfinite().to(torch.float64))


def metres_per_unit(
    world_depths: Float[Tensor, " observations"],
    metric_depths: Float[Tensor, " observations"],
    weights: Float[Tensor, " observations"],
) -> float:
    """The scale that turns world units into metres: the weighted median over all observations of
    metric depth / depth in world units.

    world_depths: camera z of sparse points in the views that observe them, all views together.
    metric_depths: what a depth network predicts at the same pixels, metres. weights: how much each
    observation counts, 0 or more; where all are 0, every observation counts the same.

    Depths that are not positive do not count; an infinite metric depth with a weight counts as
    larger than all others. Weights are divided by their mean; the median is the smallest ratio at
    which the sum of the weights up to it reaches half of the total, as in the public release.
    Raises ``InputError`` when nothing counts.
    """
    is_usable = (world_depths > 0) & (metric_depths > 0)  # NaN fails too
    kept = weights[is_usable].to(torch.float64)
    kept = kept / kept.mean() if bool((kept > 0).any()) else torch.ones_like(kept)
    ratios, order = (metric_depths[is_usable].to(torch.float64) / world_depths[is_usable].to(torch.float64)).sort(stable=True)
    reached = kept[order].cumsum(0)
    scale = float(ratios[torch.searchsorted(reached, reached[-1] / 2)]) if len(ratios) else math.inf
    if not 0 < scale < math.inf:
        raise InputError(f"metric scale: {len(ratios)} of {len(is_usable)} observations have a metric depth; expected more that are finite")
    return scale
