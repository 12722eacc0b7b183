"""Which loader reads what, links, and what the system refuses to read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from capture_files import noise, transforms_content, write_colmap, write_photo, write_transforms

from artifixer.runtime.errors import InputError
from artifixer.runtime.video_files import VideoWriter
from artifixer.scenes.formats import brings_poses, find_format, load_scene


def make(capture: Path, kind: str) -> None:
    match kind:
        case "colmap in sparse/0":
            write_colmap(capture)
        case "colmap in sparse":
            write_colmap(capture, model_folder="sparse", suffix=".txt")
        case "colmap in the folder":
            write_colmap(capture, model_folder=".")
        case "transforms":
            write_transforms(capture, transforms_content())
        case "nerfstudio's colmap":
            write_colmap(capture, model_folder="colmap/sparse/0")
        case "photos":
            for number in range(2):
                write_photo(capture / "images" / f"{number}.png")
        case "video":
            capture.mkdir(exist_ok=True)
            with VideoWriter(capture / "a.mp4", 16, 16) as video:
                video.add(noise(16, 16))


#: In the order of the probes: each wins over those after it.
KINDS = {
    "colmap in sparse/0": "colmap",
    "colmap in sparse": "colmap",
    "colmap in the folder": "colmap",
    "transforms": "transforms_json",
    "nerfstudio's colmap": "colmap",
    "photos": "photos",
    "video": "video",
}


@pytest.mark.parametrize("kind", KINDS)
def test_formats_are_recognised(tmp_path: Path, kind: str) -> None:
    make(tmp_path, kind)
    found, start = find_format(tmp_path)
    assert found.name == KINDS[kind]
    assert start.exists()
    assert brings_poses(tmp_path) == (kind not in ("photos", "video"))
    if found.has_poses:
        assert len(load_scene(tmp_path).photos) == (3 if kind == "transforms" else 4)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("colmap in sparse/0", "transforms"),
        ("transforms", "nerfstudio's colmap"),
        ("photos", "video"),
    ],
)
def test_the_first_of_two_formats_wins(tmp_path: Path, first: str, second: str) -> None:
    make(tmp_path, second)
    make(tmp_path, first)
    assert find_format(tmp_path)[0].name == KINDS[first]


def test_a_transforms_file_may_have_any_name(tmp_path: Path) -> None:
    write_colmap(tmp_path)
    path = write_transforms(tmp_path, transforms_content(), name="transforms_train.json")
    assert brings_poses(path)
    assert load_scene(path).format == "transforms_json"
    assert load_scene(tmp_path).format == "colmap"


def test_procedural_captures_have_names() -> None:
    assert brings_poses("procedural:3")
    assert load_scene("procedural:3:frames=2,width=16,height=16").format == "procedural"


def test_splits_of_the_capture_join_the_scene(tmp_path: Path) -> None:
    write_transforms(tmp_path, transforms_content())
    names = [f"images/{number:03d}.png" for number in range(3)]
    (tmp_path / "splits.json").write_text(
        json.dumps({"splits": {"mine": {"train": names[:2], "test": names[2:]}}})
    )
    assert load_scene(tmp_path).splits["mine"].train == tuple(names[:2])


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda path: None, "no such folder or file; expected a capture's folder"),
        (lambda path: path.mkdir(), "no known capture format; looked for"),
        (lambda path: path.write_text("x"), "is a file of another kind; expected a capture's"),
    ],
)
def test_what_is_no_capture_is_named(tmp_path: Path, make_it, message: str) -> None:
    path = tmp_path / "nothing"
    make_it(path)
    with pytest.raises(InputError, match=f"nothing: {message}"):
        load_scene(path)


def test_a_folder_with_one_photo_is_no_capture(tmp_path: Path) -> None:
    write_photo(tmp_path / "images" / "0.png")
    with pytest.raises(InputError, match="at least 2 photos in images"):
        load_scene(tmp_path)


def test_links_are_followed_and_broken_ones_count_as_missing(tmp_path: Path) -> None:
    """Photos may lie elsewhere: the links are the user's own."""
    real = tmp_path / "real"
    write_transforms(real, transforms_content())
    capture = tmp_path / "capture"
    (capture / "images").mkdir(parents=True)
    (capture / "transforms.json").symlink_to(real / "transforms.json")
    for number in range(2):
        (capture / "images" / f"{number:03d}.png").symlink_to(real / "images" / f"{number:03d}.png")
    (capture / "images" / "002.png").symlink_to("002.png")  # leads to itself
    (tmp_path / "link").symlink_to(capture)
    scene = load_scene(tmp_path / "link")
    assert scene.name == "capture"
    assert scene.lost_photos == ("images/002.png",)
    assert scene.photos[1].read().shape == (48, 64, 3)


