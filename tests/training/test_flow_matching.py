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
from artifixer.training.flow_matching import EASY_FLOOR, FlowMatchingTraining
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
    settings = FlowMatchingTraining(
        WHOLE_CLIPS, learning_rate=6e-3, betas=(0.9, 0.98), ema_decay=0.95, ema_warm=True
    )
    stage = flow_stage(name, model, settings)
    train(
        stage,
        pairs,
        LoopConfig(steps=70, warmup=5, cooldown=0.5),
        tmp_path,
        Progress(output=io.StringIO()),
    )
    assert stage.ema is not None
    with stage.ema.in_module():
        ours, render = sample_error(
            model, pairs, block_frames=4 if name == "bidirectional" else CONFIG.block_frames
        )
    assert ours <= 0.1 * render


def test_levels_are_one_per_block_and_for_a_share_of_clips_the_sources():
    pairs = MadePairs(count=1)
    stage = flow_stage(
        "diffusion_forcing", made_model(pairs), FlowMatchingTraining(WHOLE_CLIPS, source_share=0.25)
    )
    usual = torch.zeros(400, dtype=torch.bool)
    levels = stage._draw_levels(usual, 4, [generator(0, "levels", sample=i) for i in range(400)])
    assert levels.shape == (400, 2)
    at_source = (levels == 0).all(dim=1)
    assert at_source.float().mean() == pytest.approx(0.25, abs=0.06)
    assert (levels[~at_source, 0] != levels[~at_source, 1]).float().mean() > 0.98
    whole = flow_stage("bidirectional", made_model(pairs), FlowMatchingTraining())
    assert whole._draw_levels(usual[:3], 4, [generator(0, "a")] * 3).shape == (3, 1)


def test_a_share_of_clips_starts_at_the_mixing_source_with_levels_of_its_own():
    pairs = MadePairs(count=1)
    settings = FlowMatchingTraining(
        WHOLE_CLIPS, source="direct", source_share=1.0, mixing_source_share=0.0, mixing_share=0.5
    )
    stage = flow_stage("bidirectional", made_model(pairs), settings)
    is_mixed = torch.tensor([True, False])
    levels = stage._draw_levels(is_mixed, 4, [generator(0, "levels", sample=i) for i in range(2)])
    assert levels[0] != 0
    assert levels[1] == 0
    clips = draw_batch(
        pairs.pairs * 2, WHOLE_CLIPS, [generator(0, "clip")] * 2, generator(0, "shape")
    )
    encoded = encode_clips(
        [replace(clip, opacity=clip.opacity // 2) for clip in clips], stage.vae, CONFIG.text
    )
    noise = torch.randn(encoded.clean_latents.shape, generator=generator(0, "noise"))
    source = stage._source(encoded, noise, is_mixed)
    assert torch.equal(source[1], encoded.render_latents[1])
    half = 127 / 255
    torch.testing.assert_close(source[0], half * encoded.render_latents[0] + (1 - half) * noise[0])


def test_a_clip_may_be_shown_as_its_own_first_result_and_is_opaque_then():
    pairs = MadePairs(count=2)
    settings = FlowMatchingTraining(
        WHOLE_CLIPS, source="direct", level_weights="even", second_share=1.0, second_from=1
    )
    stage = flow_stage("diffusion_forcing", made_model(pairs, zeros=False), settings)
    clips = draw_batch(pairs.pairs, WHOLE_CLIPS, [generator(0, "clip")] * 2, generator(0, "shape"))
    shown = stage._with_own_renders(clips, [False, True], CONFIG.text, torch.device("cpu"))
    assert shown[0] is clips[0]
    assert int(shown[1].opacity.min()) == 255
    changed = (shown[1].renders != clips[1].renders).any(dim=-1)
    assert changed.float().mean() > 0.9
    assert torch.equal(shown[1].clean_frames, clips[1].clean_frames)
    losses = [
        losses_of(stage, pairs.pairs, [generator(0, "test", sample=i) for i in range(2)], step)[0][
            "transformer"
        ].item()
        for step in (0, 1)
    ]
    assert losses[0] != losses[1]


def test_the_pixel_loss_is_zero_for_the_truth_and_only_at_the_source():
    pairs = MadePairs(count=1)
    stage = flow_stage(
        "bidirectional",
        made_model(pairs),
        FlowMatchingTraining(WHOLE_CLIPS, source="direct", pixel_weight=1.0),
    )
    clips = draw_batch(pairs.pairs, WHOLE_CLIPS, [generator(0, "clip")], generator(0, "shape"))
    clips = [
        replace(
            clips[0], renders=clips[0].clean_frames, opacity=torch.full_like(clips[0].opacity, 255)
        )
    ]
    encoded = encode_clips(clips, stage.vae, CONFIG.text)
    at_source, elsewhere = torch.tensor([True]), torch.tensor([False])
    # the residual gives back what the autoencoder lost, so clean latents lead to the truth itself
    assert float(
        stage._pixel_loss(encoded.clean_latents, encoded, at_source, clips)
    ) == pytest.approx(0, abs=1e-10)
    assert float(stage._pixel_loss(encoded.clean_latents + 1, encoded, at_source, clips)) > 1e-3
    assert float(stage._pixel_loss(encoded.clean_latents + 1, encoded, elsewhere, clips)) == 0


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
    clips = ClipConfig(frames=(13,), references=(0, 0), share_references=True)
    stage = flow_stage("bidirectional", made_model(pairs), FlowMatchingTraining(clips))
    train(stage, pairs, LoopConfig(steps=2, batch=2), tmp_path, Progress(output=io.StringIO()))


def test_easy_power_takes_weight_from_frames_whose_render_is_wrong():
    """One latent frame per clip: the loss is the plain one times a factor known from the render's
    error.
    """
    pairs = MadePairs(count=1, frames=1)
    clips = replace(WHOLE_CLIPS, frames=(1,))
    losses = []
    for power in (0.0, 1.0):
        stage = flow_stage(
            "bidirectional",
            made_model(MadePairs(count=1), zeros=False),
            FlowMatchingTraining(clips, easy_power=power),
        )
        losses.append(
            losses_of(stage, pairs.pairs, [generator(0, "test")], step=0)[0]["transformer"].item()
        )
    drawn = draw_batch(pairs.pairs, clips, [generator(0, "test")], generator(0, "shape"))
    encoded = encode_clips(drawn, stage.vae, CONFIG.text)
    wrong = float((encoded.render_latents - encoded.clean_latents).square().mean())
    assert losses[1] / losses[0] == pytest.approx(EASY_FLOOR / (wrong + EASY_FLOOR), rel=1e-4)
