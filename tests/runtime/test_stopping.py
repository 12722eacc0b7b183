"""SIGTERM as a request: work ends where its state is on disk, or at once where it has none."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from artifixer.runtime.errors import EXIT_INTERRUPTED, EXIT_STOPPED, Stopped
from artifixer.runtime.stopping import (
    stop_at_once,
    stop_if_requested,
    stop_on_sigterm,
    stop_requested,
)

pytestmark = pytest.mark.posix


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers_are_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert not stop_requested()


def test_a_request_is_seen_until_the_outermost_context_ends() -> None:
    with stop_on_sigterm():
        stop_if_requested("before anything happened")
        with stop_on_sigterm():
            terminate()
            assert stop_requested()
        assert stop_requested()
        with pytest.raises(
            Stopped, match="stopped while reading photos; run the same command to continue"
        ):
            stop_if_requested("while reading photos")
    assert not stop_requested()


def test_work_without_a_state_is_cut_where_it_stands() -> None:
    reached = []

    @stop_at_once()
    def work() -> None:
        terminate()
        reached.append("the next line")

    with pytest.raises(Stopped, match="run the same command to continue"):
        work()
    assert not reached


def test_inside_work_with_a_state_a_part_can_be_cut() -> None:
    with stop_on_sigterm():
        with pytest.raises(Stopped), stop_at_once():
            terminate()
        with pytest.raises(Stopped), stop_at_once():
            raise AssertionError("the request is known when the part begins")


def test_a_request_that_work_did_not_read_stops_what_follows() -> None:
    """Such as a signal during the last write: the work is done, and nothing else begins."""
    done = []

    @stop_at_once()
    def work() -> None:
        with stop_on_sigterm():
            terminate()
            done.append("the last write")
        done.append("what follows")

    with pytest.raises(Stopped):
        work()
    assert done == ["the last write"]


def test_an_error_of_the_work_is_not_hidden_by_a_request() -> None:
    @stop_at_once()
    @stop_on_sigterm()
    def work() -> None:
        terminate()
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        work()


def test_other_threads_may_work_too() -> None:
    seen = []

    def work() -> None:
        with stop_at_once(), stop_on_sigterm():
            seen.append(stop_requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, EXIT_STOPPED), (signal.SIGINT, EXIT_INTERRUPTED)]
)
def test_imports_are_left_at_once(number: signal.Signals, code: int) -> None:
    """Also where a library would swallow an exception from a signal handler."""
    program = f"""
import os, signal
from artifixer.runtime.stopping import leave_on_signals

signal.signal(signal.SIGINT, signal.default_int_handler)
class Swallowing:
    def __del__(self):
        os.kill(os.getpid(), {int(number)})

with leave_on_signals():
    Swallowing()
    print("went on")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("artifixer: ") and done.stderr.count("\n") == 1


def test_a_librarys_handler_does_not_stay() -> None:
    """COLMAP's log takes SIGTERM for a crash: it prints a stack trace and ends the process with
    143.
    """
    program = """
import os, signal
from artifixer.runtime.stopping import handlers_kept, stop_on_sigterm, stop_requested

with stop_on_sigterm():
    with handlers_kept():
        import pycolmap
    os.kill(os.getpid(), signal.SIGTERM)
    print("requested" if stop_requested() else "lost")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "requested\n"), done.stderr
