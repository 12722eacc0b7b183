"""State files of a run folder that somebody else wrote or damaged: nothing outside is read, written
or deleted because of them.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import write_bytes
from artifixer.runtime.json_io import read_json, write_json
from artifixer.runtime.run_folder import RunFolder

#: Pipes, sockets, devices and links.
pytestmark = pytest.mark.posix


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, and beside it what nobody may touch."""
    with RunFolder.open(tmp_path / "run", {"capture": "fox"}, {}) as folder:
        write_bytes(folder.path("splats.ply"), b"ply")
        write_bytes(folder.path("frames", "00000.png"), b"png")
        folder.mark_done("splats", "key", ["splats.ply"])
    write_bytes(tmp_path / "precious" / "thesis.txt", b"years of work")
    write_bytes(tmp_path / "run" / "notes.txt", b"mine")
    return tmp_path / "run"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "line",
    [
        "../precious",
        "{absolute}/precious",
        "{absolute}/precious/thesis.txt",
        "frames/../../precious/thesis.txt",
        "frames/../notes.txt",
        "..\\precious",
        "splats.\\..\\..\\precious",
        ".",
        "",
        ".run",
    ],
)
def test_owned_list_that_names_other_files_deletes_nothing(
    run: Path, line: str, overwrite: bool
) -> None:
    owned = run / ".run" / "owned.txt"
    owned.write_text(owned.read_text() + line.format(absolute=run.parent) + "\n")
    before = snapshot(run.parent)
    with pytest.raises(InputError, match=r"owned\.txt: line 3 is .*nothing was deleted"):
        RunFolder.open(run, {"capture": "plush"}, {}, overwrite=overwrite)
    after = snapshot(run.parent)
    assert {**after, "run/.run/lock": b""} == {**before, "run/.run/lock": b""}


@pytest.mark.parametrize("line", ["notes.txt", "config.json", "precious"])
def test_owned_list_that_names_what_no_verb_writes_deletes_nothing(run: Path, line: str) -> None:
    owned = run / ".run" / "owned.txt"
    owned.write_text(owned.read_text() + line + "\n")
    with RunFolder.open(run, {"capture": "plush"}, {}, overwrite=True):
        pass
    left = [name for name in snapshot(run.parent) if ".run" not in name]
    assert left == ["precious/thesis.txt", "run/config.json", "run/notes.txt"]


def test_owned_list_without_a_config_deletes_nothing(tmp_path: Path) -> None:
    """A folder of hidden state alone counts as a run that was killed at its start: bad input
    discards it.
    """
    write_bytes(tmp_path / "precious" / "thesis.txt", b"years of work")
    write_bytes(tmp_path / "run" / ".run" / "owned.txt", b"../precious\n")

    def attempt() -> None:
        with RunFolder.open(tmp_path / "run", {}, {}) as run, run.discarded_on_bad_input():
            raise InputError("photo.png: damaged")

    with pytest.raises(InputError):
        attempt()
    assert (tmp_path / "precious" / "thesis.txt").read_bytes() == b"years of work"


def link_frames(run: Path) -> None:
    (run / "frames" / "00000.png").unlink()
    (run / "frames").rmdir()
    (run / "frames").symlink_to(run.parent / "precious")


def link_state(run: Path) -> None:
    (run / ".run").rename(run.parent / "precious" / ".run")
    (run / ".run").symlink_to(run.parent / "precious" / ".run")


def link_lock(run: Path) -> None:
    (run / ".run" / "lock").unlink()
    (run / ".run" / "lock").symlink_to(run.parent / "precious" / "thesis.txt")


def link_log(run: Path) -> None:
    (run / "log.txt").symlink_to(run.parent / "precious" / "thesis.txt")


def link_photos_of_structure_from_motion(run: Path) -> None:
    """Links to photos are the program's own there; a link to a folder is not."""
    (run / "sfm" / "sfm-0").mkdir(parents=True)
    (run / "sfm" / "sfm-0" / "photos").symlink_to(run.parent / "precious")


