"""A program that runs the package as Windows would, as far as another system can tell.

``python -X warn_default_encoding -m tests.flows.windows_like FOLDER``: imports every module and
runs ``demo --help``, ``inspect`` and an interrupted and continued ``reconstruct`` of the capture
``FOLDER/capture`` into ``FOLDER/run``; prints one JSON object. Like Windows are:

- modules and functions of POSIX are absent: ``fcntl``, ``resource``, ``os.fork``,
  ``signal.SIGKILL`` and others;
- a file that is open or mapped can neither be replaced nor removed, and folders cannot be opened;
- no symbolic links;
- names are the same in upper and lower case;
- text files are read and written in another encoding than UTF-8 unless one is named.

It looks up what is open in ``/proc``, so it runs on Linux.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.abc
import io
import json
import os
import pkgutil
import shutil
import signal
import stat
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ABSENT_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
ABSENT_FUNCTIONS = (
    *(
        "fork",
        "forkpty",
        "getuid",
        "geteuid",
        "getgid",
        "getpgid",
        "getpgrp",
        "setsid",
        "killpg",
        "nice",
        "wait3",
        "wait4",
        "WNOHANG",
    ),
    *(
        "sched_getaffinity",
        "sched_setaffinity",
        "mkfifo",
        "mknod",
        "chown",
        "posix_spawn",
        "uname",
        "getloadavg",
        "sync",
        "pread",
        "pwrite",
    ),
    *("openpty", "ttyname", "register_at_fork"),
)

#: Absent as well, but libraries use them where they find themselves on Linux: only the package's
#: own text is searched for these.
UNUSED_FUNCTIONS = (
    "O_NONBLOCK",
    "O_CLOEXEC",
    "O_NOFOLLOW",
    "sysconf",
    "statvfs",
    "getpriority",
    "fchmod",
    "fchown",
    "waitid",
)
ABSENT_SIGNALS = (
    *(
        "SIGKILL",
        "SIGSTOP",
        "SIGALRM",
        "SIGHUP",
        "SIGUSR1",
        "SIGUSR2",
        "SIGCHLD",
        "SIGPIPE",
        "SIGXFSZ",
    ),
    *("alarm", "setitimer", "pthread_sigmask"),
)

#: Windows' error numbers: what another program has open, and a privilege that the user does not
#: have.
SHARING_VIOLATION, NO_PRIVILEGE = 32, 1314

refused: list[str] = []


class Absent(importlib.abc.MetaPathFinder):
    """Modules that Windows does not have."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        if name in ABSENT_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def remove_posix() -> None:
    sys.meta_path.insert(0, Absent())
    for module in ABSENT_MODULES:
        sys.modules.pop(module, None)
    for name in ABSENT_FUNCTIONS:
        if hasattr(os, name):
            delattr(os, name)
    for name in ABSENT_SIGNALS:
        if hasattr(signal, name):
            delattr(signal, name)


# Files that are in use ----------------------------------------------------------------------------


def in_use(path: str) -> bool:
    """Whether this process has the file open or mapped, or a file in the folder."""
    place = os.path.realpath(path)
    inside = place + os.sep
    names = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        names += [
            line.split(maxsplit=5)[5].strip() for line in maps if len(line.split(maxsplit=5)) == 6
        ]
    return any(name == place or name.startswith(inside) for name in names)


def refuse_in_use(*paths: Any) -> None:
    for path in map(os.fspath, paths):
        if isinstance(path, str) and in_use(path):
            refused.append(path)
            error = PermissionError(
                13,
                "The process cannot access the file because it is being used by another process",
                path,
            )
            error.winerror = SHARING_VIOLATION  # type: ignore[attr-defined,unused-ignore]
            raise error


# Names in any case --------------------------------------------------------------------------------

_listdir, _lstat, _stat = os.listdir, os.lstat, os.stat


