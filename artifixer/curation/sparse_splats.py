"""Sparse reconstructions for training pairs: the photos of a capture that are kept, and the splats
fitted to them.

In: a scene, one of the two groups of Algorithm 1, a number of views. Out: ``Splats`` fitted like
any other reconstruction, with the settings of a recipe. The number of iterations and of Gaussians
is drawn per pair, since captures differ in the quality of their splats: some renders are blurred,
some sharp with floaters, some empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from artifixer.runtime.seeds import generator
from artifixer.scenes.scene import Scene
from artifixer.scenes.splits import MIN_TRAINING_VIEWS, algorithm1_orders
from artifixer.scenes.view import View
from artifixer.splats.initial import ColoredPoints, add_pixels, scene_extent, seen_points, splats_at
from artifixer.splats.reconstruct import ReconstructConfig, reconstruct
from artifixer.splats.splats import Splats
from artifixer.splats.training_view import TrainingView


@dataclass(frozen=True)
class SparseConfig:
    """Settings of the splats of a pair. A value is drawn from each range per pair, uniformly in the
    logarithm.
    """

    views: tuple[int, int] = (2, 12)
    """Range of the number of kept photos (paper section 4.1 and appendix B)."""
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    """Settings of the fit; the ranges below replace its own values."""
    iterations: tuple[int, int] = (10_000, 10_000)
    """Range of the number of iterations."""
    max_gaussians: tuple[int, int] = (1_000_000, 1_000_000)
    """Range of the maximum number of Gaussians."""
    initial_points: tuple[int, int] = (3000, 3000)
    """Range of the number of initial points."""


@dataclass(frozen=True)
class SparseFit:
    """One draw from a ``SparseConfig``: number of photos, and the settings of the fit."""

    views: int
    config: ReconstructConfig


def draw_fit(config: SparseConfig, rng: np.random.Generator) -> SparseFit:
    """Draw a number of views and settings of the fit."""
    views, iterations, gaussians, points = (
        _log_uniform(limits, rng)
        for limits in (config.views, config.iterations, config.max_gaussians, config.initial_points)
    )
    base = config.reconstruct.with_iterations(iterations)
    fitted = replace(
        base,
        initial=replace(base.initial, points=points),
        mcmc=replace(base.mcmc, max_gaussians=gaussians),
    )
    return SparseFit(views, fitted)


def training_groups(
    scene: Scene, captured: Sequence[int], *, normalise: bool = True, unit: float = 1.0
) -> tuple[tuple[int, ...], ...]:
    """The groups of Algorithm 1 among the captured photos that can be reconstructed, each in the
    order of selection.

    captured, and what is returned: indices into ``scene.photos``. normalise: see
    ``algorithm1_orders``; without it translations are multiplied by ``unit`` first, metres per
    world unit where these are known.
    """
    poses = torch.cat([scene.cameras[index].camera_to_world for index in captured])
    if not normalise:
        poses = poses.clone()
        poses[:, :3, 3] *= unit
    groups = algorithm1_orders(poses, normalise=normalise)
    return tuple(
        tuple(captured[position] for position in group)
        for group in groups
        if len(group) >= MIN_TRAINING_VIEWS
    )


def sparse_splats(
    views: Sequence[View],
    points: ColoredPoints,
    config: ReconstructConfig,
    seed: int,
    device: str = "cpu",
) -> Splats:
    """Splats fitted to few views of a scene: the scene's own, or altered ones (``with_flaws``).

    points: sparse points that these views saw (``initial_points``). device: where the splats are
    fitted and stay.
    """
    extent = scene_extent([view.camera for view in views], points)
    points = add_pixels(points, views, config.initial, generator(seed, "initial points"))
    initial = splats_at(points, config.sh_degree, extent, config.initial)
    training = [TrainingView.of(view) for view in views]
    return reconstruct(training, initial, extent, config, seed, device=device)


def initial_points(
    scene: Scene, training: tuple[int, ...], config: ReconstructConfig
) -> ColoredPoints:
    """Sparse points that the training views saw; none when the scene has no points."""
    if scene.points is None:
        return ColoredPoints(torch.zeros(0, 3), torch.zeros(0, 3))
    return seen_points(scene.points, training, config.initial.observed_by)


def _log_uniform(limits: tuple[int, int], rng: np.random.Generator) -> int:
    """A whole number from low to high, both included."""
    low, high = limits
    assert 0 < low <= high, f"range {low} to {high}"
    return min(high, int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))
