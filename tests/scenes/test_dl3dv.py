"""DL3DV scenes: every public layout is found; hostile archives are refused, none is unpacked."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from artifixer.runtime.errors import InputError
from artifixer.scenes import dl3dv
from artifixer.scenes.dl3dv import find_scene, open_scene
from tests.evaluation.made_benchmarks import dl3dv_files, write, write_zip

NAME = "a" * 64


def unpack(folder: Path, files: dict[str, bytes], prefix: str = "") -> None:
    for name, content in files.items():
        write(folder / name.removeprefix(prefix), content)


@pytest.mark.parametrize("place", ["3K/{}.zip", "{}.zip"])
def test_zips_are_found_in_their_batch_and_beside_others(tmp_path: Path, place: str) -> None:
    files, names = dl3dv_files(NAME, 3)
    write_zip(tmp_path / place.format(NAME), files)
    path = find_scene(tmp_path, NAME)
    assert path == tmp_path / place.format(NAME)
    scene = open_scene(path, NAME)
    assert scene.names == tuple(names) and scene.image_folder == "images_4"
    assert scene.read(names[1]) == files[f"{NAME}/images_4/{names[1]}"]


@pytest.mark.parametrize("place", ["{0}/nerfstudio/", "{0}/", "nerfstudio/", ""])
def test_transforms_are_found_where_releases_put_them(tmp_path: Path, place: str) -> None:
    """Photos lie below the scene's own folder, not in nerfstudio."""
    files, names = dl3dv_files(NAME, 3)
    home = place.format(NAME)
    root = home.removesuffix("nerfstudio/")
    moved = {home + "transforms.json": files[f"{NAME}/nerfstudio/transforms.json"]}
    moved |= {
        root + name.removeprefix(f"{NAME}/"): content
        for name, content in files.items()
        if name.endswith("png")
    }
    write_zip(tmp_path / f"{NAME}.zip", moved)
    scene = open_scene(tmp_path / f"{NAME}.zip", NAME)
    assert scene.read(names[0]) == files[f"{NAME}/images_4/{names[0]}"]


@pytest.mark.parametrize("doubled", [False, True])
def test_unpacked_scenes_and_the_benchmarks_layout(tmp_path: Path, doubled: bool) -> None:
    """DL3DV-Benchmark keeps the photos beside the transforms file; some downloads double the
    folder."""
    files, names = dl3dv_files(NAME, 3)
    moved = {
        name.replace("/images_4/", "/nerfstudio/images_4/"): content
        for name, content in files.items()
    }
    unpack(tmp_path / NAME / NAME if doubled else tmp_path / NAME, moved, f"{NAME}/")
    path = find_scene(tmp_path, NAME)
    assert path is not None
    scene = open_scene(path, NAME)
    assert scene.read(names[2]) == files[f"{NAME}/images_4/{names[2]}"]


def test_other_sizes_are_taken_and_named(tmp_path: Path) -> None:
    files, _ = dl3dv_files(NAME, 3)
    write_zip(
        tmp_path / f"{NAME}.zip",
        {name.replace("images_4", "images_8"): content for name, content in files.items()},
    )
    assert open_scene(tmp_path / f"{NAME}.zip", NAME).image_folder == "images_8"


def test_a_scene_that_is_not_there() -> None:
    assert find_scene(Path("nowhere"), NAME) is None


# Hostile archives ---------------------------------------------------------------------------------


def listing(names: list[str]) -> bytes:
    return json.dumps({"frames": [{"file_path": name} for name in names]}).encode()


@pytest.mark.parametrize(
    "member", ["../evil.png", "/evil.png", f"{NAME}/../../evil.png", "..\\evil.png", "C:/evil.png"]
)
def test_members_that_leave_the_archive_are_refused(tmp_path: Path, member: str) -> None:
    files, _ = dl3dv_files(NAME, 3)
    write_zip(tmp_path / f"{NAME}.zip", files | {member: b"x"})
    with pytest.raises(InputError, match="leaves the archive"):
        open_scene(tmp_path / f"{NAME}.zip", NAME)
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.zip"]


