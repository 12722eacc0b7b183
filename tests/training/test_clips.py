"""Clips drawn from pairs: order of frames, dropout, references."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made_models import CONFIG, WHOLE_CLIPS, flow_stage, made_model
from made_pairs import MadePairs, made_pair

from artifixer.runtime.seeds import generator
from artifixer.training.clips import (
    ClipConfig,
    cut_clip,
    draw_clip,
    draw_reference_count,
    encode_clips,
    frame_order,
)
from artifixer.training.flow_matching import FlowMatchingTraining

#: Float32 products of a batch may be sums in another order than those of one clip.
BATCH_TOLERANCE = 1e-5


def many(count: int) -> list[torch.Generator]:
    return [generator(0, "test", sample=i) for i in range(count)]


def test_frames_are_neighbours_and_turn_around_at_the_ends():
    for random in many(40):
        order = frame_order(5, 13, random)
        assert order.shape == (13,)
        assert order.min() >= 0 and order.max() <= 4
        assert (order.diff().abs() == 1).all()
    starts = {int(frame_order(5, 2, random)[0]) for random in many(60)}
    assert starts == {0, 1, 2, 3, 4}
    assert frame_order(1, 3, generator(0, "a")).tolist() == [0, 0, 0]


def test_a_training_sees_the_whole_of_a_long_pair():
    """Clips of five frames of a pair of forty, as a stage draws them step by step: every frame
    comes, the ends half as often.
    """
    pairs = MadePairs(count=1, frames=40)
    stage = flow_stage(
        "bidirectional",
        made_model(MadePairs(count=1)),
        FlowMatchingTraining(replace(WHOLE_CLIPS, frames=(5,))),
    )
    numbered = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand_as(
        pairs.pairs[0].clean_frames
    )
    pair = replace(pairs.pairs[0], clean_frames=numbered)
    drawn = [
        stage.draw([pair], [generator(0, stage.name, step, step)], step)
        .clips[0]
        .clean_frames[:, 0, 0, 0]
        for step in range(400)
    ]
    counts = torch.cat(drawn).long().bincount(minlength=40)
    assert counts.min() > 10 and counts.max() < 100, counts.tolist()
    assert len({int(frames[0]) for frames in drawn}) == 40


def test_the_papers_references_are_uniform_and_cut_to_what_there_is():
    counts = [draw_reference_count(ClipConfig(), 12, random) for random in many(600)]
    assert set(counts) == set(range(13))
    clips = [
        draw_clip(made_pair(views=3), ClipConfig(frames=(5,)), 5, random) for random in many(40)
    ]
    assert {len(clip.reference_cameras) for clip in clips} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("views", "allowed"), [(2, {1, 2}), (3, {3}), (6, {4, 5, 6}), (12, {7, 8, 9, 10, 11, 12})]
)
def test_the_releases_references_depend_on_the_reconstructions_views(views, allowed):
    assert {
        draw_reference_count(ClipConfig(references="release"), views, random) for random in many(80)
    } == allowed


def test_dropped_frames_are_black_and_empty_and_the_rest_is_untouched():
    pair = made_pair()
    lengths = set()
    for random in many(60):
        clip = draw_clip(pair, replace(WHOLE_CLIPS, tail_drop=1.0), 13, random)
        filled = clip.opacity.flatten(1).any(dim=1)
        kept = int(filled.sum())
        assert filled[:kept].all() and not clip.renders[kept:].any()
        lengths.add(kept)
    assert lengths == set(range(1, 14))  # K is uniform up to all but one frame
    dropped = draw_clip(
        pair,
        replace(WHOLE_CLIPS, render_drop=1.0, text_drop=1.0, reference_drop=1.0),
        13,
        generator(0, "a"),
    )
    assert not dropped.renders.any() and not dropped.opacity.any()
    assert not dropped.keeps_text and not dropped.keeps_references


def test_dropout_is_as_frequent_as_set():
    config = replace(WHOLE_CLIPS, text_drop=0.1, reference_drop=0.3)
    clips = [draw_clip(made_pair(frames=2), config, 2, random) for random in many(500)]
    assert sum(not clip.keeps_text for clip in clips) / 500 == pytest.approx(0.1, abs=0.04)
    assert sum(not clip.keeps_references for clip in clips) / 500 == pytest.approx(0.3, abs=0.06)


def test_dropped_references_have_no_effect_on_the_network():
    pairs = MadePairs(count=1)
    model = made_model(pairs, zeros=False)
    clip = draw_clip(pairs.pairs[0], WHOLE_CLIPS, 13, generator(0, "clip"))
    with_, without = (
        encode_clips([replace(clip, keeps_references=keeps)], model.vae, CONFIG.text)
        for keeps in (True, False)
    )
    none = replace(without, conditions=without.conditions.drop(references=True))
    time = torch.tensor([500.0])
    seen, unseen, absent = (
        model.transformer(encoded.clean_latents, time, encoded.conditions).detach()
        for encoded in (with_, without, none)
    )
    assert not torch.equal(seen, unseen)
    torch.testing.assert_close(unseen, absent, rtol=0, atol=1e-6)


def test_clips_with_other_numbers_of_references_form_a_batch():
    """Each is computed as it is alone; the one without any as without the reference branch."""
    model = made_model(MadePairs(count=3), zeros=False)
    clips = [
        cut_clip(made_pair(seed), torch.arange(13), list(range(count)))
        for seed, count in ((0, 3), (1, 0), (2, 1))
    ]
    batch = encode_clips(clips, model.vae, CONFIG.text)
    assert batch.conditions.reference_counts == (3, 1, 1)
    assert (
        batch.conditions.use_references is not None
        and batch.conditions.use_references.tolist() == [1, 0, 1]
    )
    times = torch.tensor([500.0, 300.0, 900.0])
    together = model.transformer(batch.clean_latents, times, batch.conditions).detach()
    for index, clip in enumerate(clips):
        alone = encode_clips([clip], model.vae, CONFIG.text)
        conditions = (
            alone.conditions
            if len(clip.reference_cameras)
            else alone.conditions.drop(references=True)
        )
        one = model.transformer(alone.clean_latents, times[index : index + 1], conditions).detach()
        torch.testing.assert_close(together[index : index + 1], one, rtol=0, atol=BATCH_TOLERANCE)


@pytest.mark.parametrize("views", [0, 3])
def test_the_reference_branch_runs_without_references_and_gives_zeros(views):
    """Else processes with sharded weights would exchange other modules than those that
    drew some.
    """
    model = made_model(MadePairs(count=1), zeros=False)
    clip = cut_clip(made_pair(0, views=views), torch.arange(13), [])
    encoded = encode_clips([clip], model.vae, CONFIG.text)
    branch = model.transformer.layers[0].cross_attention.reference_key
    runs: list[int] = []
    branch.register_forward_hook(lambda *_: runs.append(1))
    time = torch.tensor([500.0])
    with_branch = model.transformer(encoded.clean_latents, time, encoded.conditions)
    assert runs == [1]
    assert torch.equal(
        with_branch,
        model.transformer(encoded.clean_latents, time, encoded.conditions.drop(references=True)),
    )
    with_branch.sum().backward()
    assert branch.weight.grad is not None and not branch.weight.grad.any()


def test_captions_reach_the_conditions_unless_dropped():
    pairs = MadePairs(count=1)
    model = made_model(pairs)
    clip = draw_clip(
        replace(pairs.pairs[0], caption_embedding=torch.ones(1, 4)),
        WHOLE_CLIPS,
        13,
        generator(0, "clip"),
    )
    assert encode_clips([clip], model.vae, CONFIG.text).conditions.text[0].tolist() == [
        [1.0] * 4,
        [0.0] * 4,
    ]
    assert not encode_clips(
        [replace(clip, keeps_text=False)], model.vae, CONFIG.text
    ).conditions.text.any()
