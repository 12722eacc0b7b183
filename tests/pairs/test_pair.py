"""Parts of a training pair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_pairs import same_pair, small_pair

from tests.unchecked import unchecked


def test_a_clip_is_a_part_of_the_frames_with_all_references() -> None:
    pair = small_pair(frames=9)
    part = pair.clip(3, 4)
    assert part.frames == 4
    assert part.views == pair.views
    assert torch.equal(part.clean_frames, pair.clean_frames[3:7])
    assert torch.equal(part.renders, pair.renders[3:7])
    assert torch.equal(part.opacity, pair.opacity[3:7])
    assert torch.equal(part.cameras.viewmats, pair.cameras.viewmats[3:7])
    assert same_pair(pair.clip(0, 9), pair)


def test_references_are_chosen_in_the_given_order() -> None:
    pair = small_pair(views=4)
    chosen = pair.with_references([2, 0])
    assert torch.equal(chosen.reference_photos, pair.reference_photos[[2, 0]])
    assert torch.equal(chosen.reference_cameras.viewmats, pair.reference_cameras.viewmats[[2, 0]])
    assert pair.with_references([]).views == 0


def test_frames_and_cameras_of_different_lengths_are_refused() -> None:
    pair = small_pair()
    with unchecked(), pytest.raises(AssertionError, match="opacity"):
        replace(pair, opacity=pair.opacity[:-1])
