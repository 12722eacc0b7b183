"""Generators depend on their key alone: independent of each other and of the order of calls."""

import itertools

import numpy as np
import pytest
import torch

from artifixer.runtime.seeds import generator, numpy_generator

KEYS = [
    (seed, purpose, step, sample, block)
    for seed, purpose, step, sample, block in itertools.product(
        (0, 1), ("noise", "views"), *[(0, 1)] * 3
    )
]
VALUES = 4096
# six standard deviations of the correlation of independent streams
LARGEST_CORRELATION = 6 / VALUES**0.5


def torch_values(key: tuple[int, str, int, int, int]) -> np.ndarray:
    return torch.randn(VALUES, generator=generator(*key)).numpy()


def numpy_values(key: tuple[int, str, int, int, int]) -> np.ndarray:
    return numpy_generator(*key).standard_normal(VALUES)


@pytest.mark.parametrize("values", [torch_values, numpy_values])
def test_streams_are_uncorrelated(values) -> None:
    correlation = np.corrcoef([values(key) for key in KEYS]) - np.eye(len(KEYS))
    assert np.abs(correlation).max() < LARGEST_CORRELATION


@pytest.mark.parametrize("values", [torch_values, numpy_values])
def test_order_of_calls_does_not_matter(values) -> None:
    forwards = [values(key) for key in KEYS]
    torch.rand(7)  # nor does the global generator
    backwards = [values(key) for key in reversed(KEYS)]
    assert all(np.array_equal(*pair) for pair in zip(forwards, reversed(backwards), strict=True))


def test_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    torch_values(KEYS[0])
    assert torch.equal(before, torch.random.get_rng_state())
