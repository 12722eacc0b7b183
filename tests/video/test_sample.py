"""Sampling with a network of 20 lines: against slow twins, lazily, for any length, with gradients,
and against frozen outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from artifixer.video.conditions import Conditions
from artifixer.video.flow import FlowSchedule
from artifixer.video.initialise import initialise
from artifixer.video.sample import (
    AdaptiveSteps,
    BlockInput,
    NetworkCall,
    SampleConfig,
    keyed_noise,
    sample_blocks,
)
from artifixer.video.teacher import TeacherConfig, sample_bidirectional
from artifixer.video.transformer import VideoTransformer
from artifixer.video.transformer_config import VideoTransformerConfig
from artifixer.video.transformer_layers import CrossAttentionCache

#: float32 sums in another order.
ROUNDING = 1e-5

#: Share of the largest latent by which bfloat16 is off after a few calls whose keys feed each
#: other.
HALF_PRECISION = 0.05

FROZEN = Path(__file__).parent / "frozen" / "sampler.safetensors"

SMALL = SampleConfig(steps=3, block_frames=2, window_frames=6, sink_frames=2)


@dataclass
class CallCount:
    """Counts the network's calls by block."""

    per_block: Counter[int] = field(default_factory=Counter)

    def __call__(self, call: NetworkCall) -> None:
        self.per_block[call.block] += 1

    @property
    def total(self) -> int:
        return self.per_block.total()


