"""The interfaces of the training loop: stages, and sources of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from artifixer.pairs.pair import TrainingPair


@runtime_checkable
class Stage(Protocol):
    """One stage of training. ``name`` is for messages and the keys of random numbers."""

    @property
    def name(self) -> str: ...

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The modules whose weights change."""

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Optimizers by the names of their losses; each with its maximum learning rate."""

    @property
    def gradient_limits(self) -> Mapping[str, float]:
        """Norm to which the gradient of each optimizer's weights is clipped."""

    @property
    def extra_state(self) -> Mapping[str, Tensor]:
        """Further tensors of a checkpoint, such as averaged weights."""

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> Any:
        """The input of ``losses``: CPU work that may run ahead in another thread.

        generators: one per pair, for all random numbers of the pair.
        """

    def losses(
        self, drawn: Any, generators: Sequence[torch.Generator], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of the optimizers that step now, means over the pairs; and metrics.

        drawn: result of ``draw`` for this step. generators: those of ``draw``, in the state after
        it.
        """

    def updated(self, step: int) -> None:
        """Called after the optimizers have stepped."""


@runtime_checkable
class PairSource(Protocol):
    """An unbounded sequence of pairs in training order."""

    def pair(self, index: int) -> TrainingPair:
        """The pair at this index, which counts the pairs of all processes."""
