"""A small part of the fuzzer (``make fuzz`` runs 20,000 cases), and proof that it notices what it
is there for.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import GOOD, PROJECT, fuzz
from tests.fuzz.child import Watch
from tests.fuzz.mutations import mutate

#: Pipes, sockets, devices and links.
pytestmark = pytest.mark.posix

#: Half a minute on one core, most of it loading libraries.
CASES = 400


def test_damaged_files_end_in_a_result_or_in_one_line() -> None:
    counts, failures = fuzz(CASES)
    told = "\n".join(
        f"{bad.target} {bad.number}: {bad.outcome} ({'; '.join(bad.changes)})\n{bad.detail}"
        for bad in failures
    )
    assert not failures, f"repeat one with python -m tests.fuzz --target NAME --case NUMBER\n{told}"
    assert counts.total() == CASES
    outcomes = {outcome for _, outcome in counts}
    assert outcomes == set(GOOD), (
        f"cases must both pass and be refused, or they prove nothing: {outcomes}"
    )


def test_the_same_seed_makes_the_same_damage(tmp_path: Path) -> None:
    written = []
    for attempt in ("a", "b"):
        folder = tmp_path / attempt
        folder.mkdir()
        (folder / "a.json").write_text(json.dumps({"x": [1, 2, {"y": "z"}]}))
        (folder / "b.bin").write_bytes(bytes(range(256)))
        chance = random.Random(7)
        told = [mutate(folder, chance, ["a.json", "b.bin"], tmp_path) for _ in range(4)]
        small = [
            path
            for path in sorted(folder.iterdir())
            if path.is_file() and path.stat().st_size < 10_000
        ]
        written.append((told, {path.name: path.read_bytes() for path in small}))
    assert written[0] == written[1]


#: What a reader must not do, as a program in which ``inside`` and ``outside`` are folders; and what
#: the watch says.
DEEDS = {
    "write": ("open(outside / 'x', 'w').close()", "open for writing"),
    "write through a link": (
        "(inside / 'l').symlink_to(outside / 'secret'); watch.found.clear(); open(inside / 'l', "
        "'a')",
        "open for writing",
    ),
    "read": ("open(outside / 'secret').read()", "open "),
    "delete": ("os.remove(outside / 'secret')", "os.remove"),
    "delete a tree": ("shutil.rmtree(outside)", "shutil.rmtree"),
    "delete by way of a link": (
        "(inside / 'l').symlink_to(outside); watch.found.clear(); os.remove(inside / 'l' / "
        "'secret')",
        "os.remove",
    ),
    "rename": ("os.rename(outside / 'secret', inside / 'x')", "os.rename"),
    "start a program": ("subprocess.run(['true'])", "subprocess.Popen"),
    "start a shell": ("os.system('true')", "os.system"),
    "unpickle": ("pickle.loads(pickle.dumps(os.getcwd))", "pickle.find_class"),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_the_watch_notices(tmp_path: Path, deed: str) -> None:
    program, expected = DEEDS[deed]
    found = watched(tmp_path, program)
    assert any(line.startswith(expected) for line in found), found


@pytest.mark.parametrize(
    "program",
    [
        "open(inside / 'x', 'w').close()",
        "os.remove(inside / 'own')",
        "os.mkdir(inside / 'd'); shutil.rmtree(inside / 'd')",
        "import colorsys",
    ],
)
def test_the_watch_lets_pass_what_a_reader_may_do(tmp_path: Path, program: str) -> None:
    assert watched(tmp_path, program) == []


def watched(folder: Path, program: str) -> list[str]:
    """What the watch says of a program, in its own process: audit hooks cannot be removed."""
    (folder / "case").mkdir()
    (folder / "outside").mkdir()
    (folder / "case" / "own").touch()
    (folder / "outside" / "secret").touch()
    lines = [
        "import json, os, pickle, shutil, subprocess, sys, pathlib",
        f"from {Watch.__module__} import Watch",
        f"inside, outside = pathlib.Path({str(folder / 'case')!r}), "
        f"pathlib.Path({str(folder / 'outside')!r})",
        "watch = Watch()",
        "sys.addaudithook(watch)",
        "watch.case = os.path.realpath(inside)",
        program,
        "watch.case = None",
        "print(json.dumps(watch.found))",
    ]
    project = Path(__file__).parents[2]
    answer = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(project)},
        check=True,
    )
    found: list[str] = json.loads(answer.stdout)
    return found


@pytest.mark.parametrize("words", [["--target", "nosuch"], ["--case", "3"]])
def test_an_unknown_target_ended_in_a_traceback(words: list[str]) -> None:
    command = [sys.executable, "-m", "tests.fuzz", *words]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(" ".join(words) + ": expected one ")
