"""Workers: every job gives its result whichever workers do it, whatever happens to some of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from process_groups import living_members
from short_fits import CONFIG

from artifixer.curation.jobs import curate
from artifixer.curation.process_workers import ProcessWorkers
from artifixer.curation.ray_workers import RayWorkers
from artifixer.curation.sources import expand_sources
from artifixer.curation.workers import Workers, work_through, worker_devices
from artifixer.runtime.errors import InputError

#: Larger than the buffer of a pipe, so that a worker can be killed in the middle of sending it.
LARGE = 30_000_000


def report(folder: str, name: str, deaths: int, device: str) -> tuple[str, int, str]:
    """A job: kills its own process in its first ``deaths`` attempts."""
    attempts = Path(folder) / f"{name}.{os.getpid()}.{time.time_ns()}"
    attempts.touch()
    if len(list(Path(folder).glob(f"{name}.*"))) <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return name, os.getpid(), device


def send_much(size: int, device: str) -> bytes:
    return bytes(size)


def raise_error(device: str) -> None:
    raise ZeroDivisionError("a bug")


def run(workers: Workers, jobs: list[tuple[object, ...]]) -> dict[int, object]:
    try:
        return dict(work_through(workers, iter(list(enumerate(jobs)))))
    finally:
        workers.close()


def test_each_worker_has_a_device_of_its_own_and_deaths_cost_one_job_only(tmp_path: Path) -> None:
    jobs: list[tuple[object, ...]] = [
        (str(tmp_path), f"job{number}", deaths) for number, deaths in enumerate([0, 1, 2, 0, 0])
    ]
    results = run(ProcessWorkers(report, ["cpu", "cpu:0"]), jobs)
    assert results.pop(2) is None, "died in both attempts"
    names, pids, devices = zip(*(results[number] for number in sorted(results)), strict=True)  # type: ignore[misc]
    assert names == ("job0", "job1", "job3", "job4")
    assert [len(list(tmp_path.glob(f"job{number}.*"))) for number in range(5)] == [1, 2, 2, 1, 1]
    assert len({(pid, device) for pid, device in zip(pids, devices, strict=True)}) == len(
        set(pids)
    ), "one device per process"


def test_a_worker_killed_while_it_sends_or_while_it_is_idle_hangs_nothing() -> None:
    workers = ProcessWorkers(send_much, ["cpu"])
    try:
        workers.submit(0, (LARGE,))
        pipe, process = workers._busy[0].pipe, workers._busy[0].process
        assert pipe.poll(60), "the first bytes are there, the rest does not fit into the pipe"
        process.kill()
        process.join()
        assert workers.wait() == [(0, None)]
        workers.submit(1, (3,))
        assert workers.wait() == [(1, bytes(3))]
        idle = workers._idle[0].process
        idle.kill()
        idle.join()
        workers.submit(2, (4,))
        assert workers.wait() == [(2, bytes(4))]
    finally:
        workers.close()


def test_an_error_of_a_job_is_raised() -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(ProcessWorkers(raise_error, ["cpu"]), [()])


def test_devices_are_shared_out_one_gpu_to_a_worker() -> None:
    assert worker_devices("cpu", 3) == ("cpu", "cpu", "cpu")
    gpus = torch.cuda.device_count()
    assert worker_devices("cuda", gpus) == tuple(f"cuda:{index}" for index in range(gpus))
    with pytest.raises(InputError, match=f"this machine has {gpus} GPUs"):
        worker_devices("cuda", gpus + 1)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[str]:
    """A Ray of two workers on this machine, as ``--ray local`` starts it; they find the functions
    of this file.
    """
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra cluster)")
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        workers = RayWorkers(report, 2, "cpu", "local")
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            workers.close()


def test_a_local_cluster_listens_on_the_loopback_interface_alone(ray_cluster: str) -> None:
    """Ray's services run what they are sent. They once listened on all interfaces, although Ray was
    given a loopback address.
    """
    assert ray_cluster.startswith("127.0.0.1:")
    sockets: dict[str, set[str]] = {}
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            for socket in process.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    sockets.setdefault(process.name(), set()).add(socket.laddr.ip)
    assert {"gcs_server", "raylet"} <= set(sockets), "the services were found"
    addresses = {address.removeprefix("::ffff:") for found in sockets.values() for address in found}
    assert addresses <= {"127.0.0.1", "::1"}, sockets


def test_a_ray_worker_that_is_killed_costs_its_own_job_only(
    ray_cluster: str, tmp_path: Path
) -> None:
    jobs: list[tuple[object, ...]] = [
        (str(tmp_path), f"job{number}", deaths) for number, deaths in enumerate([0, 1, 2, 0])
    ]
    results = run(RayWorkers(report, 2, "cpu", ray_cluster), jobs)
    assert results.pop(2) is None
    assert [results[number][0] for number in sorted(results)] == ["job0", "job1", "job3"]  # type: ignore[index]
    assert [len(list(tmp_path.glob(f"job{number}.*"))) for number in range(4)] == [1, 2, 2, 1]


def test_two_processes_and_two_ray_workers_make_the_same_shards(
    ray_cluster: str, tmp_path: Path
) -> None:
    sources = expand_sources(["procedural:3:5"])
    for name, cluster in (("processes", None), ("ray", ray_cluster)):
        assert curate(sources, CONFIG, 1, tmp_path / name, workers=2, ray=cluster).pairs == 3
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        for folder in (tmp_path / "processes", tmp_path / "ray")
    )
    assert set(first) == set(second) >= {"pairs-00000.tar", "index.json", "manifest.json"}
    undecided = {"log.txt", "timing.json", "config.json"}
    assert {name for name in first if first[name] != second[name]} <= undecided


def test_ray_without_gpu_or_without_cluster_is_bad_input(ray_cluster: str) -> None:
    with pytest.raises(InputError, match="has no GPU"):
        RayWorkers(report, 2, "cuda", ray_cluster)


# A shell starts commands in the background with Ctrl-C ignored, which processes below inherit; here
# it counts.
CURATE = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
from process_groups import living_members
from short_fits import CONFIG
from artifixer.recipes.curate import RECIPES
RECIPES["tiny"] = CONFIG
from artifixer.cli import main
if __name__ == "__main__":
    sys.exit(main(["curate", "procedural:400:5", "--workers", "2", "--out", sys.argv[2]]))
"""


@pytest.mark.parametrize(
    ("number", "code", "when"),
    [
        (signal.SIGTERM, 75, "starting"),
        (signal.SIGINT, 130, "working"),
        pytest.param(signal.SIGINT, 130, "starting", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 75, "working", marks=pytest.mark.slow),
    ],
)
def test_signals_to_the_whole_group_end_it_with_one_line(
    tmp_path: Path, number: int, code: int, when: str
) -> None:
    script, out = tmp_path / "script.py", tmp_path / "pairs"
    script.write_text(CURATE)
    process = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent), str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        if when == "working":
            wait_until(lambda: any(out.glob(".scenes/*.json")))
        else:
            wait_until(lambda: len(children(process.pid)) >= 2)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert "memory" not in errors
    wait_until(lambda: not living_members(process.pid))


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def children(parent: int) -> list[int]:
    return [
        int(name) for name in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    ]
