"""Workers: each on its device, the same results whatever dies when, errors as they are here, and signals that are the parent's business."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import worker_jobs

from artifixer.curation.workers import (
    ATTEMPTS_BESIDE_OTHERS,
    Finished,
    GivenUp,
    ProcessWorkers,
    WorkerConfig,
    opened_workers,
    results,
    worker_devices,
)
from artifixer.runtime.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_STOPPED, InputError

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are those of POSIX")


def wait_for(condition: Callable[[], object], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def pool_of_two() -> object:
    """Two worker processes of a function, ended after the test."""
    made: list[ProcessWorkers] = []

    def make(function: Callable[..., object]) -> ProcessWorkers:
        made.append(ProcessWorkers(function, ("cpu", "cpu")))
        return made[-1]

    yield make
    for pool in made:
        pool.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("device", "count", "gpus", "expected"),
    [
        ("cuda", None, 3, ("cuda:0", "cuda:1", "cuda:2")),
        ("cuda", 2, 4, ("cuda:0", "cuda:1")),
        ("cuda", 5, 2, ("cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0")),
        ("cuda:1", 2, 2, ("cuda:1", "cuda:1")),
        ("cuda:1", None, 2, ("cuda:1",)),
        ("cpu", 3, 2, ("cpu", "cpu", "cpu")),
        ("cpu", None, 0, ("cpu",)),
    ],
)
def test_every_gpu_has_a_worker(device: str, count: int | None, gpus: int, expected: tuple[str, ...]) -> None:
    assert worker_devices(device, count, gpus) == expected


def test_every_worker_process_has_its_own_device() -> None:
    """CPU devices with numbers stand for GPUs."""
    pool = ProcessWorkers(worker_jobs.square, ("cpu:0", "cpu:1"))
    try:
        done = dict(results(pool, [(number, (number,)) for number in range(12)]))
    finally:
        pool.close()
    assert {number: result[0] for number, result in done.items()} == {number: number**2 for number in range(12)}
    pairs = {(device, process) for _, device, process in done.values()}
    assert {device for device, _ in pairs} == {"cpu:0", "cpu:1"}
    assert len(pairs) == 2 and os.getpid() not in {process for _, process in pairs}


def test_one_worker_is_this_process() -> None:
    with opened_workers(worker_jobs.square, WorkerConfig()) as workers:
        assert list(results(workers, [(5, (3,))])) == [(5, (9, "cpu", os.getpid()))]


def test_a_worker_that_is_killed_costs_its_job_and_no_other(tmp_path: Path, pool_of_two: Callable[..., ProcessWorkers]) -> None:
    """One job's workers die as often as it is tried beside others, then it succeeds alone; no job is lost, none but this is repeated."""
    jobs = [(number, (tmp_path, number, ATTEMPTS_BESIDE_OTHERS if number == 2 else 0)) for number in range(1, 7)]
    done = dict(results(pool_of_two(worker_jobs.dies), jobs))
    assert done == {number: number for number in range(1, 7)}
    assert {number: len(list(tmp_path.glob(f"{number}-*"))) for number in done} == {1: 1, 2: 3, 3: 1, 4: 1, 5: 1, 6: 1}


def test_a_job_that_kills_every_worker_is_given_up_after_it_was_alone(tmp_path: Path, pool_of_two: Callable[..., ProcessWorkers]) -> None:
    jobs = [(number, (tmp_path, number, 99 if number == 1 else 0)) for number in range(1, 5)]
    done = dict(results(pool_of_two(worker_jobs.dies), jobs))
    assert done[1] == GivenUp(3, "worker process was killed by SIGKILL (out of memory?)")
    assert [done[number] for number in (2, 3, 4)] == [2, 3, 4]
    last_of_others = max(path.stat().st_mtime for path in tmp_path.glob("[234]-*"))
    assert (tmp_path / "1-2").stat().st_mtime > last_of_others, "the last attempt came when nothing else ran"


def test_a_worker_killed_before_it_is_ready_or_while_it_waits(tmp_path: Path, pool_of_two: Callable[..., ProcessWorkers]) -> None:
    pool = pool_of_two(worker_jobs.noted)
    pool.begin(0, (tmp_path, 7, 0.0))
    (starting,) = multiprocessing.active_children()
    starting.kill()
    assert pool.finished(60) == [Finished(0, died="worker process was killed by SIGKILL (out of memory?)", was_ready=False)]
    assert not list(tmp_path.iterdir())
    assert list(results(pool, [(0, (tmp_path, 7, 0.0))])) == [(0, 7)]
    (waiting,) = multiprocessing.active_children()
    waiting.kill()
    waiting.join()
    assert list(results(pool, [(1, (tmp_path, 8, 0.0))])) == [(1, 8)]


