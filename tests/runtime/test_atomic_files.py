"""Files appear whole or not at all."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import append_text, atomic_path, write_bytes
from artifixer.runtime.run_folder import RunFolder

with suppress(ImportError):  # Windows
    import resource


def files_below(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


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
from artifixer.runtime.files import atomic_path
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
