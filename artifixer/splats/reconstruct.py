"""``reconstruct``: photos with cameras -> splats, by gradient descent through the rasterizer and
MCMC moves.

The paper's initial reconstruction (section 5.1 and appendix B: 3DGUT rendering, MCMC densification,
10,000 iterations). Each iteration renders one photo's camera over a random background colour, so
that opacity means coverage and not brightness.

All randomness is keyed by (seed, iteration), so a run that continues from its checkpoint ends with
the same bits on the CPU.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.files import PARSER_ERRORS, atomic_path, check_regular, reason
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.seeds import generator
from artifixer.runtime.stopping import stop_requested
from artifixer.scenes.scene import Photo
from artifixer.splats.free_space import STATE_PREFIX, FreeSpaceConfig, FreeSpaceLoss
from artifixer.splats.initial import InitialConfig
from artifixer.splats.losses import photometric_loss, regulariser
from artifixer.splats.mcmc import McmcConfig, perturb, relocate_and_grow
from artifixer.splats.render import contributions, render
from artifixer.splats.splats import Splats
from artifixer.splats.trainable import MOMENTS, TrainableSplats

#: The state is saved when this many seconds have passed, and when saving takes no more than the
#: share below of the time. The moment has no influence on the result.
SECONDS_BETWEEN_CHECKPOINTS = 1.0
SHARE_OF_SAVING = 0.03


@dataclass(frozen=True)
class LearningRates:
    """Adam's step sizes."""

    means: float = 1.6e-4
    """At the start, in units of the scene's extent; falls exponentially to ``means_final``."""
    means_final: float = 1.6e-6
    """At the end."""
    quats: float = 1e-3
    log_scales: float = 5e-3
    opacity_logits: float = 5e-2
    sh: float = 2.5e-3

    def means_at(self, progress: float, extent: float) -> float:
        """The positions' step in world units at ``progress`` in [0,1]."""
        step: float = extent * self.means * (self.means_final / self.means) ** progress
        return step


@dataclass(frozen=True)
class ReconstructConfig:
    """Settings of one reconstruction."""

    iterations: int = 10_000
    sh_degree: int = 3
    """Final degree of the spherical harmonics."""
    sh_every: int = 1000
    """Iterations after which the degree rises by one."""
    ssim_weight: float = 0.2
    """Of 1 - SSIM in the photometric loss; L1 has the rest."""
    opacity_weight: float = 0.01
    """Of the opacity regulariser."""
    scale_weight: float = 0.01
    """Of the scale regulariser, which is relative to the scene's extent."""
    near: float = 0.02
    """Near plane relative to the scene's extent."""
    learning_rates: LearningRates = field(default_factory=LearningRates)
    initial: InitialConfig = field(default_factory=InitialConfig)
    mcmc: McmcConfig = field(default_factory=McmcConfig)
    gaussians_per_pixel: float | None = None
    """Not in the paper: upper bound of the number of Gaussians per pixel of all photos together;
    None for no such bound. Few photos do not determine more."""
    unseen_weight: float = 0.0
    """Not in the paper: after the fit, Gaussians whose blending weight stays below this in every
    training photo are removed; 0 removes none."""
    free_space: FreeSpaceConfig = field(default_factory=FreeSpaceConfig)
    """Not in the paper: penalises opacity in free space that no photo supports."""

    def without_free_space_loss(self) -> ReconstructConfig:
        """The plain fit: the same settings without the free-space loss."""
        return replace(self, free_space=FreeSpaceConfig())

    def with_free_space_loss(self, weight: float) -> ReconstructConfig:
        """The same settings with a weight of the free-space loss; 0 is the plain fit. Raises
        ``InputError`` for a bad weight.
        """
        if not 0 <= weight < math.inf:
            raise InputError(f"--free-space-loss {weight:g}: expected a finite number, at least 0")
        return (
            self.without_free_space_loss()
            if weight == 0
            else replace(self, free_space=replace(self.free_space, weight=weight))
        )


#: (render, photo), both [0,1] ``[height width 3]`` -> the loss of a view.
ViewLoss = Callable[
    [Float[Tensor, "height width 3"], Float[Tensor, "height width 3"]], Float[Tensor, ""]
]


