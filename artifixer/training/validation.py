"""How good a model is on fixed pairs: quality against the render and other rivals, at several
numbers of steps, and pictures.

In: a model and validation pairs. Out: numbers by name, such as ``steps1/psnr_pooled``, and a grid
render | opacity | frames | truth; whether quality falls towards the end of long clips (``drift``,
paper section 4.2); quality and time of single blocks (``compare_steps``). Frames are made as
``enhance`` makes them: the whole clip through the few-step sampler, with the render's residual
where the model keeps it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.imaging.metrics import psnr, ssim
from artifixer.pairs.pair import TrainingPair
from artifixer.training.clips import EncodedClips, cut_clip, encode_clips
from artifixer.training.parallel import autocast
from artifixer.training.self_forcing import cut_in_blocks
from artifixer.training.watching import write_grid
from artifixer.video.finish import finish
from artifixer.video.flow import SourceKind
from artifixer.video.models import Model
from artifixer.video.sample import (
    AdaptiveSteps,
    CallCount,
    Noise,
    SampleConfig,
    TeacherConfig,
    keyed_noise,
    sample_bidirectional,
    sample_blocks,
)
from artifixer.video.text import WAN_NEGATIVE_PROMPT
from artifixer.video.vae import frames_to_bytes, frames_to_video, video_to_frames

#: Pixels above this opacity count as opaque, below the second as empty.
OPAQUE_ABOVE, EMPTY_BELOW = 0.9, 0.1

#: Frames whose render is worse than this count as hard, dB.
HARD_BELOW = 20.0

#: Blocks by the smallest share of opaque pixels that they have, the first that fits.
BLOCK_CLASSES = (("opaque", 0.9), ("mixed", 0.5), ("empty", 0.0))

#: PSNR of a frame is cut here, so that one perfect frame does not make a mean; mean squared errors
#: likewise.
LARGEST_PSNR = 60.0

#: Render and opacity -> frames, both uint8: a rival.
Rival = Callable[
    [UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]],
    UInt8[np.ndarray, "height width 3"],
]

#: A pair -> frames for all its cameras.
Maker = Callable[[TrainingPair], UInt8[Tensor, "frames height width 3"]]

Steps = int | Literal["adaptive"]


@dataclass(frozen=True)
class ValidationConfig:
    """pairs: at most so many of the folder's first. references: at most so many per clip, evenly
    spread. steps: numbers of denoising steps to try; ``adaptive`` takes as many as
    ``adaptive_steps`` gives each block. is_causal: block by block with the model's window, else the
    clip in one block. clip_frames: where it is not causal, longer clips are made in parts of so
    many pixel frames, each by itself; None makes them at once. source: where the flow starts; None
    for the model's. grid_pairs: rows of the picture. teacher: clips are sampled as the
    bidirectional teacher is, in as many steps as ``steps`` says, guided away from Wan 2.1's
    negative prompt where the model has a text encoder; None for the few-step sampler."""

    pairs: int = 16
    references: int = 6
    steps: tuple[Steps, ...] = (1, 2, 4)
    is_causal: bool = True
    grid_pairs: int = 6
    seed: int = 0
    clip_frames: int | None = None
    source: SourceKind | None = None
    adaptive_steps: AdaptiveSteps = field(default_factory=AdaptiveSteps)
    teacher: TeacherConfig | None = None


@dataclass
class Quality:
    """Sums over frames, from which the figures come. Squared errors are per pixel of [0,1] colours,
    means over channels.
    """

    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    squared: dict[str, float] = field(default_factory=dict)
    pixels: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        frames: UInt8[Tensor, "frames height width 3"],
        truth: UInt8[Tensor, "frames height width 3"],
        opacity: UInt8[Tensor, "frames height width"],
    ) -> None:
        """Count a clip."""
        ours, theirs = frames.float() / 255, truth.float() / 255
        self.psnr += psnr(ours, theirs).clamp(max=LARGEST_PSNR).tolist()
        self.ssim += ssim(ours, theirs).tolist()
        share = opacity.float() / 255
        error = (ours - theirs).square().mean(dim=-1)
        for name, mask in (
            ("pooled", share >= 0),
            ("opaque", share > OPAQUE_ABOVE),
            ("empty", share < EMPTY_BELOW),
        ):
            self.squared[name] = self.squared.get(name, 0.0) + float(error[mask].sum())
            self.pixels[name] = self.pixels.get(name, 0.0) + float(mask.sum())

    def figures(self, hard: Sequence[bool]) -> dict[str, float]:
        """PSNR in dB: mean over frames, over hard frames, and of the pooled error of all, opaque
        and empty pixels; SSIM.
        """
        figures = {"psnr_mean": float(np.mean(self.psnr)), "ssim": float(np.mean(self.ssim))}
        chosen = [value for value, is_hard in zip(self.psnr, hard, strict=True) if is_hard]
        if chosen:
            figures["psnr_hard"] = float(np.mean(chosen))
        for name, count in self.pixels.items():
            if count:
                figures[f"psnr_{name}"] = _decibels(self.squared[name] / count)
        return figures


def validate(
    model: Model,
    pairs: Sequence[TrainingPair],
    config: ValidationConfig,
    compute: str = "float32",
    rivals: Mapping[str, Rival] | None = None,
    picture: Path | None = None,
) -> dict[str, float]:
    """Figures of the model, the render (``render/...``) and the rivals. picture: where the grid
    goes.
    """
    results: dict[str, Quality] = {"render": Quality()} | {name: Quality() for name in rivals or {}}
    results |= {f"steps{count}": Quality() for count in config.steps}
    shown: list[tuple[TrainingPair, Mapping[Steps, Tensor]]] = []
    for pair in pairs[: config.pairs]:
        results["render"].add(pair.renders, pair.clean_frames, pair.opacity)
        for name, rival in (rivals or {}).items():
            made = [
                rival(render, opacity)
                for render, opacity in zip(pair.renders.numpy(), pair.opacity.numpy(), strict=True)
            ]
            results[name].add(torch.from_numpy(np.stack(made)), pair.clean_frames, pair.opacity)
        frames = {count: made_frames(model, pair, count, config, compute) for count in config.steps}
        for count, clip in frames.items():
            results[f"steps{count}"].add(clip, pair.clean_frames, pair.opacity)
        if len(shown) < config.grid_pairs:
            shown.append((pair, frames))
    hard = [value < HARD_BELOW for value in results["render"].psnr]
    if picture is not None and shown:
        write_grid(picture, _columns(shown))
    return {
        f"{label}/{name}": value
        for label, quality in results.items()
        for name, value in quality.figures(hard).items()
    }


@dataclass(frozen=True)
class MadeBlock:
    """frames: the block's pixel frames in the clip, padding left out. calls: of the network.
    seconds: in the network; of the CPU's time there, of the clock on a GPU."""

    frames: range
    calls: int
    seconds: float


