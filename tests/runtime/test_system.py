"""What differs between operating systems."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest

from artifixer.runtime import system
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import append_text, write_bytes
from artifixer.runtime.system import (
    FolderLock,
    available_memory,
    check_folder_name,
    is_alive,
    link_or_copy,
    peak_memory,
    remove_link_or_copy,
    windows_refusal,
)


def test_a_lock_is_held_by_one_until_it_is_closed(tmp_path: Path) -> None:
    first = FolderLock(tmp_path, tmp_path / ".run")
    with pytest.raises(
        InputError, match=rf"another process is writing this folder \(process {os.getpid()} on "
    ):
        FolderLock(tmp_path, tmp_path / ".run")
    first.close()
    first.close()
    FolderLock(tmp_path, tmp_path / ".run").close()


def test_a_file_that_another_program_has_open_for_a_moment_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As virus scanners do with new files on Windows."""
    replace, tries = os.replace, []

    def in_use(source: Path, target: Path) -> None:
        tries.append(target)
        if len(tries) < 3:
            error = PermissionError(13, "in use")
            error.winerror = 32  # type: ignore[attr-defined,unused-ignore]
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", in_use)
    write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert len(tries) == 3


def test_a_file_that_stays_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_use(source: Path, target: Path) -> None:
        error = PermissionError(13, "in use")
        error.winerror = 32  # type: ignore[attr-defined,unused-ignore]
        raise error

    monkeypatch.setattr(os, "replace", in_use)
    monkeypatch.setattr(system, "FILE_IN_USE_SECONDS", 0.1)
    with pytest.raises(InputError, match="file: cannot write: permission denied"):
        write_bytes(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_link_or_a_copy_stands_for_files_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(22, "A required privilege is not held by the client")

    if not links:
        monkeypatch.setattr(os, "symlink", refuse)
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "file").write_text("content")
    link_or_copy(tmp_path / "folder" / "inner" / "file", tmp_path / "file")
    link_or_copy(tmp_path / "folder", tmp_path / "copy")
    assert (
        (tmp_path / "file").read_text()
        == (tmp_path / "copy" / "inner" / "file").read_text()
        == "content"
    )
    assert (tmp_path / "file").is_symlink() == (tmp_path / "copy").is_symlink() == links
    with pytest.raises(FileExistsError):
        link_or_copy(tmp_path / "folder", tmp_path / "copy")
    for name in ("file", "copy", "absent"):
        remove_link_or_copy(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "content"


@pytest.mark.parametrize(
    "name",
    [
        "aux",
        "NUL.png",
        "com1",
        "Lpt9.tar.gz",
        "CON ",
        "a/prn",
        "what?.png",
        "a:b",
        "tab\t",
        "dot.",
        "space ",
    ],
)
def test_names_that_windows_does_not_have(name: str) -> None:
    assert windows_refusal(PurePosixPath(name)) is not None
    with pytest.raises(InputError, match="on Windows; expected another name"):
        check_folder_name(Path(name), on_windows=True)
    check_folder_name(Path(name), on_windows=False)


@pytest.mark.parametrize(
    "name",
    [
        "auxiliary",
        "com10",
        ".run/stages/a.json",
        "../out",
        "./a b.png",
        "console.txt",
        ".partial-1-2-x",
    ],
)
def test_names_that_it_has(name: str) -> None:
    assert windows_refusal(PurePosixPath(name)) is None
    assert windows_refusal(PureWindowsPath("C:/") / name) is None


def test_a_folder_whose_files_had_too_long_paths_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_has_long_paths", lambda: False)
    with pytest.raises(InputError, match=r"its path has .* characters; expected at most 150"):
        check_folder_name(tmp_path / ("x" * 200), on_windows=True)


def test_processes_that_live_and_that_ended() -> None:
    assert is_alive(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert not is_alive(process.pid)


def test_memory_is_counted_in_bytes() -> None:
    before = peak_memory()
    assert 10 * 1024**2 < before < available_memory() + 64 * 1024**3
    block = np.ones(before + 200 * 1024**2, np.uint8)
    assert peak_memory() >= before + 190 * 1024**2
    del block


def test_text_has_the_same_bytes_on_every_system(tmp_path: Path) -> None:
    append_text(tmp_path / "log.txt", "ä\n")
    append_text(tmp_path / "log.txt", "b\n")
    assert (tmp_path / "log.txt").read_bytes() == b"\xc3\xa4\nb\n"


def test_a_lock_waits_for_nobody(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, tmp_path / ".run")
    started = time.monotonic()
    errors: list[str] = []

    def other() -> None:
        try:
            FolderLock(tmp_path, tmp_path / ".run")
        except InputError as error:
            errors.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(errors) == 1 and time.monotonic() - started < 5
    lock.close()
