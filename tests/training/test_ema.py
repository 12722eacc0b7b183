"""The average of weights: the formula, its start, and giving the weights back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from artifixer.training.ema import Ema


def weights(*values: float) -> nn.Linear:
    module = nn.Linear(len(values), 1, bias=False)
    module.weight.data[:] = torch.tensor([values])
    return module


def test_follows_the_weights_by_one_minus_decay():
    module = weights(1.0)
    ema = Ema(module, decay=0.9)
    module.weight.data.fill_(2.0)
    ema.update()
    assert float(ema.average["weight"]) == pytest.approx(1.1)


def test_first_updates_copy():
    module = weights(1.0)
    ema = Ema(module, decay=0.9, copy_updates=1)
    module.weight.data.fill_(2.0)
    ema.update()
    assert float(ema.average["weight"]) == 2.0
    module.weight.data.fill_(3.0)
    ema.update()
    assert float(ema.average["weight"]) == pytest.approx(2.1)


def test_a_warm_average_forgets_its_start_early():
    module = weights(1.0)
    warm, plain = Ema(module, 0.999, warm=True), Ema(module, 0.999)
    module.weight.data.fill_(2.0)
    for _ in range(100):
        warm.update(), plain.update()
    assert float(warm.average["weight"]) > 1.99 > 1.2 > float(plain.average["weight"])


def test_the_module_has_the_average_only_inside_the_context():
    module = weights(1.0, 2.0)
    ema = Ema(module, decay=0.5)
    module.weight.data[:] = torch.tensor([[3.0, 4.0]])
    ema.update()
    with ema.in_module():
        assert module.weight.tolist() == [[2.0, 3.0]]
    assert module.weight.tolist() == [[3.0, 4.0]]


def test_averages_low_precision_weights_in_float32():
    assert Ema(weights(1.0).to(torch.bfloat16), decay=0.9).average["weight"].dtype == torch.float32
