"""``reconstruct``: photos with cameras -> splats, by gradient descent through the rasterizer and
MCMC moves.

The paper's initial reconstruction (section 5.1 and appendix B: 3DGUT rendering, MCMC densification,
10,000 iterations). Each iteration renders one training view over a random background colour, so
that opacity is fitted to coverage and not to brightness.

All randomness is keyed by (seed, iteration), so a run that continues from its checkpoint ends with
the same bits on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.added_settings import added_setting, without_added
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.seeds import generator
from artifixer.runtime.stopping import stop_requested
from artifixer.splats.fit_checkpoint import FitCheckpoint, FitState
from artifixer.splats.free_space import FreeSpaceConfig, FreeSpaceLoss
from artifixer.splats.initial import InitialConfig
from artifixer.splats.losses import regulariser
from artifixer.splats.mcmc import McmcConfig, perturb, relocate_and_grow
from artifixer.splats.render import contributions, render
from artifixer.splats.splats import Splats
from artifixer.splats.trainable import TrainableSplats
from artifixer.splats.training_view import LoadedView, TrainingView, load_views

#: Distance of compensated opacities from 0 and 1, where logits are infinite.
MIN_OPACITY = 1e-4


@dataclass(frozen=True)
class LearningRates:
    """Adam's step sizes."""

    means: float = 1.6e-4
    """Initial step of the positions, relative to the scene's extent; decays exponentially to
    ``means_final``."""
    means_final: float = 1.6e-6
    """Final step of the positions, relative to the scene's extent."""
    quats: float = 1e-3
    """Step of the quaternions."""
    log_scales: float = 5e-3
    """Step of the logarithms of the scales."""
    opacity_logits: float = 5e-2
    """Step of the opacity logits."""
    sh: float = 2.5e-3
    """Step of the spherical-harmonics coefficients."""

    def means_at(self, progress: float, extent: float) -> float:
        """The positions' step in world units at ``progress`` in [0,1]."""
        step: float = extent * self.means * (self.means_final / self.means) ** progress
        return step

    def by_name(self, extent: float) -> dict[str, float]:
        """The step sizes at the start, by the names of the splats' tensors; positions in world
        units.
        """
        return {
            "means": extent * self.means,
            "quats": self.quats,
            "log_scales": self.log_scales,
            "opacity_logits": self.opacity_logits,
            "sh": self.sh,
        }


