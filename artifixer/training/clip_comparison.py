"""Figures over clips beyond mean quality: drift along a clip (paper section 4.2), and quality and
time of single blocks at several numbers of steps.

In: a model and validation pairs. Out: figures for ``benchmarks/validation.py``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from artifixer.imaging.quality import (
    PartQuality,
    clamped_psnr,
    decibels,
    is_opaque,
    squared_differences,
)
from artifixer.pairs.pair import TrainingPair
from artifixer.training.parallel import autocast
from artifixer.training.validation import (
    GeneratedBlock,
    Steps,
    ValidationConfig,
    generated_clip,
)
from artifixer.video.model import Model
from artifixer.video.vae import frames_to_video

#: Classes of blocks by their minimum fraction of opaque pixels; the first match counts.
BLOCK_CLASSES = (("opaque", 0.9), ("mixed", 0.5), ("empty", 0.0))

#: A pair -> frames for all its cameras.
FrameGenerator = Callable[[TrainingPair], UInt8[Tensor, "frames height width 3"]]


@dataclass(frozen=True)
class DriftFigures:
    """Pooled PSNR of the first, middle and last third of the clips at equal opacity, dB."""

    forwards: tuple[float, ...]
    """Of the clips played forwards."""

    backwards: tuple[float, ...]
    """Of the clips played backwards."""

    @property
    def change_forwards(self) -> float:
        """Last third - first third."""
        return self.forwards[-1] - self.forwards[0]

    @property
    def change_backwards(self) -> float:
        """The same for clips played backwards, whose last third is the first third forwards."""
        return self.backwards[-1] - self.backwards[0]

    @property
    def change(self) -> float:
        """Mean of both, in which the effect of harder content at one end cancels; 0 for the renders
        themselves.
        """
        return (self.change_forwards + self.change_backwards) / 2


def drift(pairs: Sequence[TrainingPair], generate: FrameGenerator) -> DriftFigures:
    """Change of quality along the clips of ``generate``."""
    forwards, backwards = PartQuality(), PartQuality()
    for pair in pairs:
        for quality, played in ((forwards, pair), (backwards, backwards_pair(pair))):
            quality.add(generate(played), played.clean_frames, played.opacity)
    return DriftFigures(forwards.psnr(), backwards.psnr())


def backwards_pair(pair: TrainingPair) -> TrainingPair:
    """The clip in reverse order; the references are unchanged."""
    return replace(
        pair,
        clean_frames=pair.clean_frames.flip(0),
        renders=pair.renders.flip(0),
        opacity=pair.opacity.flip(0),
        cameras=pair.cameras[torch.arange(pair.frames - 1, -1, -1)],
    )


@dataclass(frozen=True)
class BlockResult:
    """One block of a clip."""

    opaque: float
    """Fraction of opaque pixels."""

    calls: int
    """Network calls."""

    seconds: float
    """Time in the network, as in ``GeneratedBlock``."""

    psnr: tuple[float, ...]
    """Of its frames, dB."""

    squared: float
    """Sum over pixels of the squared error of [0,1] colours, mean over channels."""

    pixels: int
    """Number of pixels."""


@dataclass(frozen=True)
class BlockFigures:
    """Figures of several blocks."""

    blocks: int
    """Number of blocks."""

    psnr_mean: float
    """Mean over frames, dB."""

    psnr_pooled: float
    """Of the pooled error, dB."""

    calls: float
    """Mean number of network calls."""

    seconds: float
    """Median time in the network."""


def compare_steps(
    model: Model, pairs: Sequence[TrainingPair], config: ValidationConfig, compute: str = "float32"
) -> dict[Steps, list[BlockResult]]:
    """Every block of all clips at each of ``config.steps``; interleaved, so that machine load
    affects all equally.
    """
    results: dict[Steps, list[BlockResult]] = {steps: [] for steps in config.steps}
    for pair in pairs:
        for steps in config.steps:
            clip = generated_clip(model, pair, steps, config, compute)
            results[steps] += [_block_result(block, clip.frames, pair) for block in clip.blocks]
    return results


def block_figures(results: Sequence[BlockResult]) -> dict[str, BlockFigures]:
    """Figures of ``all`` blocks and of each non-empty class of ``BLOCK_CLASSES``."""
    groups: dict[str, list[BlockResult]] = {"all": list(results)} | {
        name: [] for name, _ in BLOCK_CLASSES
    }
    for result in results:
        groups[block_class(result.opaque)].append(result)
    return {
        name: BlockFigures(
            blocks=len(group),
            psnr_mean=statistics.fmean(value for result in group for value in result.psnr),
            psnr_pooled=decibels(
                sum(result.squared for result in group) / sum(result.pixels for result in group)
            ),
            calls=statistics.fmean(result.calls for result in group),
            seconds=statistics.median(result.seconds for result in group),
        )
        for name, group in groups.items()
        if group
    }


def block_class(opaque: float) -> str:
    """Name of the class of a block with this fraction of opaque pixels."""
    return next(name for name, low in BLOCK_CLASSES if opaque >= low)


@torch.no_grad()
def codec_seconds(model: Model, pair: TrainingPair, compute: str = "float32") -> float:
    """Seconds per block in the autoencoder: encoding the renders, decoding the result, and decoding
    the render where the residual is added.
    """
    vae, device, block = model.vae, model.device, model.config.block_frames
    blocks = -(-vae.config.latent_frames(pair.frames) // block)
    frames = vae.config.pixel_frames(blocks * block)
    order = torch.arange(frames).clamp(max=pair.frames - 1)
    started = _clock(device)
    with autocast(compute, device):
        latents = vae.encode(frames_to_video(pair.renders[order], device, vae.dtype))
        for _ in range(1 + model.config.finish().keep_residual):
            vae.decode(latents)
    return (_clock(device) - started) / blocks


def _block_result(
    block: GeneratedBlock, frames: UInt8[Tensor, "frames height width 3"], pair: TrainingPair
) -> BlockResult:
    part = slice(block.frames.start, block.frames.stop)
    ours, truth = frames[part], pair.clean_frames[part]
    squared = squared_differences(ours, truth)
    return BlockResult(
        opaque=float(is_opaque(pair.opacity[part]).float().mean()),
        calls=block.calls,
        seconds=block.seconds,
        psnr=tuple(clamped_psnr(ours, truth).tolist()),
        squared=float(squared.sum()) / (3 * 255**2),
        pixels=squared.numel(),
    )


def _clock(device: torch.device) -> float:
    """Seconds: CPU time of this process on a CPU, elapsed time on a GPU."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
