"""``camera_scale``: the factor on camera translations that leads from world units to the video
model's units.

A model's config and every training pair say which of two kinds their factor is:

``metric``         translations in metres x 0.01: released weights and the recipe ``paper``
``median_depth``   translations / median depth of what the training views see: our own weights

``camera_scale`` is the one function for curating, running and enhancing. It looks at views in which
the depth of some pixels is known in world units: of the sparse points that photos observe
(``point_depths``), or of renders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import as_object, is_number, read_json, shown
from artifixer.scenes.depth_models import MetricDepth, check_depth_model, default_depth_model
from artifixer.scenes.scene import Scene

ScaleKind = Literal["metric", "median_depth"]

#: Model units per metre of the released weights.
METRIC_FACTOR = 0.01

#: Median depth in metres that is assumed where the length of the world's unit is unknown: that of a
#: room or a yard.
ASSUMED_MEDIAN_DEPTH = 3.0

#: Largest scale that is read from a file.
LARGEST_SCALE = 1e12

#: ``CameraScale.source`` where a scene knows its metres.
KNOWN_METRES = "the capture knows its unit in metres"

#: Where point depths come from, for ``CameraScale.source``.
SPARSE_POINTS = "the sparse points that the training views see"


@dataclass(frozen=True)
class CameraScale:
    """value: factor on camera translations. source: where it comes from, one line. is_guess: a
    warning is due.
    """

    value: float
    kind: ScaleKind
    source: str
    is_guess: bool = False

    @property
    def advice(self) -> str:
        """What to do about a guess."""
        return (
            f"camera scale: {self.source}; give --camera-scale "
            f"(metres per unit x {METRIC_FACTOR:g}) or --depth-model"
        )


@dataclass(frozen=True)
class DepthView:
    """A view and the depth of some of its pixels.

    camera: one view. picture: reads the photo or render, uint8 at the camera's size. pixels: x, y
    in the picture, the centre of the first pixel at 0.5. depths: camera z, world units, positive.
    """

    camera: Cameras
    picture: Callable[[], UInt8[np.ndarray, "height width 3"]]
    pixels: Float[Tensor, "observations 2"]
    depths: Float[Tensor, " observations"]


def camera_scale(
    kind: ScaleKind,
    views: Sequence[DepthView],
    where: str = SPARSE_POINTS,
    depth_model: MetricDepth | None = None,
    given: float | None = None,
    metres_per_unit: float | None = None,
) -> CameraScale:
    """The scale of a kind: ``given`` where the user knows it, else from the views.

    where: what the views' depths are of, for the source. For ``metric``, the first that there is
    of: metres_per_unit, which the scene itself knows; depth_model, metres per pixel; a median depth
    of ``ASSUMED_MEDIAN_DEPTH`` is assumed, and the result is a guess. Raises ``InputError`` for a
    given scale that is not positive and finite, and where no depth is known.
    """
    if given is not None:
        if not 0 < given < math.inf:
            raise InputError(f"camera scale {given:g}: expected a positive finite number")
        return CameraScale(given, kind, "given")
    if kind == "metric" and metres_per_unit is not None:
        return CameraScale(metric_scale(metres_per_unit), kind, KNOWN_METRES)
    if kind == "metric" and depth_model is not None:
        metres = _metres_per_unit(views, depth_model, where)
        return CameraScale(metric_scale(metres), kind, f"metric depth of {where}")
    depth = _median([view.depths for view in views], where)
    if kind == "median_depth":
        return CameraScale(1 / depth, kind, f"median depth of {where}")
    assumption = f"metres are assumed from a median depth of {ASSUMED_MEDIAN_DEPTH:g} m of {where}"
    return CameraScale(metric_scale(ASSUMED_MEDIAN_DEPTH / depth), kind, assumption, is_guess=True)


def scale_depth_model(
    kind: ScaleKind, given: float | None, metres_per_unit: float | None, depth_model: str | None
) -> str | None:
    """Name of the depth model that ``camera_scale`` has to be given: the user's, else the default
    one where it is installed. None where no depth model is needed, or none is installed.
    """
    if kind != "metric" or given is not None or metres_per_unit is not None:
        return None
    return depth_model or default_depth_model()


def check_scale_options(
    kind: ScaleKind, given: float | None, depth_model: str | None, model: str
) -> None:
    """Raise ``InputError`` for ``--camera-scale`` and ``--depth-model`` that do not fit each other
    or the video model, and for a depth model that does not give metres, before anything is made.
    """
    if given is not None and not 0 < given < math.inf:
        raise InputError(f"--camera-scale {given:g}: expected a positive finite number")
    if depth_model is None:
        return
    if given is not None:
        raise InputError(
            f"--depth-model {depth_model}: --camera-scale {given:g} is given too; expected one of "
            "them"
        )
    if kind != "metric":
        raise InputError(
            f"--depth-model {depth_model}: model {model} wants translations over the median depth, "
            "not metres; expected no --depth-model"
        )
    check_depth_model(depth_model)


def read_scale(path: Path, kind: ScaleKind) -> CameraScale:
    """A scale of this kind as ``write_json`` stored it (``to_json``). Raises ``InputError`` naming
    the file when it holds anything else.
    """
    content = as_object(read_json(path), path)
    value, source = content.get("value"), content.get("source")
    if not is_number(value, LARGEST_SCALE) or not value > 0:
        raise InputError(
            f'{path}: "value" is {shown(value)}, expected a positive finite number; delete the '
            "file to find the camera scale again"
        )
    if content.get("kind") != kind or not isinstance(source, str):
        raise InputError(
            f'{path}: holds no camera scale of kind {kind} with its "source"; delete the file to '
            "find it again"
        )
    return CameraScale(value, kind, source)


def metric_scale(metres: float) -> float:
    """``camera_scale`` of weights trained on metric captures; ``metres``: metres per world unit
    (``metres_per_unit``).
    """
    return METRIC_FACTOR * metres


def metres_per_unit(
    world_depths: Float[Tensor, " observations"],
    metric_depths: Float[Tensor, " observations"],
    weights: Float[Tensor, " observations"],
) -> float:
    """The scale that turns world units into metres: the weighted median over all observations of
    metric depth / depth in world units.

    world_depths: camera z of sparse points in the views that observe them, all views together.
    metric_depths: what a depth network says at the same pixels, metres. weights: how much each
    observation counts, 0 or more. Depths that are not positive do not count; an infinite metric
    depth (sky that a point was matched in) counts as larger than all others. The weighted median is
    the smallest ratio at which the sum of the weights of all ratios up to it exceeds half of the
    total: of the two middle ones the upper. Raises InputError when nothing counts, as where all
    weights are 0, and for a weight that is not a finite number of at least 0.
    """
    if not bool(((weights >= 0) & (weights < math.inf)).all()):  # NaN fails too
        raise InputError(
            "metric scale: weights of observations: expected finite numbers, 0 or more"
        )
    if len(weights) and not bool((weights > 0).any()):
        raise InputError(
            f"metric scale: all {len(weights)} observations have weight 0; expected some that count"
        )
    is_usable = (weights > 0) & (world_depths > 0) & (metric_depths > 0)  # NaN fails too
    ratios, order = (
        metric_depths[is_usable].to(torch.float64) / world_depths[is_usable].to(torch.float64)
    ).sort(stable=True)
    reached = weights[is_usable].to(torch.float64)[order].cumsum(0)
    scale = (
        float(ratios[torch.searchsorted(reached, reached[-1] / 2, right=True)])
        if len(ratios)
        else math.inf
    )
    if not 0 < scale < math.inf:
        raise InputError(
            f"metric scale: {len(ratios)} of {len(is_usable)} observations have a metric depth; "
            "expected more that are finite"
        )
    return scale


def observed_depths(scene: Scene, training: Sequence[int]) -> Float[Tensor, " observations"]:
    """Positive camera z (float64) of each sparse point in each view that sees it, see
    ``point_depths``.
    """
    return torch.cat(
        [
            torch.zeros(0, dtype=torch.float64),
            *(view.depths for view in point_depths(scene, training)),
        ]
    )


def point_depths(scene: Scene, training: Sequence[int]) -> list[DepthView]:
    """Depth of the sparse points in each view that sees them (float64), positive ones only.

    training: indices into ``scene.photos``. A view sees the points that it observes; without
    tracks, those in front of it and inside its picture.
    """
    points = scene.points
    if points is None:
        return []
    xyz = points.xyz.to(torch.float64)
    views = []
    for view in training:
        camera = scene.cameras[view].to(dtype=torch.float64)
        if points.has_tracks:
            is_observed = points.observed_view == view
            seen = xyz[points.observed_point[is_observed]]
            pixels = points.observed_pixel[is_observed].to(torch.float64)
            z = seen @ camera.viewmats[0, 2, :3] + camera.viewmats[0, 2, 3]
        else:
            projected, depths_in_view, is_imaged = camera.project(xyz)
            is_inside = (projected >= 0).all(-1) & (
                projected <= projected.new_tensor([camera.width, camera.height])
            ).all(-1)
            z, pixels = (
                depths_in_view[is_imaged & is_inside].flatten(),
                projected[is_imaged & is_inside].reshape(-1, 2),
            )
        views.append(
            DepthView(scene.cameras[view], scene.photos[view].read, pixels[z > 0], z[z > 0])
        )
    return views


def _median(depths: Sequence[Float[Tensor, " _"]], where: str) -> float:
    known = torch.cat(
        [torch.zeros(0, dtype=torch.float64), *(values.to(torch.float64) for values in depths)]
    )
    known = known[(known > 0) & (known < math.inf)]
    if not len(known):
        raise InputError(
            f"camera scale: {where} have no depth; expected at least one view with a positive one"
        )
    return float(known.median())


def _metres_per_unit(views: Sequence[DepthView], depth_model: MetricDepth, where: str) -> float:
    """The model's depth against the known one, both at the pixels that the observations fall into
    (cut to the picture).
    """
    world, metric = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
    for view in views:
        if not len(view.depths):
            continue
        metres = torch.from_numpy(
            np.asarray(depth_model(view.picture(), view.camera), dtype=np.float64)
        )
        columns, rows = (
            view.pixels[:, axis].long().clamp(0, size - 1)
            for axis, size in ((0, view.camera.width), (1, view.camera.height))
        )
        world.append(view.depths.to(torch.float64))
        metric.append(metres[rows, columns])
    if len(world) == 1:
        raise InputError(
            f"camera scale: {where} have no depth; expected at least one view with a positive one"
        )
    depths = torch.cat(world)
    return metres_per_unit(depths, torch.cat(metric), torch.ones_like(depths))