@dataclass(frozen=True)
class ReconstructConfig:
    """Settings of one reconstruction."""

    iterations: int = 10_000
    """Number of iterations; each one renders one view."""
    sh_degree: int = 3
    """Final degree of the spherical harmonics."""
    sh_every: int = 1000
    """Iterations after which the degree rises by one."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM in the photometric loss; L1 has weight 1 - ``ssim_weight``."""
    opacity_weight: float = 0.01
    """Weight of the opacity regulariser."""
    scale_weight: float = 0.01
    """Weight of the scale regulariser, with scales relative to the scene's extent."""
    near: float = 0.02
    """Near plane relative to the scene's extent."""
    learning_rates: LearningRates = field(default_factory=LearningRates)
    """Adam's step sizes."""
    initial: InitialConfig = field(default_factory=InitialConfig)
    """Initial Gaussians."""
    mcmc: McmcConfig = field(default_factory=McmcConfig)
    """Densification."""
    gaussians_per_pixel: float | None = None
    """Not in the paper: upper bound of the number of Gaussians per pixel of all photos together;
    None for no such bound. Few photos do not determine more."""
    unseen_weight: float = 0.0
    """Not in the paper: after the fit, Gaussians whose blending weight, summed over the pixels of
    a view, is below this in every training view are removed; 0 removes none."""
    free_space: FreeSpaceConfig = field(default_factory=FreeSpaceConfig)
    """Not in the paper: penalises opacity in free space that no photo supports."""
    dropout: float = added_setting(0.0)
    """Not in the paper: fraction of the Gaussians that the last iteration leaves out of its render
    (``dropped_out``), in [0,1); rises from 0 at the first iteration. Few photos are fitted less
    closely by single Gaussians, and other views are better."""

    def with_iterations(self, iterations: int) -> ReconstructConfig:
        """The settings with another number of iterations; schedules keep their proportions."""
        sh_every, mcmc_every = (
            max(1, every * iterations // self.iterations)
            for every in (self.sh_every, self.mcmc.every)
        )
        mcmc = replace(self.mcmc, every=mcmc_every)
        return replace(self, iterations=iterations, sh_every=sh_every, mcmc=mcmc)

    def with_iteration_count(self, iterations: int) -> ReconstructConfig:
        """The settings with another number of iterations and the same schedules. Raises
        ``InputError`` for a bad number.
        """
        if iterations < 1:
            raise InputError(f"--iterations {iterations}: expected at least 1")
        return replace(self, iterations=iterations)

    @property
    def is_plain(self) -> bool:
        """Whether this is the plain fit, the baseline of the paper."""
        return self == self.plain()

    def plain(self) -> ReconstructConfig:
        """The plain fit: the same settings without free-space loss and dropout."""
        return replace(self, free_space=FreeSpaceConfig(), dropout=0.0)

    def with_free_space_loss(self, weight: float) -> ReconstructConfig:
        """The same settings with a weight of the free-space loss; 0 for none. Raises
        ``InputError`` for a bad weight.
        """
        if not 0 <= weight < math.inf:
            raise InputError(f"--free-space-loss {weight:g}: expected a finite number, at least 0")
        if weight == 0:
            return replace(self, free_space=FreeSpaceConfig())
        return replace(self, free_space=replace(self.free_space, weight=weight))

    def with_dropout(self, fraction: float) -> ReconstructConfig:
        """The same settings with another dropout. Raises ``InputError`` for a bad fraction."""
        if not 0 <= fraction < 1:
            raise InputError(f"--dropout {fraction:g}: expected a number from 0 to below 1")
        return replace(self, dropout=fraction)


@dataclass(frozen=True)
class IterationReport:
    """State after an iteration."""

    iteration: int
    """Number of finished iterations."""
    iterations: int
    """Number of iterations of the whole fit."""
    loss: float
    """Weighted loss of this iteration's view, without regularisers."""
    psnr: float
    """PSNR of this iteration's view, dB."""
    gaussians: int
    """Number of Gaussians."""


def reconstruct(
    views: Sequence[TrainingView],
    initial: Splats,
    extent: float,
    config: ReconstructConfig,
    seed: int,
    *,
    checkpoint: Path | None = None,
    device: str = "cpu",
    report: Callable[[IterationReport], None] = lambda _: None,
) -> Splats:
    """Fit splats to the views, starting from ``initial``.

    extent: size of the scene in world units (``scene_extent``). checkpoint: a file in which the
    state is kept while running, and from which an interrupted call with the same arguments
    continues; it is left behind for the caller to remove. Raises ``Stopped`` after saving when
    SIGTERM arrived; RuntimeError when the loss stops being finite.
    """
    loaded = load_views(views, device)
    cameras = [view.camera for view in loaded]
    mcmc = _limited(config, loaded)
    free_space = FreeSpaceLoss(cameras, extent, config.near * extent, config.free_space)
    identity = fingerprint(
        without_added(config), seed, extent, [view.identity() for view in loaded], initial
    )
    saved = FitCheckpoint(checkpoint, identity)
    rates = config.learning_rates.by_name(extent)
    state = saved.load(device, initial, [(c.height, c.width) for c in cameras], config.iterations)
    if state is None:
        trainable, start = TrainableSplats(initial.map(lambda tensor: tensor.to(device)), rates), 0
    else:
        trainable, start = TrainableSplats.from_state(state.tensors, rates), state.iteration
        free_space.load_state(state.tensors)

    for iteration in range(start, config.iterations):
        step = config.learning_rates.means_at(iteration / config.iterations, extent)
        trainable.set_learning_rate("means", step)
        view = loaded[_view_at(iteration, len(loaded), seed)]

        degree = min(config.sh_degree, iteration // config.sh_every)
        kept = trainable.splats
        if config.dropout > 0:
            fraction = config.dropout * iteration / config.iterations
            kept = dropped_out(kept, fraction, generator(seed, "dropout", iteration))
        renders = render(kept, view.camera, sh_degree=degree, near=config.near * extent)
        background = torch.rand(3, generator=generator(seed, "background", iteration)).to(device)
        loss, squared_error = view.compared(renders, background, config.ssim_weight)
        (
            loss + regulariser(trainable.splats, config.opacity_weight, config.scale_weight, extent)
        ).backward()
        if free_space.is_due(iteration, config.iterations):
            # The key's name is kept: another one would draw other cameras for the same seed.
            free_space.loss(
                trainable.splats, iteration, generator(seed, "stray camera", iteration)
            ).backward()
        trainable.step()

        if _is_mcmc_event(iteration, config):
            relocate_and_grow(trainable, mcmc, generator(seed, "relocate", iteration))
        perturb(trainable, mcmc, step, generator(seed, "perturb", iteration))

        value = float(loss.detach())
        if not math.isfinite(value):
            raise RuntimeError(
                f"the loss is {value} at iteration {iteration} (photo {view.source.photo.name})"
            )
        report(
            IterationReport(
                iteration + 1, config.iterations, value, _psnr(squared_error), len(trainable)
            )
        )

        stopping = stop_requested()
        if stopping or saved.is_due():
            tensors = {**trainable.state_tensors(), **free_space.state_tensors()}
            saved.save(FitState(iteration + 1, tensors))
        if stopping:
            raise Stopped(
                f"reconstruction stopped after iteration {iteration + 1} of {config.iterations}; "
                "run the same command to continue"
            )

    fitted = trainable.splats.map(lambda tensor: tensor.detach())
    if config.unseen_weight > 0:
        fitted = remove_unseen(fitted, cameras, config, extent)
    return fitted.map(lambda tensor: tensor.cpu())


def dropped_out(splats: Splats, fraction: float, generator: torch.Generator) -> Splats:
    """Leave out each Gaussian with probability ``fraction``, and divide the opacity of the others
    by 1 - fraction, up to nearly 1 (Park et al. 2025, DropGaussian). Gradients flow to the kept
    ones.
    """
    drawn = torch.rand(len(splats), generator=generator).to(splats.means.device)
    kept = splats.map(lambda tensor: tensor[drawn >= fraction])
    opacities = (kept.opacities / (1 - fraction)).clamp(MIN_OPACITY, 1 - MIN_OPACITY)
    return replace(kept, opacity_logits=torch.logit(opacities))


@torch.no_grad()
def remove_unseen(
    splats: Splats, cameras: Sequence[Cameras], config: ReconstructConfig, extent: float
) -> Splats:
    """Remove Gaussians whose summed blending weight is below ``config.unseen_weight`` in every
    view.
    """
    strongest = torch.zeros_like(splats.opacity_logits)
    for camera in cameras:
        strongest = torch.maximum(
            strongest, contributions(splats, camera, near=config.near * extent)
        )
    return splats.map(lambda tensor: tensor[strongest >= config.unseen_weight])


def _view_at(iteration: int, views: int, seed: int) -> int:
    """Every view once per epoch, in a fresh order each time."""
    epoch, position = divmod(iteration, views)
    return int(torch.randperm(views, generator=generator(seed, "view order", epoch))[position])


def _limited(config: ReconstructConfig, views: Sequence[LoadedView]) -> McmcConfig:
    """The MCMC settings with the upper bound by pixels, where there is one."""
    if config.gaussians_per_pixel is None:
        return config.mcmc
    pixels = sum(view.camera.height * view.camera.width for view in views)
    most = int(config.gaussians_per_pixel * pixels)
    return replace(config.mcmc, max_gaussians=min(config.mcmc.max_gaussians, most))


def _is_mcmc_event(iteration: int, config: ReconstructConfig) -> bool:
    inside = config.mcmc.start <= iteration / config.iterations < config.mcmc.stop
    return inside and iteration % config.mcmc.every == 0 and iteration > 0


def _psnr(mean_squared_error: Float[Tensor, ""]) -> float:
    return float(-10 * torch.log10(torch.tensor(max(float(mean_squared_error), 1e-10))))
