"""Number and duration of the calls of a network, measured by hooks within a context.

In: a module and its device. Out: seconds of each ``forward``. On CUDA the time is measured with
events, without synchronisation; durations are available when the context has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class NetworkTimer:
    """Counts and times the calls of ``network``.

    clock: used on a CPU, such as ``time.process_time`` to exclude other load on the machine.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.calls = 0
        self._seconds: list[float] = []
        self._network, self._device, self._clock = network, device, clock
        self._is_cuda = device.type == "cuda"
        self._events: list[tuple[Any, Any]] = []
        self._hooks: list[Any] = []
        self._started: Any = None

    @property
    def seconds_per_call(self) -> tuple[float, ...]:
        """Duration of each call in order; on CUDA empty until the context has ended."""
        return tuple(self._seconds)

    @property
    def seconds(self) -> float:
        """Total duration of the calls."""
        return sum(self._seconds)

    def __enter__(self) -> NetworkTimer:
        self._hooks = [
            self._network.register_forward_pre_hook(lambda *_: self._start()),
            self._network.register_forward_hook(lambda *_: self._stop()),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        if self._events:
            torch.cuda.synchronize(self._device)
            self._seconds += [start.elapsed_time(end) / 1000 for start, end in self._events]
            self._events.clear()

    def _start(self) -> None:
        self._started = self._now()

    def _stop(self) -> None:
        self.calls += 1
        if self._is_cuda:
            self._events.append((self._started, self._now()))
        else:
            self._seconds.append(self._clock() - self._started)

    def _now(self) -> Any:
        """A recorded event on CUDA, else a time."""
        if not self._is_cuda:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        return torch.cuda.current_stream(self._device).record_event(event)
