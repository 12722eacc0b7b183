"""Reference views: even spacing as a property, and the release's roll-outs against its own."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_scenes import random_poses
from safetensors.torch import load_file

from artifixer.scenes.references import RollOut, release_roll_outs, select_references


@given(
    names=st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=40),
    count=st.integers(1, 12),
)
def test_references_are_distinct_sorted_and_evenly_spaced(names, count):
    chosen = select_references(names, count)
    assert len(chosen) == min(count, len(names))
    positions = [sorted(names).index(name) for name in chosen]
    steps = [after - before for before, after in itertools.pairwise(positions)]
    assert positions[0] == 0
    assert all(step > 0 for step in steps)
    assert not steps or max(steps) - min(steps) <= 1


def test_six_references_by_default():
    assert len(select_references([f"{i:02d}" for i in range(40)])) == 6


#: How the stored variants call the arguments; the third needs the listed frames.
_TARGETS = {"val": "heldout", "all": "all", "val_chunk7": "heldout"}


@pytest.mark.parametrize("variant", ["val", "all", "targets", "val_chunk7"])
@pytest.mark.parametrize("mode", ["evenly_spaced", "covisibility"])
def test_roll_outs_equal_the_release(parity_folder, mode, variant):
    selection = json.loads((parity_folder / "protocol.json").read_text())["selection"]
    poses = load_file(parity_folder / "f_long_path.safetensors")["c2w"]
    stored = selection["pairs"][f"{mode}/{variant}"]
    targets = _TARGETS.get(variant, stored[0]["frames"])
    longest = 7 if variant == "val_chunk7" else None
    roll_outs = release_roll_outs(
        poses, selection["train"], selection["num_refs"], mode, targets, longest
    )
    expected = tuple(
        RollOut(tuple(entry["refs"]), tuple(entry["frames"]), entry["reversed"]) for entry in stored
    )
    assert roll_outs == expected


#: Outputs of this function, kept while the test above passed: (references, targets, is_reversed).
_KEPT = {
    "evenly_spaced": [
        ((5, 2, 1), (0,), True),
        ((1, 2, 5), (3, 4), False),
        ((1, 2, 5), (6, 7, 8), False),
        ((1, 2, 5), (10,), False),
    ],
    "covisibility": [
        ((5, 2, 1), (0,), True),
        ((9, 2, 1), (4, 3), True),
        ((1, 2, 9), (6, 7, 8), False),
        ((1, 2, 9), (10,), False),
    ],
}


@pytest.mark.parametrize("mode", _KEPT)
def test_roll_outs_are_what_they_were_when_they_equalled_the_release(mode):
    poses, train = random_poses(11, 0), [1, 2, 5, 9]
    whole = release_roll_outs(poses, train, 3, mode)
    assert whole == tuple(RollOut(*kept) for kept in _KEPT[mode])
    pieces = release_roll_outs(poses, train, 3, mode, longest=2)
    assert [piece.targets for piece in pieces][2:4] == [(6, 7), (8,)]
    (one,) = release_roll_outs(poses, train, 3, mode, targets=[4, 3, 8])
    assert one == RollOut(whole[-1].references, (4, 3, 8))
