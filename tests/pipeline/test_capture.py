"""What a user chooses of a capture, and what identifies it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from artifixer.pipeline.capture import CaptureChoice, check_output, identify, load_capture
from artifixer.runtime.errors import InputError
from artifixer.scenes.resize_scene import resize_scene
from tests.scenes.capture_files import transforms_content, write_photo, write_transforms

PROCEDURAL = "procedural:7:frames=9,width=48,height=36,points_per_photo=40"


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    folder = tmp_path / "capture"
    write_transforms(folder, transforms_content(5), views=5)
    return folder


def test_identity_follows_the_content_and_not_the_place(capture: Path, tmp_path: Path) -> None:
    first = identify(str(capture))
    os.utime(capture / "transforms.json", (1, 1))
    (capture / ".cache").mkdir()
    (capture / ".cache" / "x").write_text("hidden")
    assert identify(str(capture)) == first
    (tmp_path / "elsewhere").mkdir()
    assert identify(str(capture.rename(tmp_path / "elsewhere" / "capture"))) == first
    moved = tmp_path / "elsewhere" / "capture"
    (tmp_path / "linked").symlink_to(moved)
    assert identify(str(tmp_path / "linked")) == first

    path = moved / "transforms.json"
    path.write_text(path.read_text().replace("64.0", "65.0"))
    assert identify(str(moved)) != first
    path.write_text(path.read_text().replace("65.0", "64.0"))
    assert identify(str(moved)) == first
    write_photo(moved / "images" / "more.png")
    assert identify(str(moved)) != first


def test_identity_follows_links_and_ends_where_they_lead_back(
    capture: Path, tmp_path: Path
) -> None:
    (capture / "images").rename(tmp_path / "photos")
    (capture / "images").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos")
    first = identify(str(capture))
    write_photo(tmp_path / "photos" / "more.png")
    assert identify(str(capture)) != first


def test_identity_of_files_and_procedural_captures(capture: Path) -> None:
    assert identify(PROCEDURAL) == {"capture": PROCEDURAL}
    assert identify(str(capture / "transforms.json"))["capture"] == "transforms.json"
    with pytest.raises(InputError, match="absent: does not exist, expected a capture folder"):
        identify(str(capture / "absent"))


@pytest.mark.parametrize("out", ["capture", "capture/run", "capture/a/../run", "link/run"])
def test_results_inside_the_capture_are_refused(capture: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "link").symlink_to(capture)
    with pytest.raises(InputError, match="lies inside the capture"):
        check_output(str(capture), tmp_path / out)
    check_output(str(capture), tmp_path / "capture2")
    check_output(PROCEDURAL, tmp_path / out)


def test_without_a_choice_a_part_is_held_out(capture: Path) -> None:
    """Every 8th photo, every 4th of a small capture."""
    small = load_capture(CaptureChoice(str(capture)), None)
    assert small.split.name == "every_4"
    assert (small.training, small.heldout) == ((1, 2, 3), (0, 4))
    larger = load_capture(CaptureChoice("procedural:7:frames=17,width=16,height=12"), None)
    assert larger.split.name == "every_8"
    assert larger.heldout == (0, 8, 16)


def test_choices_exclude_each_other(capture: Path) -> None:
    choice = CaptureChoice(str(capture), views=3)
    assert load_capture(choice, None).split.name == "algorithm1_K3"
    assert load_capture(replace(choice, views=None, all_views=True), None).heldout == ()
    with pytest.raises(InputError, match="give one of them"):
        load_capture(replace(choice, all_views=True), None)


def test_photos_and_cameras_have_the_wanted_size_and_are_cached(
    capture: Path, tmp_path: Path
) -> None:
    opened = load_capture(CaptureChoice(str(capture), size="32"), None, tmp_path / "cache")
    assert not (tmp_path / "cache").exists(), "nothing is written before a photo is read"
    photo, camera = opened.scene.photos[1], opened.scene.cameras[1]
    assert (photo.width, photo.height) == (camera.width, camera.height) == (32, 24)
    photo.read()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    unchanged = load_capture(CaptureChoice(str(capture)), None).scene
    assert (resize_scene(unchanged, "32").photos[1].read() == photo.read()).all()
