"""Workers that are tasks of a Ray cluster.

In: a function, and the address of a cluster. Out: see ``workers.py``. Ray is imported when the
first ``RayWorkers`` is created.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from artifixer.curation.workers import Workers, one_thread, thread_limits
from artifixer.runtime.errors import InputError
from artifixer.runtime.stopping import STOP_SIGNALS, stop_requested

#: Interval at which a request to stop is checked while Ray works, seconds.
RAY_POLL_SECONDS = 1.0


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
            stop_requested()  # raises if Ray swallowed Ctrl-C
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
        with _handlers_restored(), thread_limits():
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
            # Paths of Unix sockets in this folder must be short.
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
    """A cluster started inside has the address 127.0.0.1 and listens on it alone.

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


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """Restore the signal handlers at the end: Ray installs its own handler of SIGTERM."""
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