@dataclass(frozen=True)
class MadeClip:
    """A clip by the model, as it would leave ``enhance``, and the blocks it was made in."""

    frames: UInt8[Tensor, "frames height width 3"]
    blocks: tuple[MadeBlock, ...]


def made_frames(
    model: Model, pair: TrainingPair, steps: Steps, config: ValidationConfig, compute: str
) -> UInt8[Tensor, "frames height width 3"]:
    """The pair's clip by the model, whole or in the parts that ``config`` asks for."""
    length = None if config.is_causal else config.clip_frames
    if length is None or length >= pair.frames:
        return made_clip(model, pair, steps, config, compute).frames
    frames, done = torch.empty_like(pair.clean_frames), 0
    for part, first in enumerate(part_starts(pair.frames, length)):
        made = made_clip(
            model, pair.clip(first, length), steps, config, compute, first_block=part
        ).frames
        frames[done : first + length] = made[done - first :]
        done = first + length
    return frames


def part_starts(frames: int, length: int) -> list[int]:
    """First frames of parts of one length that cover a clip; the last part reaches back into the
    one before where they don't fit.
    """
    return [min(first, frames - length) for first in range(0, frames, length)]


@torch.no_grad()
def made_clip(
    model: Model,
    pair: TrainingPair,
    steps: Steps,
    config: ValidationConfig,
    compute: str = "float32",
    first_block: int = 0,
) -> MadeClip:
    """The pair's clip by the model in one roll-out. first_block: of whose noise the first block
    takes.
    """
    vae, device = model.vae, model.device
    block = model.config.block_frames if config.is_causal else vae.config.latent_frames(pair.frames)
    with autocast(compute, device):
        encoded = _encoded(model, pair, _padded(model, pair.frames, block), config.references)
        noise, calls, latents = keyed_noise(config.seed, device), CallCount(), []
        times = [_clock(device)]
        made: Iterable[Tensor]
        if config.teacher is not None:
            made = [_by_teacher(model, encoded, steps, config, noise, first_block, calls)]
        else:
            made = sample_blocks(
                model.transformer,
                cut_in_blocks(encoded, block),
                _sampling(model, steps, block, config),
                lambda index, step, shape: noise(first_block + index, step, shape),
                observe=calls,
            )
        for clean in made:
            latents.append(clean)
            times.append(_clock(device))
        result = video_to_frames(vae.decode(torch.cat(latents, dim=2)))[: pair.frames]
        result = _finished(model, pair, config, result, encoded.render_latents)
    ends = [
        min(vae.config.pixel_frames(block * (index + 1)), pair.frames)
        for index in range(len(latents))
    ]
    blocks = tuple(
        MadeBlock(range(first, end), calls.per_block[index], times[index + 1] - times[index])
        for index, (first, end) in enumerate(zip([0, *ends], ends, strict=False))
    )
    return MadeClip(frames_to_bytes(result).cpu(), blocks)


