"""Reference views: even spacing as a property, and the public release's choice."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from artifixer.scenes.references import select_references


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


def test_references_of_whole_clips_equal_the_release(parity_folder):
    selection = json.loads((parity_folder / "protocol.json").read_text())["selection"]
    (stored,) = selection["pairs"]["evenly_spaced/all"]
    names = [f"{frame:05d}" for frame in selection["train"]]
    chosen = select_references(names, selection["num_refs"])
    assert [int(name) for name in chosen] == stored["refs"]


def test_references_are_those_kept_when_they_equalled_the_release():
    """Outputs of the function, kept while the test above passed."""
    names = [f"{number:02d}" for number in range(40)]
    assert select_references(names) == ("00", "06", "13", "20", "26", "33")
    assert select_references(names[:11], 4) == ("00", "02", "05", "08")
