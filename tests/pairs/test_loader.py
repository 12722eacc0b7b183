"""The training order: every pair once per epoch, groups of one size, no dependence on processes or
resumption; damage skipped or named.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_pairs import same_pair, small_pair, write_pairs

from artifixer.pairs.loader import OrderedPairs, grouped_order, open_pairs
from artifixer.pairs.sample_file import encode_sample
from artifixer.pairs.shards import describe, read_index, write_index, write_shard
from artifixer.runtime.errors import InputError

SIZES = [(16, 32), (32, 16), (16, 16)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven pairs of three sizes in two shards."""
    pairs = [
        small_pair(f"{number:02d}", height=SIZES[number % 3][0], width=SIZES[number % 3][1])
        for number in range(11)
    ]
    write_pairs(tmp_path, [pairs[:6], pairs[6:]])
    return tmp_path


@given(
    sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=30),
    group=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_an_epoch_has_every_pair_and_groups_of_one_size(
    sizes: list[tuple[int, int]], group: int, seed: int
) -> None:
    order = grouped_order(sizes, group, torch.Generator().manual_seed(seed))
    assert set(order) == set(range(len(sizes)))
    assert len(order) % group == 0
    assert len(order) == sum(-(-sizes.count(size) // group) * group for size in set(sizes))
    for start in range(0, len(order), group):
        assert len({sizes[index] for index in order[start : start + group]}) == 1


def test_epochs_differ_in_order_and_seeds_differ(folder: Path) -> None:
    pairs = open_pairs(folder)
    orders = [
        tuple(OrderedPairs(pairs, seed).number(epoch * 11 + place) for place in range(11))
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(11)) for order in orders)


def test_the_pair_at_an_index_does_not_depend_on_what_was_read_before(folder: Path) -> None:
    pairs = open_pairs(folder)
    one_after_another = OrderedPairs(pairs, seed=3, group=2)
    names = [one_after_another.pair(index).name for index in range(40)]
    shuffled = list(range(40))
    random.Random(0).shuffle(shuffled)
    resumed = OrderedPairs(pairs, seed=3, group=2, memory_limit=0)
    assert [resumed.pair(index).name for index in shuffled] == [names[index] for index in shuffled]


def test_stored_pairs_come_back_as_written(folder: Path) -> None:
    ordered = OrderedPairs(open_pairs(folder), seed=0)
    height, width = SIZES[4 % 3]
    for _ in range(2):
        assert same_pair(ordered.stored_pair(4), small_pair("04", height=height, width=width))


def test_pairs_of_several_folders_are_one_set(folder: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "more", [[small_pair("x")]])
    assert [stored.entry.name for stored in open_pairs([folder, tmp_path / "more"]).pairs][-2:] == [
        "10",
        "x",
    ]
    assert open_pairs([folder, tmp_path / "more"]).identity != open_pairs(folder).identity


def test_a_truncated_shard_is_named_or_skipped(folder: Path) -> None:
    shard = read_index(folder)[0]
    path = folder / shard.file
    path.write_bytes(path.read_bytes()[: shard.samples[4].offset + 10])
    with pytest.raises(
        InputError, match=r"pairs-00000\.tar: \d+ bytes.*truncated in sample 04; --skip-broken"
    ):
        open_pairs(folder)
    pairs = open_pairs(folder, skip_broken=True)
    assert [stored.entry.name for stored in pairs.pairs] == [
        "00",
        "01",
        "02",
        "03",
        "06",
        "07",
        "08",
        "09",
        "10",
    ]
    assert len(pairs.skipped) == 2
    assert "sample 05" in pairs.skipped[1]


def test_a_missing_shard_is_named_or_skipped(folder: Path) -> None:
    (folder / "pairs-00001.tar").unlink()
    with pytest.raises(InputError, match=r"pairs-00001\.tar: does not exist"):
        open_pairs(folder)
    assert len(open_pairs(folder, skip_broken=True)) == 6


def test_a_damaged_pair_is_named_when_it_is_read(folder: Path) -> None:
    shard = read_index(folder)[1]
    path = folder / shard.file
    data = bytearray(path.read_bytes())
    data[shard.samples[2].offset + 1000] ^= 255
    path.write_bytes(data)
    ordered = OrderedPairs(open_pairs(folder), seed=0)
    with pytest.raises(InputError, match=r"pairs-00001\.tar: sample 08: .*--skip-broken"):
        ordered.stored_pair(8)
    assert len(open_pairs(folder, skip_broken=True)) == 10


def test_a_sample_of_another_version_is_named_with_its_shard_or_skipped(tmp_path: Path) -> None:
    """A folder put together from what several versions of the program wrote: the index is of this
    one.
    """
    pairs = [small_pair("a"), small_pair("b")]
    newer = encode_sample(pairs[1]).replace(b'"version": 2', b'"version": 7')
    samples = [
        (describe(pairs[0], encode_sample(pairs[0])), encode_sample(pairs[0])),
        (describe(pairs[1], newer), newer),
    ]
    write_index(tmp_path, [write_shard(tmp_path / "pairs-00000.tar", samples)], complete=True)
    with pytest.raises(
        InputError, match=r"pairs-00000\.tar: sample b: .*version 7; this program reads version 2"
    ):
        OrderedPairs(open_pairs(tmp_path), seed=0).stored_pair(1)
    kept = open_pairs(tmp_path, skip_broken=True)
    assert [stored.entry.name for stored in kept.pairs] == ["a"]
    assert "version 7" in kept.skipped[0]


def test_no_pairs_is_bad_input(tmp_path: Path) -> None:
    write_pairs(tmp_path, [])
    with pytest.raises(InputError, match="no training pairs"):
        open_pairs(tmp_path)
