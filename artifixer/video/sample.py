"""Few-step sampling: from the latents of renders to clean latents, block by block (paper section
4.2).

In: a network, latents of the renders with their conditions, noise keyed by block and step. Out:
clean latents. ``sample_blocks`` reads one block of latent frames, denoises it in a few calls that
attend to earlier blocks through a cache, and yields it before it reads the next, so that encoding
and decoding can run concurrently. The teacher's sampler is in ``teacher.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.runtime.seeds import generator
from artifixer.video.cache import AppendingCache, KVCache, RingCache
from artifixer.video.conditions import Conditions
from artifixer.video.flow import (
    FlowSchedule,
    SourceKind,
    clean_from_velocity,
    latent_opacity,
    noisy_latents,
    source_latents,
    timestep,
)

if TYPE_CHECKING:
    from artifixer.video.transformer import VideoTransformer
    from artifixer.video.transformer_layers import CrossAttentionCache

Latents = Float[Tensor, "batch channels latent_frames h w"]


@dataclass(frozen=True)
class BlockInput:
    """One block of latent frames. ``conditions`` are of exactly these frames; text and references
    must be the same for all blocks.
    """

    first_latent_frame: int
    render_latents: Latents
    conditions: Conditions


@dataclass(frozen=True)
class AdaptiveSteps:
    """Fewer network calls for opaque blocks, which leave less to generate: selects the number of
    steps of a block by its empty fraction, 1 - the mean opacity of its pixels.
    """

    max_empty_fractions: tuple[float, ...] = (0.02, 0.1, 0.35)
    """Ascending; entry i is the maximum empty fraction for i + 1 steps. Blocks above the last entry
    take one step more than there are entries."""

    def __post_init__(self) -> None:
        assert list(self.max_empty_fractions) == sorted(self.max_empty_fractions), (
            f"{self.max_empty_fractions} are not ascending"
        )

    def steps(self, opacity: Float[Tensor, "batch frames height width"]) -> int:
        """Number of steps of a block, by the clip of the batch with the largest empty fraction.
        Synchronises with the device of ``opacity``.
        """
        empty_fraction = 1 - float(opacity.float().mean(dim=(1, 2, 3)).min())
        return 1 + sum(empty_fraction > limit for limit in self.max_empty_fractions)


@dataclass(frozen=True)
class SampleConfig:
    """Settings of the few-step generator; the defaults are the released generator's."""

    steps: int | Literal["adaptive"] = 4
    """Network calls per block, at least 1; ``adaptive`` selects them by ``adaptive_steps``."""

    block_frames: int = 7
    """Latent frames generated together."""

    window_frames: int = 21
    """Latent frames that a block attends to, including its own."""

    sink_frames: int = 7
    """Latent frames at the beginning of the rollout that stay in the window."""

    source: SourceKind = "mixing"
    """Start of the flow."""

    schedule: FlowSchedule = field(default_factory=FlowSchedule)
    """Noise levels."""

    adaptive_steps: AdaptiveSteps = AdaptiveSteps()
    """Number of steps by the empty fraction of a block."""

    def __post_init__(self) -> None:
        assert self.steps == "adaptive" or self.steps >= 1, f"{self.steps} steps"
        assert self.block_frames >= 1, f"blocks of {self.block_frames} latent frames"
        assert self.sink_frames + self.block_frames <= self.window_frames, (
            f"no room for a block in {self.window_frames} frames"
        )

    def sigmas(self, opacity: Float[Tensor, "batch frames height width"]) -> list[float]:
        """Noise levels of a block's calls."""
        steps = self.adaptive_steps.steps(opacity) if self.steps == "adaptive" else self.steps
        return self.schedule.few_step_sigmas(steps).tolist()


@runtime_checkable
class Noise(Protocol):
    """Standard normal noise keyed by block and step: equal keys give equal numbers."""

    def __call__(self, block: int, step: int, shape: torch.Size) -> Latents: ...


@dataclass(frozen=True)
class NetworkCall:
    """One call of the network, for ``observe``."""

    block: int
    step: int
    sigma: float
    timesteps: Float[Tensor, " batch"]
    noisy_latents: Latents
    velocity: Latents


def keyed_noise(
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    sample: int = 0,
) -> Noise:
    """Noise that depends only on seed, sample, block and step: neither chunking, nor a resume, nor
    the device changes it.

    It is drawn on the CPU in float32, since random streams differ between devices. sample: index of
    the batch's first clip in its data set.
    """

    def noise(block: int, step: int, shape: torch.Size) -> Tensor:
        draws = [
            torch.randn(
                shape[1:],
                generator=generator(seed, "noise", step=step, sample=sample + index, block=block),
            )
            for index in range(shape[0])
        ]
        drawn = torch.stack(draws).to(dtype)
        if torch.device(device).type != "cuda":
            return drawn.to(device)
        return drawn.pin_memory().to(device, non_blocking=True)

    return noise


