"""Exponential moving average of a module's weights in float32: validated, and saved as the trained
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """An exponential moving average.

    decay: per update. copy_updates: number of first updates that copy the weights. warm: limit the
    decay of update n to n / (n + 20), so that the initial weights do not dominate short trainings.
    """

    def __init__(
        self, module: nn.Module, decay: float, copy_updates: int = 0, warm: bool = False
    ) -> None:
        self.decay, self.copy_updates, self.warm = decay, copy_updates, warm
        self._module = module
        self.updates = torch.zeros((), dtype=torch.int64)
        self.average = {name: _float(parameter) for name, parameter in module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Call after an optimizer step."""
        self.updates += 1
        count = int(self.updates)
        decay = min(self.decay, count / (count + 20)) if self.warm else self.decay
        if count <= self.copy_updates:
            decay = 0.0
        for name, parameter in self._module.named_parameters():
            self.average[name].lerp_(parameter.detach().to(self.average[name].dtype), 1 - decay)

    @contextmanager
    def in_module(self) -> Iterator[None]:
        """A context in which the module has the averaged weights."""
        before = {
            name: parameter.detach().clone() for name, parameter in self._module.named_parameters()
        }
        self._assign(self.average)
        try:
            yield
        finally:
            self._assign(before)

    def state(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint; loading writes into them."""
        return {
            "updates": self.updates,
            **{f"average.{name}": tensor for name, tensor in self.average.items()},
        }

    @torch.no_grad()
    def _assign(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._module.named_parameters():
            parameter.copy_(values[name])


def _float(parameter: Tensor) -> Tensor:
    """A copy in at least float32."""
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return parameter.detach().to(dtype, copy=True)
