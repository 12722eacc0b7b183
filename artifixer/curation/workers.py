"""Workers: a function called for many jobs, here, in processes of this machine, or on a Ray cluster.

In: a function, jobs (a number and arguments), and who works. Out: results in the order in which they are done. The function is called as
``function(*arguments, device)`` and its result must depend on the arguments and the kind of device alone; then neither the number of
workers, nor where they are, nor a worker that dies changes a result.

A worker that dies costs the job that it worked on, which starts again on another one. A job whose worker has died
``ATTEMPTS_BESIDE_OTHERS`` times waits until nothing else runs, in case the workers together need too much memory, and is given up when its
worker dies then too.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, Protocol

import torch

from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.runtime.stopping import stop_requested

#: Times that a job is tried while other jobs run, before it is tried alone.
ATTEMPTS_BESIDE_OTHERS = 2

#: Processes that end one after the other before they are ready; more will not do better.
FAILED_STARTS = 3

#: Seconds between looks at whether this process was asked to stop.
POLL_SECONDS = 0.2

#: Seconds for a process that has closed its pipe to end by itself.
ENDING_SECONDS = 1.0

#: Seconds for an address of a Ray cluster to answer.
ADDRESS_SECONDS = 5.0

#: Characters of the folder of a local Ray: its sockets lie below it, and their paths may have 107.
LONGEST_RAY_FOLDER = 24

Function = Callable[..., Any]
Job = tuple[int, tuple[Any, ...]]


@dataclass(frozen=True)
class WorkerConfig:
    """Who works; no result depends on it, but for the kind of device.

    count: jobs at a time; None for one per device, which with Ray means one per GPU or CPU of the cluster. Each has one thread.
    device: ``cpu``; ``cuda`` for all GPUs, one worker each; ``cuda:N`` for one. With Ray ``cpu`` or ``cuda``, and Ray gives every worker a
        GPU of its own.
    ray: None for processes; ``auto`` for the Ray cluster that runs here, or else one on this machine that lives as long as the work; or a
        cluster's address (``HOST:PORT`` or ``ray://HOST:PORT``).
    """

    count: int | None = 1
    device: str = "cpu"
    ray: str | None = None


@dataclass(frozen=True)
class Finished:
    """A job's end: its result; or, where its worker died, how. was_ready: whether that worker had begun."""

    number: int
    result: Any = None
    died: str | None = None
    was_ready: bool = True


@dataclass(frozen=True)
class GivenUp:
    """In place of a result: every worker that tried this job died; ``reason`` is how the last one ended."""

    attempts: int
    reason: str


class Workers(Protocol):
    """Who calls the function. One job per slot; ``begin`` needs a free one."""

    slots: int

    def begin(self, number: int, arguments: tuple[Any, ...]) -> None:
        """Start a job."""

    def finished(self, seconds: float) -> list[Finished]:
        """Jobs that have ended; waits for one, for at most so many seconds."""

    def close(self) -> None:
        """End all workers at once, with what they are doing."""


def check_workers(config: WorkerConfig) -> None:
    """Raises ``InputError`` where the workers cannot be had, as far as that can be told without starting them."""
    if config.count is not None and config.count < 1:
        raise InputError(f"--workers {config.count}: expected at least 1")
    if config.ray is None:
        worker_devices(config.device, config.count)
        return
    if config.device not in ("cpu", "cuda"):
        raise InputError(f"--device {config.device}: expected cpu or cuda with --ray, which gives every worker a GPU of its own")
    if importlib.util.find_spec("ray") is None:
        raise InputError("--ray: Ray is not installed; expected the extra cluster (pip install 'artifixer[cluster]')")
    if config.ray != "auto":
        _check_address(config.ray)


@contextmanager
def opened_workers(function: Function, config: WorkerConfig) -> Iterator[Workers]:
    """The workers of a configuration; none is left at the end.

    function: importable by name. Raises ``InputError`` for devices that are not there, and for a cluster that is not.
    """
    check_workers(config)
    workers: Workers
    if config.ray is not None:
        with _thread_limits():
            workers = RayWorkers(function, config.count, config.device, config.ray)
            try:
                yield workers
            finally:
                workers.close()
        return
    devices = worker_devices(config.device, config.count)
    if len(devices) == 1:
        with _one_thread():
            _prepare(devices[0])
            yield ThisProcess(function, devices[0])
        return
    with _thread_limits():
        workers = ProcessWorkers(function, devices)
        try:
            yield workers
        finally:
            workers.close()


