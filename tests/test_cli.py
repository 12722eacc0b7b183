"""The command line in real processes: exit codes, one-line errors, and help that teaches."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import get_args

import pytest

from artifixer import __version__
from artifixer.cli import VERBS, main
from artifixer.enhance.enhance import Drop
from artifixer.runtime.errors import EXIT_BAD_INPUT


def artifixer(*words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "artifixer", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )


def test_the_help_of_every_verb_loads_nothing_heavy() -> None:
    script = """
import sys
from artifixer.cli import VERBS, main
for verb in VERBS:
    assert main([verb, "--help"]) == 0
    assert main([verb, "--no-such-option"]) == 2
    loaded = {"torch", "numba", "scipy", "av", "cv2"} & set(sys.modules)
    assert not loaded, (verb, loaded)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def with_verb(body: str, *words: str, options: str = "") -> list[str]:
    """Command of a process whose verb ``try`` runs ``body``; ``options``: of its ``Command``."""
    module = f"""
import dataclasses, os, signal, sys, types
from artifixer import cli
from artifixer.__main__ import main
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.stopping import stop_on_sigterm, stop_requested

@dataclasses.dataclass(frozen=True)
class Command:
    number: int = 3
    {options}

def run_command(command):
{textwrap.indent(textwrap.dedent(body), "    ")}

verb = types.ModuleType("verb_for_test")
verb.Command, verb.run_command = Command, run_command
sys.modules["verb_for_test"] = verb
cli.VERBS["try"] = ("verb_for_test", "a verb")
sys.argv[1:] = ["try", *{list(words)!r}]
main()
"""
    return [sys.executable, "-c", module]


def run_verb(body: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        with_verb(body, *words), capture_output=True, text=True, timeout=120, check=False
    )


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
def test_help_of_every_verb_teaches(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"artifixer {verb} " in said.split("xample", 1)[1], "an example of the verb"
    assert "--" in said
    # "Default: the recipe's. (default: None)" would say two things
    assert "None" not in said and "default: False" not in said


def test_help_hid_that_a_training_starts_from_a_named_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert "name of a model, such as tiny" in told


def test_help_explains_every_input_that_can_be_withheld(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["enhance", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split()).split("--drop", 2)[2].split("--seed")[0]
    assert all(f"{kind}: " in text for kind in get_args(Drop)), text


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
    assert (done.returncode, done.stderr) == (
        2,
        "artifixer: error: photo.png: cannot read, expected an image\n",
    )


@pytest.mark.posix
def test_sigterm_saves_and_ends_with_75() -> None:
    body = """
    import time
    with stop_on_sigterm():
        print("working", flush=True)
        while not stop_requested():
            time.sleep(0.01)
        raise Stopped("run: stopped at iteration 7")
    """
    with subprocess.Popen(
        with_verb(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (75, "artifixer: run: stopped at iteration 7\n")


@pytest.mark.posix
@pytest.mark.parametrize("moment", ["__post_init__", "run_command", "atexit"])
def test_sigterm_gives_75_while_options_are_read_while_a_verb_works_and_while_the_process_ends(
    moment: str,
) -> None:
    """In a verb that knows nothing of signals."""
    terminate = "os.kill(os.getpid(), signal.SIGTERM)"
    if moment == "__post_init__":
        command = with_verb("print('went on')", options=f"def __post_init__(self): {terminate}")
    elif moment == "run_command":
        command = with_verb(f"{terminate}; print('went on')")
    else:
        command = with_verb("import atexit; atexit.register(os.kill, os.getpid(), signal.SIGTERM)")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (75, ""), done.stderr
    assert done.stderr == "artifixer: stopped; run the same command to continue\n"


@pytest.mark.posix
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's account of signal handlers"
)
@pytest.mark.parametrize("after", [0, 0.1, 0.3, 0.6, 1.2])
def test_sigterm_gives_75_while_libraries_are_imported(after: float, tmp_path: Path) -> None:
    """From the first moment in which a program written in Python can answer."""
    command = [
        sys.executable,
        "-m",
        "artifixer",
        "reconstruct",
        "procedural:7:frames=9,width=48,height=36",
        "--out",
        str(tmp_path / "run"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not has_handler(process.pid, signal.SIGTERM):
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(after)
        process.terminate()
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (75, ""), errors
    assert errors.splitlines()[-1] == "artifixer: stopped; run the same command to continue"
    assert "Traceback" not in errors


def has_handler(process: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    status = Path(f"/proc/{process}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.posix
def test_an_interrupt_that_a_library_made_an_error_of_is_no_bug() -> None:
    body = """
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass
    raise RuntimeError("half imported")
    """
    command = with_verb(body)
    command[2] = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + command[2]
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (130, "artifixer: interrupted\n")


@pytest.mark.posix
def test_an_interrupt_inside_a_library_written_in_c_ends_with_130(tmp_path: Path) -> None:
    """Python remembers an interrupt that has left code run by a library, and ``python -m`` ends by
    the signal whatever the exit code.
    """
    body = """
    import ctypes
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run = ctypes.pythonapi.PyRun_String
    run.restype = ctypes.py_object
    run.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.py_object, ctypes.py_object)
    run(b"import os; os.kill(os.getpid(), 2)", 257, {"__builtins__": __builtins__}, {})
    """
    (tmp_path / "program.py").write_text(with_verb(body)[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "program"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (130, "artifixer: interrupted\n")


@pytest.mark.posix
def test_interrupt_ends_with_130() -> None:
    body = """
    import time
    # a shell's background jobs inherit that it is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("working", flush=True)
    time.sleep(60)
    """
    with subprocess.Popen(
        with_verb(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "artifixer: interrupted\n")


@pytest.mark.posix
def test_reader_that_goes_away_is_no_bug() -> None:
    body = """
    for _ in range(100_000):
        print("a line of text that fills the pipe")
    """
    with subprocess.Popen(
        with_verb(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        process.wait(timeout=60)
    assert (process.returncode, errors) == (141, "")


def test_an_option_of_several_values_that_is_given_twice_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only the values of the last one counted."""
    words = ["evaluate", "heldout", "there", "--out", "o"]
    assert main([*words, "--split", "a=b", "--split", "c=d"]) == EXIT_BAD_INPUT
    assert "--split is given twice; expected all its values after one --split" in (
        capsys.readouterr().err
    )
    assert (
        main([*words, "--split", "a=b", "c=d", "--frames", "x=y", "--frames", "z=w"])
        == EXIT_BAD_INPUT
    )
    assert "twice" not in capsys.readouterr().err, "frames may be repeated"
