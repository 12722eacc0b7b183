"""Stages in threads: order, errors, and ending early."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from artifixer.runtime.prefetch import prefetch

CPU = torch.device("cpu")


@pytest.mark.parametrize("threads", [False, True])
def test_items_and_order_are_kept(threads: bool):
    stages = prefetch(iter(range(20)), CPU, threads=threads)
    doubled = prefetch((2 * item for item in stages), CPU, ahead=3, threads=threads)
    assert list(doubled) == [2 * item for item in range(20)]


def test_a_stage_is_only_so_far_ahead():
    started: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            started.append(number)
            yield number

    stage = prefetch(items(), CPU, ahead=1, threads=True)
    assert next(stage) == 0
    assert max(started) <= 3  # one read, one in the queue, one waiting for a place, one begun
    stage.close()
    assert max(started) <= 4


@pytest.mark.parametrize("threads", [False, True])
def test_an_error_comes_after_the_items_before_it(threads: bool):
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken frame")

    stage = prefetch(items(), CPU, threads=threads)
    assert next(stage) == 1
    with pytest.raises(ValueError, match="broken frame"):
        next(stage)


@pytest.mark.parametrize("threads", [False, True])
def test_ending_early_closes_every_stage_and_leaves_no_thread(threads: bool):
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    before = threading.active_count()
    stage = prefetch(prefetch(items(), CPU, threads=threads), CPU, threads=threads)
    assert next(stage) == 0
    stage.close()
    assert closed == [True]
    assert threading.active_count() == before


def test_threads_work_without_gradients():
    parameter = torch.nn.Parameter(torch.ones(2))
    (result,) = prefetch((parameter * 2 for _ in range(1)), CPU, threads=True)
    assert not result.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_tensors_are_complete_when_the_reader_uses_them():
    def items() -> Iterator[torch.Tensor]:
        for number in range(50):
            torch.cuda._sleep(1_000_000)  # the kernel that fills the tensor starts late
            yield torch.full((1 << 16,), float(number), device="cuda")

    for number, tensor in enumerate(prefetch(items(), torch.device("cuda"), ahead=2)):
        assert float(tensor.min()) == float(tensor.max()) == number
