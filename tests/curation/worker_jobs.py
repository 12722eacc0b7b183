"""Jobs for tests of workers: importable by name in other processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from artifixer.runtime.errors import InputError

#: More than a pipe holds.
LARGE = 1 << 24

if os.environ.get("WORKER_JOBS_END_AT_IMPORT"):
    os._exit(3)


def square(value: int, device: str) -> tuple[int, str, int]:
    """The square, the worker's device and its process."""
    time.sleep(0.02)
    return value * value, device, os.getpid()


def noted(folder: Path, value: int, seconds: float, device: str) -> int:
    """The value; leaves a file for each attempt, whose name begins with the value and which holds the process."""
    attempt = len(list(folder.glob(f"{value}-*")))
    (folder / f"{value}-{attempt}").write_text(str(os.getpid()))
    time.sleep(seconds)
    return value


def dies(folder: Path, value: int, deaths: int, device: str) -> int:
    """The value, after as many attempts in which the worker is killed."""
    if noted(folder, value, 0.05, device) and len(list(folder.glob(f"{value}-*"))) <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def large(folder: Path, device: str) -> bytes:
    (folder / "large").write_text(str(os.getpid()))
    return bytes(LARGE)


def fails(message: str, is_input_error: bool, device: str) -> None:
    raise InputError(message) if is_input_error else ValueError(message)
