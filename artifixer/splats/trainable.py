"""``TrainableSplats``: splats under optimisation, and the only place that changes the number of
Gaussians in an optimiser.

Every change of the population (relocating, growing, pruning) is one gather: new row ``i`` is a copy
of old row ``index[i]``, with its Adam moments kept or, where ``fresh[i]``, set to zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from artifixer.splats.splats import Splats

NAMES = tuple(field.name for field in fields(Splats))
MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainableSplats:
    """Splats as leaf tensors with one Adam parameter group per field, in the order of ``NAMES``."""

    def __init__(self, splats: Splats, learning_rates: Mapping[str, float]) -> None:
        self.splats = splats.map(
            lambda tensor: tensor.detach().clone().contiguous().requires_grad_()
        )
        groups = [
            {"params": [getattr(self.splats, name)], "lr": learning_rates[name], "name": name}
            for name in NAMES
        ]
        self.optimizer = torch.optim.Adam(groups, eps=1e-15, fused=True)

    def __len__(self) -> int:
        return len(self.splats)

    def set_learning_rate(self, name: str, value: float) -> None:
        self._group(name)["lr"] = value

    def step(self) -> None:
        """One Adam step; the gradients are cleared."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def gather(self, index: Int[Tensor, " new"], fresh: Bool[Tensor, " new"]) -> None:
        """Replace the Gaussians by copies of the rows in ``index``; Adam moments of ``fresh`` rows
        start at zero.
        """
        replaced = {}
        for name in NAMES:
            old = getattr(self.splats, name)
            new = old.detach()[index].requires_grad_()
            state = self.optimizer.state.pop(old, None)
            if state:
                for moment in MOMENTS:
                    state[moment] = state[moment][index]
                    state[moment][fresh] = 0
                self.optimizer.state[new] = state
            self._group(name)["params"] = [new]
            replaced[name] = new
        self.splats = Splats(**replaced)

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything needed to continue exactly: parameters, Adam moments and step counts, by flat
        name.
        """
        tensors = {}
        for name in NAMES:
            parameter = getattr(self.splats, name)
            tensors[name] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{name}.{key}"] = value
        return tensors

    @staticmethod
    def from_state(
        tensors: Mapping[str, Tensor], learning_rates: Mapping[str, float]
    ) -> TrainableSplats:
        """Inverse of ``state_tensors``."""
        trainable = TrainableSplats(
            Splats(**{name: tensors[name] for name in NAMES}), learning_rates
        )
        for name in NAMES:
            prefix = f"adam.{name}."
            state = {
                key.removeprefix(prefix): value.clone()
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
            if state:
                trainable.optimizer.state[getattr(trainable.splats, name)] = state
        return trainable

    def _group(self, name: str) -> dict[str, Any]:
        return self.optimizer.param_groups[NAMES.index(name)]
