"""``camera_scale``: how long a capture's unit of length is for the video model, which sees camera translations times this number.

Two sources, named in the model's config:

``metric``         translations in metres x 0.01 (released weights). The metres per unit follow from a depth network:
                   ``metres_per_unit``, then ``metric_scale``
``median_depth``   translations / median depth of the sparse points that the training views see (our weights): ``median_depth_scale``
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.scenes.scene import Scene

#: The released weights see metres times this.
METRIC_FACTOR = 0.01


def metric_scale(metres: float) -> float:
    """``camera_scale`` of weights trained on metric captures; ``metres``: metres per world unit (``metres_per_unit``)."""
    return METRIC_FACTOR * metres


def median_depth_scale(scene: Scene, training: Sequence[int]) -> float:
    """``camera_scale`` of weights trained on captures whose median depth is 1; raises InputError where ``median_depth`` does."""
    return 1 / median_depth(scene, training)


def metres_per_unit(
    world_depths: Float[Tensor, " observations"],
    metric_depths: Float[Tensor, " observations"],
    weights: Float[Tensor, " observations"],
) -> float:
    """The scale that turns world units into metres: the weighted median over all observations of metric depth / depth in world units.

    world_depths: camera z of sparse points in the views that observe them, all views together.
    metric_depths: what a depth network says at the same pixels, metres. weights: how much each observation counts, 0 or more.
    Depths that are not positive do not count; an infinite metric depth (sky that a point was matched in) counts as larger than all others.
    The weighted median is the smallest ratio at which the sum of the weights of all ratios up to it exceeds half of the total: of the two
    middle ones the upper. Raises InputError when nothing counts.
    """
    is_usable = (weights > 0) & (world_depths > 0) & (metric_depths > 0)  # NaN fails too
    ratios, order = (metric_depths[is_usable].to(torch.float64) / world_depths[is_usable].to(torch.float64)).sort(stable=True)
    reached = weights[is_usable].to(torch.float64)[order].cumsum(0)
    scale = float(ratios[torch.searchsorted(reached, reached[-1] / 2, right=True)]) if len(ratios) else math.inf
    if not 0 < scale < math.inf:
        raise InputError(f"metric scale: {len(ratios)} of {len(is_usable)} observations have a metric depth; expected more that are finite")
    return scale


def median_depth(scene: Scene, training: Sequence[int]) -> float:
    """Median positive camera z, in world units, of the sparse points that the training views see.

    training: indices into ``scene.photos``. Every observation of a point by a training view counts once; without tracks, every point in
    front of a view and inside its picture does. Raises InputError when no point qualifies.
    """
    depths = observed_depths(scene, training)
    if not len(depths):
        raise InputError(f"{scene.name}: no sparse point is seen by the {len(training)} training views; its median depth is unknown")
    return float(depths.median())


def observed_depths(scene: Scene, training: Sequence[int]) -> Float[Tensor, " observations"]:
    """Positive camera z (float64) of each sparse point in each training view that sees it, see ``median_depth``."""
    points = scene.points
    if points is None:
        return torch.zeros(0, dtype=torch.float64)
    xyz = points.xyz.to(torch.float64)
    depths = []
    for view in training:
        camera = scene.cameras[view].to(dtype=torch.float64)
        if points.has_tracks:
            seen = xyz[points.observed_point[points.observed_view == view]]
            z = seen @ camera.viewmats[0, 2, :3] + camera.viewmats[0, 2, 3]
        else:
            pixels, depths_in_view, is_imaged = camera.project(xyz)
            is_inside = (pixels >= 0).all(-1) & (pixels <= pixels.new_tensor([camera.width, camera.height])).all(-1)
            z = depths_in_view[is_imaged & is_inside]
        depths.append(z[z > 0].flatten())
    return torch.cat(depths) if depths else torch.zeros(0, dtype=torch.float64)