def sample_blocks(
    network: VideoTransformer,
    blocks: Iterable[BlockInput],
    config: SampleConfig,
    noise: Noise,
    *,
    exit_step: int | None = None,
    observe: Callable[[NetworkCall], None] | None = None,
    replay: Callable[[int], Latents | None] | None = None,
) -> Iterator[Latents]:
    """Clean latents of each block; a block is read after the one before has been yielded.

    blocks: consecutive, the first at latent frame 0, each of ``config.block_frames`` latent frames.
    The cost per block does not depend on their number. exit_step: for self forcing; each block ends
    at the clean prediction of this step, the only one with gradients, also through the keys and
    values of earlier blocks, all of which are kept. None runs all steps without gradients. observe:
    called after every network call. replay: block -> noisy latents of its last call in an earlier
    run of the same rollout, or None. Of such a block only that call is repeated: it gives the clean
    latents and the cache entries with the same bits.
    """
    rollout: _Rollout | None = None
    for block in blocks:
        if rollout is None:
            rollout = _Rollout.begin(network, block, config, noise, exit_step, observe, replay)
        yield rollout.denoise(block)


@dataclass(frozen=True)
class _Rollout:
    """The state of one rollout.

    cross_attention_cache: has no gradients, so calls with gradients do not use it.
    """

    network: VideoTransformer
    config: SampleConfig
    noise: Noise
    cache: KVCache
    cross_attention_cache: CrossAttentionCache
    exit_step: int | None
    observe: Callable[[NetworkCall], None] | None
    replay: Callable[[int], Latents | None] | None

    @staticmethod
    def begin(
        network: VideoTransformer,
        block: BlockInput,
        config: SampleConfig,
        noise: Noise,
        exit_step: int | None,
        observe: Callable[[NetworkCall], None] | None,
        replay: Callable[[int], Latents | None] | None,
    ) -> _Rollout:
        assert block.first_latent_frame == 0, (
            f"a rollout begins at latent frame 0, not {block.first_latent_frame}"
        )
        with torch.no_grad():
            cached = network.cross_attention_cache(block.conditions)
        cache = (
            AppendingCache()
            if exit_step is not None
            else _ring_cache(network, block.render_latents, config)
        )
        return _Rollout(network, config, noise, cache, cached, exit_step, observe, replay)

    def denoise(self, block: BlockInput) -> Latents:
        """The block's clean latents; the last call leaves its keys and values in the cache."""
        network, render = self.network, block.render_latents
        index, rest = divmod(block.first_latent_frame, self.config.block_frames)
        assert (
            not rest
            and render.shape[2] == self.config.block_frames == block.conditions.latent_frames
        ), (
            f"frames {block.first_latent_frame}+{render.shape[2]} are not a block of "
            f"{self.config.block_frames}"
        )
        is_first = block.first_latent_frame == 0
        opacity = latent_opacity(
            block.conditions.opacity,
            network.config.temporal_factor,
            network.config.spatial_factor,
            is_first,
        )
        skip = source_skip_of(network, opacity, render)
        sigmas = self.config.sigmas(block.conditions.opacity)
        exit_step = len(sigmas) - 1 if self.exit_step is None else self.exit_step
        assert 0 <= exit_step < len(sigmas), f"exit at step {exit_step} of {len(sigmas)}"
        known = None if self.replay is None else self.replay(index)
        clean = render  # without effect: the first level is the source
        for step, sigma in enumerate(sigmas[: exit_step + 1]):
            has_gradients = self.exit_step is not None and step == exit_step
            with contextlib.nullcontext() if has_gradients else torch.no_grad():
                if known is None:
                    drawn = (
                        self.noise(index, step, render.shape)
                        if self.config.source != "direct"
                        else None
                    )
                    # new noise at every step, as in training
                    source = source_latents(render, opacity, drawn, self.config.source)
                    noisy = source if step == 0 else noisy_latents(clean, source, sigma)
                elif step < exit_step:
                    continue
                else:
                    noisy = known
                timesteps = timestep(torch.full((len(render),), sigma, device=render.device))
                velocity = network(
                    noisy,
                    timesteps,
                    block.conditions,
                    first_latent_frame=block.first_latent_frame,
                    cache=self.cache,
                    cross_attention_cache=None if has_gradients else self.cross_attention_cache,
                    source_skip=skip,
                    render_latents=render,
                )
                clean = clean_from_velocity(noisy, velocity, sigma)
            if self.observe is not None:
                self.observe(NetworkCall(index, step, sigma, timesteps, noisy, velocity))
        return clean


def _ring_cache(network: VideoTransformer, latents: Latents, config: SampleConfig) -> RingCache:
    """A cache in the dtype of the weights, which may differ from that of the latents."""
    sizes, dtype = network.config, next(network.parameters()).dtype
    batch, _, _, height, width = latents.shape
    shape = (
        batch,
        (height // sizes.patch_size) * (width // sizes.patch_size),
        sizes.heads,
        sizes.width // sizes.heads,
    )
    return RingCache(
        sizes.layers, shape, config.window_frames, config.sink_frames, latents.device, dtype
    )


def source_skip_of(
    network: VideoTransformer, opacity: Tensor, render_latents: Latents
) -> Latents | None:
    """The argument ``source_skip`` of networks with ``noise_free_skip``; None for others."""
    return (
        opacity.to(render_latents.dtype) * render_latents
        if network.config.noise_free_skip
        else None
    )