def _lexists(path: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        _lstat(path)
        return True
    return False


def _isdir(path: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISDIR(_stat(path).st_mode)
    return False


def in_own_case(path: Any, below: str) -> Any:
    """The path with the names that its files and folders below a folder really have."""
    if not isinstance(path, (str, os.PathLike)):
        return path
    text = os.fspath(path)
    if (
        not isinstance(text, str)
        or not os.path.abspath(text).startswith(below + os.sep)
        or _lexists(text)
    ):
        return path
    real = below
    for part in os.path.relpath(os.path.abspath(text), below).split(os.sep):
        names = _listdir(real) if _isdir(real) else []
        real = os.path.join(
            real,
            part
            if part in names
            else next((name for name in names if name.casefold() == part.casefold()), part),
        )
    return real


def install_layer(below: str) -> None:
    """Let all calls of Python that name files below the folder behave as on Windows."""

    def wrapped(
        call: Callable[..., Any], paths: int = 1, in_use_counts: bool = False
    ) -> Callable[..., Any]:
        def layered(*arguments: Any, **options: Any) -> Any:
            named = [in_own_case(path, below) for path in arguments[:paths]]
            if in_use_counts:
                absolute = [
                    os.path.abspath(os.fspath(path))
                    for path in named
                    if "dir_fd" not in options or options["dir_fd"] is None
                ]
                refuse_in_use(*(path for path in absolute if path.startswith(below + os.sep)))
            return call(*named, *arguments[paths:], **options)

        return layered

    def opened(call: Callable[..., Any]) -> Callable[..., Any]:
        def layered(path: Any, *arguments: Any, **options: Any) -> Any:
            real = in_own_case(path, below)
            is_named = isinstance(real, (str, os.PathLike)) and options.get("dir_fd") is None
            if (
                call is os_open
                and is_named
                and _isdir(real)
                and os.path.abspath(os.fspath(real)).startswith(below)
            ):
                raise PermissionError(13, "Permission denied", os.fspath(real))
            return call(real, *arguments, **options)

        return layered

    def no_link(source: Any, target: Any, **options: Any) -> None:
        error = OSError(22, "A required privilege is not held by the client", os.fspath(source))
        error.winerror = NO_PRIVILEGE  # type: ignore[attr-defined,unused-ignore]
        raise error

    os_open = os.open
    for name, paths, counts in (
        ("stat", 1, False),
        ("lstat", 1, False),
        ("mkdir", 1, False),
        ("scandir", 1, False),
        ("listdir", 1, False),
    ):
        setattr(os, name, wrapped(getattr(os, name), paths, counts))
    for name, paths in (("replace", 2), ("rename", 2), ("unlink", 1), ("remove", 1), ("rmdir", 1)):
        setattr(os, name, wrapped(getattr(os, name), paths, in_use_counts=True))
    os.open = opened(os.open)  # type: ignore[assignment]
    io.open = builtins.open = opened(builtins.open)  # type: ignore[assignment]
    os.symlink = no_link  # type: ignore[assignment]
    shutil._use_fd_functions = False  # type: ignore[attr-defined]  # as on Windows: by names


# The work -----------------------------------------------------------------------------------------


def main(folder: Path) -> None:
    import filelock  # noqa: F401 - what libraries need of the system that they run on is not ours
    import numba  # noqa: F401
    import numpy as np
    import PIL.Image  # noqa: F401
    import plyfile  # noqa: F401
    import psutil  # noqa: F401
    import rich.console  # noqa: F401
    import scipy  # noqa: F401
    import torch
    import tyro  # noqa: F401

    torch.set_num_threads(1)
    np.zeros(1)
    remove_posix()
    install_layer(os.path.realpath(folder))
    warnings.filterwarnings("error", category=EncodingWarning, module=r"artifixer(\.|$)")

    (folder / "open").write_bytes(b"")
    with (folder / "OPEN").open("rb"), contextlib.suppress(PermissionError):
        os.replace(folder / "open", folder / "moved")
    layer = {
        "refused": len(refused),
        "open": (folder / "Open").is_file(),
        "moved": (folder / "moved").is_file(),
    }
    refused.clear()

    import artifixer

    modules = [
        module.name
        for module in pkgutil.walk_packages(artifixer.__path__, "artifixer.")
        if not module.name.endswith("__main__")
    ]
    for name in modules:
        importlib.import_module(name)

    from artifixer.cli import main as run_verb
    from artifixer.splats import fit_checkpoint

    fit_checkpoint.SECONDS_BETWEEN_CHECKPOINTS, fit_checkpoint.SAVING_FRACTION = 0, 1e9
    capture, out = str(folder / "CAPTURE"), str(folder / "run")
    words = [
        "reconstruct",
        capture,
        "--out",
        out,
        "--iterations",
        "20",
        "--size",
        "32",
        "--max-gaussians",
        "200",
        "--device",
        "cpu",
    ]
    codes = {"demo --help": run_verb(["demo", "--help"]), "inspect": run_verb(["inspect", capture])}
    with interrupt_at("checkpoint", 7):
        codes["interrupted"] = run_verb(words)
    codes["continued"] = run_verb(words)
    codes["overwritten"] = run_verb(
        [*words[:-4], "--max-gaussians", "150", "--device", "cpu", "--overwrite"]
    )
    codes["again"] = run_verb([*words, "--overwrite"])
    print(
        json.dumps({"modules": len(modules), "codes": codes, "refused": refused, "layer": layer}),
        file=sys.__stdout__,
    )


@contextlib.contextmanager
def interrupt_at(name: str, count: int) -> Any:
    """Ctrl-C when the N-th file whose path contains the name has been put in its place."""
    replace, left = os.replace, count

    def replace_and_interrupt(source: Any, target: Any) -> None:
        nonlocal left
        replace(source, target)
        left -= name in os.fspath(target)
        if left == 0:
            raise KeyboardInterrupt

    os.replace = replace_and_interrupt  # type: ignore[assignment]
    try:
        yield
    finally:
        os.replace = replace


if __name__ == "__main__":
    assert stat.S_ISDIR(os.stat("/proc/self/fd").st_mode), "needs Linux's account of open files"
    with contextlib.redirect_stdout(sys.stderr):
        main(Path(sys.argv[1]))
