"""A photo that is replaced between two calls of the same command is noticed, also where its size
and its time stay the same.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from artifixer.cli import main
from artifixer.pipeline.capture import CaptureChoice, load_capture
from artifixer.runtime.errors import EXIT_BAD_INPUT, EXIT_STOPPED
from tests.flows.test_reconstruct_flow import at_file, terminate
from tests.scenes.capture_files import transforms_content, write_photo, write_transforms

#: Bytes of every photo: a PNG may be followed by anything.
PHOTO_BYTES = 20_000


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    folder = tmp_path / "capture"
    write_transforms(folder, transforms_content(5), views=5)
    for photo in (folder / "images").iterdir():
        padded(photo)
    return folder


def padded(photo: Path) -> None:
    photo.write_bytes(photo.read_bytes().ljust(PHOTO_BYTES, b"\0"))


def replace_photo(photo: Path) -> None:
    """Other pixels under the same name, size and time."""
    before = photo.stat()
    write_photo(photo, seed=99)
    padded(photo)
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = photo.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("verb", ["run", "reconstruct", "curate"])
def test_a_photo_replaced_between_two_calls_is_noticed(
    verb: str, capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [verb, str(capture), "--out", str(tmp_path / "out")]
    with at_file("config.json", terminate):
        assert main(words) == EXIT_STOPPED
    assert main_stopped_again(words) == EXIT_STOPPED, "the same photos continue"
    capsys.readouterr()
    replace_photo(capture / "images" / "002.png")
    assert main(words) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "was made from another input" in error and error.count("\n") == 1


def main_stopped_again(words: list[str]) -> int:
    with at_file("owned.txt", terminate):
        return main(words)


def test_the_cache_of_resized_photos_gives_the_new_pixels(capture: Path, tmp_path: Path) -> None:
    def pixels() -> list[bytes]:
        scene = load_capture(CaptureChoice(str(capture), size="32"), None, tmp_path / "cache").scene
        return [photo.read().tobytes() for photo in scene.photos]

    before = pixels()
    assert pixels() == before
    replace_photo(capture / "images" / "002.png")
    after = pixels()
    assert [old == new for old, new in zip(before, after, strict=True)] == [
        True,
        True,
        False,
        True,
        True,
    ]
