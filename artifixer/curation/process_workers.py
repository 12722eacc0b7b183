"""Workers that are processes of this machine, with one thread each.

In: a function and a device per process. Out: see ``workers.py``.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from artifixer.curation.workers import Workers, thread_limits
from artifixer.runtime.stopping import STOP_SIGNALS

#: Interval at which a worker checks that its parent is alive, seconds.
ORPHAN_CHECK_SECONDS = 1.0

#: Changes which signals are blocked; absent on Windows.
_set_mask: Callable[..., Any] | None = getattr(signal, "pthread_sigmask", None)


class ProcessWorkers(Workers):
    """One spawned process per device, each with one thread and a pipe of its own.

    ``concurrent.futures`` is not used: one dead process breaks its whole pool, and one that is
    killed while it sends a large result blocks the reader for ever, because the parent holds the
    writing end too.
    """

    def __init__(self, function: Callable[..., Any], devices: Sequence[str]) -> None:
        self.slots = len(devices)
        self._function = function
        self._context = get_context("spawn")
        self._free = list(devices)[::-1]
        self._idle: list[_Process] = []
        self._busy: dict[int, _Process] = {}
        # all running processes: at Ctrl-C one of them may be neither idle nor busy
        self._started: list[Any] = []

    def submit(self, number: int, arguments: tuple[Any, ...]) -> None:
        while True:
            worker = self._idle.pop() if self._idle else self._start(self._free.pop())
            self._busy[number] = worker
            try:
                worker.pipe.send(arguments)
                return
            except OSError:  # it died while it was idle
                self._bury(self._busy.pop(number))

    def wait(self) -> list[tuple[int, Any]]:
        ready = wait([worker.pipe for worker in self._busy.values()])
        done: list[tuple[int, Any]] = []
        for number, worker in list(self._busy.items()):
            if worker.pipe not in ready:
                continue
            try:
                is_result, value = worker.pipe.recv()
            except (EOFError, OSError):
                self._bury(self._busy.pop(number))
                done.append((number, None))
                continue
            self._idle.append(self._busy.pop(number))
            if not is_result:
                raise value
            done.append((number, value))
        return done

    def close(self) -> None:
        pipes = [worker.pipe for worker in (*self._idle, *self._busy.values())]
        self._idle, self._busy = [], {}
        processes = [process for process in self._started if process.pid is not None]
        self._started = []
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for pipe in pipes:
            pipe.close()

    def _start(self, device: str) -> _Process:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._function, device, os.getpid()), daemon=True
        )
        self._started.append(process)
        # A signal to the process group would kill a child that is still importing, so it starts
        # with these signals blocked.
        with thread_limits(), _signals_blocked():
            process.start()
        theirs.close()
        return _Process(process, ours, device)

    def _bury(self, worker: _Process) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        self._started.remove(worker.process)
        self._free.append(worker.device)


class _Process:
    def __init__(self, process: Any, pipe: Connection, device: str) -> None:
        self.process, self.pipe, self.device = process, pipe, device


def _serve(pipe: Connection, function: Callable[..., Any], device: str, parent: int) -> None:
    """Main function of a worker: jobs from the pipe until it is killed. Ctrl-C and SIGTERM are
    handled by the parent.
    """
    for number in (signal.SIGINT, *STOP_SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    if _set_mask is not None:
        _set_mask(getattr(signal, "SIG_UNBLOCK"), {signal.SIGINT, *STOP_SIGNALS})  # noqa: B009 (absent on Windows)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    while True:
        try:
            arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = True, function(*arguments, device)
        except Exception as error:
            answer = False, error
        pipe.send(answer)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_SECONDS)
    os._exit(1)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Signals that arrive inside are handled after it; processes started inside have them
    blocked.
    """
    if _set_mask is None:
        yield
        return
    before = _set_mask(getattr(signal, "SIG_BLOCK"), {signal.SIGINT, *STOP_SIGNALS})  # noqa: B009 (absent on Windows)
    try:
        yield
    finally:
        _set_mask(getattr(signal, "SIG_SETMASK"), before)  # noqa: B009
