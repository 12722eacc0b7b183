"""Scene jobs on worker processes: a pool on this machine, or a Ray cluster, behind one interface.

In: a function and numbered jobs. Out: results as they are done. A worker that dies, whenever that
is, costs the work of its own job: the job is tried once more and then comes back as ``None``; the
other workers do not notice.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from artifixer.runtime.errors import InputError
from artifixer.runtime.stopping import STOP_SIGNALS, stop_requested

#: How often a job is given to a worker before it counts as failed.
ATTEMPTS = 2

#: Seconds between a worker's looks at whether its parent is still alive.
ORPHAN_CHECK_SECONDS = 1.0

#: Seconds between looks at whether to stop while Ray works.
RAY_POLL_SECONDS = 1.0

Job = tuple[int, tuple[Any, ...]]

#: Changes which signals are blocked; absent on Windows.
_set_mask: Callable[..., Any] | None = getattr(signal, "pthread_sigmask", None)


class Workers(ABC):
    """Runs a fixed number of jobs at a time."""

    slots: int

    @abstractmethod
    def submit(self, number: int, arguments: tuple[Any, ...]) -> None:
        """Begin a job; fewer than ``slots`` are running."""

    @abstractmethod
    def wait(self) -> list[tuple[int, Any]]:
        """Blocks until jobs are done: number and result of each, ``None`` where the worker died."""

    @abstractmethod
    def close(self) -> None:
        """End all workers at once, whatever they are doing."""


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
            f"--workers {workers} with --device {device}: this machine has {gpus} GPUs, expected "
            "at most one worker for each"
        )
    return tuple(f"{device}:{index}" for index in range(workers))


# Processes of this machine ------------------------------------------------------------------------


class ProcessWorkers(Workers):
    """One spawned process per device, each with one thread and a pipe of its own.

    ``concurrent.futures`` does not serve here: one dead process breaks its whole pool, and one
    killed while it sends a large result leaves the reader waiting for ever, because the parent
    holds the writing end too.
    """

    def __init__(self, function: Callable[..., Any], devices: Sequence[str]) -> None:
        self.slots = len(devices)
        self._function = function
        self._context = get_context("spawn")
        self._free = list(devices)[::-1]
        self._idle: list[_Process] = []
        self._busy: dict[int, _Process] = {}
        # all that live: Ctrl-C may come while one is in neither of the two
        self._started: list[Any] = []

    def submit(self, number: int, arguments: tuple[Any, ...]) -> None:
        while True:
            worker = self._idle.pop() if self._idle else self._start(self._free.pop())
            self._busy[number] = worker
            try:
                worker.pipe.send(arguments)
                return
            except OSError:  # it died while it had nothing to do
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
        # A child that is still importing would die of a signal to the group; it begins with these
        # blocked.
        with _thread_limits(), _signals_blocked():
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
    """A worker's life: jobs from the pipe until it is killed. Ctrl-C and SIGTERM are the parent's
    business.
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
def _handlers_restored() -> Iterator[None]:
    """Ray replaces the handler of SIGTERM by one of its own; after this the former ones are
    back.
    """
    numbers = (
        (signal.SIGINT, *STOP_SIGNALS)
        if threading.current_thread() is threading.main_thread()
        else ()
    )
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


@contextmanager
def one_thread() -> Iterator[None]:
    """This process computes with one thread inside, as workers do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _thread_limits() -> Iterator[None]:
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


# Ray ----------------------------------------------------------------------------------------------


class RayWorkers(Workers):
    """Tasks of a Ray cluster, one CPU each, and one GPU each for the device ``cuda``.

    address: ``local`` for a cluster on this machine for as long as this lives, whose services
    listen on the loopback interface alone; ``auto`` for the one that Ray finds from here, or else
    ``local``; or HOST:PORT. Sources and the package have to be at the same paths on all nodes.
    Raises ``InputError`` when Ray is absent, no cluster answers, or the cluster has no GPU for
    ``cuda``.
    """

    def __init__(self, function: Callable[..., Any], slots: int, device: str, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            with _handlers_restored():
                import ray
        except ImportError as error:
            raise InputError(
                f"--ray {address}: Ray is not installed ({error}); pip install 'artifixer[cluster]'"
            ) from None
        self.slots, self._ray, self._device, self._temporary = slots, ray, device, ""
        self._function, self._running = function, dict[Any, int]()
        self._ours = not ray.is_initialized()
        try:
            if self._ours:
                self._connect(address)
            if device != "cpu" and not ray.cluster_resources().get("GPU"):
                raise InputError(f"--device {device}: the Ray cluster {address} has no GPU")
        except BaseException:
            self.close()
            raise
        task = ray.remote(_ray_task)
        self._task = task.options(num_cpus=1, num_gpus=0 if device == "cpu" else 1, max_retries=0)

    def submit(self, number: int, arguments: tuple[Any, ...]) -> None:
        self._running[self._task.remote(self._function, arguments, self._device)] = number

    def wait(self) -> list[tuple[int, Any]]:
        ready: list[Any] = []
        while not ready:
            ready, _ = self._ray.wait(list(self._running), timeout=RAY_POLL_SECONDS)
            stop_requested()  # raises when Ctrl-C was swallowed
        return [(self._running.pop(task), self._result(task)) for task in ready]

    def close(self) -> None:
        if self._ours:
            with _handlers_restored():
                self._ray.shutdown()
        else:
            for task in self._running:
                self._ray.cancel(task, force=True)
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _result(self, task: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(task)
        except errors.RayTaskError:
            raise  # the function raised: a bug, not a death
        except errors.RayError:
            return None

    def _connect(self, address: str) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        with _handlers_restored(), _thread_limits():
            if address != "local":
                try:
                    self._ray.init(address=address, **options)
                    return
                except (ConnectionError, ValueError, RuntimeError) as error:
                    if address != "auto":
                        text = " ".join(str(error).split())[:200]
                        raise InputError(
                            f"--ray {address}: no Ray cluster answers there, expected auto, local "
                            f"or HOST:PORT ({text})"
                        ) from None
            # Sockets below have to have short paths.
            self._temporary = tempfile.mkdtemp(prefix="afx")
            with _loopback():
                self._ray.init(
                    address="local",
                    num_cpus=self.slots,
                    include_dashboard=False,
                    _temp_dir=self._temporary,
                    _node_ip_address="127.0.0.1", object_store_memory=2**29, **options,
                )  # fmt: skip


@contextmanager
def _loopback() -> Iterator[None]:
    """A cluster started inside has the address 127.0.0.1, and listens there alone.

    On Linux Ray replaces a loopback address that it is given by one of the network and listens on
    all interfaces, unless its constant says that clusters have one machine, as it does on macOS and
    Windows; the constant's environment variable is read when Ray is imported, which may be long
    ago.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _ray_task(function: Callable[..., Any], arguments: tuple[Any, ...], device: str) -> Any:
    with one_thread():
        return function(*arguments, device)