def worker_devices(device: str, count: int | None, gpus: int | None = None) -> tuple[str, ...]:
    """The device of each worker. gpus: how many this machine has; None asks. Raises ``InputError`` for devices that are not there."""
    if device != "cuda":
        return (resolve_device(device) if gpus is None else device,) * (count or 1)
    if gpus is None:
        resolve_device(device)
        gpus = torch.cuda.device_count()
    return tuple(f"cuda:{worker % gpus}" for worker in range(count or gpus))


def results(workers: Workers, jobs: Iterable[Job]) -> Iterator[tuple[int, Any]]:
    """(number, result) of the jobs as they are done; a ``GivenUp`` in place of a result where the job's workers died.

    After a request to stop there is no further result, and what is being worked on is left to the workers' end.
    """
    waiting, again, alone = iter(jobs), deque[Job](), deque[Job]()
    running: dict[int, tuple[Any, ...]] = {}
    deaths: Counter[int] = Counter()
    while not stop_requested():
        while len(running) < workers.slots:
            job = again.popleft() if again else next(waiting, None)
            if job is None and not running and alone:
                job = alone.popleft()
            if job is None:
                break
            number, arguments = job
            running[number] = arguments
            workers.begin(number, arguments)
            if stop_requested():
                break
        if not running:
            return
        for end in workers.finished(POLL_SECONDS):
            arguments = running.pop(end.number)
            if end.died is None:
                yield end.number, end.result
                continue
            deaths[end.number] += end.was_ready
            if deaths[end.number] < ATTEMPTS_BESIDE_OTHERS:
                again.append((end.number, arguments))
            elif deaths[end.number] == ATTEMPTS_BESIDE_OTHERS:
                alone.append((end.number, arguments))
            else:
                yield end.number, GivenUp(deaths[end.number], end.died)


# Here ---------------------------------------------------------------------------------------------


class ThisProcess:
    """No worker but this process: ``begin`` does the job."""

    slots = 1

    def __init__(self, function: Function, device: str) -> None:
        self._function, self._device = function, device
        self._done: list[Finished] = []

    def begin(self, number: int, arguments: tuple[Any, ...]) -> None:
        self._done.append(Finished(number, self._function(*arguments, self._device)))

    def finished(self, seconds: float) -> list[Finished]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        pass


# Processes ----------------------------------------------------------------------------------------


class ProcessWorkers:
    """One process per device. Each has a pipe of its own, which nobody else holds: whenever a process dies, its pipe ends, also in the
    middle of a message, and no lock is left behind."""

    def __init__(self, function: Function, devices: tuple[str, ...]) -> None:
        self.slots = len(devices)
        self._function = function
        self._idle: list[_Process] = []
        self._free = list(devices)  # devices of workers that are to be started
        self._busy: dict[int, _Process] = {}
        self._failed_starts = 0

    def begin(self, number: int, arguments: tuple[Any, ...]) -> None:
        process = self._any_idle()
        if process is None:
            process = _Process(self._function, self._free.pop(0))
        self._busy[number] = process
        process.send(arguments)

    def finished(self, seconds: float) -> list[Finished]:
        numbers = {process.pipe: number for number, process in self._busy.items()}
        ends = []
        for pipe in connection.wait(list(numbers), seconds):
            number = numbers[pipe]  # type: ignore[index]
            process = self._busy[number]
            message = process.receive()
            if message is None:
                ends.append(self._died(number))
            elif message == _READY:
                self._failed_starts = 0
            else:
                del self._busy[number]
                self._idle.append(process)
                ends.append(Finished(number, _checked(message)))
        return ends

    def close(self) -> None:
        processes = [*self._busy.values(), *self._idle]
        self._busy, self._idle = {}, []
        for process in processes:
            process.kill()
        for process in processes:
            process.end()

    def _any_idle(self) -> _Process | None:
        while self._idle:
            process = self._idle.pop()
            if process.is_alive():
                return process
            process.end()
            self._free.append(process.device)
        return None

    def _died(self, number: int) -> Finished:
        process = self._busy.pop(number)
        self._free.append(process.device)
        how = process.end()
        self._failed_starts += not process.is_ready
        if self._failed_starts >= FAILED_STARTS:
            raise InputError(f"{FAILED_STARTS} worker processes ended while they started ({how}); expected memory and rights to start them")
        return Finished(number, died=f"worker process {how}", was_ready=process.is_ready)


