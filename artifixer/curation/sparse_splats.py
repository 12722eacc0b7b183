"""The degraded side of a pair: which photos of a capture are kept, and the splats that they give.

In: a scene, one of the two groups of Algorithm 1, a number of views. Out: ``Splats`` from the same
code and start as any other reconstruction, with the settings of a recipe. How long the fit runs and
how many Gaussians it may use are drawn per pair, because captures differ in how well their splats
fit: some renders shall be blurred, some sharp with floaters, some empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from artifixer.runtime.seeds import generator
from artifixer.scenes.scene import Photo, Scene
from artifixer.scenes.splits import MIN_TRAINING_VIEWS, algorithm1_orders
from artifixer.splats.initial import ColoredPoints, add_pixels, scene_extent, seen_points, splats_at
from artifixer.splats.reconstruct import ReconstructConfig, TrainingViews, reconstruct
from artifixer.splats.splats import Splats


@dataclass(frozen=True)
class SparseConfig:
    """How the splats of a pair are made; ranges are drawn from evenly in the logarithm, per pair.

    views: number of photos kept, paper section 4.1 and appendix B.
    reconstruct: settings of the fit; the three below replace its own.
    iterations, max_gaussians, initial_points: ranges.
    """

    views: tuple[int, int] = (2, 12)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    iterations: tuple[int, int] = (10_000, 10_000)
    max_gaussians: tuple[int, int] = (1_000_000, 1_000_000)
    initial_points: tuple[int, int] = (3000, 3000)


@dataclass(frozen=True)
class SparseFit:
    """One draw from a ``SparseConfig``: number of photos, and the settings of the fit."""

    views: int
    config: ReconstructConfig


def draw_fit(config: SparseConfig, rng: np.random.Generator) -> SparseFit:
    """A number of views and settings by lot."""
    views, iterations, gaussians, points = (
        _log_uniform(limits, rng)
        for limits in (config.views, config.iterations, config.max_gaussians, config.initial_points)
    )
    base = config.reconstruct
    # The schedule keeps its proportions when the fit gets shorter.
    sh_every, mcmc_every = (
        max(1, every * iterations // base.iterations) for every in (base.sh_every, base.mcmc.every)
    )
    fitted = replace(
        base,
        iterations=iterations,
        sh_every=sh_every,
        initial=replace(base.initial, points=points),
        mcmc=replace(base.mcmc, max_gaussians=gaussians, every=mcmc_every),
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
    scene: Scene,
    training: tuple[int, ...],
    photos: tuple[Photo, ...],
    config: ReconstructConfig,
    seed: int,
    device: str = "cpu",
) -> Splats:
    """Splats of the scene from few of its photos.

    training: indices into ``scene.photos``. photos: what is fitted to, one per index (the scene's
    own, or altered ones). device: where they are fitted and stay.
    """
    cameras = [scene.cameras[index] for index in training]
    points = initial_points(scene, training, config)
    extent = scene_extent(cameras, points)
    points = add_pixels(points, photos, cameras, config.initial, generator(seed, "initial points"))
    initial = splats_at(points, config.sh_degree, extent, config.initial)
    return reconstruct(
        TrainingViews.of_photos(photos, cameras), initial, extent, config, seed, device=device
    )


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
