"""How good a model is on fixed pairs: quality against the render and other rivals, at several numbers of steps, and pictures.

In: a model and validation pairs. Out: numbers by name, such as ``steps1/psnr_pooled``, and a grid render | opacity | frames | truth.
Frames are made as ``enhance`` makes them: the whole clip through the few-step sampler, with the render's residual where the model keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.imaging.metrics import psnr, ssim
from artifixer.pairs.pair import TrainingPair
from artifixer.training.clips import cut_clip, encode_clips
from artifixer.training.parallel import autocast
from artifixer.training.self_forcing import cut_in_blocks
from artifixer.training.watching import write_grid
from artifixer.video.flow import FlowSchedule
from artifixer.video.models import Model
from artifixer.video.sample import SampleConfig, keyed_noise, sample_blocks
from artifixer.video.vae import frames_to_bytes, video_to_frames

#: Pixels above this opacity count as opaque, below the second as empty.
OPAQUE_ABOVE, EMPTY_BELOW = 0.9, 0.1

#: Frames whose render is worse than this count as hard, dB.
HARD_BELOW = 20.0

#: Render and opacity -> frames, both uint8: a rival.
Rival = Callable[[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]], UInt8[np.ndarray, "height width 3"]]


@dataclass(frozen=True)
class ValidationConfig:
    """pairs: at most so many of the folder's first. references: at most so many per clip, evenly spread. steps: numbers of denoising steps
    to try. is_causal: block by block with the model's window, else the clip in one block. grid_pairs: rows of the picture."""

    pairs: int = 16
    references: int = 6
    steps: tuple[int, ...] = (1, 2, 4)
    is_causal: bool = True
    grid_pairs: int = 6
    seed: int = 0


@dataclass
class Quality:
    """Sums over frames, from which the figures come. Squared errors are per pixel of [0,1] colours, means over channels."""

    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    squared: dict[str, float] = field(default_factory=dict)
    pixels: dict[str, float] = field(default_factory=dict)
    edges: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(
        self,
        frames: UInt8[Tensor, "frames height width 3"],
        truth: UInt8[Tensor, "frames height width 3"],
        opacity: UInt8[Tensor, "frames height width"],
    ) -> None:
        """Count a clip."""
        ours, theirs = frames.float() / 255, truth.float() / 255
        self.psnr += psnr(ours, theirs).clamp(max=60).tolist()
        self.ssim += ssim(ours, theirs).tolist()
        share = opacity.float() / 255
        error = (ours - theirs).square().mean(dim=-1)
        for name, mask in (("pooled", share >= 0), ("opaque", share > OPAQUE_ABOVE), ("empty", share < EMPTY_BELOW)):
            self.squared[name] = self.squared.get(name, 0.0) + float(error[mask].sum())
            self.pixels[name] = self.pixels.get(name, 0.0) + float(mask.sum())
        inside = (share[:, :, 1:] < EMPTY_BELOW) & (share[:, :, :-1] < EMPTY_BELOW)
        for side, image in enumerate((ours, theirs)):
            self.edges[side] += float(image.diff(dim=2).square().mean(dim=-1)[inside].sum())

    def figures(self, hard: Sequence[bool]) -> dict[str, float]:
        """PSNR in dB: mean over frames, over hard frames, and of the pooled error of all, opaque and empty pixels; SSIM; gradient energy
        in empty pixels relative to the truth's."""
        figures = {"psnr_mean": float(np.mean(self.psnr)), "ssim": float(np.mean(self.ssim))}
        chosen = [value for value, is_hard in zip(self.psnr, hard, strict=True) if is_hard]
        if chosen:
            figures["psnr_hard"] = float(np.mean(chosen))
        for name, count in self.pixels.items():
            if count:
                figures[f"psnr_{name}"] = float(-10 * np.log10(max(self.squared[name] / count, 1e-6)))
        if self.edges[1]:
            figures["edges_empty"] = self.edges[0] / self.edges[1]
        return figures


