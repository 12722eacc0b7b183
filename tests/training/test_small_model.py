"""Tricks of the small models: levels, sources, own renders, weights of errors, and true clips."""

from __future__ import annotations

import io
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from made_models import CONFIG, WHOLE_CLIPS, flow_stage, made_model, self_forcing_stage
from made_pairs import MadePairs, losses_of

from artifixer.runtime.progress import Progress
from artifixer.runtime.seeds import generator
from artifixer.training.clips import draw_batch, encode_clips
from artifixer.training.loop import LoopConfig, train
from artifixer.training.small_model import (
    EASY_FLOOR,
    SmallDrawnClips,
    SmallFlowTraining,
    SmallSelfForcingStage,
    SmallSelfForcingTraining,
    decoded_clips,
)
from artifixer.video.vae import frames_to_video


def test_a_fraction_of_clips_is_trained_at_the_sources_level():
    pairs = MadePairs(count=1)
    settings = SmallFlowTraining(WHOLE_CLIPS, source_fraction=0.25)
    stage = flow_stage("diffusion_forcing", made_model(pairs), settings)
    usual = torch.zeros(400, dtype=torch.bool)
    generators = [generator(0, "levels", sample=index) for index in range(400)]
    levels = stage.draw_small_levels(usual, 4, generators)
    assert levels.shape == (400, 2)
    at_source = (levels == 0).all(dim=1)
    assert at_source.float().mean() == pytest.approx(0.25, abs=0.06)
    assert (levels[~at_source, 0] != levels[~at_source, 1]).float().mean() > 0.98


def test_the_average_of_a_short_training_follows_it(tmp_path):
    pairs = MadePairs(count=1)
    settings = SmallFlowTraining(WHOLE_CLIPS, ema_decay=0.95, ema_warm=True)
    stage = flow_stage("bidirectional", made_model(pairs), settings)
    train(stage, pairs, LoopConfig(steps=3), tmp_path, Progress(output=io.StringIO()))
    assert stage.ema is not None and int(stage.ema.updates) == 3
    bias = stage.transformer.head.bias.detach().clone()
    with stage.ema.in_module():
        assert not torch.equal(stage.transformer.head.bias, bias)
    assert flow_stage("bidirectional", made_model(pairs), SmallFlowTraining()).ema is None


def test_a_share_of_clips_starts_at_the_mixing_source_with_levels_of_its_own():
    pairs = MadePairs(count=1)
    settings = SmallFlowTraining(
        WHOLE_CLIPS,
        source="direct",
        source_fraction=1.0,
        mixing_source_fraction=0.0,
        mixing_fraction=0.5,
    )
    stage = flow_stage("bidirectional", made_model(pairs), settings)
    is_mixed = torch.tensor([True, False])
    levels = stage.draw_small_levels(
        is_mixed, 4, [generator(0, "levels", sample=i) for i in range(2)]
    )
    assert levels[0] != 0
    assert levels[1] == 0
    clips = draw_batch(
        pairs.pairs * 2, WHOLE_CLIPS, [generator(0, "clip")] * 2, generator(0, "shape")
    )
    encoded = encode_clips(
        [replace(clip, opacity=clip.opacity // 2) for clip in clips], stage.vae, CONFIG.text
    )
    noise = torch.randn(encoded.clean_latents.shape, generator=generator(0, "noise"))
    source = stage._source(encoded, SmallDrawnClips(clips, noise, levels, [False, False], is_mixed))
    assert torch.equal(source[1], encoded.render_latents[1])
    half = 127 / 255
    torch.testing.assert_close(source[0], half * encoded.render_latents[0] + (1 - half) * noise[0])


def test_a_clip_may_be_shown_as_its_own_first_result_and_is_opaque_then():
    pairs = MadePairs(count=2)
    settings = SmallFlowTraining(WHOLE_CLIPS, source="direct", second_fraction=1.0, second_from=1)
    stage = flow_stage("diffusion_forcing", made_model(pairs, zeros=False), settings)
    clips = draw_batch(pairs.pairs, WHOLE_CLIPS, [generator(0, "clip")] * 2, generator(0, "shape"))
    shown = stage.with_own_renders(clips, [False, True])
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
            SmallFlowTraining(clips, easy_power=power),
        )
        losses.append(
            losses_of(stage, pairs.pairs, [generator(0, "test")], step=0)[0]["transformer"].item()
        )
    drawn = draw_batch(pairs.pairs, clips, [generator(0, "test")], generator(0, "shape"))
    encoded = encode_clips(drawn, stage.vae, CONFIG.text)
    wrong = float((encoded.render_latents - encoded.clean_latents).square().mean())
    assert losses[1] / losses[0] == pytest.approx(EASY_FLOOR / (wrong + EASY_FLOOR), rel=1e-4)


def test_decoded_clean_latents_with_the_residual_of_the_truth_are_the_truth():
    pairs = MadePairs(count=1)
    stage = flow_stage("bidirectional", made_model(pairs), SmallFlowTraining(WHOLE_CLIPS))
    (clip,) = draw_batch(pairs.pairs, WHOLE_CLIPS, [generator(0, "clip")], generator(0, "shape"))
    clip = replace(clip, renders=clip.clean_frames, opacity=torch.full_like(clip.opacity, 255))
    encoded = encode_clips([clip], stage.vae, CONFIG.text)
    decoded = decoded_clips(encoded.clean_latents, encoded, [clip], stage.vae)
    torch.testing.assert_close(decoded, frames_to_video(clip.clean_frames), rtol=0, atol=1e-5)


SELF_FORCING = SmallSelfForcingTraining(WHOLE_CLIPS, student_interval=1, guidance=1.0)


def test_students_without_a_goal_or_a_turn_are_refused():
    pairs = MadePairs(count=1)
    student, teacher = made_model(pairs), made_model(pairs)
    direct = replace(CONFIG.sampling(), source="direct", steps=1)
    for settings, message in (
        (replace(SELF_FORCING, student_interval=2), "must be trained at every step"),
        (SELF_FORCING, "need clean_weight"),
    ):
        with pytest.raises(AssertionError, match=message):
            SmallSelfForcingStage(
                student.transformer,
                deepcopy(teacher.transformer),
                teacher.transformer,
                student.vae,
                settings,
                direct,
                0,
                "float32",
            )


def test_a_fraction_of_rollouts_starts_at_the_mixing_source():
    pairs = MadePairs(count=1)
    teacher = made_model(pairs, seed=1, zeros=False)
    stage = self_forcing_stage(
        made_model(pairs, zeros=False),
        teacher,
        deepcopy(teacher.transformer),
        replace(SELF_FORCING, mixing_fraction=0.5, clean_weight=1.0),
    )
    stage.sampling = replace(stage.sampling, source="direct", steps=1)
    chosen = [stage._sampling(step) for step in range(40)]
    assert {(sampling.source, sampling.steps) for sampling in chosen} == {
        ("direct", 1),
        ("mixing", 4),
    }
    for step, sampling in enumerate(chosen[:6]):
        trained = set(losses_of(stage, pairs.pairs, [generator(0, "test")], step)[0])
        assert trained == ({"student", "critic"} if sampling.source == "mixing" else {"student"})
