"""``TrainableSplats``: splats under optimisation, and the only place that changes the number of
Gaussians in an optimiser.

Every change of the population (relocating, growing, pruning) is one gather: new row ``i`` is a copy
of old row ``index[i]``, with its Adam moments kept or, where ``fresh[i]``, set to zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.optim.adam import adam

from artifixer.splats.splats import Splats

NAMES = tuple(field.name for field in fields(Splats))
MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainableSplats:
    """Splats as leaf tensors, each field with a learning rate and Adam's state: both moments, and
    the number of steps.

    ``torch.optim.Adam`` computes the same; making one loads the compiler of PyTorch, which takes
    longer than a short fit.
    """

    def __init__(self, splats: Splats, learning_rates: Mapping[str, float]) -> None:
        self.splats = splats.map(
            lambda tensor: tensor.detach().clone().contiguous().requires_grad_()
        )
        self._learning_rates = {name: learning_rates[name] for name in NAMES}
        self._states: dict[str, dict[str, Tensor]] = {name: {} for name in NAMES}

    def __len__(self) -> int:
        return len(self.splats)

    def set_learning_rate(self, name: str, value: float) -> None:
        self._learning_rates[name] = value

    @torch.no_grad()
    def step(self) -> None:
        """One Adam step of every field that has a gradient; the gradients are cleared."""
        for name in NAMES:
            parameter = getattr(self.splats, name)
            if parameter.grad is None:
                continue
            state = self._states[name]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state |= {moment: torch.zeros_like(parameter) for moment in MOMENTS}
            adam(
                [parameter],
                [parameter.grad],
                [state["exp_avg"]],
                [state["exp_avg_sq"]],
                max_exp_avg_sqs=[],
                state_steps=[state["step"]],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self._learning_rates[name],
                weight_decay=0,
                eps=1e-15,
                maximize=False,
            )
            parameter.grad = None

    @torch.no_grad()
    def gather(self, index: Int[Tensor, " new"], fresh: Bool[Tensor, " new"]) -> None:
        """Replace the Gaussians by copies of the rows in ``index``; Adam moments of ``fresh`` rows
        start at zero.
        """
        replaced = {}
        for name in NAMES:
            replaced[name] = getattr(self.splats, name).detach()[index].requires_grad_()
            state = self._states[name]
            for moment in MOMENTS:
                if moment in state:
                    state[moment] = state[moment][index]
                    state[moment][fresh] = 0
        self.splats = Splats(**replaced)

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything needed to continue exactly: parameters, Adam moments and step counts, by flat
        name.
        """
        tensors = {}
        for name in NAMES:
            tensors[name] = getattr(self.splats, name).detach()
            for key, value in self._states[name].items():
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
            trainable._states[name] = {
                key.removeprefix(prefix): value.clone()
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
        return trainable