def fifo_as_config(run: Path) -> None:
    (run / "config.json").unlink()
    os.mkfifo(run / "config.json")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "plant",
    [
        link_frames,
        link_state,
        link_lock,
        link_log,
        link_photos_of_structure_from_motion,
        fifo_as_config,
    ],
    ids=lambda plant: plant.__name__,
)
def test_links_and_pipes_in_a_run_folder_are_refused(
    run: Path, plant: Callable[[Path], None], overwrite: bool
) -> None:
    plant(run)
    before = snapshot(run.parent / "precious")
    refused = "holds files that no run wrote" if plant is fifo_as_config else "is a link"
    with pytest.raises(InputError, match=refused):
        RunFolder.open(run, {"capture": "fox"}, {}, overwrite=overwrite)
    assert snapshot(run.parent / "precious") == before


def test_what_the_program_links_itself_stays_usable(run: Path) -> None:
    (run / "sfm" / "sfm-0" / "photos").mkdir(parents=True)
    (run / "sfm" / "sfm-0" / "photos" / "000000.jpg").symlink_to(
        run.parent / "precious" / "thesis.txt"
    )
    with RunFolder.open(run, {"capture": "fox"}, {}) as folder:
        folder.path("sfm")
    with RunFolder.open(run, {"capture": "plush"}, {}, overwrite=True):
        pass
    assert not (run / "sfm").exists()
    assert (run.parent / "precious" / "thesis.txt").read_bytes() == b"years of work"


def test_a_linked_output_folder_is_the_users_choice(run: Path) -> None:
    (run.parent / "link").symlink_to(run)
    with RunFolder.open(run.parent / "link", {"capture": "fox"}, {}) as folder:
        assert folder.is_done("splats", "key")


@pytest.mark.parametrize(
    "content",
    [[], 1, {"version": 1}, {"version": 1, "identity": [], "settings": {}}, {"version": [10**300]}],
)
def test_damaged_config_of_a_run_is_one_line(run: Path, content: object) -> None:
    write_json(
        run / "config.json",
        {"format": "artifixer-run", **content} if isinstance(content, dict) else content,
    )
    with pytest.raises(InputError, match=r"config\.json|no run wrote"):
        RunFolder.open(run, {"capture": "fox"}, {})


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"key": "key"},
        {"key": "key", "outputs": "splats.ply"},
        {"key": "key", "outputs": [1]},
    ],
)
def test_damaged_marker_of_a_stage_is_one_line(run: Path, content: object) -> None:
    write_json(run / ".run" / "stages" / "splats.json", content)
    with RunFolder.open(run, {"capture": "fox"}, {}) as folder:
        for question in (lambda: folder.is_done("splats", "key"), lambda: folder.key_of("splats")):
            with pytest.raises(
                InputError, match=r"splats\.json: damaged.*delete it to repeat the stage"
            ):
                question()


@pytest.mark.parametrize("output", ["../precious", "/etc/hostname", "a" * 300, "\0"])
def test_marker_whose_outputs_are_elsewhere_is_one_line(run: Path, output: str) -> None:
    write_json(run / ".run" / "stages" / "splats.json", {"key": "key", "outputs": [output]})
    with (
        RunFolder.open(run, {"capture": "fox"}, {}) as folder,
        pytest.raises(InputError, match=r"splats\.json: the path"),
    ):
        folder.is_done("splats", "key")


def test_json_in_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    answers: list[str] = []

    def read() -> None:
        try:
            read_json(tmp_path / "pipe.json")
        except InputError as error:
            answers.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(timeout=5)
    assert answers, "still waiting for somebody to write into the pipe"
    assert "is a FIFO" in answers[0]


def test_huge_json_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(10 * 1024**3)  # takes no space on the disk
    with pytest.raises(
        InputError, match=r"huge\.json: 10,737,418,240 bytes, expected a JSON file of at most"
    ):
        read_json(tmp_path / "huge.json")


def test_state_of_another_program_is_no_run(tmp_path: Path) -> None:
    write_bytes(
        tmp_path / "folder" / "config.json", json.dumps({"format": ["artifixer-run"]}).encode()
    )
    with pytest.raises(InputError, match="no run wrote"):
        RunFolder.open(tmp_path / "folder", {}, {}, overwrite=True)
