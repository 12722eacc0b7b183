"""The command line in real processes: exit codes, one-line errors, and help that teaches."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from artifixer import __version__
from artifixer.cli import VERBS


def artifixer(*words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "artifixer.cli", *words], capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )


def with_verb(body: str, *words: str) -> list[str]:
    """Command of a process whose verb ``try`` runs ``body``."""
    module = f"""
import dataclasses, os, signal, sys, types
from artifixer import cli
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.stopping import stop_on_sigterm, stop_requested

@dataclasses.dataclass(frozen=True)
class Command:
    number: int = 3

def run_command(command):
{textwrap.indent(textwrap.dedent(body), "    ")}

verb = types.ModuleType("verb_for_test")
verb.Command, verb.run_command = Command, run_command
sys.modules["verb_for_test"] = verb
cli.VERBS["try"] = ("verb_for_test", "a verb")
sys.exit(cli.main(["try", *{list(words)!r}]))
"""
    return [sys.executable, "-c", module]


def run_verb(body: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(with_verb(body, *words), capture_output=True, text=True, timeout=120, check=False)


def assert_one_line(text: str) -> None:
    assert text.startswith("artifixer: ")
    assert text.count("\n") == 1, text


def test_help_lists_every_verb() -> None:
    done = artifixer("--help")
    assert done.returncode == 0
    assert all(re.search(rf"^  {verb} +\S", done.stdout, re.MULTILINE) for verb in VERBS)


def test_version() -> None:
    assert artifixer("--version").stdout == f"artifixer {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_teaches(verb: str) -> None:
    done = artifixer(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"artifixer {verb} " in done.stdout.split("xample", 1)[1], "an example of the verb"
    assert "--" in done.stdout


def test_no_verb_is_wrong_usage() -> None:
    done = artifixer()
    assert done.returncode == 2
    assert "usage: artifixer VERB" in done.stderr


def test_unknown_verb_is_one_line_with_a_hint() -> None:
    done = artifixer("recontsruct")
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_line(done.stderr)
    assert "did you mean 'reconstruct'?" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("reconstruct", "procedural:1", "--out", "run", "--iteration", "5"), "--iterations"),
        (("reconstruct", "procedural:1", "--out", "run", "--iterations", "many"), "many"),
        (("reconstruct", "procedural:1"), "--out"),
        (("render",), "--out"),
    ],
)
def test_wrong_options_are_one_line(words: tuple[str, ...], expected: str) -> None:
    done = artifixer(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_line(done.stderr)
    assert expected in done.stderr


def test_missing_capture_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    done = artifixer("reconstruct", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert_one_line(done.stderr)
    assert "nowhere" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_done() -> None:
    done = run_verb("print(command.number + 1)", "--number", "4")
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


def test_bug_shows_its_traceback() -> None:
    done = run_verb("raise KeyError('surprise')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "surprise" in done.stderr


def test_bad_input_is_one_line() -> None:
    done = run_verb("raise InputError('photo.png: cannot read,\\n expected an image')")
    assert (done.returncode, done.stderr) == (2, "artifixer: error: photo.png: cannot read, expected an image\n")


def test_sigterm_saves_and_ends_with_75() -> None:
    body = """
    import time
    with stop_on_sigterm():
        print("working", flush=True)
        while not stop_requested():
            time.sleep(0.01)
        raise Stopped("run: stopped at iteration 7")
    """
    with subprocess.Popen(with_verb(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (75, "artifixer: run: stopped at iteration 7\n")


def test_interrupt_ends_with_130() -> None:
    body = """
    import time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    print("working", flush=True)
    time.sleep(60)
    """
    with subprocess.Popen(with_verb(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "artifixer: interrupted\n")


def test_reader_that_goes_away_is_no_bug() -> None:
    body = """
    for _ in range(100_000):
        print("a line of text that fills the pipe")
    """
    with subprocess.Popen(with_verb(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        process.wait(timeout=60)
    assert (process.returncode, errors) == (141, "")
