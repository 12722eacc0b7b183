"""What the training loop asks of a stage and of a source of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from artifixer.pairs.pair import TrainingPair


class Stage(Protocol):
    """What the loop trains. ``name`` stands in messages only."""

    @property
    def name(self) -> str: ...

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The modules whose weights change."""

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """By the names under which ``losses`` gives their losses; each with its largest learning
        rate.
        """

    @property
    def gradient_limits(self) -> Mapping[str, float]:
        """Norm to which the gradient of each optimizer's weights is clipped."""

    @property
    def extra_state(self) -> Mapping[str, Tensor]:
        """What else a checkpoint must hold, such as averages of weights."""

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> Any:
        """What ``losses`` reads of the pairs: work for a CPU, which may be done ahead in another
        thread.

        generators: one per pair, for everything that is drawn for it.
        """

    def losses(
        self, drawn: Any, generators: Sequence[torch.Generator], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss of each optimizer that has its turn at this step, a mean over the pairs, and
        numbers to watch.

        drawn: what ``draw`` gave for this step; generators: those it has drawn from.
        """

    def updated(self, step: int) -> None:
        """Called after the optimizers have stepped."""


class PairSource(Protocol):
    """Pairs in training order, without end."""

    def pair(self, index: int) -> TrainingPair:
        """The pair at this global position; every process asks for its own."""
