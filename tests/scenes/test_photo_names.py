"""Captures laid out as other programs leave them: several models, other folders, names that nearly
match.
"""

from __future__ import annotations

import shutil

import pytest
import torch

from artifixer.runtime.errors import InputError
from artifixer.scenes.formats import load_scene
from tests.scenes.capture_files import write_colmap, write_photo


def _rename_in_text(capture, change, model="sparse/0"):
    path = capture / model / "images.txt"
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        fields = line.split()
        if len(fields) == 10 and not line.startswith("#"):
            lines[number] = " ".join([*fields[:9], change(fields[9])])
    path.write_text("\n".join(lines) + "\n")


def _original(tmp_path, suffix=".txt", **options):
    write_colmap(tmp_path / "original", suffix=suffix, **options)
    return load_scene(tmp_path / "original")


def _same_views(first, second):
    assert len(first.photos) == len(second.photos) >= 2
    for a, b in zip(first.cameras, second.cameras, strict=True):
        assert torch.equal(a.viewmats, b.viewmats) and torch.equal(a.Ks, b.Ks)


@pytest.mark.parametrize("suffix", [".txt", ".bin"])
def test_the_largest_of_several_models_is_read_and_the_others_are_named(tmp_path, suffix):
    capture = tmp_path / "capture"
    write_colmap(capture, suffix=suffix, views=5, model_folder="sparse/1")
    write_colmap(capture, suffix=suffix, views=2, model_folder="sparse/0")
    scene = load_scene(capture)
    assert len(scene.photos) == 5
    assert any("read sparse/1" in note and "sparse/0 with 2 images" in note for note in scene.notes)
    assert len(load_scene(capture / "sparse" / "0").photos) == 2


def test_photos_without_a_pose_are_counted_in_a_note(tmp_path):
    scene = _original(tmp_path)
    write_photo(scene.photos[0].path.with_name("zz.png"))
    assert any(
        "1 photo is not in images" in n and "is left out: it has no pose" in n
        for n in load_scene(tmp_path / "original").notes
    )


@pytest.mark.parametrize(
    ("photos", "model", "given"),
    [
        ("input", "distorted/sparse/0", "."),
        ("dense/0/images", "dense/0/sparse", "."),
        ("images_4", "sparse/0", "."),
        ("images", "sparse/1", "."),
        ("images", "sparse/0", "sparse/0"),
        ("Images", "sparse/0", "."),
    ],
)
def test_common_layouts_are_read(tmp_path, photos, model, given):
    expected = _original(tmp_path)
    source, capture = tmp_path / "original", tmp_path / "capture"
    shutil.copytree(source / "images", capture / photos)
    shutil.copytree(source / "sparse/0", capture / model)
    _same_views(load_scene(capture / given), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"/home/someone/project/images/{name}",
        lambda name: f"C:\\data\\images\\{name}",
        lambda name: f"../capture/images/{name}",
        lambda name: f"images/{name}",
        lambda name: name.rsplit(".", 1)[0] + ".JPEG",
        lambda name: name.upper(),
    ],
)
def test_names_that_nearly_match_are_found(tmp_path, change):
    expected = _original(tmp_path)
    _rename_in_text(tmp_path / "original", change)
    scene = load_scene(tmp_path / "original")
    _same_views(scene, expected)
    assert [photo.name for photo in scene.photos] == [photo.name for photo in expected.photos]


def test_a_missing_sub_folder_is_found_with_a_note(tmp_path):
    _original(tmp_path)
    images = tmp_path / "original" / "images"
    (images / "left").mkdir()
    for path in list(images.glob("*.png")) + list(images.glob("*.jpg")):
        path.rename(images / "left" / path.name)
    scene = load_scene(tmp_path / "original")
    assert all(photo.name.startswith("images/left/") for photo in scene.photos)


@pytest.mark.parametrize(
    "change", [lambda folder, name: f"../elsewhere/{name}", lambda folder, name: str(folder / name)]
)
def test_nothing_outside_the_capture_is_read(tmp_path, change):
    expected = _original(tmp_path)
    for photo in expected.photos:
        write_photo(tmp_path / "elsewhere" / f"secret-{photo.path.name}")
    _rename_in_text(
        tmp_path / "original", lambda name: change(tmp_path / "elsewhere", f"secret-{name}")
    )
    with pytest.raises(InputError, match="leaves the capture's folder"):
        load_scene(tmp_path / "original")


def test_a_byte_order_mark_and_lower_case_lenses_are_read(tmp_path):
    expected = _original(tmp_path)
    for path in (tmp_path / "original" / "sparse/0").glob("*.txt"):
        text = path.read_text()
        text = text.replace("PINHOLE", "pinhole") if path.name == "cameras.txt" else text
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    _same_views(load_scene(tmp_path / "original"), expected)
