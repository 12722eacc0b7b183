"""The batches of one process, drawn ahead of the steps that read them where asked for."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from artifixer.runtime.distributed import (
    rank,
    world_size,
)
from artifixer.runtime.seeds import generator
from artifixer.training.stage import PairSource, Stage


@dataclass(frozen=True)
class Batch:
    """What one pass reads: the pairs' names, what the stage drew of them, and the generators as
    they are after that.
    """

    names: list[str]
    drawn: Any
    generators: list[torch.Generator]


class Batches:
    """The batches of this process in the order of the passes; ``ahead`` of them are drawn early,
    each in one thread.
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
        """batch: pairs per pass. accumulation: passes per step. seed: of everything drawn."""
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
        """The batch of a pass, counted from the start of the training; asked for in order."""
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
