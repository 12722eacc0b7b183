"""Run folders: whose they are, what is done, and what overwrite removes."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import write_bytes
from artifixer.runtime.json_io import read_json, write_json
from artifixer.runtime.run_folder import RunFolder, is_run_folder

with suppress(ImportError):  # Windows
    import resource


def files_below(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_new_folder_records_what_it_is(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", {"capture": "fox"}, {"iterations": 100}):
        pass
    config = read_json(tmp_path / "run" / "config.json")
    assert config["identity"] == {"capture": "fox"}
    assert config["settings"] == {"iterations": 100}
    assert config["environment"]["device"] == "cpu"
    assert config["environment"]["packages"]["torch"] == torch.__version__
    assert is_run_folder(tmp_path / "run")
    assert not is_run_folder(tmp_path)


def test_stage_is_done_only_with_its_key_and_outputs(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", {}, {}) as run:
        assert not run.is_done("splats", "key")
        write_bytes(run.path("splats.ply"), b"ply")
        write_bytes(run.path("renders", "00000.png"), b"png")
        run.mark_done("splats", "key", ["splats.ply", run.path("renders")])
    with RunFolder.open(tmp_path / "run", {}, {}) as run:
        assert run.is_done("splats", "key")
        assert not run.is_done("splats", "other key")
        assert not run.is_done("frames", "key")
        (tmp_path / "run" / "splats.ply").unlink()
        assert not run.is_done("splats", "key")


def test_marking_without_the_output_is_a_bug(tmp_path: Path) -> None:
    with (
        RunFolder.open(tmp_path / "run", {}, {}) as run,
        pytest.raises(AssertionError, match=r"splats\.ply is missing"),
    ):
        run.mark_done("splats", "key", ["splats.ply"])


def test_other_settings_are_refused_by_name_and_value(tmp_path: Path) -> None:
    RunFolder.open(
        tmp_path / "run",
        {"capture": "fox"},
        {"iterations": 100, "loss": {"ssim": 0.2}, "rate": float("nan")},
    ).close()
    RunFolder.open(
        tmp_path / "run",
        {"capture": "fox"},
        {"iterations": 100, "loss": {"ssim": 0.2}, "rate": float("nan")},
    ).close()
    with pytest.raises(InputError, match=r"loss\.ssim is 0\.2 there, 0\.3 now.*--overwrite"):
        RunFolder.open(
            tmp_path / "run",
            {"capture": "fox"},
            {"iterations": 100, "loss": {"ssim": 0.3}, "rate": float("nan")},
        )
    with pytest.raises(InputError, match=r"another input: capture is \"fox\" there, \"plush\" now"):
        RunFolder.open(tmp_path / "run", {"capture": "plush"}, {"iterations": 7})


def test_settings_may_change_where_asked(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", {"capture": "fox"}, {"steps": 4}) as run:
        write_bytes(run.path("splats.ply"), b"ply")
        run.mark_done("splats", "splat settings", ["splats.ply"])
    with RunFolder.open(
        tmp_path / "run", {"capture": "fox"}, {"steps": 2}, settings_may_change=True
    ) as run:
        assert run.is_done("splats", "splat settings")
    assert read_json(tmp_path / "run" / "config.json")["settings"] == {"steps": 2}
    with pytest.raises(InputError, match="another input"):
        RunFolder.open(
            tmp_path / "run", {"capture": "plush"}, {"steps": 2}, settings_may_change=True
        )


def test_overwrite_removes_what_the_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", {"capture": "fox"}, {}) as run:
        write_bytes(run.path("splats.ply"), b"ply")
        write_bytes(run.path("renders", "heldout", "rgb", "00000.png"), b"png")
        write_bytes(tmp_path / "run" / "preview.png", b"png")
        run.mark_done("splats", "key", ["splats.ply", "preview.png"])
    write_bytes(tmp_path / "run" / "notes.txt", b"mine")
    write_bytes(tmp_path / "run" / "renders" / "mine.txt", b"mine too")
    with RunFolder.open(tmp_path / "run", {"capture": "plush"}, {}, overwrite=True) as run:
        assert not run.is_done("splats", "key")
    left = [name for name in files_below(tmp_path / "run") if not name.startswith(".run/")]
    assert left == ["config.json", "notes.txt", "renders/mine.txt"]
    assert read_json(tmp_path / "run" / "config.json")["identity"] == {"capture": "plush"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folder_is_refused_and_untouched(tmp_path: Path, overwrite: bool) -> None:
    write_bytes(tmp_path / "photos" / "a.jpg", b"photo")
    write_json(tmp_path / "photos" / "config.json", {"some": "other program's"})
    with pytest.raises(
        InputError, match=r"photos: holds files that no run wrote \(a\.jpg, config\.json\)"
    ):
        RunFolder.open(tmp_path / "photos", {}, {}, overwrite=overwrite)
    assert files_below(tmp_path) == ["photos/a.jpg", "photos/config.json"]


def test_empty_folder_and_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    RunFolder.open(tmp_path / "empty", {}, {}).close()
    write_bytes(tmp_path / "file", b"")
    with pytest.raises(InputError, match="file: is a file, expected a folder"):
        RunFolder.open(tmp_path / "file", {}, {})


def test_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    program = f"""
import sys
from artifixer.runtime.run_folder import RunFolder
run = RunFolder.open({str(tmp_path / "run")!r}, {{}}, {{}})
print("open", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(
            InputError, match=rf"another process is writing this folder \(process {other.pid}"
        ):
            RunFolder.open(tmp_path / "run", {}, {})
        other.kill()  # a dead process holds nothing
    RunFolder.open(tmp_path / "run", {}, {}).close()


def test_failed_open_releases_the_folder(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", {"capture": "fox"}, {}).close()
    with pytest.raises(InputError) as refused:
        RunFolder.open(tmp_path / "run", {"capture": "plush"}, {})
    RunFolder.open(tmp_path / "run", {"capture": "fox"}, {}).close()
    del refused


def test_bad_input_at_the_start_leaves_nothing(tmp_path: Path) -> None:
    """Neither files nor the folders that were made on the way; a run that was begun before keeps
    what it has.
    """

    def attempt(folder: Path, overwrite: bool = False) -> None:
        with (
            RunFolder.open(folder, {"capture": "fox"}, {}, overwrite) as run,
            run.discarded_on_bad_input(),
        ):
            write_json(run.path("renders", "a.json"), 1)
            raise InputError("photo.png: damaged")

    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "a" / "b" / "run", tmp_path / "empty"):
        with pytest.raises(InputError, match="damaged"):
            attempt(folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]

    RunFolder.open(tmp_path / "empty", {"capture": "fox"}, {}).close()
    with pytest.raises(InputError, match="damaged"):
        attempt(tmp_path / "empty")
    assert is_run_folder(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(InputError, match="damaged"):
        attempt(tmp_path / "empty", overwrite=True)
    assert files_below(tmp_path / "empty") == ["notes.txt"]


@pytest.mark.posix
def test_a_folder_that_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(InputError, match=r"config\.json: cannot write"):
            RunFolder.open(tmp_path / "a" / "run", {"capture": "fox"}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_newer_format_is_refused(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", {}, {}).close()
    config = read_json(tmp_path / "run" / "config.json")
    write_json(tmp_path / "run" / "config.json", {**config, "version": 99})
    with pytest.raises(InputError, match="format version 99, expected 1"):
        RunFolder.open(tmp_path / "run", {}, {})


@pytest.mark.parametrize("parts", [("..", "outside"), ("/tmp/outside",), (".run", "lock")])
def test_paths_stay_inside(tmp_path: Path, parts: tuple[str, ...]) -> None:
    with (
        RunFolder.open(tmp_path / "run", {}, {}) as run,
        pytest.raises(AssertionError, match="not inside the run folder"),
    ):
        run.path(*parts)
