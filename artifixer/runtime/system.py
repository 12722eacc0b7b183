"""Differences between Linux, macOS and Windows: locks, links, file names, processes, memory.

Modules that do not exist on all three are imported by the function that uses them.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path, PurePath

from artifixer.runtime.errors import InputError

#: Error numbers of Windows for a file that another program has open or mapped, as virus scanners do
#: for a moment with every new file.
_FILE_IN_USE = (5, 32, 33, 1224)

#: Seconds for which replacing a file in use is retried.
FILE_IN_USE_SECONDS = 2.0

#: Names of devices on Windows, in any folder and with any ending.
_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"),
}

#: Characters that are invalid in names on Windows, besides control characters.
_FORBIDDEN = '<>:"|?*\\/'

#: Maximum length of a path on a Windows system without long paths, and of an output folder, which
#: leaves room for the files in it.
LONGEST_WINDOWS_PATH = 259
LONGEST_WINDOWS_FOLDER = 150


# Files ------------------------------------------------------------------------------------------


class FolderLock:
    """A lock on a folder that one process may write. The system releases it when the process ends,
    so that a dead process never blocks a folder.
    """

    def __init__(self, folder: Path, state: Path) -> None:
        """Acquire the lock, with files in ``state``. Raises ``InputError`` naming ``folder`` and
        the owner if another process holds it.
        """
        import filelock

        state.mkdir(parents=True, exist_ok=True)
        # a separate file, because on Windows nobody can read a locked one
        self._owner = state / "owner.txt"
        self._lock = filelock.FileLock(state / "lock", timeout=0, mode=0o644, thread_local=False)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            name = "unknown"
            with suppress(OSError, ValueError):
                name = self._owner.read_text(encoding="utf-8").strip()[:200] or name
            raise InputError(
                f"{folder}: another process is writing this folder ({name}); wait for it or choose "
                "another folder"
            ) from None
        try:
            self._owner.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._owner.unlink()
            self._lock.release()


def put_in_place(temporary: Path, path: Path) -> None:
    """``os.replace``, retried for a moment if Windows refuses because another program has the file
    open.
    """
    give_up = time.monotonic() + FILE_IN_USE_SECONDS
    while True:
        try:
            os.replace(temporary, path)
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _FILE_IN_USE or time.monotonic() > give_up:
                raise
        time.sleep(0.02)


def flush_file(path: Path) -> None:
    """Flush the content of a file to the disk."""
    # Windows flushes only files that are open for writing
    _flush(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)


def flush_folder(path: Path) -> None:
    """Flush the entries of a folder to the disk. Does nothing on Windows, where folders cannot be
    opened and the journal keeps names.
    """
    with suppress(PermissionError):  # Windows, and folders that are writable but not readable
        _flush(path, os.O_RDONLY)


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Create ``target`` as a link to the file or folder ``source``, or as a copy.

    A symbolic link if possible; where the system refuses (Windows without developer mode, some file
    systems) hard links of the files, or copies if they are on another volume.
    """
    source = source.resolve()
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_hard_link_or_copy)
        else:
            _hard_link_or_copy(source, target)


def _hard_link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)


def remove_link_or_copy(target: Path) -> None:
    """Delete the result of ``link_or_copy``, if it exists; the source is kept."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


# Names ------------------------------------------------------------------------------------------


def windows_refusal(path: PurePath) -> str | None:
    """The reason why a path is invalid on Windows, or None; the drive is ignored."""
    for part in path.relative_to(path.anchor).parts:
        if part in (".", ".."):
            continue
        if part.split(".")[0].rstrip(" ").casefold() in _DEVICES:
            return f"the name {part!r} is reserved for a device"
        if any(character in _FORBIDDEN or ord(character) < 32 for character in part):
            return f"the name {part!r} contains a control character or one of {_FORBIDDEN}"
        if part[-1] in ". ":
            return f"the name {part!r} ends with {part[-1]!r}"
    return None


def check_folder_name(folder: Path, on_windows: bool = sys.platform == "win32") -> None:
    """Raise ``InputError`` for an output folder whose name is invalid on this system, or whose
    files would have too long paths.
    """
    if not on_windows:
        return
    refusal = windows_refusal(folder)
    if refusal is not None:
        raise InputError(f"{folder}: {refusal} on Windows; expected another name")
    length = len(str(folder.absolute()))
    if length > LONGEST_WINDOWS_FOLDER and not _has_long_paths():
        raise InputError(
            f"{folder}: its path has {length} characters; expected at most "
            f"{LONGEST_WINDOWS_FOLDER}, since Windows limits the paths of the "
            f"files in it to {LONGEST_WINDOWS_PATH}; choose a shorter folder or enable long paths"
        )


def _has_long_paths() -> bool:
    """Whether long paths are enabled on this Windows system."""
    try:
        import winreg
    except ImportError:
        return False
    try:
        hive = winreg.HKEY_LOCAL_MACHINE  # type: ignore[attr-defined,unused-ignore]
        open_key = winreg.OpenKey  # type: ignore[attr-defined,unused-ignore]
        query_value = winreg.QueryValueEx  # type: ignore[attr-defined,unused-ignore]
        with open_key(hive, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            return bool(query_value(key, "LongPathsEnabled")[0])
    except OSError:
        return False


# Processes and memory ---------------------------------------------------------------------------


def is_alive(process: int) -> bool:
    """Whether the process exists. (``os.kill(process, 0)`` would end it on Windows.)"""
    import psutil

    lives: bool = psutil.pid_exists(process)
    return lives


def peak_memory() -> int:
    """Peak memory of this process in bytes; its current memory if the system records no peak."""
    import psutil

    memory = psutil.Process().memory_info()
    if sys.platform == "win32":
        return int(memory.peak_wset)
    try:
        import resource
    except ImportError:
        return int(memory.rss)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def available_memory() -> int:
    """Memory available without swapping, bytes."""
    import psutil

    return int(psutil.virtual_memory().available)