@pytest.mark.parametrize(
    "listed",
    [
        "../../evil.png",
        "images/../../evil.png",
        "/etc/evil.png",
        "images/a/b.png",
        "images/..",
        7,
        "",
    ],
)
def test_listed_paths_that_leave_the_scene_are_refused(tmp_path: Path, listed: object) -> None:
    write_zip(
        tmp_path / f"{NAME}.zip",
        {"transforms.json": json.dumps({"frames": [{"file_path": listed}]}).encode()},
    )
    with pytest.raises(InputError, match=r"expected (images/NAME|a photo)"):
        open_scene(tmp_path / f"{NAME}.zip", NAME)


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{NAME}.zip"
    write_zip(path, {"transforms.json": listing(["images/a.png"]), "images_4/a.png": bytes(10**7)})
    scene = open_scene(path, NAME)
    with pytest.raises(InputError, match="would become 10,000,000 bytes"):
        scene.read("a.png")
    noise = bytes(range(256)) * 8
    write_zip(path, {"transforms.json": listing(["images/a.png"]), "images_4/a.png": noise})
    monkeypatch.setattr(dl3dv, "LARGEST_PHOTO", 100)
    with pytest.raises(InputError, match="expected at most 100"):
        open_scene(path, NAME).read("a.png")


def test_a_bomb_of_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = dl3dv_files(NAME, 3)
    write_zip(tmp_path / f"{NAME}.zip", files)
    monkeypatch.setattr(dl3dv, "MAX_MEMBERS", 3)
    with pytest.raises(InputError, match="4 members"):
        open_scene(tmp_path / f"{NAME}.zip", NAME)


def test_a_large_transforms_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _ = dl3dv_files(NAME, 3)
    write_zip(tmp_path / f"{NAME}.zip", files)
    monkeypatch.setattr(dl3dv, "LARGEST_JSON", 100)
    with pytest.raises(InputError, match="expected at most 100"):
        open_scene(tmp_path / f"{NAME}.zip", NAME)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("transforms.json", listing(["images/a.png"]))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("transforms.json", listing(["images/b.png"]))
    with pytest.raises(InputError, match="two members of one name"):
        open_scene(path, NAME)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip at all"])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{NAME}.zip").write_bytes(content)
    with pytest.raises(InputError, match="no readable zip"):
        open_scene(tmp_path / f"{NAME}.zip", NAME)


@pytest.mark.parametrize(
    ("transforms", "reason"),
    [
        (b"{", "no valid JSON"),
        (b"[]", "expected a JSON object"),
        (b"[" * 5000, "no valid JSON"),
        (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "nested deeper"),
        (b'{"frames": []}', "expected a list of photos"),
        (listing(["images/a.png", "images/a.png"]), "lists a.png twice"),
        (listing(["images/a.png"]), "is in none of images_4"),
    ],
)
def test_broken_transforms_are_refused(tmp_path: Path, transforms: bytes, reason: str) -> None:
    write_zip(tmp_path / f"{NAME}.zip", {"transforms.json": transforms})
    with pytest.raises(InputError, match=reason):
        open_scene(tmp_path / f"{NAME}.zip", NAME)


def test_a_zip_without_transforms(tmp_path: Path) -> None:
    write_zip(tmp_path / f"{NAME}.zip", {"a.txt": b"a"})
    with pytest.raises(InputError, match="holds no transforms"):
        open_scene(tmp_path / f"{NAME}.zip", NAME)


def test_a_photo_that_is_listed_and_absent(tmp_path: Path) -> None:
    files, names = dl3dv_files(NAME, 3)
    files.pop(f"{NAME}/images_4/{names[2]}")
    write_zip(tmp_path / f"{NAME}.zip", files)
    scene = open_scene(tmp_path / f"{NAME}.zip", NAME)
    with pytest.raises(InputError, match=f"has no .*{names[2]}"):
        scene.read(names[2])