def _by_teacher(
    model: Model,
    encoded: EncodedClips,
    steps: Steps,
    config: ValidationConfig,
    noise: Noise,
    clip: int,
    observe: CallCount,
) -> Float[Tensor, "1 channels latent_frames h w"]:
    """Clean latents of a whole clip by the teacher's sampler."""
    assert config.teacher is not None and not config.is_causal, "the teacher makes whole clips"
    assert steps != "adaptive", "the teacher takes a number of steps"
    settings = replace(config.teacher, steps=steps, source=config.source or model.config.source)
    if model.text_encoder is None:
        settings, negative = replace(settings, guidance=1.0), None
    else:
        negative = model.encode_prompt(WAN_NEGATIVE_PROMPT).embedding
    return sample_bidirectional(
        model.transformer,
        encoded.render_latents,
        encoded.conditions,
        settings,
        noise,
        negative_text=negative,
        clip=clip,
        observe=observe,
    )


class Drift:
    """Squared errors by part of the clip and by opacity: whether later frames are worse than
    earlier ones with as much to invent.

    Parts show different things, so their errors are compared at equal opacity: the mean error at
    each level of opacity, weighted by how many pixels of all parts have it. Levels that a part
    lacks are left out of all.
    """

    def __init__(self, parts: int = 3, levels: int = 10) -> None:
        self.squared = torch.zeros(parts, levels, dtype=torch.float64)
        self.pixels = torch.zeros(parts, levels, dtype=torch.float64)

    def add(
        self,
        frames: UInt8[Tensor, "frames height width 3"],
        truth: UInt8[Tensor, "frames height width 3"],
        opacity: UInt8[Tensor, "frames height width"],
    ) -> None:
        """Count a clip, cut in parts as equal as can be."""
        parts, levels = self.squared.shape
        error = (frames.double() - truth.double()).div(255).square().mean(dim=-1)
        level = opacity.long() * levels // 256
        for part, (errors, places) in enumerate(
            zip(error.tensor_split(parts), level.tensor_split(parts), strict=True)
        ):
            self.squared[part] += torch.bincount(
                places.flatten(), errors.flatten(), minlength=levels
            )
            self.pixels[part] += torch.bincount(places.flatten(), minlength=levels)

    def psnr(self) -> tuple[float, ...]:
        """Pooled PSNR of each part at equal opacity, dB; NaN when the parts share no level."""
        shared = (self.pixels > 0).all(dim=0)
        weights = self.pixels.sum(dim=0)[shared]
        errors = (self.squared[:, shared] / self.pixels[:, shared] * weights).sum(
            dim=1
        ) / weights.sum()
        return tuple(_decibels(error) for error in errors.tolist())