#: What a worker process says when it is about to wait for its first job.
_READY = "ready"


@dataclass(frozen=True)
class _Result:
    value: Any


@dataclass(frozen=True)
class _Error:
    """text: a message for the user, or a traceback."""

    text: str
    is_input_error: bool


class _Process:
    """A worker process as its parent sees it."""

    def __init__(self, function: Function, device: str) -> None:
        context = get_context("spawn")
        self.device, self.is_ready = device, False
        self.pipe, theirs = context.Pipe()
        # A daemon: not waited for when this process ends by an error.
        self._process = context.Process(target=_serve, args=(theirs, function, device), daemon=True)
        with _signals_blocked():
            self._process.start()
        theirs.close()

    def send(self, arguments: tuple[Any, ...]) -> None:
        with suppress(OSError):  # it is dead: its pipe has ended, which the next look at it notices
            self.pipe.send(arguments)

    def receive(self) -> Any:
        """The next message; None when the process has died, also in the middle of it."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            return None
        self.is_ready = True
        return message

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> str:
        """The process is gone; gives how it ended."""
        self._process.join(ENDING_SECONDS)
        self._process.kill()  # one whose pipe has ended is of no more use
        self._process.join()
        code, process = self._process.exitcode or 0, self._process
        self.pipe.close()
        process.close()
        if code >= 0:
            return f"ended with exit code {code}"
        hint = " (out of memory?)" if -code == getattr(signal, "SIGKILL", 9) else ""
        return f"was killed by {signal.Signals(-code).name}{hint}"


def _serve(pipe: Any, function: Function, device: str) -> None:
    """A worker process: jobs from the pipe, results into it, until the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent's business
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _prepare(device)
    with suppress(EOFError, OSError):  # the parent is gone
        pipe.send(_READY)
        while True:
            arguments = pipe.recv()
            pipe.send(_outcome(function, arguments, device))


def _outcome(function: Function, arguments: tuple[Any, ...], device: str) -> _Result | _Error:
    try:
        return _Result(function(*arguments, device))
    except InputError as error:
        return _Error(str(error), is_input_error=True)
    except Exception:
        return _Error(traceback.format_exc(), is_input_error=False)


def _checked(outcome: _Result | _Error) -> Any:
    """The result; or the error again."""
    if isinstance(outcome, _Result):
        return outcome.value
    raise InputError(outcome.text) if outcome.is_input_error else RuntimeError(f"in a worker:\n{outcome.text}")


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker process is started by another"
    parent.join()
    os._exit(1)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started inside is deaf to Ctrl-C and SIGTERM, which a terminal or a scheduler sends to all processes of a group, from its
    first moment: its imports take seconds, and would end with a traceback. This process gets the signals afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it would unblock them when it is started inside
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Ray ----------------------------------------------------------------------------------------------


