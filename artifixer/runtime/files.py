"""Checked reading and atomic writing of files.

In: paths, and names listed in files. Out: paths inside a folder, open files, bytes, files that are
complete or absent; ``InputError`` naming the file otherwise. Folders from others may contain links
to other places, FIFOs that block a reader, and devices without end. Reading follows links, which
users need to share photos and weights; writing and deleting never do (``refuse_links``).
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

#: Builtin and standard library exceptions that parsers of other libraries raise for damaged files.
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

#: Maximum length in bytes of one part of a path, and of the whole path inside its folder.
LONGEST_NAME = 255
LONGEST_PATH = 1024

#: Maximum size in bytes of a text file that is read as a whole; decoding needs as much again.
LARGEST_TEXT = 512 * 1024**2

#: Kinds of paths that are not regular files.
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

#: Free space below which a failed write without an errno counts as a full disk.
FULL_DISK_BYTES = 64 * 1024

#: Names of temporary files: process, thread, final name.
_PARTIAL_NAME = re.compile(r"^\.partial-(\d+)-\d+-")


# Names -------------------------------------------------------------------------------------------


def path_inside(
    folder: Path, listed: str, source: Path, where: str = "the capture's folder"
) -> Path:
    """``folder / listed`` for a path that is listed in the file ``source``. where: name of the
    folder in messages.

    Backslashes and a leading ``./`` are accepted. Raises InputError for absolute paths, for paths
    that leave ``folder``, and for invalid file names. Links inside the folder are followed,
    wherever they lead: they are the user's own.
    """
    parts = PurePosixPath(listed.replace("\\", "/"))
    try:
        lengths = [len(part.encode()) for part in parts.parts]
    except UnicodeEncodeError:  # JSON can hold halves of surrogate pairs
        raise InputError(
            f"{source}: the path {listed[:80]!r} is not valid text; expected a path inside {where}"
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
    """``folder / listed`` for a file directly in ``folder`` that is listed in ``source``.
    InputError for other values.
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
    """Size in bytes of a regular file (or a link to one).

    expected: what it should be, for messages ("a PLY file"). Raises InputError for a file that is
    missing or inaccessible, and, without opening them, for folders, FIFOs, sockets and devices.
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
    """Whether ``path`` is a regular file (or a link to one); for optional files.

    Raises InputError for FIFOs, sockets and devices, which only hostile folders contain.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        _check_mode(path, mode, "a file")
    return stat.S_ISREG(mode)


def open_regular(path: Path, expected: str) -> BufferedReader:
    """Open a regular file for reading; errors as in ``check_regular``. Never blocks."""
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
        # the path may have been replaced in the meantime
        _check_mode(path, os.fstat(descriptor).st_mode, expected)
    except InputError:
        file.close()
        raise
    return file


def read_whole(path: Path, expected: str, most: int | None = None) -> bytes:
    """All bytes of a regular file; errors as in ``check_regular``, and for a file of more than
    ``most`` bytes.
    """
    size = check_regular(path, expected)
    if most is not None and size > most:
        raise InputError(f"{path}: {size:,} bytes, expected {expected} of at most {most:,}")
    with open_regular(path, expected) as file:
        try:
            # read() allocates the requested number of bytes at once
            return file.read() if most is None else file.read(min(size, most))
        except OSError as error:
            raise InputError(
                f"{path}: cannot read: {reason(error)}, expected {expected}"
            ) from error


def reason(error: BaseException) -> str:
    """First line of a library's error message, shortened; the path is part of our own message."""
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
    """A temporary sibling of ``path`` to write to; it replaces ``path`` on success and is deleted
    on failure.

    Missing parent folders are created. The temporary name keeps the suffix, for libraries that
    choose a format by it. The content is flushed to the disk before the file is renamed: after a
    crash there is either the old file or the new one. Raises ``InputError`` naming ``path`` if the
    disk is full or the system refuses to write.
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
    """Append text to a file, which is created if missing; errors as in ``atomic_path``."""
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
    """Delete the temporary files below ``root`` of processes that no longer exist."""
    for path in root.rglob(".partial-*"):
        match = _PARTIAL_NAME.match(path.name)
        if match and not is_alive(int(match[1])):
            path.unlink(missing_ok=True)


def is_partial(name: str) -> bool:
    """Whether this is the name of a temporary file of ``atomic_path``."""
    return _PARTIAL_NAME.match(name) is not None


@contextmanager
def write_refusals_named(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` into an ``InputError`` that names it; other
    errors are passed on.
    """
    try:
        yield
    except Exception as error:
        refusal = _refusal(error, path.parent)
        if refusal is None:
            raise
        raise InputError(f"{path}: cannot write: {refusal}") from error


def _refusal(error: Exception, folder: Path) -> str | None:
    """The reason why the system refused to write, for a message; None for other errors."""
    if isinstance(error, InputError):
        return None
    number = getattr(error, "errno", None)
    # in the text of errors from libraries in Rust, such as safetensors
    in_text = re.search(r"\(os error (\d+)\)", str(error))
    if number is None and in_text:
        number = int(in_text[1])
    if number is not None:
        return WRITE_REFUSALS.get(number)
    # numpy and Pillow report a failed write without an errno
    if folder.is_dir() and shutil.disk_usage(folder).free < FULL_DISK_BYTES:
        return WRITE_REFUSALS[errno.ENOSPC]
    return None


# Output folders ----------------------------------------------------------------------------------


def refuse_links(
    root: Path, may_link: Callable[[PurePosixPath], bool] = lambda relative: False
) -> None:
    """Raise InputError for any link, FIFO, socket or device below ``root``.

    A folder in which this program writes and deletes must not contain links to other places.
    may_link: whether a relative path is a link that the program itself creates. ``root`` may be a
    link: its target is the user's choice.
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
            continue  # removed by another process
        except OSError as error:
            raise InputError(f"{here}: cannot read: {reason(error)}, expected a folder") from error
        for entry in entries:
            yield name / entry.name, entry
            if entry.is_dir(follow_symlinks=False):
                waiting.append((here / entry.name, name / entry.name))
