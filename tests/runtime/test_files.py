"""Names inside folders, plain files alone, and folders without links."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import (
    check_regular,
    file_beside,
    is_regular,
    open_regular,
    path_inside,
    read_whole,
    refuse_links,
)

#: Pipes, sockets, devices and links.
pytestmark = pytest.mark.posix

#: Seconds after which a reader counts as waiting for ever.
PATIENCE = 5


def special_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.bin"
    match kind:
        case "FIFO":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    return path


def in_time(read: Callable[[], object]) -> str:
    """The refusal of a reader, which must not wait."""
    answers: list[str] = []

    def attempt() -> None:
        try:
            answers.append(f"read: {read()}")
        except InputError as error:
            answers.append(str(error))

    reader = threading.Thread(target=attempt, daemon=True)
    reader.start()
    reader.join(PATIENCE)
    assert answers, "still waiting"
    return answers[0]


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "folder"])
def test_only_plain_files_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # addresses of sockets are short
    path = special_file(Path(), kind)
    for read in (check_regular, open_regular, read_whole):
        assert f"cannot read: it is a {kind}, expected a list" in in_time(
            lambda read=read: read(path, "a list")
        )
    if kind == "folder":
        assert not is_regular(path)
    else:
        assert f"it is a {kind}" in in_time(lambda: is_regular(path))


def test_links_to_plain_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_whole(tmp_path / "b", "a file") == b"content"
    assert is_regular(tmp_path / "b")
    assert not is_regular(tmp_path / "absent")
    assert not is_regular(tmp_path / "zero\0byte")


def test_missing_files_and_large_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: does not exist, expected a list"):
        read_whole(tmp_path / "absent", "a list")
    (tmp_path / "large").write_bytes(bytes(100))
    with pytest.raises(InputError, match="large: 100 bytes, expected a list of at most 99"):
        read_whole(tmp_path / "large", "a list", 99)
    assert len(read_whole(tmp_path / "large", "a list", 100)) == 100


@pytest.mark.parametrize(
    "listed",
    ["a.png", "images/a.png", "./images/a.png", "images\\a.png", "a b/ü.png", "a..b/c...d"],
)
def test_names_inside_a_folder(listed: str) -> None:
    found = path_inside(Path("/capture"), listed, Path("list.json"))
    assert found.as_posix().startswith("/capture/")
    assert ".." not in found.parts


@pytest.mark.parametrize(
    "listed",
    [
        "",
        ".",
        "..",
        "../a",
        "a/../../b",
        "/etc/passwd",
        "\\etc\\passwd",
        "C:\\a",
        "C:/a",
        "a\0b",
        "a" * 300,
        "é" * 200,
        "a/" * 1200,
        "\ud800",
    ],
)
def test_names_that_leave_a_folder_are_refused(listed: str) -> None:
    with pytest.raises(InputError, match=r"list\.json: the path .*expected a path") as caught:
        path_inside(Path("/capture"), listed, Path("list.json"))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "listed", ["", ".", "a/b", "../a", "/a", "a\\b", "C:a", 7, None, ["a"], "a\0", "a" * 300]
)
def test_files_beside_a_list_are_in_its_folder(listed: object) -> None:
    with pytest.raises(InputError, match=r"index\.json"):
        file_beside(Path("/pairs"), listed, Path("index.json"))


def test_a_file_beside_a_list() -> None:
    assert file_beside(Path("/pairs"), "pairs-00000.tar", Path("index.json")) == Path(
        "/pairs/pairs-00000.tar"
    )


def test_folders_with_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "a").mkdir(parents=True)
    (tmp_path / "run" / "a" / "b.txt").touch()
    refuse_links(tmp_path / "run")
    refuse_links(tmp_path / "absent")
    (tmp_path / "run" / "a" / "link").symlink_to("/nowhere")
    with pytest.raises(InputError, match="run/a/link: is a link"):
        refuse_links(tmp_path / "run")
    refuse_links(tmp_path / "run", lambda relative: relative.as_posix() == "a/link")