@dataclass(frozen=True)
class DriftFigures:
    """Pooled PSNR of the first, middle and last third of the clips, dB, at equal opacity: played
    forwards and backwards.
    """

    forwards: tuple[float, ...]
    backwards: tuple[float, ...]

    @property
    def change_forwards(self) -> float:
        """Last third - first third."""
        return self.forwards[-1] - self.forwards[0]

    @property
    def change_backwards(self) -> float:
        """The same of clips played backwards, whose last third shows what the first did."""
        return self.backwards[-1] - self.backwards[0]

    @property
    def change(self) -> float:
        """Mean of both: what content that is harder at one end does to one it undoes in the other;
        0 for the renders themselves.
        """
        return (self.change_forwards + self.change_backwards) / 2


def drift(pairs: Sequence[TrainingPair], make: Maker) -> DriftFigures:
    """How quality changes along the clips that ``make`` makes."""
    forwards, backwards = Drift(), Drift()
    for pair in pairs:
        for counted, played in ((forwards, pair), (backwards, backwards_pair(pair))):
            counted.add(make(played), played.clean_frames, played.opacity)
    return DriftFigures(forwards.psnr(), backwards.psnr())


def backwards_pair(pair: TrainingPair) -> TrainingPair:
    """The clip from its last frame to its first; the references stay."""
    return replace(
        pair,
        clean_frames=pair.clean_frames.flip(0),
        renders=pair.renders.flip(0),
        opacity=pair.opacity.flip(0),
        cameras=pair.cameras[torch.arange(pair.frames - 1, -1, -1)],
    )


@dataclass(frozen=True)
class BlockResult:
    """One block of a clip. opaque: share of its pixels. calls, seconds: as in ``MadeBlock``. psnr:
    of its frames, dB. squared: sum of its pixels' squared errors of [0,1] colours, means over
    channels."""

    opaque: float
    calls: int
    seconds: float
    psnr: tuple[float, ...]
    squared: float
    pixels: int


@dataclass(frozen=True)
class BlockFigures:
    """Of several blocks: PSNR as a mean over frames and of the pooled error, dB; mean calls of the
    network, median seconds in it.
    """

    blocks: int
    psnr_mean: float
    psnr_pooled: float
    calls: float
    seconds: float


def compare_steps(
    model: Model, pairs: Sequence[TrainingPair], config: ValidationConfig, compute: str = "float32"
) -> dict[Steps, list[BlockResult]]:
    """Every block of all clips at each of ``config.steps``. They take turns on each clip, so that a
    machine's moods meet all alike.
    """
    results: dict[Steps, list[BlockResult]] = {steps: [] for steps in config.steps}
    for pair in pairs:
        for steps in config.steps:
            clip = made_clip(model, pair, steps, config, compute)
            results[steps] += [_block_result(block, clip.frames, pair) for block in clip.blocks]
    return results


def block_figures(results: Sequence[BlockResult]) -> dict[str, BlockFigures]:
    """Figures of ``all`` blocks and of each of ``BLOCK_CLASSES`` that occurs."""
    groups: dict[str, list[BlockResult]] = {"all": list(results)} | {
        name: [] for name, _ in BLOCK_CLASSES
    }
    for result in results:
        groups[block_class(result.opaque)].append(result)
    return {
        name: BlockFigures(
            blocks=len(group),
            psnr_mean=statistics.fmean(value for result in group for value in result.psnr),
            psnr_pooled=_decibels(
                sum(result.squared for result in group) / sum(result.pixels for result in group)
            ),
            calls=statistics.fmean(result.calls for result in group),
            seconds=statistics.median(result.seconds for result in group),
        )
        for name, group in groups.items()
        if group
    }


def block_class(opaque: float) -> str:
    """Name of the class of a block with this share of opaque pixels."""
    return next(name for name, smallest in BLOCK_CLASSES if opaque >= smallest)


