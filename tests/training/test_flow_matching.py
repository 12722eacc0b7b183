"""The flow-matching stages: one pair learned by heart, levels and weights, gradients with layers
run again.
"""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from made_models import CONFIG, WHOLE_CLIPS, flow_stage, made_model
from made_pairs import MadePairs, losses_of

from artifixer.runtime.progress import Progress
from artifixer.runtime.seeds import generator
from artifixer.training.clips import ClipConfig, draw_batch, encode_clips
from artifixer.training.flow_matching import FlowMatchingTraining
from artifixer.training.loop import LoopConfig, train
from artifixer.training.self_forcing import cut_in_blocks
from artifixer.video.model import Model
from artifixer.video.sample import SampleConfig, keyed_noise, sample_blocks

#: Gradients of layers that are run again differ by rounding of float32 sums at most.
CHECKPOINT_TOLERANCE = 1e-5


def sample_error(
    model: Model, pairs: MadePairs, block_frames: int, steps: int = 4
) -> tuple[float, float]:
    """Squared error of sampled latents, and of the render's."""
    clips = draw_batch(
        pairs.pairs, WHOLE_CLIPS, [generator(9, "clip")] * len(pairs.pairs), generator(9, "shape")
    )
    encoded = encode_clips(clips, model.vae, model.config.text)
    sampling = SampleConfig(steps, block_frames, max(4, block_frames), 0, model.config.source)
    made = list(
        sample_blocks(
            model.transformer, cut_in_blocks(encoded, block_frames), sampling, keyed_noise(0)
        )
    )
    errors = (
        torch.cat(made, dim=2) - encoded.clean_latents,
        encoded.render_latents - encoded.clean_latents,
    )
    ours, renders = (float(error.square().mean()) for error in errors)
    return ours, renders


@pytest.mark.parametrize("name", ["bidirectional", "diffusion_forcing"])
def test_one_pair_is_learned_by_heart(name, tmp_path):
    pairs = MadePairs(count=1)
    model = made_model(pairs)
    settings = FlowMatchingTraining(WHOLE_CLIPS, learning_rate=6e-3, betas=(0.9, 0.98))
    stage = flow_stage(name, model, settings)
    train(
        stage,
        pairs,
        LoopConfig(steps=70, warmup=5, cooldown=0.5),
        tmp_path,
        Progress(output=io.StringIO()),
    )
    ours, render = sample_error(
        model, pairs, block_frames=4 if name == "bidirectional" else CONFIG.block_frames
    )
    assert ours <= 0.1 * render


def test_levels_are_one_per_block_or_one_per_clip():
    pairs, count = MadePairs(count=1), 100
    clips = draw_batch(pairs.pairs, WHOLE_CLIPS, [generator(0, "clip")], generator(0, "shape"))
    generators = [generator(0, "levels", sample=index) for index in range(count)]
    causal, whole = (
        flow_stage(kind, made_model(pairs), FlowMatchingTraining(WHOLE_CLIPS))
        for kind in ("diffusion_forcing", "bidirectional")
    )
    levels = causal._draw_levels(clips, generators)
    assert levels.shape == (count, 2)
    assert (levels[:, 0] != levels[:, 1]).float().mean() > 0.98
    assert whole._draw_levels(clips, generators).shape == (count, 1)


@pytest.mark.parametrize("name", ["bidirectional", "diffusion_forcing"])
def test_gradients_of_layers_run_again_are_the_plain_ones(name):
    pairs = MadePairs(count=2)
    gradients = []
    for runs_again in (False, True):
        stage = flow_stage(
            name,
            made_model(pairs, zeros=False),
            FlowMatchingTraining(replace(WHOLE_CLIPS, tail_drop=1.0)),
        )
        stage.transformer.checkpoint_layers = runs_again
        losses, _ = losses_of(
            stage, pairs.pairs, [generator(0, "test", sample=i) for i in range(2)], step=0
        )
        losses["transformer"].backward()
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in stage.transformer.parameters()])
        )
    assert float(gradients[0].norm()) > 0
    torch.testing.assert_close(
        gradients[1],
        gradients[0],
        rtol=0,
        atol=CHECKPOINT_TOLERANCE * float(gradients[0].abs().max()),
    )


def test_a_step_without_references_still_trains(tmp_path):
    pairs = MadePairs(count=2)
    clips = ClipConfig(frames=(13,), references=(0, 0))
    stage = flow_stage("bidirectional", made_model(pairs), FlowMatchingTraining(clips))
    before = [parameter.detach().clone() for parameter in stage.transformer.parameters()]
    train(stage, pairs, LoopConfig(steps=2, batch=2), tmp_path, Progress(output=io.StringIO()))
    after = list(stage.transformer.parameters())
    assert all(bool(torch.isfinite(parameter).all()) for parameter in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
