"""A training stage that takes a reading after every step and stops after a number of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from artifixer.pairs.pair import TrainingPair
from artifixer.training.stage import Stage


class Enough(Exception):
    """Leaves the loop after the last measured step, before it saves."""


class WatchedStage:
    """Delegates to another stage, takes a reading after each step, and ends the training with
    ``Enough``.
    """

    def __init__(self, stage: Stage, steps: int, read: Callable[[], float]) -> None:
        self._stage, self._steps, self._read = stage, steps, read
        self.name, self.modules, self.optimizers = stage.name, stage.modules, stage.optimizers
        self.gradient_limits, self.extra_state = stage.gradient_limits, stage.extra_state
        self.readings: list[float] = []

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> Any:
        return self._stage.draw(pairs, generators, step)

    def losses(
        self, drawn: Any, generators: Sequence[torch.Generator], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self._stage.losses(drawn, generators, step)

    def updated(self, step: int) -> None:
        self._stage.updated(step)
        self.readings.append(self._read())
        if step == self._steps:
            raise Enough