@dataclass(frozen=True)
class TrainingViews:
    """What the splats are fitted to; all sequences have one entry per view.

    weights: how much each view's loss counts, at least 0.
    pixel_weights: maps ``[height width]`` in [0,1] that multiply the loss per pixel, or None for
    ones (generated frames count little where photos already decide).
    losses: what replaces the photometric loss (and its pixel weights) of a view, or None; may be
    empty when there is none.
    """

    photos: Sequence[Photo]
    cameras: Sequence[Cameras]
    weights: Sequence[float]
    pixel_weights: Sequence[Float[Tensor, "height width"] | None]
    losses: Sequence[ViewLoss | None] = ()

    @staticmethod
    def of_photos(photos: Sequence[Photo], cameras: Sequence[Cameras]) -> TrainingViews:
        """Photos that all count fully."""
        return TrainingViews(photos, cameras, [1.0] * len(photos), [None] * len(photos))

    def __len__(self) -> int:
        return len(self.photos)


@dataclass(frozen=True)
class IterationReport:
    """State after an iteration."""

    iteration: int
    """Iterations that are done."""
    iterations: int
    """Of the whole fit."""
    loss: float
    psnr: float
    """Of this iteration's photo, dB."""
    gaussians: int


def reconstruct(
    views: TrainingViews,
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
    # a photo may be listed several times
    read = {id(photo): torch.from_numpy(photo.read()).to(device) for photo in views.photos}
    pixels = [read[id(photo)] for photo in views.photos]
    layers = {id(photo): _Layers.of(photo, device) for photo in views.photos}
    seen = [layers[id(photo)] for photo in views.photos]
    has_own_loss = [loss is not None for loss in views.losses]
    settings = (asdict(config), seed, extent, list(views.weights), has_own_loss)
    masks_and_opacities = [(layer.mask, layer.opacity) for layer in seen if layer != _Layers()]
    identity = fingerprint(
        *settings,
        pixels,
        list(views.pixel_weights),
        *vars(initial).values(),
        *([masks_and_opacities] if masks_and_opacities else []),
    )
    cameras = [camera.to(device) for camera in views.cameras]
    free_space = FreeSpaceLoss(cameras, extent, config.near * extent, config.free_space)
    trainable, start = _load_or_start(
        checkpoint, identity, initial, free_space, config, extent, device
    )
    masks = [None if mask is None else mask.to(device) for mask in views.pixel_weights]
    mcmc = config.mcmc
    if config.gaussians_per_pixel is not None:
        most = int(
            config.gaussians_per_pixel * sum(photo.shape[0] * photo.shape[1] for photo in pixels)
        )
        mcmc = replace(mcmc, max_gaussians=min(mcmc.max_gaussians, most))
    save_next = time.monotonic() + SECONDS_BETWEEN_CHECKPOINTS

    for iteration in range(start, config.iterations):
        progress = iteration / config.iterations
        view = _view_at(iteration, len(views), seed)
        photo = pixels[view].to(torch.float32) / 255
        step = config.learning_rates.means_at(progress, extent)
        trainable.set_learning_rate("means", step)

        degree = min(config.sh_degree, iteration // config.sh_every)
        renders = render(
            trainable.splats, cameras[view], sh_degree=degree, near=config.near * extent
        )
        background = torch.rand(3, generator=generator(seed, "background", iteration)).to(device)
        image = renders.rgb[0] + (1 - renders.opacity[0])[..., None] * background
        image, target = seen[view].compared(image, photo, background)
        own_loss = views.losses[view] if views.losses else None
        distance = (
            own_loss(image, target)
            if own_loss
            else photometric_loss(
                image, target, config.ssim_weight, seen[view].weighted(masks[view])
            )
        )
        loss = views.weights[view] * distance
        (
            loss + regulariser(trainable.splats, config.opacity_weight, config.scale_weight, extent)
        ).backward()
        if free_space.is_due(iteration, config.iterations):
            # The key's name is kept: another one would draw other cameras for the same seed.
            free_space.loss(
                trainable.splats, iteration, generator(seed, "stray camera", iteration)
            ).backward()
        trainable.step()

        if _is_mcmc_turn(iteration, config):
            relocate_and_grow(trainable, mcmc, generator(seed, "relocate", iteration))
        perturb(trainable, mcmc, step, generator(seed, "perturb", iteration))

        value = float(loss.detach())
        if value != value or value in (float("inf"), float("-inf")):
            raise RuntimeError(
                f"the loss is {value} at iteration {iteration} (photo {views.photos[view].name})"
            )
        with torch.no_grad():
            error = seen[view].squared_error(renders.rgb[0].detach(), photo)
        report(
            IterationReport(iteration + 1, config.iterations, value, _psnr(error), len(trainable))
        )

        stopping = stop_requested()
        if checkpoint is not None and (stopping or time.monotonic() > save_next):
            began = time.monotonic()
            _save(
                checkpoint,
                identity,
                iteration + 1,
                {**trainable.state_tensors(), **free_space.state_tensors()},
            )
            ended = time.monotonic()
            save_next = ended + max(SECONDS_BETWEEN_CHECKPOINTS, (ended - began) / SHARE_OF_SAVING)
        if stopping:
            raise Stopped(
                f"reconstruction stopped after iteration {iteration + 1} of {config.iterations}; "
                "run the same command to continue"
            )

    fitted = trainable.splats.map(lambda tensor: tensor.detach())
    if config.unseen_weight > 0:
        fitted = remove_unseen(fitted, cameras, config, extent)
    return fitted.map(lambda tensor: tensor.cpu())


@dataclass(frozen=True)
class _Layers:
    """What a photo tells besides its colours: a mask (1 where it counts) and the opacity of what it
    shows, both ``[height width]`` or None where there is nothing to tell.
    """

    mask: Float[Tensor, "height width"] | None = None
    opacity: Float[Tensor, "height width"] | None = None

    @staticmethod
    def of(photo: Photo, device: str) -> _Layers:
        mask = photo.weights()
        opacity = None
        if photo.opacity is not None:
            opacity = torch.from_numpy(photo.opacity()).to(device, torch.float32) / 255
        return _Layers(None if mask is None else mask.to(device), opacity)

    def compared(
        self,
        image: Float[Tensor, "height width 3"],
        photo: Float[Tensor, "height width 3"],
        background: Float[Tensor, " 3"],
    ) -> tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width 3"]]:
        """Render (already over the background) and photo as they enter the loss: the photo over the
        same background where it is of something over nothing, both black where the photo is masked,
        so that also a window of SSIM that reaches there sees no difference.
        """
        if self.opacity is not None:
            photo = photo + (1 - self.opacity)[..., None] * background
        if self.mask is not None:
            image, photo = image * self.mask[..., None], photo * self.mask[..., None]
        return image, photo

    def weighted(
        self, weights: Float[Tensor, "height width"] | None
    ) -> Float[Tensor, "height width"] | None:
        """Weights of the pixels, 0 where the photo is masked."""
        if self.mask is None or weights is None:
            return weights if self.mask is None else self.mask
        return weights * self.mask

    def squared_error(
        self, render: Float[Tensor, "height width 3"], photo: Float[Tensor, "height width 3"]
    ) -> float:
        """Mean over the pixels that count; 0 where none does."""
        squared = (render - photo).square().mean(dim=-1)
        if self.mask is None:
            return float(squared.mean())
        return float((squared * self.mask).sum() / self.mask.sum().clamp(min=1))


@torch.no_grad()
def remove_unseen(
    splats: Splats, cameras: Sequence[Cameras], config: ReconstructConfig, extent: float
) -> Splats:
    """Drop Gaussians that no camera blends with at least ``config.unseen_weight`` at any pixel."""
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


def _is_mcmc_turn(iteration: int, config: ReconstructConfig) -> bool:
    inside = config.mcmc.start <= iteration / config.iterations < config.mcmc.stop
    return inside and iteration % config.mcmc.every == 0 and iteration > 0


def _psnr(mean_squared_error: float) -> float:
    return float(-10 * torch.log10(torch.tensor(max(mean_squared_error, 1e-10))))


def _load_or_start(
    checkpoint: Path | None,
    identity: str,
    initial: Splats,
    free_space: FreeSpaceLoss,
    config: ReconstructConfig,
    extent: float,
    device: str,
) -> tuple[TrainableSplats, int]:
    """The state in the checkpoint when it belongs to this call, else the initial one; and the
    iterations already done.
    """
    rates = asdict(config.learning_rates)
    rates = {name: rates[name] for name in ("means", "quats", "log_scales", "opacity_logits", "sh")}
    rates["means"] *= extent
    if checkpoint is not None and checkpoint.exists():
        metadata, tensors = _read_checkpoint(checkpoint, identity, device)
        if metadata.get("identity") == identity:
            iteration = _check_state(
                checkpoint, metadata, tensors, free_space.cameras, initial, config
            )
            free_space.load_state(tensors)
            return TrainableSplats.from_state(tensors, rates), iteration
    return TrainableSplats(initial.map(lambda tensor: tensor.to(device)), rates), 0


def _read_checkpoint(
    checkpoint: Path, identity: str, device: str
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a checkpoint; no tensors when it belongs to another call."""
    from safetensors import SafetensorError, safe_open

    check_regular(checkpoint, "a checkpoint")
    try:
        with safe_open(str(checkpoint), framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            names = list(file.keys()) if metadata.get("identity") == identity else []
            return metadata, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, *PARSER_ERRORS) as error:
        raise InputError(
            f"{checkpoint}: damaged checkpoint ({reason(error)}); delete it to begin anew"
        ) from error


def _check_state(
    checkpoint: Path,
    metadata: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    cameras: Sequence[Cameras],
    initial: Splats,
    config: ReconstructConfig,
) -> int:
    """The iterations that a checkpoint has done; ``InputError`` unless its tensors are those of
    splats, of Adam, and of depth maps.
    """
    iteration = metadata.get("iteration", "")
    problem = (
        None
        if re.fullmatch(r"\d{1,9}", iteration) and int(iteration) <= config.iterations
        else f"{iteration[:20]!r} iterations"
    )
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in vars(initial).items()}
    count = len(tensors["means"]) if "means" in tensors and tensors["means"].ndim else 0
    expected = {name: (count, *rest) for name, rest in shapes.items()}
    expected |= {f"adam.{name}.{moment}": expected[name] for name in shapes for moment in MOMENTS}
    expected |= {f"adam.{name}.step": () for name in shapes}
    expected |= {
        f"{STATE_PREFIX}{view}": (camera.height, camera.width)
        for view, camera in enumerate(cameras)
    }
    for name, tensor in tensors.items():
        is_depth = name.startswith(STATE_PREFIX)  # not a number where no splat is seen
        if tuple(tensor.shape) != expected.get(name) or tensor.dtype != torch.float32:
            problem = problem or f"{name[:60]} is {tensor.dtype} {tuple(tensor.shape)}"
        elif not is_depth and not bool(torch.isfinite(tensor).all()):
            problem = problem or f"{name} holds values that are not finite"
    # each whole or not there
    parts = {f"adam.{name}.": 3 for name in shapes} | {STATE_PREFIX: len(cameras)}
    torn = next(
        (
            part
            for part, count in parts.items()
            if sum(name.startswith(part) for name in tensors) not in (0, count)
        ),
        None,
    )
    if problem is None and (torn is not None or not shapes.keys() <= tensors.keys()):
        problem = f"a part of {torn or 'the splats'} is missing"
    if problem is not None:
        raise InputError(f"{checkpoint}: damaged checkpoint ({problem}); delete it to begin anew")
    return int(iteration)


def _save(checkpoint: Path, identity: str, iteration: int, tensors: Mapping[str, Tensor]) -> None:
    # not save_file, whose own temporary file would stay when the process is killed
    from safetensors.torch import save

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_path(checkpoint) as temporary:
        temporary.write_bytes(
            save(contiguous, metadata={"identity": identity, "iteration": str(iteration)})
        )