class RayWorkers:
    """Tasks of a Ray cluster, whose nodes have this package and the captures at the same paths.

    A cluster that was started here ends with its temporary folder; one that this process was connected to before stays connected.
    """

    def __init__(self, function: Function, count: int | None, device: str, address: str) -> None:
        """Raises ``InputError`` where no cluster answers, and for GPUs that it does not have."""
        cluster = _cluster_here() if address == "auto" else address
        self._folder = _ray_folder() if cluster is None else None
        with _handlers_restored():
            self._ray = _imported_ray(is_local=cluster is None)
            self._is_ours = not self._ray.is_initialized()
            self._running: dict[Any, int] = {}
            try:
                if self._is_ours:
                    self._connect(cluster, count)
                self.slots = count or self._processors(device)
            except BaseException:
                self.close()
                raise
        resources = {"num_cpus": 1, "num_gpus": 1 if device == "cuda" else 0}
        # Ray shows a task the GPU that it has alone, as the first one.
        self._device = "cuda:0" if device == "cuda" else "cpu"
        self._task = self._ray.remote(max_retries=0, **resources)(_ray_task)
        self._function = self._ray.put(function)

    def begin(self, number: int, arguments: tuple[Any, ...]) -> None:
        self._running[self._task.remote(self._function, arguments, self._device)] = number

    def finished(self, seconds: float) -> list[Finished]:
        errors = self._ray.exceptions
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        ends = []
        for reference in ready:
            number = self._running.pop(reference)
            try:
                ends.append(Finished(number, _checked(self._ray.get(reference))))
            except errors.LocalRayletDiedError:
                raise InputError("Ray: this machine's node of the cluster has ended; the same command continues") from None
            except errors.RayTaskError:
                raise
            except errors.RayError as error:
                text = " ".join(str(error).split())[:300]
                ends.append(Finished(number, died=f"Ray worker: {type(error).__name__}: {text}"))
        return ends

    def close(self) -> None:
        if not self._is_ours:
            for reference in self._running:
                with suppress(self._ray.exceptions.RayError, RuntimeError):  # its cluster may be gone
                    self._ray.cancel(reference, force=True)
            return
        with _handlers_restored():
            self._ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _connect(self, address: str | None, count: int | None) -> None:
        """address: None for a cluster of this process's own."""
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address is not None:
                self._ray.init(address=address, **quiet)
                return
            # Ray lets nobody in without a token; unless one is in the environment it writes one into the user's home.
            with _environment(RAY_AUTH_TOKEN=os.environ.get("RAY_AUTH_TOKEN") or _ray_token()):
                self._ray.init(address="local", num_cpus=count, include_dashboard=False, _temp_dir=self._folder, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"--ray {address or 'auto'}: {' '.join(str(error).split())[:300]}") from None

    def _processors(self, device: str) -> int:
        name = "GPU" if device == "cuda" else "CPU"
        found = int(self._ray.cluster_resources().get(name, 0))
        if not found:
            raise InputError(f"--device {device}: no node of the Ray cluster offers a {name}")
        return found


def _ray_task(function: Function, arguments: tuple[Any, ...], device: str) -> _Result | _Error:
    _prepare(device)
    return _outcome(function, arguments, device)


def _imported_ray(is_local: bool) -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would report to its makers
    if is_local and "ray" not in sys.modules:
        # Read by Ray when it is imported and by the processes that it starts: they listen on the loopback address alone.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    return ray


@functools.cache
def _ray_token() -> str:
    """One for all clusters of this process: Ray reads it once."""
    return secrets.token_hex(32)


def _cluster_here() -> str | None:
    """Address of the Ray cluster that was started on this machine (``ray start``) or that the user's environment names."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        with suppress(OSError, ValueError):
            address = (Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    if not address:
        return None
    _check_address(address)
    return address


def _check_address(address: str) -> None:
    """Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"--ray {address}: expected auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ADDRESS_SECONDS).close()
    except OSError as error:
        raise InputError(f"--ray {address}: no cluster answers there ({error.strerror or error})") from None


def _ray_folder() -> str:
    """A new folder with a short path."""
    base = tempfile.gettempdir()
    if len(base) > LONGEST_RAY_FOLDER and Path("/tmp").is_dir():
        base = "/tmp"
    return tempfile.mkdtemp(prefix="ray-", dir=base)


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """Ray sets a handler of its own for SIGTERM when it is imported and when it starts."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not Python's, and unknown
                signal.signal(number, handler)


# Threads and devices ------------------------------------------------------------------------------


def _prepare(device: str) -> None:
    """One thread; and kernels that look for the present GPU find the worker's."""
    torch.set_num_threads(1)
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _thread_limits() -> Iterator[None]:
    """Libraries of processes started inside read their number of threads from the environment when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    with _environment(**dict.fromkeys(names, "1")):
        yield


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