@torch.no_grad()
def codec_seconds(model: Model, pair: TrainingPair, compute: str = "float32") -> float:
    """Seconds per block outside of the network: encoding the renders, decoding the result, and the
    render's residual where it is kept.
    """
    vae, device, block = model.vae, model.device, model.config.block_frames
    order = torch.arange(_padded(model, pair.frames, block)).clamp(max=pair.frames - 1)
    started = _clock(device)
    with autocast(compute, device):
        latents = vae.encode(frames_to_video(pair.renders[order], device, vae.dtype))
        for _ in range(1 + model.config.keep_residual):
            vae.decode(latents)
    return (_clock(device) - started) / (latents.shape[2] // block)


def _block_result(
    block: MadeBlock, made: UInt8[Tensor, "frames height width 3"], pair: TrainingPair
) -> BlockResult:
    part = slice(block.frames.start, block.frames.stop)
    ours, theirs = made[part].float() / 255, pair.clean_frames[part].float() / 255
    error = (ours - theirs).square().mean(dim=-1)
    opaque = float((pair.opacity[part].float() / 255 > OPAQUE_ABOVE).float().mean())
    frames = tuple(psnr(ours, theirs).clamp(max=LARGEST_PSNR).tolist())
    return BlockResult(
        opaque, block.calls, block.seconds, frames, float(error.double().sum()), error.numel()
    )


def _padded(model: Model, frames: int, block: int) -> int:
    """Pixel frames of as many whole blocks as a clip needs."""
    config = model.vae.config
    return config.pixel_frames(-(-config.latent_frames(frames) // block) * block)


def _encoded(model: Model, pair: TrainingPair, frames: int, references: int) -> EncodedClips:
    """The pair's clip for a roll-out, its last frame repeated up to so many; at most so many
    references.
    """
    clip = cut_clip(
        pair, torch.arange(frames).clamp(max=pair.frames - 1), _chosen(pair, references)
    )
    return encode_clips([clip], model.vae, model.config.text, model.device)


def _chosen(pair: TrainingPair, references: int) -> list[int]:
    """At most so many of the pair's reference views, evenly spread."""
    count = min(references, pair.views)
    return [step * pair.views // count for step in range(count)]


def _sampling(model: Model, steps: Steps, block: int, config: ValidationConfig) -> SampleConfig:
    own = model.config
    window, sink = (own.window_frames, own.sink_frames) if config.is_causal else (block, 0)
    return replace(
        own.sampling(),
        steps=steps,
        block_frames=block,
        window_frames=window,
        sink_frames=sink,
        source=config.source or own.source,
        adaptive_steps=config.adaptive_steps,
    )


def _clock(device: torch.device) -> float:
    """Seconds: of this process's CPU time, so that other load does not enter; of the clock where a
    GPU does the work.
    """
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _decibels(error: float) -> float:
    """PSNR of a mean squared error of [0,1] colours."""
    return float(-10 * np.log10(max(error, 10 ** (-LARGEST_PSNR / 10))))


def _finished(
    model: Model,
    pair: TrainingPair,
    config: ValidationConfig,
    frames: Float[Tensor, "frames height width 3"],
    render_latents: Float[Tensor, "1 channels latent_frames h w"],
) -> Float[Tensor, "frames height width 3"]:
    """Frames as they would leave ``enhance``: from opacity mixing by a model of another source as
    in the mode ``generate``.
    """
    is_own = config.source in (None, model.config.source)
    settings = model.config.finish("improve" if is_own else "generate")
    renders, decoded = pair.renders.to(frames) / 255, None
    if settings.keep_residual:
        decoded = video_to_frames(model.vae.decode(render_latents))[: pair.frames]
    return finish(frames, pair.opacity.to(frames) / 255, settings, renders, decoded)


def _columns(shown: Sequence[tuple[TrainingPair, Mapping[Steps, Tensor]]]) -> list[Tensor]:
    """One row per pair, its worst rendered frame: render, opacity, frames at each number of steps,
    truth. Rows are cut to one size.
    """
    height = min(pair.cameras.height for pair, _ in shown)
    width = min(pair.cameras.width for pair, _ in shown)
    rows = []
    for pair, frames in shown:
        worst = int(psnr(pair.renders.float() / 255, pair.clean_frames.float() / 255).argmin())
        grey = pair.opacity[worst][..., None].expand(-1, -1, 3)
        row = [
            pair.renders[worst],
            grey,
            *(clip[worst] for clip in frames.values()),
            pair.clean_frames[worst],
        ]
        rows.append([image[:height, :width] for image in row])
    return [torch.stack(column) for column in zip(*rows, strict=True)]
