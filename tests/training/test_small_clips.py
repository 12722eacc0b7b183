"""Clips of small models: strides, a shared number of references, mirrored scenes."""

from __future__ import annotations

import torch
from made_models import WHOLE_CLIPS
from made_pairs import made_pair

from artifixer.runtime.seeds import generator
from artifixer.training.clips import ClipConfig, draw_batch, draw_clip, frame_order
from artifixer.training.small_clips import (
    SmallClipConfig,
    draw_small_batch,
    mirrored,
    strided_order,
)


def many(count: int) -> list[torch.Generator]:
    return [generator(0, "test", sample=i) for i in range(count)]


def test_strides_skip_frames():
    inside = [strided_order(400, 9, random, (1, 3)) for random in many(60)]
    strides = {
        int(step)
        for order in inside
        if (order.diff() == order[1] - order[0]).all()
        for step in order.diff().abs()
    }
    assert strides == {1, 3}
    for random in many(20):
        assert set(strided_order(45, 13, random, (2,)).diff().abs().tolist()) <= {0, 1, 2}, (
            "where it turns around it may take a smaller step"
        )
    before, after = generator(0, "same"), generator(0, "same")
    assert frame_order(45, 13, before).tolist() == strided_order(45, 13, after, (1,)).tolist()
    assert torch.rand((), generator=before) == torch.rand((), generator=after), (
        "one stride alone draws nothing"
    )


def test_clips_of_one_step_have_as_many_references_repeated_where_needed():
    pairs = [made_pair(0, views=2), made_pair(1, views=5)]
    config = SmallClipConfig(frames=(5, 9), references=(4, 4), share_references=True)
    clips = draw_small_batch(pairs, config, many(2), generator(0, "shape"))
    assert [len(clip.reference_cameras) for clip in clips] == [4, 4]
    assert clips[0].clean_frames.shape[0] == clips[1].clean_frames.shape[0]
    assert (
        len(
            {
                frames
                for i in range(20)
                for frames in [
                    draw_small_batch(pairs, config, many(2), generator(i, "shape"))[
                        0
                    ].opacity.shape[0]
                ]
            }
        )
        == 2
    )


def test_without_the_tricks_clips_are_those_of_the_paper():
    """The same random numbers are drawn in the same order."""
    pairs = [made_pair(0), made_pair(1)]
    settings = {"frames": (5, 9), "references": (0, 3), "reference_drop": 0.5}
    generators = [many(2), many(2)]
    plain = draw_batch(pairs, ClipConfig(**settings), generators[0], generator(0, "shape"))
    small = draw_small_batch(
        pairs, SmallClipConfig(**settings), generators[1], generator(0, "shape")
    )
    for ours, theirs in zip(small, plain, strict=True):
        assert torch.equal(ours.renders, theirs.renders)
        assert torch.equal(ours.reference_photos, theirs.reference_photos)
        assert ours.keeps_references == theirs.keeps_references
    for ours, theirs in zip(*generators, strict=True):
        assert torch.equal(ours.get_state(), theirs.get_state())


def test_a_mirrored_clip_shows_the_mirrored_scene():
    """Projecting a point's mirror image into the mirrored cameras gives the mirrored pixel."""
    clip = draw_clip(made_pair(), WHOLE_CLIPS, 13, generator(0, "clip"))
    points = torch.randn(20, 3, generator=generator(0, "points")) + torch.tensor([0.0, 0.0, 4.0])
    pixels, depth, _ = clip.cameras.project(points)
    other, other_depth, _ = mirrored(clip).cameras.project(points * torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(
        other[..., 0], clip.cameras.width - pixels[..., 0], rtol=1e-5, atol=1e-4
    )
    torch.testing.assert_close(other[..., 1], pixels[..., 1], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(other_depth, depth)
    assert torch.equal(mirrored(clip).clean_frames[:, :, 0], clip.clean_frames[:, :, -1])
