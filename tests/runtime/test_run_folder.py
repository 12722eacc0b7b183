"""Atomic files, content hashes and run folders."""

import dataclasses
import enum
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from artifixer.runtime.errors import InputError
from artifixer.runtime.run_folder import (
    RunFolder,
    append_text,
    atomic_path,
    fingerprint,
    is_run_folder,
    read_json,
    write_bytes,
    write_json,
)

with suppress(ImportError):  # Windows
    import resource

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda children: (
        st.lists(children) | st.dictionaries(st.text(st.characters(codec="utf-8")), children)
    ),
    max_leaves=20,
)


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Settings:
    iterations: int = 3
    rate: float = 0.5
    names: tuple[str, ...] = ("a", "b")


def files_below(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


# atomic files


def test_atomic_path_makes_folders_and_keeps_the_suffix(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "image.png"
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == target.parent
        temporary.write_bytes(b"pixels")
        assert not target.exists()
    assert files_below(tmp_path) == ["new/folder/image.png"]


def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "splats.ply"
    write_bytes(target, b"old")

    def fail_halfway() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half of the new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert target.read_bytes() == b"old"
    assert files_below(tmp_path) == ["splats.ply"]


@pytest.mark.posix
def test_kill_while_writing_keeps_the_old_file_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", {}, {}) as run:
        write_bytes(run.path("splats.ply"), b"old")
    program = f"""
import os, signal
from artifixer.runtime.run_folder import atomic_path
with atomic_path({str(tmp_path / "run" / "splats.ply")!r}) as temporary:
    temporary.write_bytes(b"half of the new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert (
        subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    )
    assert (tmp_path / "run" / "splats.ply").read_bytes() == b"old"
    assert [name for name in files_below(tmp_path) if "partial" in name]
    RunFolder.open(tmp_path / "run", {}, {}).close()
    assert not [name for name in files_below(tmp_path) if "partial" in name]


def test_full_disk_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "depth.npy"
    with (
        pytest.raises(InputError, match=r"depth\.npy: cannot write: no space left") as caught,
        atomic_path(target),
    ):
        Path("/dev/full").write_bytes(b"x")  # the device that always answers "no space left"
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == []


@pytest.mark.posix
def test_file_size_limit_names_the_file(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(InputError, match=r"large\.bin: cannot write"):
            write_bytes(tmp_path / "large.bin", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files_below(tmp_path) == []


@pytest.mark.posix
def test_file_size_limit_names_the_file_of_a_library_without_errno(tmp_path: Path) -> None:
    """safetensors writes in Rust and reports the system's error in words."""
    from safetensors.torch import save_file

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with (
            pytest.raises(
                InputError,
                match=r"large\.safetensors: cannot write: file larger than the system allows",
            ),
            atomic_path(tmp_path / "large.safetensors") as temporary,
        ):
            save_file({"a": torch.zeros(5000)}, str(temporary))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files_below(tmp_path) == []


def test_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(
        InputError, match=r"out/image\.png: cannot write: a part of the path is a file"
    ):
        write_bytes(tmp_path / "out" / "image.png", b"")


def test_append_text(tmp_path: Path) -> None:
    append_text(tmp_path / "logs" / "log.txt", "one\n")
    append_text(tmp_path / "logs" / "log.txt", "two\n")
    assert (tmp_path / "logs" / "log.txt").read_text() == "one\ntwo\n"


# JSON


@given(JSON_VALUES)
def test_json_there_and_back(value: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "value.json", value)
        assert read_json(Path(folder) / "value.json") == value


def test_json_of_rich_values(tmp_path: Path) -> None:
    value = {
        "nan": float("nan"),
        "infinite": np.float32("inf"),
        "array": np.array([[1.5, np.nan]]),
        "tensor": torch.tensor([1, 2]),
        "path": Path("a/b"),
        "set": {3, 1, 2},
        "settings": Settings(),
        "enum": Colour.RED,
        "flag": np.bool_(True),
        "count": np.int64(7),
        4: "four",
    }
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == {
        "nan": None,
        "infinite": None,
        "array": [[1.5, None]],
        "tensor": [1, 2],
        "path": "a/b",
        "set": [1, 2, 3],
        "settings": {"iterations": 3, "rate": 0.5, "names": ["a", "b"]},
        "enum": "RED",
        "flag": True,
        "count": 7,
        "4": "four",
    }


def test_json_bytes_do_not_depend_on_insertion_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1, "y": [{"p": 1, "q": 2}] * 30})
    write_json(tmp_path / "b.json", {"y": [{"q": 2, "p": 1}] * 30, "x": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_json_of_undecodable_names(tmp_path: Path) -> None:
    name = os.fsdecode(b"photo-\xff.png")
    write_json(tmp_path / "names.json", [name])
    assert read_json(tmp_path / "names.json") == [name]


def test_json_refuses_other_types(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        write_json(tmp_path / "value.json", {"a": object()})
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,', "line 1, column"),
        (b"", "expected valid JSON"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 101 + b"]" * 101, "nested deeper than 100 levels"),
        (b'{"a": ' + b"9" * 5000 + b"}", "expected plain JSON"),
    ],
)
def test_broken_json_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "broken.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"broken\.json: .*{message}"):
        read_json(tmp_path / "broken.json")


def test_missing_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json: does not exist"):
        read_json(tmp_path / "nothing.json")
    with pytest.raises(InputError, match="cannot read"):
        read_json(tmp_path)


# fingerprints


@given(JSON_VALUES, JSON_VALUES)
def test_fingerprints_are_equal_exactly_for_equal_values(a: object, b: object) -> None:
    assert fingerprint(a) == fingerprint(json.loads(json.dumps(a)))
    if json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True):
        assert fingerprint(a) != fingerprint(b)
        assert fingerprint(a, b) != fingerprint(b, a)


def test_fingerprints_tell_similar_values_apart(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"text")
    values = [
        1, 1.0, "1", True, None, "None", b"1", [1], (1, 2), [[1], 2], [1, [2]], {"a": 1}, {"a": [1]}, {1}, "text", tmp_path / "file",
        np.zeros(3), np.zeros((3, 1)), np.zeros(3, np.float32), torch.zeros(4), torch.zeros(4, dtype=torch.bfloat16), torch.zeros(2, 2),
        torch.zeros(0, 3), Settings(), Settings(iterations=4), Colour.RED,
    ]  # fmt: skip
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint("ab", "c") != fingerprint("a", "bc")


def test_fingerprints_see_content_only(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"same")
    write_bytes(tmp_path / "b", b"same")
    write_bytes(tmp_path / "c", b"other")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")
    assert fingerprint({"x": 1, "y": 2}) == fingerprint({"y": 2, "x": 1})
    assert fingerprint({3, 1}) == fingerprint({1, 3})
    assert fingerprint(torch.arange(6).reshape(2, 3).T) == fingerprint(
        torch.arange(6).reshape(2, 3).T.contiguous()
    )
    with pytest.raises(InputError, match="missing"):
        fingerprint(tmp_path / "missing")


def test_fingerprint_is_the_same_in_every_process() -> None:
    program = "from artifixer.runtime.run_folder import fingerprint; print(fingerprint({'b', 'a', 'c'}, {'k': 1.5}))"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert other.stdout.strip() == fingerprint({"a", "b", "c"}, {"k": 1.5})


# run folders


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
