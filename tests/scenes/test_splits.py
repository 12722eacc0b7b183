"""Splits: against a capture's stored ones and the release's, a literal transcription of the paper,
and invariances.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_scenes import random_poses, scene_at
from safetensors.torch import load_file

from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.runtime.errors import InputError
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scene import Split
from artifixer.scenes.splits import (
    algorithm1_orders,
    choose_split,
    half_covisibility_orders,
    read_train_list,
)


def _paper_orders(poses: torch.Tensor) -> tuple[list[int], list[int]]:
    """Algorithm 1 word by word, with loops."""
    count = len(poses)
    d = [
        [float((a[:3, :3] - b[:3, :3]).norm() + (a[:3, 3] - b[:3, 3]).norm()) for b in poses]
        for a in poses
    ]
    p1, p2 = max(
        ((i, j) for i in range(count) for j in range(count)),
        key=lambda pair: (d[pair[0]][pair[1]], -pair[0], -pair[1]),
    )
    groups = [
        [i for i in range(count) if d[i][p1] <= d[i][p2]],
        [i for i in range(count) if d[i][p1] > d[i][p2]],
    ]
    orders = []
    for seed, group in zip((p1, p2), groups, strict=True):
        order = [seed]
        while len(order) < len(group):
            rest = [i for i in group if i not in order]
            order.append(max(rest, key=lambda i: (min(d[i][chosen] for chosen in order), -i)))
        orders.append(order)
    return orders[0], orders[1]


@given(views=st.integers(2, 12), seed=st.integers(0, 10_000))
def test_algorithm1_in_raw_units_is_the_papers(views, seed):
    poses = random_poses(views, seed)
    assert [list(order) for order in algorithm1_orders(poses, normalise=False)] == list(
        _paper_orders(poses)
    )


@given(
    views=st.integers(2, 12),
    seed=st.integers(0, 10_000),
    scale=st.floats(0.01, 100),
    shift=st.floats(-100, 100),
)
def test_normalised_algorithm1_ignores_the_choice_of_world(views, seed, scale, shift):
    poses = random_poses(views, seed)
    moved = poses.clone()
    rotation = quaternion_to_matrix(torch.tensor([0.9, 0.1, -0.3, 0.2], dtype=torch.float64))
    moved[:, :3, :3] = rotation @ poses[:, :3, :3]
    moved[:, :3, 3] = scale * (poses[:, :3, 3] @ rotation.T) + shift
    assert algorithm1_orders(moved) == algorithm1_orders(poses)


def test_both_groups_together_hold_every_camera_once():
    for orders in (
        algorithm1_orders(random_poses(11, 0)),
        half_covisibility_orders(random_poses(11, 0)),
    ):
        assert sorted(orders[0] + orders[1]) == list(range(11))


def test_cameras_at_one_place_are_split_too():
    poses = torch.eye(4).repeat(4, 1, 1)
    # nothing to choose by: the order of the photos
    assert algorithm1_orders(poses)[0] == (0, 1, 2, 3)


def test_half_covisibility_equals_the_release(parity_folder):
    poses = load_file(parity_folder / "f_long_path.safetensors")["c2w"]
    expected = json.loads((parity_folder / "protocol.json").read_text())["half_covisibility"]
    assert [list(order) for order in half_covisibility_orders(poses)] == expected
    split = choose_split(scene_at(poses), name="half_covisibility_1_K6")
    assert split.train == tuple(f"images/{i:03d}.jpg" for i in expected[1][:6])


def test_half_covisibility_is_what_it_was_when_it_equalled_the_release():
    """Outputs of this function, kept while the test above passed."""
    assert half_covisibility_orders(random_poses(11, 0)) == ((3, 9, 6, 8, 10), (7, 5, 4, 0, 2, 1))


def test_algorithm1_is_what_it_was_when_it_reproduced_the_stored_splits():
    """Outputs of the functions, kept while the test below passed."""
    poses = random_poses(11, 0)
    assert algorithm1_orders(poses) == ((3, 8), (7, 6, 5, 0, 9, 10, 4, 2, 1))
    split = choose_split(scene_at(poses), name="algorithm1_K3")
    assert [int(Path(name).stem) for name in split.train] == [7, 6, 5]
    groups = {key: [int(Path(name).stem) for name in group] for key, group in split.groups.items()}
    assert groups == {"far_group": [3, 8], "same_group": [0, 1, 2, 4, 9, 10]}


@pytest.mark.parametrize("capture", ["buddha", "fountain", "fox", "plush"])
def test_the_splits_of_real_captures_are_reproduced(captures_folder, capture):
    """Train and test photos in order, and both groups of test photos, for every stored split of
    Algorithm 1.
    """
    scene = load_scene(captures_folder / capture)
    stored = json.loads((captures_folder / capture / "splits.json").read_text())["splits"]
    computed_from = replace(scene, splits={})
    names = [name for name in stored if name.startswith("algorithm1")]
    assert names
    for name in names:
        split = choose_split(computed_from, name=name)
        assert list(split.train) == stored[name]["train_in_fps_order"], name
        assert list(split.heldout) == stored[name]["test"], name
        assert {f"test_{key}": list(group) for key, group in split.groups.items()} == {
            key: group for key, group in stored[name].items() if key.startswith("test_")
        }
    assert choose_split(computed_from, views=3).train == scene.splits["algorithm1_K3"].train

    dense = next(name for name in stored if name.startswith("dense_every"))
    every = choose_split(computed_from, name=dense.replace("dense_every", "every_"))
    assert (list(every.train), list(every.heldout)) == (
        stored[dense]["train"],
        stored[dense]["test"],
    )


def test_a_captures_own_split_wins_over_a_computed_one():
    own = Split("every_2", ("images/001.jpg", "images/002.jpg"), ("images/000.jpg",))
    scene = replace(scene_at(random_poses(4, 0)), splits={"every_2": own})
    assert choose_split(scene, name="every_2") is own


def test_all_views_hold_nothing_out():
    split = choose_split(scene_at(random_poses(3, 0)), all_views=True)
    assert len(split.train) == 3
    assert split.heldout == ()


# Lists in files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_name", "content"),
    [
        (
            "list.txt",
            "images/003.jpg\n\n# a comment\n  001.jpg  # by its file name\n./images/003.jpg\n",
        ),
        ("list.json", '["images/003.jpg", "001.jpg"]'),
        ("list.json", '{"train": ["images/003.jpg", "001.jpg"]}'),
    ],
)
def test_photos_outside_a_train_list_are_held_out(tmp_path, file_name, content):
    (tmp_path / file_name).write_text(content)
    split = choose_split(scene_at(random_poses(4, 0)), train_list=tmp_path / file_name)
    assert split.train == ("images/003.jpg", "images/001.jpg")
    assert split.heldout == ("images/000.jpg", "images/002.jpg")


@pytest.mark.parametrize("key", ["test", "heldout"])
def test_a_json_split_may_hold_out_fewer(tmp_path, key):
    path = tmp_path / "split.json"
    path.write_text(
        json.dumps({"name": "mine", "train": ["000.jpg", "001.jpg"], key: ["images/003.jpg"]})
    )
    assert read_train_list(path, scene_at(random_poses(4, 0))).heldout == ("images/003.jpg",)


def test_photos_that_the_capture_lost_are_left_out_of_a_list(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("images/000.jpg\nimages/001.jpg\ngone.jpg\n")
    scene = replace(scene_at(random_poses(4, 0)), lost_photos=("images/gone.jpg",))
    assert read_train_list(path, scene).train == ("images/000.jpg", "images/001.jpg")


# Bad requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [-1, 0, 1, 5, 1000])
def test_impossible_numbers_of_views_are_refused_with_the_possible_ones(views):
    scene = scene_at(random_poses(5, 0))
    largest = max(len(order) for order in algorithm1_orders(random_poses(5, 0)))
    with pytest.raises(InputError, match=f"--views {views}: .*expected 2 to {largest}"):
        choose_split(scene, views=views)


def test_an_unknown_split_lists_the_known_ones():
    scene = replace(
        scene_at(random_poses(4, 0)),
        splits={"dense_every4": Split("dense_every4", ("images/001.jpg",), ())},
    )
    with pytest.raises(
        InputError,
        match=r"dense_evry4.*did you mean dense_every4.*"
        "expected one of dense_every4, every_8, algorithm1_K6",
    ):
        choose_split(scene, name="dense_evry4")


@pytest.mark.parametrize(
    "name",
    ["every_0", "every_1", "algorithm1_K", "every_x", "", "algorithm1_K99999999999999999999"],
)
def test_names_that_make_no_split_are_refused(name):
    with pytest.raises(InputError):
        choose_split(scene_at(random_poses(4, 0)), name=name)


def test_one_training_view_is_refused(tmp_path):
    own = Split("lonely", ("images/001.jpg",), ("images/000.jpg",))
    scene = replace(scene_at(random_poses(4, 0)), splits={"lonely": own})
    (tmp_path / "list.txt").write_text("images/001.jpg\nimages/001.jpg\n")
    for arguments in ({"name": "lonely"}, {"train_list": tmp_path / "list.txt"}):
        with pytest.raises(InputError, match="leaves 1 photo to train on; expected at least 2"):
            choose_split(scene, **arguments)


@pytest.mark.parametrize(
    ("file_name", "content", "message"),
    [
        (
            "list.txt",
            b"images/000.jpg\nimages/999.jpg\n",
            "'images/999.jpg', which is no photo of this capture; expected names like",
        ),
        ("list.txt", b"\xff\xfe", "not UTF-8"),
        ("list.json", b"{", "list.json"),
        ("list.json", b"3", "expected a list of photos"),
        ("list.json", b"[1, 2]", "expected a list of photos"),
        ("list.json", b'{"train": "images/000.jpg"}', "expected a list of photos"),
        ("list.json", b'{"test": []}', "expected a list of photos"),
        (
            "list.json",
            b'{"train": ["000.jpg", "001.jpg"], "test": ["001.jpg"]}',
            "no photo in both",
        ),
        ("list.json", b"[" + b"9" * 5000 + b"]", "list.json"),
    ],
)
def test_bad_lists_are_refused_with_the_file(tmp_path: Path, file_name, content, message):
    path = tmp_path / file_name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        choose_split(scene_at(random_poses(4, 0)), train_list=path)
    assert file_name in str(caught.value)


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.txt: cannot be read"):
        choose_split(scene_at(random_poses(4, 0)), train_list=tmp_path / "absent.txt")


def test_an_ambiguous_file_name_is_refused(tmp_path):
    scene = scene_at(random_poses(2, 0))
    doubled = [
        replace(scene.photos[0], name="left/a.jpg"),
        replace(scene.photos[1], name="right/a.jpg"),
    ]
    (tmp_path / "list.txt").write_text("a.jpg\nleft/a.jpg\n")
    with pytest.raises(InputError, match=r"may be left/a\.jpg or right/a\.jpg"):
        choose_split(scene.with_photos(doubled, scene.cameras), train_list=tmp_path / "list.txt")


def test_names_in_a_list_may_differ_in_case_and_in_the_encoding_of_accents(tmp_path):
    """As in the lists of captures: a list of a Mac has accents as characters of their own."""
    scene = scene_at(random_poses(4, 0))
    names = ("images/caf\u00e9.jpg", "images/B.JPG", "images/c.jpg", "images/C.jpg")
    photos = [replace(photo, name=name) for photo, name in zip(scene.photos, names, strict=True)]
    scene = scene.with_photos(photos, scene.cameras)
    path = tmp_path / "list.txt"
    path.write_text("cafe\u0301.jpg\nImages/b.jpg\nc.jpg\n", encoding="utf-8")
    split = read_train_list(path, scene)
    assert split.train == names[:3]
    assert split.heldout == names[3:]
    path.write_text("images/c.JPG\nB.JPG\n")
    with pytest.raises(InputError, match=r"may be images/C\.jpg or images/c\.jpg"):
        read_train_list(path, scene)
