"""Scripts that run as programs, in processes forked from one that has loaded the package: loading
it takes longer than most of them. Where there is no fork they are started.

As a program: ``python -m tests.scripts`` reads one JSON object per line: the script, its
arguments, the folder to run in, and a file for its output; and answers with its exit code.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Scripts:
    """The process that scripts are forked from; nothing of a test runner is loaded in it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, script: Path, folder: Path, *arguments: str) -> tuple[int, str]:
        """Exit code and output, both streams together, of a script that runs in the folder."""
        output = folder / "output.txt"
        job = {"script": str(script), "arguments": arguments, "folder": str(folder)}
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(job | {"output": str(output)}), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        return code, output.read_text(encoding="utf-8")


@contextmanager
def scripts() -> Iterator[Scripts]:
    """Begin the process, and end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.scripts"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Scripts(process)
    finally:
        process.communicate(timeout=60)


def main() -> None:
    import artifixer.api
    import artifixer.scenes.procedural
    import artifixer.splats.rasterizers.numba_cpu  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        print(_forked(job) if hasattr(os, "fork") else _started(**job), flush=True)


def _forked(job: dict[str, Any]) -> int:
    process = os.fork()
    if process == 0:
        os._exit(_run(**job))
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _started(script: str, arguments: list[str], folder: str, output: str) -> int:
    with open(output, "wb") as file:
        command = [sys.executable, script, *arguments]
        return subprocess.run(command, cwd=folder, stdout=file, stderr=file).returncode


def _run(script: str, arguments: list[str], folder: str, output: str) -> int:
    code: object = 1
    try:
        os.chdir(folder)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = [script, *arguments]
        sys.path[0] = str(Path(script).parent)
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    main()