@pytest.mark.posix
@pytest.mark.parametrize("what", ["images/001.png", "transforms.json", "images"])
def test_what_may_not_be_read_is_named(tmp_path: Path, what: str) -> None:
    write_transforms(tmp_path, transforms_content())
    (tmp_path / what).chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:3]):  # pytest's folders are their owner's alone
        folder.chmod(folder.stat().st_mode | 0o055)
    try:
        error = _load_as_nobody(tmp_path)
    finally:
        (tmp_path / what).chmod(0o755)
    assert what in error
    assert "ermission denied" in error
    assert "\n" not in error


def _load_as_nobody(capture: Path) -> str:
    """The message of the InputError that somebody without privileges gets: a child process gives up
    its own.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            load_scene(capture)
        except InputError as error:
            os.write(write, str(error).encode())
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}\nnot an InputError".encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        message = pipe.read().decode()
    os.waitpid(child, 0)
    return message


def test_a_folder_of_raw_photos_says_so(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(12):
        (tmp_path / "images" / f"{number}.DNG").write_bytes(b"II*")
    with pytest.raises(InputError, match=r"12 photos of a kind that is not read left out: \.dng"):
        load_scene(tmp_path)


def test_the_number_of_a_colmap_model_chooses_it(tmp_path: Path) -> None:
    write_colmap(tmp_path, views=4)
    write_colmap(tmp_path, views=3, model_folder="sparse/2")
    assert len(load_scene(tmp_path).photos) == 4
    assert len(load_scene(tmp_path, sparse_model=2).photos) == 3
    assert any("sparse/0 with 4 images" in n for n in load_scene(tmp_path, sparse_model=2).notes)
    with pytest.raises(
        InputError, match=r"--sparse-model 1: .* expected one of 0 with 4 images, 2 with 3 images"
    ):
        load_scene(tmp_path, sparse_model=1)


@pytest.mark.parametrize("verb", ["inspect", "reconstruct", "run"])
def test_the_folder_of_the_models_names_the_captures_folder(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``CAPTURE/sparse`` is no capture, though ``CAPTURE`` and ``CAPTURE/sparse/0`` are."""
    from artifixer.cli import main

    capture, out = tmp_path / "capture", tmp_path / "out"
    write_colmap(capture, views=4)
    write_colmap(capture, views=3, model_folder="sparse/2")
    options = [] if verb == "inspect" else ["--out", str(out)]
    assert main([verb, str(capture / "sparse"), *options]) == 2
    assert not out.exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{capture / 'sparse'}: holds 2 COLMAP models and no photos" in error
    assert f"expected the capture's folder, {capture}, or one model, {capture}/sparse/0" in error
    monkeypatch.chdir(capture / "sparse")
    assert main([verb, ".", *options]) == 2
    assert f"expected the capture's folder, {capture}, or" in capsys.readouterr().err


def test_a_model_is_chosen_only_where_there_are_several(tmp_path: Path) -> None:
    write_colmap(tmp_path / "colmap", model_folder="sparse")
    with pytest.raises(InputError, match=r"--sparse-model 0: .* is the only model"):
        load_scene(tmp_path / "colmap", sparse_model=0)
    write_transforms(tmp_path / "transforms", transforms_content())
    with pytest.raises(InputError, match=r"--sparse-model 0: .* not read from a COLMAP model"):
        load_scene(tmp_path / "transforms", sparse_model=0)


@pytest.mark.parametrize("verb", ["inspect", "reconstruct", "curate", "run"])
def test_every_verb_refuses_a_model_that_is_not_there(tmp_path: Path, verb: str, capsys) -> None:
    from artifixer.cli import main

    write_colmap(tmp_path / "capture", views=4)
    option = ["--sparse-model", "3"] if verb == "run" else ["--model", "3"]
    out = [] if verb == "inspect" else ["--out", str(tmp_path / "out")]
    assert main([verb, str(tmp_path / "capture"), *out, *option]) == 2
    assert "expected one of 0 with 4 images" in capsys.readouterr().err
