"""Processes that are killed at a chosen write, with a proof that they were.

A forked process does some work and dies at the N-th write of a file that matters for continuing:

``half``    in the middle of it: the kernel ends the process (SIGXFSZ at its default action, under
            RLIMIT_FSIZE) when so many bytes of the file are written, whichever library writes them
``placed``  by SIGKILL as soon as the file stands under its name

The package itself knows nothing of this: the calls of Python that name files are watched from
outside.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.in_process import in_process

Point = Literal["half", "placed"]

#: How the kernel and the killer end a process.
ENDS = {"half": -signal.SIGXFSZ, "placed": -signal.SIGKILL}

PARTIAL = re.compile(r"^\.partial-\d+-\d+-(.+)$")


@dataclass(frozen=True)
class Write:
    """One write of a watched file: its path inside the output folder, which one of all watched
    writes it is, and the bytes it had.
    """

    number: int
    path: str
    size: int


class Watch:
    """Counts the writes of watched files in this process, and ends it at one of them. For a process
    that does not go on afterwards.

    watched: a pattern for paths inside ``out``. target: the number of the write to die at, from 1,
    or 0 for none. limit: bytes of it, for ``half``. told: a file that says where the process died,
    or which writes it saw.
    """

    def __init__(
        self,
        out: Path,
        watched: str,
        told: Path,
        point: Point = "placed",
        target: int = 0,
        limit: int = 0,
    ) -> None:
        self._out, self._watched, self._told = out, re.compile(watched), told
        self._point, self._target, self._limit = point, target, limit
        self._count = 0
        self.placed: list[Write] = []
        self._replace, self._with_name = os.replace, Path.with_name
        os.replace = self._replaced  # type: ignore[assignment]
        watch = self

        def with_name(path: Path, name: str) -> Path:
            if PARTIAL.match(name):
                watch._begins(path)
            return watch._with_name(path, name)

        Path.with_name = with_name  # type: ignore[method-assign]
        sys.addaudithook(self._audit)

    def _relative(self, path: Any) -> str | None:
        """The path inside the output folder when it is watched."""
        try:
            relative = os.path.relpath(os.path.abspath(os.fspath(path)), self._out)
        except TypeError:  # a descriptor
            return None
        return (
            relative
            if self._watched.search(relative) and not PARTIAL.match(os.path.basename(relative))
            else None
        )

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Files that are written without a temporary name."""
        if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wx+"):
            self._begins(arguments[0])

    def _begins(self, path: Any) -> None:
        relative = self._relative(path)
        if relative is None:
            return
        self._count += 1
        if self._point == "half" and self._count == self._target:
            self._tell(relative, self._limit)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._limit, self._limit))

    def _replaced(self, source: Any, target: Any, **options: Any) -> None:
        relative = self._relative(target)
        size = os.path.getsize(source)
        self._replace(source, target, **options)
        if relative is None:
            return
        self.placed.append(Write(self._count, relative, size))
        if self._point == "placed" and self._count == self._target:
            self._tell(relative, size)
            os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self, relative: str, size: int) -> None:
        self._told.write_text(json.dumps({"number": self._count, "path": relative, "size": size}))


def watched_writes(work: Callable[[Path], Any], out: Path, watched: str, told: Path) -> list[Write]:
    """Do the whole work in a process and list the writes of watched files."""

    def whole() -> int:
        watch = Watch(out, watched, told)
        code = work(out)
        told.write_text(json.dumps([vars(write) for write in watch.placed]))
        return code or 0

    assert in_process(whole) == 0
    return [Write(**content) for content in json.loads(told.read_text())]


def killed_at(
    work: Callable[[Path], Any], out: Path, watched: str, told: Path, point: Point, write: Write
) -> str:
    """Begin the work in a process that dies at a write; proves that it did, and gives the path of
    the file inside ``out``.

    After ``half`` the output folder holds the first half of a file and nothing under its name that
    is new; after ``placed`` the file.
    """
    limit = max(1, write.size // 2)

    def dying() -> int:
        Watch(out, watched, told, point, write.number, limit)
        return work(out) or 0

    told.unlink(missing_ok=True)
    assert in_process(dying) == ENDS[point], f"{point} {write}"
    died = json.loads(told.read_text())
    assert (died["number"], died["size"]) == (
        write.number,
        limit if point == "half" else os.path.getsize(out / died["path"]),
    )
    if point == "half":
        target = out / died["path"]
        begun = [
            path
            for path in target.parent.iterdir()
            if (match := PARTIAL.match(path.name)) and match[1] == target.name
        ] or [target]
        assert [path.stat().st_size for path in begun] == [limit], f"{point} {write}: {begun}"
    return str(died["path"])
