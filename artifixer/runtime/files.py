"""Files that somebody else wrote: found inside their folder, and opened only when they are plain
files.

In: paths, and names that files list. Out: paths that stay inside a folder, open files, bytes;
``InputError`` naming the file otherwise. A received folder can hold links to other places, FIFOs on
which a reader waits for ever, and devices without an end. Reading follows links, which are the
user's own way to share photos and weights; writing and deleting never do (``refuse_links``).
"""

from __future__ import annotations

import os
import pickle
import re
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path, PurePosixPath

from artifixer.runtime.errors import InputError

#: What parsers of libraries raise for damaged bytes, besides errors of their own.
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

#: Bytes of one part of a path, and of the whole path inside its folder.
LONGEST_NAME = 255
LONGEST_PATH = 1024

#: Bytes of a text file that is read as a whole: as text it takes the same again.
LARGEST_TEXT = 512 * 1024**2

#: What a file is that cannot be read like one.
_SPECIAL_KINDS: dict[str, Callable[[int], bool]] = {
    "a folder": stat.S_ISDIR,
    "a FIFO": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
}


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
    """Whether ``path`` is a plain file (or a link to one); for what may be there or not.

    InputError for FIFOs, sockets and devices: whoever put them where a photo or a list is looked
    for means no good.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        _check_mode(path, mode, "a file")
    return stat.S_ISREG(mode)


def open_regular(path: Path, expected: str) -> BufferedReader:
    """A plain file, open for reading; errors as in ``check_regular``. Nothing is waited for."""
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
    """One short line of another library's message, without the path that stands before it in ours."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(re.split(r"[\r\n]", text)[0].split())[:160]


def _check_mode(path: Path, mode: int, expected: str) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next(
        (name for name, matches in _SPECIAL_KINDS.items() if matches(mode)), "no plain file"
    )
    raise InputError(f"{path}: cannot read: it is {kind}, expected {expected}")


# Folders of our own ------------------------------------------------------------------------------


def refuse_links(
    root: Path, may_link: Callable[[PurePosixPath], bool] = lambda relative: False
) -> None:
    """Raise InputError for the first link and the first FIFO, socket or device below ``root``,
    whatever it leads to.

    A folder in which this program writes and deletes must end where it seems to end. may_link:
    tells which relative paths are links that the program makes itself. ``root`` may be a link:
    where it leads is the user's choice.
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
