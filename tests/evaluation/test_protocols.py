"""Benchmarks: exactly the published scenes, splits and masks; all else is refused or marked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from artifixer.evaluation.benchmarks.captures import gap_split
from artifixer.evaluation.benchmarks.dl3dv import training_cluster
from artifixer.evaluation.benchmarks.lists import data, dl3dv_scenes
from artifixer.evaluation.benchmarks.masks import read_visibility_mask
from artifixer.evaluation.benchmarks.mipnerf360 import few_view_ids
from artifixer.evaluation.benchmarks.nerfbusters import is_training_name
from artifixer.evaluation.benchmarks.scene import BenchmarkScene, Options
from artifixer.evaluation.protocols import find_scenes, protocol, protocols
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import read_image
from artifixer.scenes.formats import load_scene
from artifixer.scenes.splits import algorithm1_orders, half_covisibility_orders
from tests.evaluation.made_benchmarks import (
    HEIGHT,
    WIDTH,
    dl3dv_files,
    encoded,
    made_scene,
    plain_dl3dv_scene,
    write,
    write_dl3dv,
    write_mipnerf360,
    write_nerfbusters,
    write_zip,
)
from tests.scenes.capture_files import transforms_content, write_colmap, write_transforms


def opened(
    name: str, root: Path, scene: str, work: Path, options: Options | None = None
) -> BenchmarkScene:
    return protocol(name).open(root, scene, options or Options(), work / "capture")


# Lists --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [3, 6, 9])
def test_mipnerf360_holds_out_exactly_the_246_published_photos(views: int) -> None:
    chosen = {}
    for scene, entry in data("mipnerf360")["scenes"].items():
        names = sorted(f"DSC{number:05d}.JPG" for number in range(entry["images"]))
        train, heldout = few_view_ids(scene, views)
        assert len(train) == views and not set(train) & set(heldout)
        chosen[scene] = [names[position] for position in heldout]
        assert chosen[scene] == names[::8]
    assert sum(map(len, chosen.values())) == 246
    assert {scene: len(names) for scene, names in chosen.items()} == dict(
        bicycle=25, flowers=22, garden=24, stump=16, treehill=18, room=39, counter=30, kitchen=35,
        bonsai=37,
    )  # fmt: skip


def test_few_view_splits_are_nested() -> None:
    for scene in data("mipnerf360")["scenes"]:
        sets = [set(few_view_ids(scene, views)[0]) for views in (3, 6, 9)]
        assert sets[0] < sets[1] < sets[2]
    assert few_view_ids("bicycle", 9)[0] == (2, 22, 28, 37, 110, 185, 188, 190, 193)


def test_dl3dv_lists_share_26_scenes() -> None:
    ours, difix = dl3dv_scenes("release"), dl3dv_scenes("difix")
    assert (len(ours), len(difix), len({*ours} & {*difix})) == (28, 27, 26)
    assert ours[0].startswith("2385549d") and ours[-1].startswith("70eac6ff")


def test_published_rows_are_those_of_the_papers_tables() -> None:
    rows = data("published")["rows"]
    counts = {
        table: len({row["method"] for row in rows if row["table"] == table})
        for table in range(1, 5)
    }
    assert counts == {1: 12, 2: 15, 3: 12, 4: 4}
    found = {(row["protocol"], row["method"]): row for row in rows}
    assert found["nerfbusters", "ArtiFixer"]["psnr"] == 19.83
    assert found["dl3dv-difix", "ArtiFixer 3D"]["fid"] == 24.27
    assert found["mipnerf360-9", "ArtiFixer 3D+"]["lpips"] == 0.359
    assert found["novel-content", "GenFusion"]["fid"] == 132.91
    known = {entry.published for entry in protocols().values()} | {"mipnerf360-all"}
    assert {row["protocol"] for row in rows} <= known


# Mip-NeRF 360 -------------------------------------------------------------------------------------


def test_reconfusion_package(tmp_path: Path) -> None:
    names = write_mipnerf360(tmp_path / "data")
    scene = opened("mipnerf360-3", tmp_path / "data", "stump", tmp_path)
    assert scene.heldout == tuple(f"images/{name}" for name in names[::8])
    assert scene.train == tuple(f"images/{names[position]}" for position in (26, 34, 114))
    capture = load_scene(scene.capture)
    assert [photo.name for photo in capture.photos] == list(scene.photos)
    source = (tmp_path / "data" / "stump" / "images_4" / names[8]).read_bytes()
    assert (Path(scene.capture) / "images" / names[8]).read_bytes() == source, "byte for byte"
    there = made_scene(len(names)).cameras[8]
    torch.testing.assert_close(capture.cameras[8].viewmats, there.viewmats, atol=1e-5, rtol=0)
    assert "1245x825" in scene.caveats[0]


def test_colmap_layout_takes_images_4_and_points_that_training_photos_see(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "stump"
    model = write_colmap(folder, "PINHOLE", views=125, photo_size=(WIDTH, 36))
    for path in (folder / "images").iterdir():
        write(folder / "images_4" / path.name, path.read_bytes())
    scene = opened("mipnerf360-3", tmp_path / "data", "stump", tmp_path)
    capture = load_scene(scene.capture)
    assert capture.photos[0].width == WIDTH and len(capture.photos) == 125
    by_name = {image.name: image for image in model.images.values()}
    for photo, camera in zip(capture.photos, capture.cameras, strict=True):
        pose = by_name[photo.name.removeprefix("images/")].cam_from_world().matrix()
        np.testing.assert_allclose(camera.viewmats[0, :3].numpy(), pose, atol=1e-5)
    ids = {by_name[name.removeprefix("images/")].image_id for name in scene.train}
    seen = [
        point.xyz
        for point in model.points3D.values()
        if len(ids & {element.image_id for element in point.track.elements}) >= 2
    ]
    assert (capture.points is not None and len(seen) < len(model.points3D)) or seen
    assert capture.points is not None
    ours = sorted(map(tuple, capture.points.xyz.tolist()))
    np.testing.assert_allclose(ours, sorted(map(tuple, seen)), atol=1e-5)


def test_another_number_of_photos_is_refused(tmp_path: Path) -> None:
    write_mipnerf360(tmp_path / "data")
    path = tmp_path / "data" / "stump" / "transforms.json"
    content = json.loads(path.read_text())
    content["frames"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="124 registered photos, expected the 125 of stump"):
        opened("mipnerf360-3", tmp_path / "data", "stump", tmp_path)


def test_another_split_file_beside_the_data_is_refused(tmp_path: Path) -> None:
    write_mipnerf360(tmp_path / "data")
    train, heldout = few_view_ids("stump", 6)
    path = tmp_path / "data" / "stump" / "train_test_split_6.json"
    path.write_text(json.dumps({"train_ids": list(train), "test_ids": list(heldout)}))
    opened("mipnerf360-6", tmp_path / "data", "stump", tmp_path)
    path.write_text(json.dumps({"train_ids": [0, 1, 2], "test_ids": list(heldout)}))
    with pytest.raises(InputError, match="differs from ReconFusion's split"):
        opened("mipnerf360-6", tmp_path / "data", "stump", tmp_path)


def test_missing_scenes_are_listed(tmp_path: Path) -> None:
    (tmp_path / "stump").mkdir()
    with pytest.raises(
        InputError, match=r"lacks 8 of 9 scenes .*bicycle, flowers, garden, treehill"
    ):
        find_scenes(protocol("mipnerf360-3"), tmp_path, ())
    assert list(find_scenes(protocol("mipnerf360-3"), tmp_path, ("stump",))) == ["stump"]
    with pytest.raises(InputError, match="no scene of mipnerf360-3"):
        find_scenes(protocol("mipnerf360-3"), tmp_path, ("tree",))
    with pytest.raises(InputError, match="unknown, expected one of mipnerf360-3"):
        protocol("mipnerf360-4")


def test_photos_missing_in_images_4_are_refused(tmp_path: Path) -> None:
    names = write_mipnerf360(tmp_path / "data")
    (tmp_path / "data" / "stump" / "images_4" / names[3]).unlink()
    with pytest.raises(InputError, match=f"lacks 1 of 125 photos, {names[3]} first"):
        opened("mipnerf360-3", tmp_path / "data", "stump", tmp_path)


# Nerfbusters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "trains"),
    [
        ("frame_00001.png", True),
        ("frame_1_00001.png", False),
        ("image_train_000001.png", True),
        ("image_eval_000001.png", False),
    ],
)
def test_file_names_tell_the_video(name: str, trains: bool) -> None:
    assert is_training_name(name) == trains


@pytest.mark.parametrize("name", ["art", "aloe"])
def test_nerfbusters_with_its_masks(tmp_path: Path, name: str) -> None:
    """aloe is read from images_2."""
    train, heldout = write_nerfbusters(tmp_path / "data", name, tmp_path / "masks")
    options = Options(masks=tmp_path / "masks")
    scene = opened("nerfbusters", tmp_path / "data", name, tmp_path, options)
    assert scene.train == tuple(f"images/{photo}" for photo in train)
    assert scene.heldout == tuple(f"images/{photo}" for photo in heldout)
    assert scene.photos[0] == f"images/{heldout[-1]}", "the order of transforms.json"
    assert load_scene(scene.capture).photos[0].width == WIDTH
    mask = read_visibility_mask(scene.masks[f"images/{heldout[2]}"], WIDTH, HEIGHT)
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask[:, :24].all() and not mask[:, 24:].any(), "rank 2: 12 of 24 columns, nearest"


def test_masks_of_another_numbering_or_shape_are_refused(tmp_path: Path) -> None:
    write_nerfbusters(tmp_path / "data", "art", tmp_path / "masks")
    options = Options(masks=tmp_path / "masks")
    first = tmp_path / "masks" / "art" / "00000.png"
    first.rename(first.with_name("00007.png"))
    with pytest.raises(InputError, match=r"4 masks, expected 00000.png to 00003.png"):
        opened("nerfbusters", tmp_path / "data", "art", tmp_path, options)
    first.with_name("00007.png").rename(first)
    first.write_bytes(encoded(np.zeros((30, 30, 3), np.uint8)))
    with pytest.raises(InputError, match=f"30x30 pixels, expected the aspect ratio .* {WIDTH}x"):
        opened("nerfbusters", tmp_path / "data", "art", tmp_path, options)
    with pytest.raises(InputError, match="expected the masks of art"):
        opened("nerfbusters", tmp_path / "data", "art", tmp_path, Options(masks=tmp_path))


def test_without_masks_nerfbusters_is_not_comparable(tmp_path: Path) -> None:
    write_nerfbusters(tmp_path / "data", "art")
    scene = opened("nerfbusters", tmp_path / "data", "art", tmp_path)
    assert not scene.masks and any("--masks" in caveat for caveat in scene.caveats)


# DL3DV --------------------------------------------------------------------------------------------


def test_difix_split_takes_the_authors_ids(tmp_path: Path) -> None:
    name = plain_dl3dv_scene("difix")
    names = write_dl3dv(tmp_path / "data", name)
    write(tmp_path / "ids" / name / "difix_train_ids.json", json.dumps([0, 3, 5, 9]))
    for rank in range(10):
        mask = encoded(np.full((HEIGHT, WIDTH), rank, np.uint8))
        write(tmp_path / "masks" / name / "visibility_median_count" / f"{rank:05d}.png", mask)
    options = Options(train_ids=tmp_path / "ids", masks=tmp_path / "masks")
    scene = opened("dl3dv-difix", tmp_path / "data", name, tmp_path, options)
    assert scene.train == tuple(f"images/{names[position]}" for position in (0, 3, 5, 9))
    assert len(scene.heldout) == 10 and not scene.caveats and not scene.is_stand_in
    assert scene.masks[scene.heldout[3]].name == "00003.png"


@pytest.mark.parametrize(
    "ids", [[], [0, 0], [-1], [14], ["0"], [True], {"train": [0]}, list(range(14))]
)
def test_other_ids_are_refused(tmp_path: Path, ids: object) -> None:
    name = plain_dl3dv_scene("difix")
    write_dl3dv(tmp_path / "data", name)
    write(tmp_path / "ids" / name / "difix_train_ids.json", json.dumps(ids))
    with pytest.raises(InputError, match="expected a list of distinct positions"):
        opened(
            "dl3dv-difix", tmp_path / "data", name, tmp_path, Options(train_ids=tmp_path / "ids")
        )


def test_without_ids_two_clusters_stand_in_and_say_so(tmp_path: Path) -> None:
    name = plain_dl3dv_scene("difix")
    write_dl3dv(tmp_path / "data", name)
    scene = opened("dl3dv-difix", tmp_path / "data", name, tmp_path)
    assert scene.is_stand_in and "--train-ids was not given" in scene.caveats[0]
    assert len(scene.train) >= len(scene.heldout) > 0


def test_the_larger_cluster_trains() -> None:
    near, far = torch.rand(5, 3), torch.rand(3, 3) + 10
    assert training_cluster(torch.cat([far, near])) == [False] * 3 + [True] * 5


def test_novel_content_follows_the_release_and_the_paper(tmp_path: Path) -> None:
    name = plain_dl3dv_scene()
    names = write_dl3dv(tmp_path / "data", name)
    release = opened("novel-content-release", tmp_path / "data", name, tmp_path)
    paper = opened("novel-content-paper", tmp_path / "data", name, tmp_path, Options(views=4))
    poses = torch.cat([camera.camera_to_world for camera in load_scene(release.capture).cameras])
    first, _ = half_covisibility_orders(poses)
    assert release.train == tuple(sorted(f"images/{names[position]}" for position in first[:6]))
    assert release.heldout == tuple(sorted({*release.photos} - {*release.train}))
    assert not release.caveats
    larger = max(algorithm1_orders(poses, normalise=False), key=len)
    assert paper.train == tuple(sorted(f"images/{names[position]}" for position in larger[:4]))
    assert "does not state" in paper.caveats[0]


def test_photos_that_the_benchmarks_copy_lacks_are_dropped(tmp_path: Path) -> None:
    name = next(iter(data("dl3dv")["dropped"]))
    dropped = data("dl3dv")["dropped"][name]
    files, names = dl3dv_files(name, 14)
    places = dict(zip(names[:2], dropped[:2], strict=True))

    def renamed(content: bytes, renames: dict[str, str]) -> bytes:
        for old, new in renames.items():
            content = content.replace(old.encode(), new.encode())
        return content

    for count, expected in ((len(dropped), len(names) - len(dropped)), (2, None)):
        places = dict(zip(names[-count:], dropped[:count], strict=True))
        changed = {
            renamed(path.encode(), places).decode(): renamed(content, places)
            if path.endswith("json")
            else content
            for path, content in files.items()
        }
        root = tmp_path / f"data{count}"
        write_zip(root / data("dl3dv")["scenes"][name]["zip"], changed)
        if expected is None:
            with pytest.raises(
                InputError, match="has 2 of the 5 photos that DL3DV-Benchmark lacks"
            ):
                opened("novel-content-release", root, name, tmp_path / str(count))
        else:
            options = Options(views=3)
            scene = opened("novel-content-release", root, name, tmp_path / str(count), options)
            assert len(scene.photos) == expected


# Any capture --------------------------------------------------------------------------------------


def test_heldout_of_a_folder_of_captures(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_transforms(tmp_path / name, transforms_content(6), views=6)
    (tmp_path / "notes").mkdir()
    assert list(find_scenes(protocol("heldout"), tmp_path, ())) == ["a", "b"]
    options = Options({"": "every_2", "b": "every_3"})
    halves = [opened("heldout", tmp_path, name, tmp_path, options).heldout for name in ("a", "b")]
    assert [len(half) for half in halves] == [3, 2]
    assert list(find_scenes(protocol("heldout"), tmp_path / "a", ())) == ["a"]


def test_captures_without_poses_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "photos" / "a.png", encoded(np.zeros((40, 40, 3), np.uint8)))
    write(tmp_path / "photos" / "b.png", encoded(np.zeros((40, 40, 3), np.uint8)))
    with pytest.raises(InputError, match="photos without poses need artifixer run"):
        find_scenes(protocol("heldout"), tmp_path, ())


def test_a_gap_is_one_piece_in_the_middle() -> None:
    scene = made_scene(10)
    split = gap_split(scene, 0.3)
    names = [photo.name for photo in scene.photos]
    assert split.heldout == tuple(names[3:6])
    assert split.train == tuple(names[:3] + names[6:])
    for share in (0.0, 1.0, -0.5):
        with pytest.raises(InputError, match="between 0 and 1"):
            gap_split(scene, share)
    with pytest.raises(InputError, match="leaves 1 of 10 photos"):
        gap_split(scene, 0.9)


def test_a_mask_counts_pixels_of_at_least_one(tmp_path: Path) -> None:
    counts = np.array([[0, 1, 255]], np.uint8).repeat(2, axis=0)
    write(tmp_path / "mask.png", encoded(counts))
    assert read_visibility_mask(tmp_path / "mask.png", 3, 2).tolist() == [[False, True, True]] * 2
    assert read_image(tmp_path / "mask.png").shape == (2, 3, 3)
