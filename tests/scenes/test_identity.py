"""What tells captures apart: photos that are changed in place are noticed, and a copy is the same
capture.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from artifixer.runtime.errors import InputError
from artifixer.scenes import identity
from artifixer.scenes.identity import capture_fingerprint, sampled_fingerprint
from tests.scenes.capture_files import transforms_content, write_transforms


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    write_transforms(tmp_path / "capture", transforms_content(3))
    return tmp_path / "capture"


def change_in_place(photo: Path, at: int, mtime: bool) -> None:
    """Another byte at a place; the size stays, and the time too unless ``mtime``."""
    state, content = photo.stat(), bytearray(photo.read_bytes())
    content[at] ^= 1
    photo.write_bytes(content)
    os.utime(photo, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000_000 * mtime))
    assert photo.stat().st_size == state.st_size


@pytest.mark.parametrize("at", [0, 3000, -1])
def test_a_photo_that_is_changed_in_place_is_noticed(capture: Path, at: int) -> None:
    before = capture_fingerprint(capture)
    change_in_place(capture / "images" / "001.png", at, mtime=False)
    assert capture_fingerprint(capture) != before


@pytest.mark.posix
@pytest.mark.parametrize("target", ["/", "..", "../.."])
def test_a_link_to_what_is_around_the_capture_is_refused(capture: Path, target: str) -> None:
    """It would read the whole disk."""
    (capture / "more").symlink_to(target)
    for identify in (capture_fingerprint, sampled_fingerprint):
        with pytest.raises(
            InputError, match=r"more: is a link to .*, which holds the capture itself"
        ):
            identify(capture)


@pytest.mark.posix
def test_links_to_photos_and_back_are_followed_once(capture: Path) -> None:
    before = capture_fingerprint(capture)
    (capture.parent / "elsewhere").mkdir()
    (capture.parent / "elsewhere" / "a.txt").write_text("a")
    (capture / "linked").symlink_to(capture.parent / "elsewhere")
    (capture / "images" / "back").symlink_to(capture)
    assert capture_fingerprint(capture) != before


def test_samples_notice_changes_by_pieces_or_by_time(
    capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "PHOTO_PIECE_BYTES", 16)
    photo = capture / "images" / "001.png"
    content, changed = sampled_fingerprint(capture)
    change_in_place(photo, -1, mtime=False)
    at_the_end = sampled_fingerprint(capture)
    assert at_the_end[0] != content
    change_in_place(photo, 100, mtime=True)
    between = sampled_fingerprint(capture)
    assert between[0] == at_the_end[0], "the byte is in no piece"
    assert between[1] != changed


def test_large_files_that_are_no_photos_count_by_pieces(
    capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "HASHED_BYTES", 1000)
    monkeypatch.setattr(identity, "PIECE_BYTES", 10)
    cloud = capture / "cloud.bin"
    cloud.write_bytes(bytes(5000))
    before = capture_fingerprint(capture)
    change_in_place(cloud, -1, mtime=False)
    assert capture_fingerprint(capture) != before
    cloud.write_bytes(bytes(5001))
    assert capture_fingerprint(capture) != before
    cloud.write_bytes(bytes(5000))
    assert capture_fingerprint(capture) == before


def test_a_copy_at_another_place_and_time_is_the_same_capture(
    capture: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(capture, tmp_path / "elsewhere", copy_function=shutil.copy))
    os.utime(copy / "images" / "001.png", (1, 1))
    assert capture_fingerprint(copy) == capture_fingerprint(capture)
    assert sampled_fingerprint(copy)[0] == sampled_fingerprint(capture)[0]
