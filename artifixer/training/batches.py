"""The batches of one process, optionally drawn ahead of their steps in threads."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from artifixer.runtime.distributed import rank, world_size
from artifixer.runtime.seeds import generator
from artifixer.training.stage import PairSource, Stage


@dataclass(frozen=True)
class Batch:
    """The input of one forward and backward pass."""

    names: list[str]
    """Names of the pairs."""

    drawn: Any
    """Result of ``Stage.draw``."""

    generators: list[torch.Generator]
    """One per pair, in the state after ``Stage.draw``."""


class Batches:
    """The batches of this process in the order of the passes; ``ahead`` of them are prefetched,
    with one thread each.
    """

    def __init__(
        self,
        stage: Stage,
        pairs: PairSource,
        batch: int,
        accumulation: int,
        seed: int,
        ahead: int,
    ) -> None:
        """batch: pairs per pass. accumulation: passes per step. seed: of all random numbers."""
        self._stage, self._pairs, self._ahead = stage, pairs, ahead
        self._batch, self._accumulation, self._seed = batch, accumulation, seed
        self._waiting: dict[int, Future[Batch]] = {}
        self._pool = ThreadPoolExecutor(ahead) if ahead else None

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def batch(self, number: int) -> Batch:
        """The batch of a pass, by its index since the start of the training; call in order."""
        if self._pool is None:
            return self._drawn(number)
        for following in range(number, number + self._ahead + 1):
            if following not in self._waiting:
                self._waiting[following] = self._pool.submit(self._drawn, following)
        return self._waiting.pop(number).result()

    def _drawn(self, number: int) -> Batch:
        step = number // self._accumulation
        first = (number * world_size() + rank()) * self._batch
        indices = range(first, first + self._batch)
        batch = [self._pairs.pair(index) for index in indices]
        generators = [generator(self._seed, self._stage.name, step, index) for index in indices]
        return Batch(
            [pair.name for pair in batch], self._stage.draw(batch, generators, step), generators
        )
