"""Stopping on request: SIGTERM sets a flag, the work saves its state at the next safe point and raises ``Stopped``.

with stop_on_sigterm():
    for iteration in range(first, last):
        ...
        if stop_requested():
            save(...)
            raise Stopped(f"{run}: stopped at iteration {iteration}")
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from artifixer.runtime.errors import Stopped

_requested = False


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Within this context SIGTERM only sets the flag that ``stop_requested`` reads. Main thread only; contexts may be nested."""
    global _requested
    before = signal.signal(signal.SIGTERM, _request)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if before is not _request:  # the outermost context: its request is answered
            _requested = False


def stop_requested() -> bool:
    """Whether SIGTERM arrived since the outermost ``stop_on_sigterm`` began."""
    return _requested


def stop_if_requested(where: str) -> None:
    """Raises ``Stopped`` after SIGTERM; for points where everything worth keeping is on disk. where: "while reading photos"."""
    if stop_requested():
        raise Stopped(f"stopped {where}; run the same command to continue")


def _request(number: int, frame: FrameType | None) -> None:
    global _requested
    _requested = True