def test_a_worker_killed_in_the_middle_of_its_answer_does_not_hang_the_others(
    tmp_path: Path, pool_of_two: Callable[..., ProcessWorkers]
) -> None:
    pool = pool_of_two(worker_jobs.large)
    pool.begin(0, (tmp_path,))
    wait_for((tmp_path / "large").exists)
    time.sleep(0.5)  # nobody reads: the pipe is full, and the worker in the middle of writing to it
    os.kill(int((tmp_path / "large").read_text()), signal.SIGKILL)
    ends: list[Finished] = []
    wait_for(lambda: ends.extend(pool.finished(1)) or ends)
    (end,) = ends
    assert end.died is not None and "SIGKILL" in end.died
    ((_, answer),) = results(pool, [(0, (tmp_path,))])
    assert answer == bytes(worker_jobs.LARGE)


def test_workers_that_cannot_start_are_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch, pool_of_two: Callable[..., ProcessWorkers]
) -> None:
    monkeypatch.setenv("WORKER_JOBS_END_AT_IMPORT", "1")
    with pytest.raises(InputError, match=r"3 worker processes ended while they started \(ended with exit code 3"):
        list(results(pool_of_two(worker_jobs.square), [(0, (1,))]))


def test_errors_of_jobs_arrive(pool_of_two: Callable[..., ProcessWorkers]) -> None:
    pool = pool_of_two(worker_jobs.fails)
    with pytest.raises(InputError, match=r"^no such photo$"):
        list(results(pool, [(0, ("no such photo", True))]))
    with pytest.raises(RuntimeError, match=r"(?s)in a worker:.*in fails.*ValueError: a bug"):
        list(results(pool, [(0, ("a bug", False))]))


COMMAND = ("-m", "artifixer", "curate", "procedural:3:5", "--size", "32", "--frames", "5", "--workers", "2")


def curate_command(out: Path, *more: str) -> subprocess.Popen[str]:
    """In a process group of its own, as in a terminal."""
    return subprocess.Popen(
        [sys.executable, *COMMAND, "--out", str(out), *more],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(process: int) -> list[int]:
    """Living child processes that work, without Python's own helper."""
    import psutil

    found = psutil.Process(process).children() if psutil.pid_exists(process) else []
    return [child.pid for child in found if "spawn_main" in " ".join(child.cmdline())]


@needs_signals
@pytest.mark.parametrize(
    ("number", "moment", "code", "said"),
    [
        (signal.SIGINT, "workers start", EXIT_INTERRUPTED, "artifixer: interrupted\n"),
        (signal.SIGINT, "workers work", EXIT_INTERRUPTED, "artifixer: interrupted\n"),
        (signal.SIGTERM, "workers work", EXIT_STOPPED, "run the same command to continue\n"),
    ],
)
def test_a_signal_to_the_whole_group_ends_with_one_line(number: int, moment: str, code: int, said: str, tmp_path: Path) -> None:
    """Ctrl-C, or a scheduler's SIGTERM: no traceback of a child, nothing about memory, nothing left running; the same command goes on."""
    out = tmp_path / "pairs"
    process = curate_command(out)
    try:
        wait_for(lambda: len(children(process.pid)) == 2 or process.poll() is not None)
        workers = children(process.pid)
        if moment == "workers work":
            wait_for(lambda: any(out.glob(".scenes/*.json")) or process.poll() is not None)
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == code, error
    messages = [line for line in error.splitlines(keepends=True) if "artifixer: " in line]
    assert len(messages) == 1 and messages[0].endswith(said), error
    assert "Traceback" not in error and "memory" not in error and "KeyboardInterrupt" not in error
    assert len(workers) == 2
    wait_for(lambda: not any(map(is_running, workers)), 10)
    if number == signal.SIGTERM:
        again = curate_command(out)
        assert again.communicate(timeout=400)[1] is not None and again.returncode == EXIT_DONE


def is_running(process: int) -> bool:
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def killed_when(condition: Callable[[], int | None]) -> threading.Thread:
    """A thread that kills the process which the condition names, once."""

    def kill() -> None:
        while (process := condition()) is None:
            time.sleep(0.01)
        os.kill(process, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread
