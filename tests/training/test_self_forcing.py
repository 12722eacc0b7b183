"""Self forcing: one pair learned by heart, whose turn it is, gradients through the cache and
through layers run again.
"""

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
from artifixer.training.flow_matching import FlowMatchingTraining
from artifixer.training.loop import LoopConfig, train
from artifixer.training.self_forcing import SelfForcingStage, SelfForcingTraining, cut_in_blocks
from artifixer.video.model import Model
from artifixer.video.sample import SampleConfig, keyed_noise, sample_blocks

#: Gradients of layers that are run again differ by rounding of float32 sums at most.
CHECKPOINT_TOLERANCE = 1e-5

SETTINGS = SelfForcingTraining(WHOLE_CLIPS, student_interval=1, guidance=1.0)


def random_stage(pairs: MadePairs, settings: SelfForcingTraining = SETTINGS):
    """All three networks with random weights everywhere, the critic's and the teacher's
    the same.
    """
    teacher = made_model(pairs, seed=1, zeros=False)
    return self_forcing_stage(
        made_model(pairs, zeros=False), teacher, deepcopy(teacher.transformer), settings
    )


def generators(count: int) -> list[torch.Generator]:
    return [generator(0, "test", sample=i) for i in range(count)]


def error_ratio(model: Model, pairs: MadePairs, steps: int) -> float:
    """Squared error of a sampled rollout's latents relative to the render's."""
    clips = draw_batch(pairs.pairs, WHOLE_CLIPS, [generator(9, "clip")], generator(9, "shape"))
    encoded = encode_clips(clips, model.vae, model.config.text)
    sampling = SampleConfig(steps, CONFIG.block_frames, CONFIG.window_frames, CONFIG.sink_frames)
    made = torch.cat(
        list(
            sample_blocks(
                model.transformer,
                cut_in_blocks(encoded, CONFIG.block_frames),
                sampling,
                keyed_noise(0),
            )
        ),
        dim=2,
    )
    ours, renders = (
        (latents - encoded.clean_latents).square().mean()
        for latents in (made, encoded.render_latents)
    )
    return float(ours / renders)


def test_one_pair_is_learned_by_heart_in_few_steps(tmp_path):
    pairs, quiet = MadePairs(count=1), Progress(output=io.StringIO())
    flow = FlowMatchingTraining(WHOLE_CLIPS, learning_rate=6e-3, betas=(0.9, 0.98))
    teacher, student = made_model(pairs), made_model(pairs)
    train(
        flow_stage("bidirectional", teacher, flow),
        pairs,
        LoopConfig(steps=60, warmup=5, cooldown=0.5),
        tmp_path / "teacher",
        quiet,
    )
    train(
        flow_stage("diffusion_forcing", student, flow),
        pairs,
        LoopConfig(steps=15, warmup=5),
        tmp_path / "causal",
        quiet,
    )
    assert error_ratio(student, pairs, 4) > 0.2
    settings = replace(
        SETTINGS,
        student_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        betas=(0.0, 0.98),
        ema_decay=0.9,
        ema_copy_updates=0,
    )
    stage = self_forcing_stage(student, teacher, deepcopy(teacher.transformer), settings)
    train(stage, pairs, LoopConfig(steps=40, cooldown=0.5), tmp_path / "student", quiet)
    with stage.ema.in_module():
        assert error_ratio(student, pairs, 4) <= 0.2
        assert error_ratio(student, pairs, 1) <= 0.5


def test_the_student_has_its_turn_at_every_fifth_step_and_the_critic_at_every_one():
    pairs = MadePairs(count=1)
    stage = random_stage(pairs, replace(SETTINGS, student_interval=5))
    turns = [set(losses_of(stage, pairs.pairs, generators(1), step)[0]) for step in range(7)]
    assert turns == [{"student", "critic"} if step in (0, 5) else {"critic"} for step in range(7)]
    for step in range(1, 8):
        stage.updated(step)
    assert int(stage.ema.updates) == 2


def test_losses_move_their_own_network_only():
    pairs = MadePairs(count=1)
    stage = random_stage(pairs)
    losses, _ = losses_of(stage, pairs.pairs, generators(1), step=0)
    losses["critic"].backward()
    assert all(parameter.grad is None for parameter in stage.student.parameters())
    stage.critic.zero_grad(set_to_none=True)
    # else critic and teacher agree, and the student has nothing to learn
    stage.teacher.head.bias.data += 0.1
    losses_of(stage, pairs.pairs, generators(1), step=0)[0]["student"].backward()
    assert all(
        parameter.grad is None
        for network in (stage.critic, stage.teacher)
        for parameter in network.parameters()
    )
    unmoved = {
        name for name, parameter in stage.student.named_parameters() if not parameter.grad.any()
    }
    assert unmoved == {"text_embedding.first.weight"}  # the made pairs have no captions


def test_where_critic_and_teacher_agree_the_student_stays():
    pairs = MadePairs(count=1)
    stage = random_stage(pairs)
    losses_of(stage, pairs.pairs, generators(1), step=0)[0]["student"].backward()
    assert max(float(parameter.grad.abs().max()) for parameter in stage.student.parameters()) == 0


def test_guidance_reads_the_negative_text():
    pairs = MadePairs(count=1)
    plain, guided = (random_stage(pairs, replace(SETTINGS, guidance=scale)) for scale in (1.0, 3.0))
    guided.negative_text = torch.ones(1, 2, 4)
    guided.teacher.head.bias.data += 0.1  # else both scores agree
    plain.teacher.head.bias.data += 0.1
    losses = [
        losses_of(stage, pairs.pairs, generators(1), step=0)[0]["student"].item()
        for stage in (plain, guided)
    ]
    assert losses[0] != losses[1]


def test_gradients_of_layers_run_again_are_the_plain_ones():
    pairs = MadePairs(count=1)
    gradients = []
    for runs_again in (False, True):
        stage = random_stage(pairs)
        stage.teacher.head.bias.data += 0.1
        stage.student.checkpoint_layers = runs_again
        losses_of(stage, pairs.pairs, generators(1), step=0)[0]["student"].backward()
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in stage.student.parameters()])
        )
    assert float(gradients[0].norm()) > 0
    torch.testing.assert_close(
        gradients[1],
        gradients[0],
        rtol=0,
        atol=CHECKPOINT_TOLERANCE * float(gradients[0].abs().max()),
    )


@pytest.mark.parametrize("exit_step", [0, 2])
def test_later_blocks_teach_earlier_ones_through_the_cache(exit_step):
    pairs = MadePairs(count=1)
    stage = random_stage(pairs)
    clips = draw_batch(pairs.pairs, WHOLE_CLIPS, generators(1), generator(0, "shape"))
    encoded = encode_clips(clips, stage.vae, CONFIG.text)
    render = encoded.render_latents.requires_grad_()
    made = stage._rollout(
        replace(encoded, render_latents=render), stage.sampling, exit_step, generators(1)
    )
    (gradient,) = torch.autograd.grad(made[:, :, CONFIG.block_frames :].sum(), render)
    assert float(gradient[:, :, : CONFIG.block_frames].abs().max()) > 0


def test_rollouts_from_another_source_than_mixing_are_refused():
    pairs = MadePairs(count=1)
    student, teacher = made_model(pairs), made_model(pairs)
    sampling = replace(CONFIG.sampling(), source="direct", steps=1)
    with pytest.raises(AssertionError, match="distribution to match only from mixing"):
        SelfForcingStage(
            student.transformer,
            deepcopy(teacher.transformer),
            teacher.transformer,
            student.vae,
            SETTINGS,
            sampling,
            0,
            "float32",
        )