def validate(
    model: Model,
    pairs: Sequence[TrainingPair],
    config: ValidationConfig,
    compute: str = "float32",
    rivals: Mapping[str, Rival] | None = None,
    picture: Path | None = None,
) -> dict[str, float]:
    """Figures of the model, the render (``render/...``) and the rivals. picture: where the grid goes."""
    results: dict[str, Quality] = {"render": Quality()} | {name: Quality() for name in rivals or {}}
    results |= {f"steps{count}": Quality() for count in config.steps}
    shown: list[tuple[TrainingPair, Mapping[int, Tensor]]] = []
    for pair in pairs[: config.pairs]:
        results["render"].add(pair.renders, pair.clean_frames, pair.opacity)
        for name, rival in (rivals or {}).items():
            made = [rival(render, opacity) for render, opacity in zip(pair.renders.numpy(), pair.opacity.numpy(), strict=True)]
            results[name].add(torch.from_numpy(np.stack(made)), pair.clean_frames, pair.opacity)
        frames = {count: made_frames(model, pair, count, config, compute) for count in config.steps}
        for count, clip in frames.items():
            results[f"steps{count}"].add(clip, pair.clean_frames, pair.opacity)
        if len(shown) < config.grid_pairs:
            shown.append((pair, frames))
    hard = [value < HARD_BELOW for value in results["render"].psnr]
    if picture is not None and shown:
        write_grid(picture, _columns(shown))
    return {f"{label}/{name}": value for label, quality in results.items() for name, value in quality.figures(hard).items()}


@torch.no_grad()
def made_frames(
    model: Model, pair: TrainingPair, steps: int, config: ValidationConfig, compute: str
) -> UInt8[Tensor, "frames height width 3"]:
    """The pair's clip by the model, as it would leave ``enhance``."""
    vae, device = model.vae, model.device
    frames = vae.config.latent_frames(pair.frames)
    block = model.config.block_frames if config.is_causal else frames
    padded = vae.config.pixel_frames(-(-frames // block) * block)
    order = torch.arange(padded).clamp(max=pair.frames - 1)
    count = min(config.references, pair.views)
    chosen = [step * pair.views // count for step in range(count)]
    clip = cut_clip(pair, order, chosen)
    window, sink = (model.config.window_frames, model.config.sink_frames) if config.is_causal else (block, 0)
    sampling = SampleConfig(steps, block, window, sink, model.config.source, FlowSchedule(shift=model.config.shift))
    with autocast(compute, device):
        encoded = encode_clips([clip], vae, model.config.text, device)
        blocks = cut_in_blocks(encoded, block)
        clean = torch.cat(list(sample_blocks(model.transformer, blocks, sampling, keyed_noise(config.seed, device))), dim=2)
        result = video_to_frames(vae.decode(clean))[: pair.frames]
        if model.config.keep_residual:
            result = result + _residual(pair, video_to_frames(vae.decode(encoded.render_latents))[: pair.frames])
    return frames_to_bytes(result).cpu()


def _residual(pair: TrainingPair, decoded: Float[Tensor, "frames height width 3"]) -> Float[Tensor, "frames height width 3"]:
    """What the autoencoder takes from the render, where the render is opaque."""
    opacity = pair.opacity.to(decoded) / 255
    return opacity.square()[..., None] * (pair.renders.to(decoded) / 255 - decoded)


def _columns(shown: Sequence[tuple[TrainingPair, Mapping[int, Tensor]]]) -> list[Tensor]:
    """One row per pair, its worst rendered frame: render, opacity, frames at each number of steps, truth. Rows are cut to one size."""
    height = min(pair.cameras.height for pair, _ in shown)
    width = min(pair.cameras.width for pair, _ in shown)
    rows = []
    for pair, frames in shown:
        worst = int(psnr(pair.renders.float() / 255, pair.clean_frames.float() / 255).argmin())
        grey = pair.opacity[worst][..., None].expand(-1, -1, 3)
        row = [pair.renders[worst], grey, *(clip[worst] for clip in frames.values()), pair.clean_frames[worst]]
        rows.append([image[:height, :width] for image in row])
    return [torch.stack(column) for column in zip(*rows, strict=True)]
