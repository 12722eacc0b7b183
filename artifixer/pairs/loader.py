"""Training order of pairs: folders of shards and a seed -> ``pair(index)`` for any index, the same
on every process.

The index is unbounded and counts through epochs; each epoch contains every pair once, in a new
order. A step that reads ``group`` pairs over all processes takes the indices from ``step * group``
on, split among the processes: which pairs a step reads depends neither on the number of processes
nor on the step at which a run was resumed. Pairs of a group have one size and can be stacked.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from artifixer.pairs.pair import TrainingPair
from artifixer.pairs.shards import SampleEntry, ShardEntry, read_index, read_sample
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.seeds import generator

#: Default size of the cache of decoded pairs, bytes.
MEMORY_LIMIT = 4 * 2**30


@dataclass(frozen=True)
class StoredPair:
    """Location of one pair on disk."""

    folder: Path
    """Folder of the index and the shards."""

    shard: ShardEntry
    """Shard that contains the pair."""

    entry: SampleEntry
    """The pair's entry of the index."""

    def read(self) -> TrainingPair:
        """The pair; raises ``InputError`` naming shard and sample when it is damaged."""
        return read_sample(self.folder, self.shard, self.entry)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the clip."""
        return self.entry.height, self.entry.width

    @property
    def decoded_bytes(self) -> int:
        """Size of the pair's pixels: clean frames, renders, opacity and reference photos."""
        return self.entry.height * self.entry.width * (7 * self.entry.frames + 3 * self.entry.views)


@dataclass(frozen=True)
class PairSet:
    """All pairs of one or more folders."""

    pairs: tuple[StoredPair, ...]
    """In the order of the folders and their shards."""

    skipped: tuple[str, ...] = ()
    """One line per pair that was omitted because it is damaged."""

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> StoredPair:
        return self.pairs[number]

    @cached_property
    def identity(self) -> str:
        """Hash of the pairs' names, sizes and checksums, which a resumed run compares."""
        return fingerprint(
            [(stored.entry.name, stored.entry.bytes, stored.entry.crc32) for stored in self.pairs]
        )


def open_pairs(folders: Path | Sequence[Path], *, skip_broken: bool = False) -> PairSet:
    """The pairs listed in the indexes of the folders. Pixels are not read; pairs that curation adds
    later are not included.

    skip_broken: read every pair once and omit those that cannot be read, instead of raising.
    Raises ``InputError`` for a folder without index or of another version, for a shard of another
    size than its index says (naming the first sample that is not whole), and when no pair is left.
    """
    folders = [folders] if isinstance(folders, Path) else list(folders)
    pairs, skipped = [], []
    for folder in folders:
        for shard in read_index(folder):
            if not skip_broken:
                _check_size(folder, shard)
            for entry in shard.samples:
                stored = StoredPair(folder, shard, entry)
                fault = _fault(stored) if skip_broken else None
                if fault is None:
                    pairs.append(stored)
                else:
                    skipped.append(fault)
    if not pairs:
        damaged = f", {counted(len(skipped), 'damaged one')} left out" if skipped else ""
        raise InputError(
            f"{', '.join(map(str, folders))}: no training pairs{damaged}; expected at least one "
            "(see artifixer curate)"
        )
    return PairSet(tuple(pairs), tuple(skipped))


class OrderedPairs:
    """An unbounded sequence of pairs in training order. ``pair`` is thread-safe."""

    def __init__(
        self,
        pairs: PairSet,
        seed: int,
        group: int = 1,
        memory_limit: int = MEMORY_LIMIT,
        device: torch.device | str = "cpu",
    ) -> None:
        """seed: of the order. group: number of consecutive pairs that have one size. memory_limit:
        size of the cache of decoded pairs, bytes. device: of the pairs' pixels; the CPU unless the
        cache holds all pairs.
        """
        assert group > 0, f"groups of {group} pairs"
        self.is_whole = sum(stored.decoded_bytes for stored in pairs.pairs) <= memory_limit
        self._device = device if self.is_whole else "cpu"
        self.pairs, self._seed, self._group, self._memory_limit = pairs, seed, group, memory_limit
        self._sizes = [stored.size for stored in pairs.pairs]
        self.epoch_length = len(grouped_order(self._sizes, group, generator(seed, "pair order")))
        self._order: tuple[int, list[int]] = (-1, [])
        self._kept: OrderedDict[int, TrainingPair] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of different pairs."""
        return len(self.pairs)

    def pair(self, index: int) -> TrainingPair:
        """The pair at this index of the training order; ``InputError`` naming shard and sample when
        it is damaged.
        """
        return self.stored_pair(self.number(index))

    def number(self, index: int) -> int:
        """Index in the set of the pair at this index of the training order."""
        epoch, place = divmod(index, self.epoch_length)
        with self._lock:
            if self._order[0] != epoch:
                self._order = (
                    epoch,
                    grouped_order(
                        self._sizes, self._group, generator(self._seed, "pair order", epoch)
                    ),
                )
            return self._order[1][place]

    def stored_pair(self, number: int) -> TrainingPair:
        """A pair by its index in the set, from the cache if it was read recently."""
        with self._lock:
            kept = self._kept.get(number)
            if kept is not None:
                self._kept.move_to_end(number)
                return kept
        pair = self.pairs[number].read().with_pixels_on(self._device)
        with self._lock:
            if number not in self._kept:
                self._kept[number] = pair
                self._kept_bytes += _bytes(pair)
            while self._kept_bytes > self._memory_limit and len(self._kept) > 1:
                self._kept_bytes -= _bytes(self._kept.popitem(last=False)[1])
        return pair

    def read_all(self, threads: int) -> None:
        """Decode every pair if the cache holds all of them; ``InputError`` as in ``pair``."""
        if self.is_whole:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(self.stored_pair, range(len(self.pairs))):
                    pass


def grouped_order(
    sizes: Sequence[tuple[int, int]], group: int, random: torch.Generator
) -> list[int]:
    """All indices in random order, in groups of ``group`` of one size; an incomplete group is
    filled by repeating others of its size.
    """
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, size in enumerate(sizes):
        by_size[size].append(index)
    groups = []
    for _, members in sorted(by_size.items()):
        shuffled = [members[i] for i in torch.randperm(len(members), generator=random).tolist()]
        whole = -(-len(members) // group) * group
        filled = [shuffled[i % len(shuffled)] for i in range(whole)]
        groups += [filled[i : i + group] for i in range(0, whole, group)]
    return [
        index for i in torch.randperm(len(groups), generator=random).tolist() for index in groups[i]
    ]


def _check_size(folder: Path, shard: ShardEntry) -> None:
    path = folder / shard.file
    if not path.is_file():
        raise InputError(
            f"{path}: does not exist, the index lists it with "
            f"{counted(len(shard.samples), 'sample')}; --skip-broken omits it"
        )
    size = path.stat().st_size
    if size != shard.bytes:
        cut = next(
            (entry.name for entry in shard.samples if entry.offset + entry.bytes > size), None
        )
        where = (
            f"truncated in sample {cut}"
            if cut is not None
            else "all samples are complete, the end of the archive is not"
        )
        raise InputError(
            f"{path}: {size} bytes, the index says {shard.bytes}: {where}; --skip-broken uses "
            "the rest"
        )


def _fault(stored: StoredPair) -> str | None:
    """The error message of reading a pair, or None."""
    try:
        stored.read()
    except InputError as error:
        return str(error)
    return None


def _bytes(pair: TrainingPair) -> int:
    return sum(
        pixels.numel()
        for pixels in (pair.clean_frames, pair.renders, pair.opacity, pair.reference_photos)
    )
