"""Scene jobs on worker processes: the interface of a pool on this machine and of a Ray cluster.

In: a function and numbered jobs. Out: results as they are done. When a worker dies, its job is
tried once more and then returned as ``None``; other workers are not affected.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.stopping import stop_requested

#: Number of attempts before a job counts as failed.
ATTEMPTS = 2

Job = tuple[int, tuple[Any, ...]]


class Workers(ABC):
    """Worker processes that run a fixed number of jobs at a time."""

    slots: int

    @abstractmethod
    def submit(self, number: int, arguments: tuple[Any, ...]) -> None:
        """Begin a job; fewer than ``slots`` are running."""

    @abstractmethod
    def wait(self) -> list[tuple[int, Any]]:
        """Blocks until jobs are done: number and result of each, ``None`` where the worker died."""

    @abstractmethod
    def close(self) -> None:
        """End all workers at once."""


def work_through(workers: Workers, jobs: Iterator[Job]) -> Iterator[tuple[int, Any]]:
    """Results of all jobs as they are done; ``None`` for a job whose worker died in each of
    ``ATTEMPTS``.

    After a request to stop no job begins, those running finish, and those whose worker died are
    left out.
    """
    running: dict[int, tuple[tuple[Any, ...], int]] = {}
    again: deque[tuple[int, tuple[Any, ...], int]] = deque()
    while True:
        while len(running) < workers.slots and not stop_requested():
            if again:
                number, arguments, attempt = again.popleft()
            elif (job := next(jobs, None)) is not None:
                (number, arguments), attempt = job, 1
            else:
                break
            running[number] = arguments, attempt
            workers.submit(number, arguments)
        if not running:
            return
        for number, result in workers.wait():
            arguments, attempt = running.pop(number)
            if result is not None:
                yield number, result
            elif stop_requested():
                continue
            elif attempt < ATTEMPTS:
                again.append((number, arguments, attempt + 1))
            else:
                yield number, None


def worker_devices(device: str, workers: int) -> tuple[str, ...]:
    """A device per worker: the CPU for all, or a GPU of its own for each.

    device: ``cpu`` or ``cuda``. Raises ``InputError`` for more workers than GPUs.
    """
    if device == "cpu":
        return ("cpu",) * workers
    gpus = torch.cuda.device_count()
    if workers > gpus:
        raise InputError(
            f"--workers {workers} with --device {device}: this machine has "
            f"{counted(gpus, 'GPU')}, expected at most one worker for each"
        )
    return tuple(f"{device}:{index}" for index in range(workers))


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, this process computes with one thread, as workers do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def thread_limits() -> Iterator[None]:
    """Libraries of processes started inside read their number of threads from the environment when
    they are loaded.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