class FakeNetwork(nn.Module):
    """Its velocity depends on every input, and through the cache on the blocks that the window
    holds.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = {
            "temporal_factor": 2,
            "spatial_factor": 2,
            "patch_size": 1,
            "layers": 1,
            "heads": 1,
            "width": 3,
            "noise_free_skip": False,
        }
        self.config = SimpleNamespace(**sizes)
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.skips: list[Any] = []

    def cross_attention_cache(self, conditions: Conditions) -> Tensor:
        return conditions.text.mean()

    def forward(
        self,
        noisy,
        timesteps,
        conditions,
        *,
        first_latent_frame=0,
        cache=None,
        cross_attention_cache=None,
        source_skip=None,
    ) -> Tensor:
        seen = tokens = self.gain * noisy.flatten(2).mT[:, :, None]
        if cache is not None:
            _, seen = cache.open_block(first_latent_frame, noisy.shape[2]).extend(0, tokens, tokens)
        self.skips.append(source_skip)
        rest = (
            (conditions.text.mean() if cross_attention_cache is None else cross_attention_cache)
            + conditions.rays.mean()
            + timesteps.view(-1, 1, 1, 1, 1) / 1000
        )
        return torch.tanh(
            self.gain * noisy + rest + seen.mean(dim=(1, 2)).view(len(noisy), -1, 1, 1, 1)
        )


@dataclass
class Recorder:
    calls: list[NetworkCall] = field(default_factory=list)

    def __call__(self, call: NetworkCall) -> None:
        self.calls.append(call)


def network() -> Any:
    return FakeNetwork()


def clip(latent_frames: int, batch: int = 1, opacity: float | None = None) -> BlockInput:
    """A whole clip of 2 x 3 latents as one input."""
    draw = torch.Generator().manual_seed(latent_frames)
    frames = 1 + 2 * (latent_frames - 1)
    values = (
        torch.rand(batch, frames, 4, 6, generator=draw)
        if opacity is None
        else torch.full((batch, frames, 4, 6), opacity)
    )
    conditions = Conditions(
        opacity=values,
        rays=torch.randn(batch, latent_frames, 4, 6, 6, generator=draw),
        viewmats=torch.eye(4).expand(batch, latent_frames, 4, 4),
        Ks=torch.eye(3).expand(batch, latent_frames, 3, 3),
        text=torch.randn(batch, 2, 4, generator=draw),
    )
    return BlockInput(0, torch.randn(batch, 3, latent_frames, 2, 3, generator=draw), conditions)


def blocks_of(whole: BlockInput, frames: int = 2) -> list[BlockInput]:
    starts = range(0, whole.conditions.latent_frames, frames)
    pieces = whole.render_latents.split(frames, dim=2)
    return [
        BlockInput(start, piece, whole.conditions.latent_slice(start, frames))
        for start, piece in zip(starts, pieces, strict=True)
    ]


def run(
    blocks: Iterable[BlockInput], config: SampleConfig = SMALL, seed: int = 0, **options: Any
) -> Tensor:
    return torch.cat(
        list(
            sample_blocks(
                options.pop("model", None) or network(),
                blocks,
                config,
                keyed_noise(seed),
                **options,
            )
        ),
        dim=2,
    )


def slow_rollout(
    model: Any, whole: BlockInput, config: SampleConfig, seed: int, exit_step: int | None = None
) -> Tensor:
    """The release's loop spelled out (batch of one): values of past blocks in a list, the window
    cut from it frame by frame.
    """
    noise = keyed_noise(seed)
    past: list[Tensor] = []
    results: list[Tensor] = []
    sigmas = config.schedule.few_step_sigmas(int(config.steps)).tolist()
    for index, block in enumerate(blocks_of(whole, config.block_frames)):
        alpha = block.conditions.opacity
        alpha = torch.cat([alpha[:, :1], alpha], dim=1) if index == 0 else alpha
        alpha = alpha.view(1, config.block_frames, 2, 2, 2, 3, 2).amax(dim=(2, 4, 6))[:, None]
        frames: list[Tensor] = []
        for step, sigma in enumerate(sigmas if exit_step is None else sigmas[: exit_step + 1]):
            source = alpha * block.render_latents + (1 - alpha) * noise(
                index, step, block.render_latents.shape
            )
            x = source if step == 0 else (1 - sigma) * results.pop().detach() + sigma * source
            frames = list((model.gain * x).unbind(dim=2))
            kept = config.window_frames - config.sink_frames - config.block_frames
            window = (
                past[: config.sink_frames] + past[config.sink_frames :][-kept:]
                if exit_step is None
                else past
            )
            context = (
                torch.stack([*window, *frames], dim=2).mean(dim=(2, 3, 4)).view(1, -1, 1, 1, 1)
            )
            rest = block.conditions.text.mean() + block.conditions.rays.mean() + sigma
            results.append(x - sigma * torch.tanh(model.gain * x + rest + context))
        past = past + frames
    return torch.cat(results, dim=2)


@pytest.mark.parametrize(("steps", "window", "sink"), [(3, 6, 2), (1, 6, 0), (4, 8, 4), (2, 40, 2)])
def test_rollout_equals_the_loop_spelled_out(steps, window, sink):
    config = replace(SMALL, steps=steps, window_frames=window, sink_frames=sink)
    whole = clip(16)
    with torch.no_grad():
        expected = slow_rollout(network(), whole, config, seed=3)
    torch.testing.assert_close(
        run(blocks_of(whole), config, seed=3), expected, rtol=0, atol=ROUNDING
    )


def test_each_block_is_read_only_when_the_one_before_was_taken():
    log = []

    def reading() -> Iterator[BlockInput]:
        for block in blocks_of(clip(6)):
            log.append(f"read {block.first_latent_frame}")
            yield block

    for index, latents in enumerate(sample_blocks(network(), reading(), SMALL, keyed_noise(0))):
        assert latents.shape == (1, 3, 2, 2, 3)
        assert torch.is_grad_enabled(), "the caller's gradient mode is its own between blocks"
        log.append(f"took {index}")
    assert log == ["read 0", "took 0", "read 2", "took 1", "read 4", "took 2"]


def test_what_comes_later_does_not_change_a_block():
    whole = clip(10)
    assert torch.equal(run(blocks_of(whole)[:3]), run(blocks_of(whole))[:, :, :6])


def test_a_batch_is_its_clips():
    both = clip(6, batch=2)
    both = replace(
        both,
        conditions=replace(
            both.conditions, rays=both.conditions.rays[:1].expand_as(both.conditions.rays)
        ),
    )
    both = replace(
        both,
        conditions=replace(
            both.conditions, text=both.conditions.text[:1].expand_as(both.conditions.text)
        ),
    )
    result = run(blocks_of(both))
    for sample in range(2):
        conditions = {
            name: value[sample : sample + 1]
            for name, value in vars(both.conditions).items()
            if value is not None
        }
        one = BlockInput(0, both.render_latents[sample : sample + 1], Conditions(**conditions))
        alone = torch.cat(
            list(sample_blocks(network(), blocks_of(one), SMALL, keyed_noise(0, sample=sample))),
            dim=2,
        )
        torch.testing.assert_close(result[sample : sample + 1], alone, rtol=0, atol=ROUNDING)


def test_noise_is_keyed_by_its_place():
    shape = torch.Size((1, 3, 2, 4, 4))
    noise = keyed_noise(5)
    places = [(block, step) for block in range(3) for step in range(3)]
    drawn = {place: noise(*place, shape) for place in places}
    for place in reversed(places):
        assert torch.equal(keyed_noise(5)(*place, shape), drawn[place]), (
            "the order of draws does not matter"
        )
    distinct = {tuple(values.flatten().tolist()) for values in drawn.values()} | {
        tuple(keyed_noise(6)(0, 0, shape).flatten().tolist())
    }
    assert len(distinct) == len(places) + 1
    many = noise(0, 0, torch.Size((1, 16, 7, 32, 32)))
    assert abs(float(many.mean())) < 0.01 and abs(float(many.std()) - 1) < 0.01
    assert keyed_noise(5, dtype=torch.bfloat16)(0, 0, shape).dtype == torch.bfloat16
    assert torch.equal(
        noise(1, 2, torch.Size((2, *shape[1:])))[1:], keyed_noise(5, sample=1)(1, 2, shape)
    )


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_fixed_steps_are_that_many_calls_whatever_the_opacity(steps):
    count = CallCount()
    run(blocks_of(clip(6, opacity=1.0)), replace(SMALL, steps=steps), observe=count)
    assert count.per_block == {0: steps, 1: steps, 2: steps}
    assert count.total == 3 * steps


def test_adaptive_steps_follow_each_blocks_opacity():
    whole = clip(10)
    opacity = whole.conditions.opacity.clone()
    for frames, value in (
        (slice(0, 3), 1.0),
        (slice(3, 7), 0.95),
        (slice(7, 11), 0.8),
        (slice(11, 15), 0.0),
        (slice(15, 19), 1.0),
    ):
        opacity[:, frames] = value
    whole = replace(whole, conditions=replace(whole.conditions, opacity=opacity))
    count = CallCount()
    adaptive = run(blocks_of(whole), replace(SMALL, steps="adaptive"), observe=count)
    assert count.per_block == {0: 1, 1: 2, 2: 3, 3: 4, 4: 1}
    assert count.total == 11
    assert torch.equal(adaptive[:, :, :2], run(blocks_of(whole), replace(SMALL, steps=1))[:, :, :2])


def test_adaptive_steps_of_the_two_ends():
    policy = AdaptiveSteps()
    assert policy.steps(torch.ones(1, 4, 2, 2)) in (1, 2)
    assert policy.steps(torch.zeros(1, 4, 2, 2)) == 4
    assert policy.steps(torch.stack([torch.ones(4, 2, 2), torch.zeros(4, 2, 2)])) == 4, (
        "the emptiest clip of a batch decides"
    )
    with pytest.raises(AssertionError, match="not ascending"):
        AdaptiveSteps((0.3, 0.1))


@given(opacities=st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_emptier_blocks_never_take_fewer_steps(opacities):
    steps = [AdaptiveSteps().steps(torch.full((1, 1, 1, 1), value)) for value in sorted(opacities)]
    assert steps == sorted(steps, reverse=True)


def test_1100_latent_frames_in_the_slots_of_the_first_block():
    """With the real network: positions have no limit, and the cache is allocated once."""
    model = transformer()
    config, frames = SampleConfig(steps=1, block_frames=10, window_frames=30, sink_frames=10), 1100

    def endless() -> Iterator[BlockInput]:
        for first in range(0, frames, 10):
            drawn = torch.Generator().manual_seed(first)
            opacity = torch.rand(1, 20 - (first == 0), 2, 2, generator=drawn)
            yield BlockInput(
                first,
                torch.randn(1, 3, 10, 1, 1, generator=drawn),
                moving_conditions(opacity, first),
            )

    slots = set()
    model.register_forward_pre_hook(
        lambda _, args, options: slots.add(options["cache"].slots.data_ptr()), with_kwargs=True
    )
    latents = torch.cat(list(sample_blocks(model, endless(), config, keyed_noise(0))), dim=2)
    assert latents.shape[2] == frames and latents.isfinite().all()
    assert len(slots) == 1, "the cache was allocated again"


def transformer(**options: Any) -> VideoTransformer:
    """A real network of one token per latent frame, with random weights throughout."""
    config = VideoTransformerConfig(
        width=16, ffn_width=16, heads=1, layers=2, latent_channels=3, text_width=4, text_tokens=2,
        frequency_width=8, patch_size=1, spatial_factor=2, temporal_factor=2, **options,
    )  # fmt: skip
    model = VideoTransformer(config)
    initialise(model, torch.Generator().manual_seed(0), zeros=False)
    return model


def moving_conditions(opacity: Tensor, first: int) -> Conditions:
    """Of frames of 2 x 2 pixels whose camera goes sideways, with two references."""
    latent_frames = -(-opacity.shape[1] // 2)
    draw = torch.Generator().manual_seed(first)
    viewmats, references = (
        torch.eye(4).repeat(1, latent_frames, 1, 1),
        torch.eye(4).repeat(1, 2, 1, 1),
    )
    viewmats[..., 0, 3] = torch.arange(first, first + latent_frames) * 0.3
    references[..., 0, 3] = torch.tensor([0.5, 2.0])
    return Conditions(
        opacity=opacity,
        rays=torch.randn(1, latent_frames, 2, 2, 6, generator=draw),
        viewmats=viewmats,
        Ks=torch.eye(3).expand(1, latent_frames, 3, 3),
        text=torch.linspace(-1, 1, 8).view(1, 2, 4),
        reference_latents=torch.linspace(-1, 1, 6).view(1, 3, 2, 1, 1),
        reference_viewmats=references,
        reference_Ks=torch.eye(3).expand(1, 2, 3, 3),
    )


def test_checkpointed_gradients_of_a_rollout_are_the_plain_ones():
    """Three blocks, moving cameras, references: a layer that is run again in the backward pass must
    see its own block's cameras.
    """

    def gradients(checkpointed: bool) -> dict[str, Tensor]:
        model = transformer()
        model.checkpoint_layers = checkpointed
        draw = torch.Generator().manual_seed(1)
        blocks = [
            BlockInput(
                first,
                torch.randn(1, 3, 2, 1, 1, generator=draw),
                moving_conditions(torch.rand(1, 4 - (not first), 2, 2, generator=draw), first),
            )
            for first in (0, 2, 4)
        ]
        run(blocks, seed=2, model=model, exit_step=1).square().sum().backward()
        return {
            name: parameter.grad
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }

    plain, checkpointed = gradients(False), gradients(True)
    assert set(plain) == set(checkpointed) and all(gradient.any() for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(
            checkpointed[name],
            gradient,
            rtol=1e-4,
            atol=ROUNDING,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_timesteps_are_rounded_only_in_bfloat16():
    """937.5 is read as 936 in bfloat16, as the release does, and as itself in float32."""
    conditions = moving_conditions(torch.ones(1, 3, 2, 2), 0)
    latents = torch.ones(1, 3, 2, 1, 1)

    def outputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        model = transformer().to(dtype)
        exact, rounded = (
            model(latents.to(dtype), torch.tensor([time]), conditions.to(dtype=dtype))
            for time in (937.5, 936.0)
        )
        return exact, rounded

    assert torch.equal(*outputs(torch.bfloat16))
    assert not torch.equal(*outputs(torch.float32))


def test_float16_does_not_round_timesteps():
    """833.333 is what the network reads, not 833.5, its neighbour in float16."""
    seen: list[Tensor] = []
    model = transformer().to(torch.float16)
    model.time_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    conditions = moving_conditions(torch.ones(1, 3, 2, 2), 0).to(dtype=torch.float16)
    model(torch.ones(1, 3, 2, 1, 1, dtype=torch.float16), torch.tensor([2500 / 3]), conditions)
    frequencies = 10_000 ** (-torch.arange(4, dtype=torch.float64) / 4)
    expected = torch.cat([torch.cos(2500 / 3 * frequencies), torch.sin(2500 / 3 * frequencies)])
    torch.testing.assert_close(seen[0].flatten().double(), expected, rtol=0, atol=1e-3)


def test_low_precision_latents_keep_the_exact_levels():
    """The network rounds the timesteps that it reads in bfloat16; the sampler computes with the
    exact ones.
    """
    whole, config = clip(2), replace(SMALL, steps=4)
    low = Recorder()
    block = replace(
        whole,
        render_latents=whole.render_latents.bfloat16(),
        conditions=whole.conditions.to(dtype=torch.bfloat16),
    )
    noise = keyed_noise(0, dtype=torch.bfloat16)
    latents = next(sample_blocks(network().to(torch.bfloat16), [block], config, noise, observe=low))
    assert latents.dtype == torch.bfloat16
    assert [1000 * call.sigma for call in low.calls] == pytest.approx(
        [1000, 937.5, 2500 / 3, 625], rel=1e-6
    )
    last = low.calls[-1]
    assert torch.equal(
        latents, (last.noisy_latents.float() - last.sigma * last.velocity.float()).bfloat16()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_latents_may_be_wider_than_the_network(dtype):
    """Latents in float32 through a network in half precision, references and a full window
    included: close to float32 throughout.

    Of one step: more have levels that bfloat16 rounds, which is no small thing to a network with
    random weights.
    """

    def latents(model: VideoTransformer, steps: int = 1) -> Tensor:
        draw = torch.Generator().manual_seed(1)
        blocks = [
            BlockInput(
                first,
                torch.randn(1, 3, 2, 1, 1, generator=draw),
                moving_conditions(torch.rand(1, 4 - (not first), 2, 2, generator=draw), first),
            )
            for first in range(0, 10, 2)
        ]
        return run(blocks, replace(SMALL, steps=steps), model=model)

    narrow, wide = latents(transformer().to(dtype)), latents(transformer())
    assert narrow.dtype == torch.float32
    assert 0 < (narrow - wide).abs().max() < HALF_PRECISION * wide.abs().max()
    assert latents(transformer().to(dtype), steps=4).isfinite().all()


def test_direct_source_draws_no_noise():
    def no_noise(block: int, step: int, shape: torch.Size) -> Tensor:
        raise AssertionError("noise was drawn")

    whole, recorder = clip(4), Recorder()
    config = replace(SMALL, source="direct")
    list(sample_blocks(network(), blocks_of(whole), config, no_noise, observe=recorder))
    assert torch.equal(recorder.calls[0].noisy_latents, whole.render_latents[:, :, :2])
    first, second = recorder.calls[:2]
    clean = first.noisy_latents - first.velocity
    torch.testing.assert_close(
        second.noisy_latents, torch.lerp(clean, whole.render_latents[:, :, :2], second.sigma)
    )


def test_networks_that_skip_the_source_are_given_it():
    model = network()
    whole = clip(2, opacity=0.25)
    run(blocks_of(whole), model=model)
    assert model.skips == [None] * 3
    model.skips.clear()
    model.config.noise_free_skip = True
    run(blocks_of(whole), model=model)
    assert (
        all(torch.equal(skip, 0.25 * whole.render_latents) for skip in model.skips)
        and len(model.skips) == 3
    )


def test_no_gradients_unless_for_training():
    assert not run(blocks_of(clip(4))).requires_grad


@pytest.mark.parametrize("exit_step", [0, 2])
def test_training_rollout_has_the_gradients_of_the_loop_spelled_out(exit_step):
    """Value and gradient: of the weights, and of the render latents of block 0, which later blocks
    see through the cache alone.
    """

    def gradients(rollout: Any) -> tuple[Tensor, ...]:
        model, whole = network(), clip(8)
        whole.render_latents.requires_grad_()
        latents = rollout(model, whole)
        later = torch.autograd.grad(
            latents[:, :, 4:].square().sum(), [model.gain, whole.render_latents], retain_graph=True
        )
        return (
            latents.detach(),
            *later,
            *torch.autograd.grad(latents.sum(), [model.gain, whole.render_latents]),
        )

    ours = gradients(
        lambda model, whole: run(blocks_of(whole), seed=4, model=model, exit_step=exit_step)
    )
    expected = gradients(lambda model, whole: slow_rollout(model, whole, SMALL, 4, exit_step))
    for value, twin in zip(ours, expected, strict=True):
        torch.testing.assert_close(value, twin, rtol=1e-4, atol=ROUNDING)
    assert ours[2][:, :, :2].any(), "no gradient through the cache"


def test_training_rollout_ends_at_its_exit_step():
    count = CallCount()
    run(blocks_of(clip(4)), exit_step=1, observe=count)
    assert count.per_block == {0: 2, 1: 2}
    with pytest.raises(AssertionError, match="exit at step 3 of 3"):
        run(blocks_of(clip(4)), exit_step=3)


def test_blocks_out_of_place_are_refused():
    blocks = blocks_of(clip(6))
    with pytest.raises(AssertionError, match="begins at latent frame 0"):
        run(blocks[1:])
    with pytest.raises(AssertionError, match="do not follow"):
        run([blocks[0], blocks[2]])
    with pytest.raises(AssertionError, match="not a block of 2"):
        run([clip(6)])


class StraightNetwork(FakeNetwork):
    """Knows the answer: the velocity of the straight line to ``target``, plus what the
    text adds.
    """

    def __init__(self, target: Tensor, source: Tensor) -> None:
        super().__init__()
        self.target, self.source = target, source

    def forward(
        self,
        noisy,
        timesteps,
        conditions,
        *,
        first_latent_frame=0,
        cache=None,
        cross_attention_cache=None,
        source_skip=None,
    ) -> Tensor:
        return self.source - self.target + cross_attention_cache


def bidirectional(model: Any, whole: BlockInput, config: TeacherConfig, **options: Any) -> Tensor:
    return sample_bidirectional(
        model, whole.render_latents, whole.conditions, config, keyed_noise(0), **options
    )


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_teacher_reaches_the_end_of_a_straight_line(steps):
    whole = clip(3, opacity=1.0)
    whole = replace(whole, conditions=whole.conditions.drop(text=True))
    target = torch.randn(whole.render_latents.shape, generator=torch.Generator().manual_seed(9))
    count = CallCount()
    latents = bidirectional(
        StraightNetwork(target, whole.render_latents),
        whole,
        TeacherConfig(steps=steps),
        observe=count,
    )
    torch.testing.assert_close(latents, target, rtol=0, atol=1e-4)
    assert count.total == steps


def test_guidance_leads_away_from_the_negative_text():
    whole = clip(3, opacity=1.0)
    model = StraightNetwork(torch.zeros_like(whole.render_latents), whole.render_latents)
    text = whole.conditions.text

    def guided(guidance: float, **options: Any) -> float:
        latents = bidirectional(model, whole, TeacherConfig(steps=2, guidance=guidance), **options)
        return float(latents.mean())  # minus the guided text, since the line without text ends at 0

    away = torch.full_like(text, 0.5)
    assert guided(1.0) == pytest.approx(-float(text.mean()), abs=1e-3)
    assert guided(3.0) == pytest.approx(-3 * float(text.mean()), abs=1e-3)
    assert guided(3.0, negative_text=away) == pytest.approx(
        -(0.5 + 3 * (float(text.mean()) - 0.5)), abs=1e-3
    )
    assert guided(1.0, negative_text=away) == guided(1.0), (
        "without guidance the negative text is not read"
    )


def test_guided_branches_share_the_references():
    """Their keys and values are computed and kept once, and the result is that of two separate
    calls.
    """
    model, whole = transformer(), clip_with_references()
    memories: list[CrossAttentionCache] = []
    recorder = Recorder()
    hook = model.register_forward_pre_hook(
        lambda _, args, options: memories.append(options["cross_attention_cache"]), with_kwargs=True
    )
    bidirectional(model, whole, TeacherConfig(steps=1, guidance=3.0), observe=recorder)
    hook.remove()
    prompted, unprompted = memories
    for ours, theirs in zip(prompted.layers, unprompted.layers, strict=True):
        assert (
            ours.reference_keys is theirs.reference_keys
            and ours.reference_values is theirs.reference_values
        )
        assert not torch.equal(ours.text_keys, theirs.text_keys)
    (call,) = recorder.calls
    with torch.no_grad():
        texts = (whole.conditions, whole.conditions.drop(text=True))
        with_text, without = (
            model(whole.render_latents, call.timesteps, conditions) for conditions in texts
        )
    torch.testing.assert_close(
        call.velocity, without + 3 * (with_text - without), rtol=0, atol=ROUNDING
    )


def clip_with_references() -> BlockInput:
    """Opaque, so that the source is the render."""
    return BlockInput(
        0,
        torch.randn(1, 3, 4, 1, 1, generator=torch.Generator().manual_seed(3)),
        moving_conditions(torch.ones(1, 7, 2, 2), 0),
    )


def test_clips_of_a_video_have_noise_of_their_own():
    whole = clip(3, opacity=0.0)
    first, second, again = (
        bidirectional(network(), whole, TeacherConfig(steps=2), clip=index) for index in (0, 1, 0)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, second)


def frozen_outputs() -> dict[str, Tensor]:
    """What the frozen file holds: the samplers' outputs on made inputs."""
    whole = clip(10)
    outputs = {
        f"blocks_{steps}": run(blocks_of(whole), replace(SMALL, steps=steps), seed=7)
        for steps in (1, 2, 4)
    }
    outputs["adaptive"] = run(blocks_of(whole), replace(SMALL, steps="adaptive"), seed=7)
    outputs["direct"] = run(blocks_of(whole), replace(SMALL, source="direct"), seed=7)
    outputs["exit_1"] = run(blocks_of(whole), seed=7, exit_step=1).detach()
    outputs["teacher"] = bidirectional(network(), whole, TeacherConfig(steps=6))
    schedule = FlowSchedule()
    return outputs | {"sigmas": schedule.sigmas[::50], "weights": schedule.training_weights[::50]}


def test_outputs_are_those_frozen_when_parity_held():
    stored, made = load_file(FROZEN), frozen_outputs()
    assert set(stored) == set(made)
    for name, values in made.items():
        torch.testing.assert_close(
            values,
            stored[name].clone(),
            rtol=0,
            atol=ROUNDING,
            msg=lambda text, name=name: f"{name}: {text}",
        )
