"""The process in which cases run: ``python -m tests.fuzz.child SEEDS CASES SEED``. Numbers of cases
on standard input, verdicts out.

It watches itself. An audit hook sees every file that Python opens, writes or deletes and every
program that starts; what libraries do in native code shows in the folder beside the case, in child
processes, and in the memory's high-water mark.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import sys
import sysconfig
import time
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import mutate, remove_tree

#: Bytes of resident memory beyond what the process has before a case.
MAX_MEMORY = 2 * 1024**3

#: Bytes of private memory at which the system refuses more, to save the machine.
DATA_LIMIT = 12 * 1024**3

#: What a case may read besides its own folder: the interpreter, installed packages, the project,
#: and what the system says of itself.
PROJECT = Path(__file__).resolve().parents[2]
READABLE = tuple(
    os.path.realpath(path)
    for path in (
        sys.prefix,
        sys.base_prefix,
        *sysconfig.get_paths().values(),
        PROJECT,
        "/proc",
        "/sys",
        "/usr",
        "/dev/null",
        "/dev/urandom",
        "/etc",
    )
)

#: Events of the interpreter that write or delete the paths that are their first arguments (number
#: of paths).
CHANGES = {
    "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.rename": 2, "os.truncate": 1, "os.link": 2,
    "os.symlink": 2, "os.chmod": 1, "os.chown": 1, "os.utime": 1, "shutil.rmtree": 1,
    "shutil.move": 2, "shutil.copyfile": 2, "tempfile.mkstemp": 1, "tempfile.mkdtemp": 1,
}  # fmt: skip

#: Events that start programs, load code, or reach other machines.
FORBIDDEN = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
    "os.forkpty", "pty.spawn", "os.startfile",
    "socket.connect", "urllib.Request", "pickle.find_class", "webbrowser.open",
)  # fmt: skip


class Watch:
    """What the process does while ``case`` is set."""

    def __init__(self) -> None:
        self.case: str | None = None
        self.found: list[str] = []
        self._inside = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.case is None or self._inside:
            return
        if event != "open" and event not in CHANGES and event not in FORBIDDEN:
            return
        self._inside = True
        try:
            self._look(event, arguments)
        finally:
            self._inside = False

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN:
            self.found.append(f"{event} {str(arguments)[:200]}")
        elif event in CHANGES:
            count = CHANGES[event]
            for path, descriptor in zip(
                arguments[:count], arguments[count:] or (-1,) * count, strict=False
            ):
                if (
                    isinstance(path, (str, bytes))
                    and isinstance(descriptor, int)
                    and descriptor >= 0
                    and event != "os.mkdir"
                ):
                    # shutil removes so
                    path = os.path.join(
                        os.readlink(f"/proc/self/fd/{descriptor}"), os.fsdecode(path)
                    )
                if isinstance(path, (str, bytes, os.PathLike)) and not self._is_inside(
                    path, follow=False
                ):
                    self.found.append(f"{event} {str(path)[:200]}")
        else:
            path, mode, flags = (*arguments, None, None)[:3]
            if not isinstance(path, (str, bytes, os.PathLike)):
                return
            writes = bool(
                isinstance(flags, int)
                and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            )
            writes |= isinstance(mode, str) and any(letter in mode for letter in "wax+")
            if writes:
                if not self._is_inside(path) and not _is_cache(path):
                    self.found.append(f"open for writing {str(path)[:200]}")
            elif (
                not self._is_inside(path, follow=False)
                and not self._is_inside(path)
                and not _is_readable(path)
            ):
                self.found.append(f"open {str(path)[:200]}")

    def _is_inside(self, path: str | bytes | os.PathLike, follow: bool = True) -> bool:
        """follow: where the path leads; otherwise where it stands, links to files not resolved:
        users link photos and weights.
        """
        text = os.fsdecode(path)
        full = (
            os.path.realpath(text)
            if follow
            else os.path.join(
                os.path.realpath(os.path.dirname(os.path.abspath(text))), os.path.basename(text)
            )
        )
        assert self.case is not None
        return full == self.case or full.startswith(self.case + os.sep)


def _is_readable(path: str | bytes | os.PathLike) -> bool:
    full = os.path.realpath(os.fsdecode(path))
    return any(full == root or full.startswith(root + os.sep) for root in READABLE)


def _is_cache(path: str | bytes | os.PathLike) -> bool:
    """Compiled kernels and modules."""
    return "__pycache__" in os.fsdecode(path) or os.fsdecode(path) == os.devnull


def main() -> None:
    seeds, cases, seed = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())

    import torch

    torch.set_num_threads(1)
    from tests.fuzz.targets import TARGETS

    resource.setrlimit(resource.RLIMIT_DATA, (DATA_LIMIT, DATA_LIMIT))
    folder, outside = cases / "case", cases / "outside"
    watch = Watch()
    sys.addaudithook(watch)
    contents = {name: _contents(seeds / name) for name in TARGETS}
    # lazy imports and compiled kernels, outside of any case's time and memory
    for name, target in TARGETS.items():
        _lay_out(folder, contents[name])
        target.read(folder)
    os.dup2(silence, sys.stderr.fileno())  # from here on, libraries complain about damaged files
    print("ready", file=answers)
    for line in sys.stdin:
        name, number = line.strip().rsplit(" ", 1)
        try:
            verdict = _run(name, int(number), seed, folder, outside, contents[name], watch)
        except BaseException:
            watch.case = None
            verdict = {
                "outcome": "harness",
                "detail": traceback.format_exc(),
                "changes": [],
                "cpu": 0,
                "memory": 0,
            }
        print(json.dumps(verdict), file=answers)


def _run(
    name: str,
    number: int,
    seed: str,
    folder: Path,
    outside: Path,
    content: dict[str, bytes],
    watch: Watch,
) -> dict[str, Any]:
    from artifixer.runtime.errors import InputError
    from tests.fuzz.targets import TARGETS

    chance = random.Random(f"{seed}/{name}/{number}")
    target = TARGETS[name]
    _lay_out(folder, content)
    names = sorted(
        path
        for path in content
        if Path(path).match(target.changes)
        or (target.changes.endswith("/*") and path.startswith(target.changes[:-1]))
    )
    names = names if target.changes != "*" else sorted(content)
    changes = [
        mutate(folder, chance, names, outside) for _ in range(chance.choice([1, 1, 1, 2, 3]))
    ]
    before, children = _contents(outside), _children()
    _reset_peak()
    memory = _memory("VmRSS")
    watch.found, watch.case = [], os.path.realpath(folder)
    began, cpu = time.monotonic(), time.process_time()
    outcome, detail = "read", ""
    try:
        target.read(folder)
    except InputError as error:
        outcome = "refused"
        if "\n" in str(error) or len(str(error)) > 600 + 3 * len(str(folder)):
            outcome, detail = "message", str(error)[:800]
    except Exception:
        outcome, detail = "traceback", traceback.format_exc()
    finally:
        watch.case = None
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    used = _memory("VmHWM") - memory
    verdict = {
        "outcome": outcome,
        "detail": detail,
        "changes": changes,
        "seconds": round(seconds, 2),
        "cpu": round(cpu, 2),
        "memory": used,
    }
    if watch.found:
        verdict |= {"outcome": "outside", "detail": "\n".join(watch.found[:5])}
    elif _contents(outside) != before:
        verdict |= {"outcome": "outside", "detail": "the folder beside the case has changed"}
    elif _children() != children:
        verdict |= {"outcome": "outside", "detail": f"a program was started: {_children()}"}
    elif used > MAX_MEMORY:
        verdict |= {"outcome": "memory", "detail": f"{used / 1e9:.1f} GB"}
    return verdict


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _lay_out(folder: Path, content: dict[str, bytes]) -> None:
    remove_tree(folder)
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _memory(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 if match else 0


def _reset_peak() -> None:
    with io.open("/proc/self/clear_refs", "w") as file:  # noqa: UP020 - before the hook looks
        file.write("5")


def _children() -> list[str]:
    return sorted(
        pid
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    )


if __name__ == "__main__":
    main()
