"""Lists of photos from systems on which upper and lower case are the same."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from artifixer.scenes import colmap
from artifixer.scenes.file_names import FileNames
from artifixer.scenes.formats import load_scene
from tests.scenes.capture_files import transforms_content, write_colmap, write_transforms


def touched(root: Path, *names: str) -> FileNames:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return FileNames(root)


def test_the_only_name_that_differs_in_case_is_found(tmp_path: Path) -> None:
    names = touched(tmp_path, "Images/IMG_1.JPG")
    assert names.find(tmp_path / "images" / "img_1.jpg") == tmp_path / "Images" / "IMG_1.JPG"
    assert names.find(tmp_path / "Images" / "IMG_1.JPG") == tmp_path / "Images" / "IMG_1.JPG"
    for absent in ("images/img_2.jpg", "photos/img_1.jpg", "../x"):
        assert names.find(tmp_path / absent) == tmp_path / absent
    assert names.find(Path("/elsewhere/a.png")) == Path("/elsewhere/a.png")


def test_a_name_that_could_be_two_is_none(tmp_path: Path) -> None:
    names = touched(tmp_path, "a.png", "A.png")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system has one case")
    assert names.find(tmp_path / "a.PNG") == tmp_path / "a.PNG"
    assert names.find(tmp_path / "A.png") == tmp_path / "A.png"


def test_a_file_that_is_listed_exactly_is_no_other_one_too(tmp_path: Path) -> None:
    names = touched(tmp_path, "a.png", "B.png")
    listed = [tmp_path / name for name in ("a.png", "A.png", "b.png")]
    assert names.find_all(listed) == [tmp_path / "a.png", tmp_path / "A.png", tmp_path / "B.png"]


def renamed(photos: Path) -> list[str]:
    """The photos of a capture with names in capitals."""
    for photo in sorted(photos.iterdir()):
        photo.rename(photo.with_name(photo.name.upper()))
    folder = photos.rename(photos.with_name("Images"))
    return [f"Images/{photo.name}" for photo in sorted(folder.iterdir())]


def test_colmap_and_transforms_find_photos_in_another_case(tmp_path: Path) -> None:
    write_colmap(tmp_path / "colmap")
    expected = [
        photo.name
        for photo in colmap.load(tmp_path / "colmap", tmp_path / "colmap" / "sparse" / "0").photos
    ]
    names = renamed(tmp_path / "colmap" / "images")
    assert [name.casefold() for name in names] == [name.casefold() for name in expected]
    assert [photo.name for photo in load_scene(tmp_path / "colmap").photos] == names

    write_transforms(tmp_path / "nerf", transforms_content(3))
    names = renamed(tmp_path / "nerf" / "images")
    scene = load_scene(tmp_path / "nerf")
    assert ([photo.name for photo in scene.photos], scene.lost_photos) == (names, ())


def test_accents_are_found_in_the_form_that_a_mac_stores(tmp_path: Path) -> None:
    """Copies of folders from a Mac have names of letters and separate accents; lists have letters
    with accents.
    """
    content = transforms_content(3)
    for number, frame in enumerate(content["frames"]):
        frame["file_path"] = f"images/\u00e9{number}.png"
    write_transforms(tmp_path, content)
    for number in range(3):
        photo = tmp_path / "images" / f"{number:03d}.png"
        photo.rename(photo.with_name(unicodedata.normalize("NFD", f"\u00e9{number}.png")))
    scene = load_scene(tmp_path)
    names = [unicodedata.normalize("NFC", photo.name) for photo in scene.photos]
    assert (names, scene.lost_photos) == ([f"images/\u00e9{n}.png" for n in range(3)], ())
