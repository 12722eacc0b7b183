"""Checked reading and atomic writing of files.

In: paths, and names that files list. Out: paths inside a folder, open files, bytes, complete or
absent files; ``InputError`` naming the file otherwise. A received folder can hold links to other
places, FIFOs that block a reader, and endless devices. Reading follows links, with which users
share photos and weights; writing and deleting never do (``refuse_links``).
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import stat
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path, PurePosixPath

from artifixer.runtime.errors import InputError
from artifixer.runtime.system import flush_file, flush_folder, is_alive, put_in_place

#: Exceptions that libraries' parsers raise for damaged bytes, besides their own.
PARSER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    AssertionError,
    RuntimeError,
    tokenize.TokenError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)

#: Maximum bytes of one part of a path, and of the whole path inside its folder.
LONGEST_NAME = 255
LONGEST_PATH = 1024

#: Maximum bytes of a text file that is read as a whole; decoding takes the same again.
LARGEST_TEXT = 512 * 1024**2

#: Kinds of paths that are not plain files.
_SPECIAL_KINDS: dict[str, Callable[[int], bool]] = {
    "a folder": stat.S_ISDIR,
    "a FIFO": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
}

#: Errors of the operating system that the user can resolve, as messages.
WRITE_REFUSALS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "file larger than the system allows",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, expected a folder",
    errno.EEXIST: "a part of the path is a file, expected a folder",
    errno.EISDIR: "is a folder, expected a file",
    errno.ENAMETOOLONG: "the name is too long",
}

#: Less free space than this counts as a full disk when a library reports a failed write without
#: saying why.
FULL_DISK_BYTES = 64 * 1024

#: Names of temporary files: process, thread, name of the file to be.
_PARTIAL_NAME = re.compile(r"^\.partial-(\d+)-\d+-")


# Names -------------------------------------------------------------------------------------------


def path_inside(
    folder: Path, listed: str, source: Path, where: str = "the capture's folder"
) -> Path:
    """``folder / listed`` for a path that the file ``source`` names. where: what messages call the
    folder.

    Backslashes and a leading ``./`` are understood. Raises InputError for absolute paths, for paths
    that leave ``folder``, and for names that no file can have. Links inside the folder are
    followed, wherever they lead: they are the user's own.
    """
    parts = PurePosixPath(listed.replace("\\", "/"))
    try:
        lengths = [len(part.encode()) for part in parts.parts]
    except UnicodeEncodeError:  # JSON can hold halves of surrogate pairs
        raise InputError(
            f"{source}: the path {listed[:80]!r} is no valid text; expected a path inside {where}"
        ) from None
    if max(lengths, default=0) > LONGEST_NAME or sum(lengths) > LONGEST_PATH:
        raise InputError(
            f"{source}: the path {listed[:40]!r}... has {sum(lengths)} bytes; expected a path that "
            "a file can have"
        )
    absolute = parts.is_absolute() or (parts.parts and parts.parts[0].endswith(":"))
    if not parts.parts or "\0" in listed or absolute or ".." in parts.parts:
        raise InputError(
            f"{source}: the path {listed[:80]!r} leaves {where}; expected a path inside {where}"
        )
    return folder / parts


def file_beside(folder: Path, listed: object, source: Path) -> Path:
    """``folder / listed`` for a file in ``folder`` itself that ``source`` names; InputError for
    other values.
    """
    if (
        not isinstance(listed, str)
        or listed != Path(listed.replace("\\", "/")).name
        or ":" in listed
    ):
        raise InputError(
            f"{source}: names the file {str(listed)[:80]!r}; expected a file of {folder} itself"
        )
    return path_inside(folder, listed, source, str(folder))


# Reading -----------------------------------------------------------------------------------------


def check_regular(path: Path, expected: str) -> int:
    """Size in bytes of a plain file (or a link to one).

    expected: what it should be, for messages ("a PLY file"). Raises InputError for a file that is
    missing or cannot be looked at, and at once for folders, FIFOs, sockets and devices.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist, expected {expected}") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise InputError(f"{path}: cannot read: {reason(error)}, expected {expected}") from error
    _check_mode(path, found.st_mode, expected)
    return found.st_size


def is_regular(path: Path) -> bool:
    """Whether ``path`` is a plain file (or a link to one); for optional files.

    InputError for FIFOs, sockets and devices: where a photo or a list is expected, they are
    hostile.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        _check_mode(path, mode, "a file")
    return stat.S_ISREG(mode)


def open_regular(path: Path, expected: str) -> BufferedReader:
    """A plain file, open for reading; errors as in ``check_regular``. Never blocks."""
    check_regular(path, expected)
    flags = (
        os.O_RDONLY
        | getattr(os, "O_NONBLOCK", 0)
        | getattr(os, "O_BINARY", 0)
        | getattr(os, "O_CLOEXEC", 0)
    )
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {reason(error)}, expected {expected}") from error
    file = open(descriptor, "rb")  # noqa: SIM115 - the caller closes it
    try:
        # the path may mean another file by now
        _check_mode(path, os.fstat(descriptor).st_mode, expected)
    except InputError:
        file.close()
        raise
    return file


def read_whole(path: Path, expected: str, most: int | None = None) -> bytes:
    """All bytes of a plain file; errors as in ``check_regular``, and for a file of more than
    ``most`` bytes.
    """
    size = check_regular(path, expected)
    if most is not None and size > most:
        raise InputError(f"{path}: {size:,} bytes, expected {expected} of at most {most:,}")
    with open_regular(path, expected) as file:
        try:
            # what is asked for is allocated at once
            return file.read() if most is None else file.read(min(size, most))
        except OSError as error:
            raise InputError(
                f"{path}: cannot read: {reason(error)}, expected {expected}"
            ) from error


def reason(error: BaseException) -> str:
    """One short line of another library's message, without the path that stands before it in
    ours.
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(re.split(r"[\r\n]", text)[0].split())[:160]


