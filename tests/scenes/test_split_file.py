"""A capture's own ``splits.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from artifixer.runtime.errors import InputError
from artifixer.scenes.formats import load_scene
from artifixer.scenes.split_file import read_splits

PHOTOS = ("images/a.jpg", "images/b.jpg", "images/c.jpg", "images/d.jpg")
A, B, C, D = PHOTOS


def read(folder: Path, splits: Any, lost: tuple[str, ...] = ()) -> dict[str, Any]:
    (folder / "splits.json").write_text(json.dumps({"splits": splits}))
    return dict(read_splits(folder / "splits.json", PHOTOS, lost))


def test_lists_keep_their_order_and_groups_their_names(tmp_path: Path) -> None:
    entry = {
        "train": [A, B],
        "train_in_fps_order": [B, A],
        "test": [D, C],
        "test_far_group": [C],
        "train_groups": 7,
        "note": "x",
    }
    split = read(tmp_path, {"one": entry})["one"]
    assert (split.name, split.train, split.heldout) == ("one", (B, A), (D, C))
    assert split.groups == {"far_group": (C,)}


def test_lost_photos_leave_the_lists(tmp_path: Path) -> None:
    splits = read(
        tmp_path,
        {"one": {"train": [A, "images/lost.jpg", B, A], "test": [C]}},
        lost=("images/lost.jpg",),
    )
    assert splits["one"].train == (A, B)


def test_names_may_differ_in_case_and_in_the_encoding_of_accents(tmp_path: Path) -> None:
    path, photos = (
        tmp_path / "splits.json",
        ("images/caf\u00e9.jpg", "images/b.jpg", "images/C.jpg"),
    )
    entry = {
        "train": ["images/cafe\u0301.jpg", "IMAGES/B.JPG", "images/Lost.jpg"],
        "test": ["images/c.jpg"],
    }
    path.write_text(json.dumps({"splits": {"one": entry}}))
    split = read_splits(path, photos, ("images/lost.jpg",))["one"]
    assert (split.train, split.heldout) == (photos[:2], photos[2:])
    entry["test"] = ["images/B.jpg"]
    path.write_text(json.dumps({"splits": {"one": entry}}))
    with pytest.raises(InputError, match=r"has images/b\.jpg in train and in test"):
        read_splits(path, photos, ("images/lost.jpg",))
    entry["test"] = ["images/C.JPG"]
    path.write_text(json.dumps({"splits": {"one": entry}}))
    with pytest.raises(
        InputError, match=r"C\.JPG in test, which may be images/C\.jpg or images/c\.jpg"
    ):
        read_splits(path, (*photos, "images/c.jpg"), ("images/lost.jpg",))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"train": [A, "images/x.jpg"], "test": [C]},
            "split one names images/x.jpg in train, which is no photo of this capture",
        ),
        ({"train": [A], "test": ["x"]}, "split one names x in test"),
        ({"train": [A, B], "test": [B]}, "has images/b.jpg in train and in test"),
        ({"train": [A, B]}, 'has "test" = .None.; expected a list of photos'),
        ({"train": "images/a.jpg", "test": []}, 'has "train" = .images/a.jpg.'),
        ({"train": [1], "test": []}, 'has "train" = .*; expected a list of photos'),
        ([A, B], "split one is .*; expected an object"),
    ],
)
def test_bad_splits_are_refused(tmp_path: Path, entry: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"splits\.json: .*{message}"):
        read(tmp_path, {"one": entry})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"splits": []}', '{"splits": {'])
def test_broken_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(InputError, match=r"splits\.json: "):
        read_splits(tmp_path / "splits.json", PHOTOS)


@pytest.mark.parametrize("name", ["fox", "fountain", "buddha", "plush"])
def test_splits_of_real_captures(captures_folder: Path, name: str) -> None:
    scene = load_scene(captures_folder / name)
    content = json.loads((captures_folder / name / "splits.json").read_text())["splits"]
    assert scene.splits.keys() == content.keys()
    for key, split in scene.splits.items():
        assert sorted(split.train) == sorted(content[key]["train"])
        assert sorted((*split.train, *split.heldout)) == sorted(
            photo.name for photo in scene.photos
        )