def _check_mode(path: Path, mode: int, expected: str) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next(
        (name for name, matches in _SPECIAL_KINDS.items() if matches(mode)), "no plain file"
    )
    raise InputError(f"{path}: cannot read: it is {kind}, expected {expected}")


# Writing ----------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary sibling of ``path`` to write to; it replaces ``path`` on success and disappears
    on failure.

    Missing parent folders are made. The temporary name keeps the suffix, so libraries that choose a
    format by name work. The bytes reach the disk before the name changes: after a crash there is
    the old file or the new one. Raises ``InputError`` naming ``path`` where the disk is full or the
    system refuses to write.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        with write_refusals_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            assert temporary.is_file(), f"nothing was written for {path}"
            flush_file(temporary)
            put_in_place(temporary, path)
            flush_folder(path.parent)
    finally:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            temporary.unlink()


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file atomically; errors as in ``atomic_path``."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def append_text(path: str | Path, text: str) -> None:
    """Add text at the end of a file, which is made when missing; errors as in ``atomic_path``."""
    path = Path(path)
    with write_refusals_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            check_regular(path, "a text file")
        with path.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def remove_leftovers(root: Path) -> None:
    """Delete the temporary files below ``root`` of processes that died while writing."""
    for path in root.rglob(".partial-*"):
        match = _PARTIAL_NAME.match(path.name)
        if match and not is_alive(int(match[1])):
            path.unlink(missing_ok=True)


def is_partial(name: str) -> bool:
    """Whether ``atomic_path`` gives temporary files such names."""
    return _PARTIAL_NAME.match(name) is not None


@contextmanager
def write_refusals_named(path: Path) -> Iterator[None]:
    """Turn a refusal of the system to write ``path`` into an ``InputError`` that names it; other
    errors pass.
    """
    try:
        yield
    except Exception as error:
        refusal = _refusal(error, path.parent)
        if refusal is None:
            raise
        raise InputError(f"{path}: cannot write: {refusal}") from error


def _refusal(error: Exception, folder: Path) -> str | None:
    """Why the system refused to write, as a message; None for other errors."""
    if isinstance(error, InputError):
        return None
    number = getattr(error, "errno", None)
    # libraries written in Rust, such as safetensors
    in_words = re.search(r"\(os error (\d+)\)", str(error))
    if number is None and in_words:
        number = int(in_words[1])
    if number is not None:
        return WRITE_REFUSALS.get(number)
    # numpy and Pillow report a failed write without its errno, so the disk itself is asked.
    if folder.is_dir() and shutil.disk_usage(folder).free < FULL_DISK_BYTES:
        return WRITE_REFUSALS[errno.ENOSPC]
    return None


# Folders of our own ------------------------------------------------------------------------------


def refuse_links(
    root: Path, may_link: Callable[[PurePosixPath], bool] = lambda relative: False
) -> None:
    """Raise InputError for the first link and the first FIFO, socket or device below ``root``,
    whatever it leads to.

    A folder in which this program writes and deletes must not lead outside. may_link: whether a
    relative path is a link that the program makes itself. ``root`` itself may be a link: its target
    is the user's choice.
    """
    for relative, entry in _entries(root, PurePosixPath()):
        if entry.is_symlink():
            if not may_link(relative):
                raise InputError(
                    f"{root / relative}: is a link, which this program does not make; expected "
                    "plain files and folders"
                )
        elif not entry.is_dir(follow_symlinks=False) and not entry.is_file(follow_symlinks=False):
            raise InputError(
                f"{root / relative}: is neither a file nor a folder; expected plain files and "
                "folders"
            )


def _entries(
    folder: Path, relative: PurePosixPath
) -> Iterator[tuple[PurePosixPath, os.DirEntry[str]]]:
    """All entries below a folder with their relative paths; links are not followed."""
    waiting = [(folder, relative)]
    while waiting:
        here, name = waiting.pop()
        try:
            with os.scandir(here) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue  # another process has removed it
        except OSError as error:
            raise InputError(f"{here}: cannot read: {reason(error)}, expected a folder") from error
        for entry in entries:
            yield name / entry.name, entry
            if entry.is_dir(follow_symlinks=False):
                waiting.append((here / entry.name, name / entry.name))
