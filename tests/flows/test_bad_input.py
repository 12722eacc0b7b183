"""What a user can get wrong, through the command line: exit code 2, one line that names the place,
and nothing half-written.

Next to it what only looks wrong: odd photos that are read all the same, and a list of photos of
which some are missing.
"""

from __future__ import annotations

import json
import math
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artifixer.cli import main
from artifixer.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE
from tests.flows.made_runs import results
from tests.scenes.capture_files import (
    HEIGHT,
    WIDTH,
    noise,
    pose_matrix,
    transforms_content,
    write_colmap,
    write_transforms,
)

PHOTOS = 5
QUICK = ("--iterations", "2", "--size", "24", "--max-gaussians", "500", "--device", "cpu")


def good_capture(folder: Path) -> Path:
    write_transforms(folder, transforms_content(PHOTOS), views=PHOTOS)
    return folder


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_refused(
    words: list[str], capsys: pytest.CaptureFixture[str], message: str, folder: Path
) -> None:
    """The command ends with 2 and one line; ``folder``, which holds everything, is unchanged."""
    before, folders = (
        files_below(folder),
        sorted(path for path in folder.rglob("*") if path.is_dir()),
    )
    capsys.readouterr()
    assert main(words) == EXIT_BAD_INPUT
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"artifixer: error: [^\n]+\n", shown.err), shown.err
    assert re.search(message, shown.err), shown.err
    assert files_below(folder) == before
    assert sorted(path for path in folder.rglob("*") if path.is_dir()) == folders


def change_frame(**values: Any) -> Callable[[Path], None]:
    def change(capture: Path) -> None:
        content = transforms_content(PHOTOS)
        content["frames"][1] |= values
        (capture / "transforms.json").write_text(json.dumps(content))

    return change


def remove_photos(capture: Path) -> None:
    for path in sorted((capture / "images").iterdir())[1:]:
        path.unlink()


def cut(name: str) -> Callable[[Path], None]:
    def change(capture: Path) -> None:
        path = capture / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


def colmap_with(
    lens: str, damage: Callable[[Path], None] = lambda capture: None
) -> Callable[[Path], None]:
    def change(capture: Path) -> None:
        (capture / "transforms.json").unlink()
        write_colmap(capture, lens)
        damage(capture)

    return change


def write_text(name: str, text: str) -> Callable[[Path], None]:
    return lambda capture: (capture / name).write_text(text) and None


def photo_of_another_aspect(capture: Path) -> None:
    Image.fromarray(noise(WIDTH, WIDTH)).save(capture / "images" / "001.png")


def scaled_pose() -> list[list[float]]:
    return (np.array(pose_matrix((0, 0, 0))) * 2).tolist()


#: What is wrong with the capture, and what the message says.
CAPTURES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no poses in the file": (
        write_text("transforms.json", '{"frames": []}'),
        r'transforms\.json: "frames" is \[\]; expected',
    ),
    "broken JSON": (
        write_text("transforms.json", '{"frames": [}'),
        r"transforms\.json: line 1, column 13: .*expected valid JSON",
    ),
    "NaN in a pose": (
        change_frame(transform_matrix=pose_matrix((math.nan, 0, 0))),
        r'transforms\.json: .*frame 1 has "transform_matrix" = .*',
    ),
    "a pose with a scale": (
        change_frame(transform_matrix=scaled_pose()),
        "expected a rigid camera_to_world matrix",
    ),
    "a focal length in words": (
        change_frame(fl_x="long"),
        r"frame 1 has \"fl_x\" = 'long'; expected a finite number",
    ),
    "a path that leaves the folder": (
        change_frame(file_path="../../001.png"),
        "'../../001.png' leaves the capture's folder",
    ),
    "an unknown lens": (
        change_frame(camera_model="ORTHOGRAPHIC"),
        "ORTHOGRAPHIC.*expected one of SIMPLE_PINHOLE",
    ),
    "one photo": (
        remove_photos,
        r"lists 5 photos of which 4 do not exist .*expected at least 2 to remain",
    ),
    "a cut photo": (cut("images/002.png"), r"002\.png: cannot read: .*expected an image"),
    "a cut photo that is held out": (
        cut("images/000.png"),
        r"000\.png: cannot read: .*expected an image",
    ),
    "a photo in words": (
        write_text("images/001.png", "a sunset"),
        r"001\.png: cannot read: .*expected an image",
    ),
    "a photo of another aspect": (
        photo_of_another_aspect,
        r"001\.png: the photo has 64x64 pixels, its camera in .*transforms\.json 64x48",
    ),
    "a cut COLMAP model": (
        colmap_with("PINHOLE", cut("sparse/0/images.bin")),
        r"images\.bin: ends inside .* truncated or damaged",
    ),
    "half a COLMAP model": (
        colmap_with("PINHOLE", lambda capture: (capture / "sparse" / "0" / "cameras.bin").unlink()),
        "sparse/0: an incomplete COLMAP model; expected cameras.bin and images.bin",
    ),
    "a lens that cannot be mapped": (
        colmap_with("DIVISION"),
        "lens model DIVISION, which cannot be mapped; expected one of SIMPLE_PINHOLE",
    ),
    "a split of other photos": (
        write_text("splits.json", '{"splits": {"mine": {"train": ["images/9.png"], "test": []}}}'),
        r"splits\.json: split mine names images/9\.png in train, which is no photo of this capture",
    ),
}


#: What is wrong with one photo of five, which is left out and named.
LEFT_OUT = (
    "NaN in a pose",
    "a pose with a scale",
    "a focal length in words",
    "an unknown lens",
    "a photo in words",
    "a photo of another aspect",
)


@pytest.mark.parametrize("what", CAPTURES)
def test_bad_captures(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    spoil, message = CAPTURES[what]
    capture = good_capture(tmp_path / "capture")
    spoil(capture)
    if what in LEFT_OUT:
        assert main(["inspect", str(capture), "--json"]) == EXIT_DONE
        inspection = json.loads(capsys.readouterr().out)
        assert inspection["photos"] == PHOTOS - 1
        assert inspection["lost_photos"] == ["images/001.png"]
        assert any(re.search(message, note) for note in inspection["notes"])
        return
    assert_refused(
        ["reconstruct", str(capture), "--out", str(tmp_path / "runs" / "a"), *QUICK],
        capsys,
        message,
        tmp_path,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "every"], "split every: capture has no such split.*expected one of every_8"),
        (["--split", "every_1"], "every_1: .*"),
        (["--views", "9"], "--views 9: capture has 5 photos"),
        (["--views", "1"], "--views 1: .*expected 2 to"),
        (["--views", "3", "--split", "every_2"], "exclude each other: give one of them"),
        (["--train-list", "one.txt"], "one.txt: leaves 1 photo to train on; expected at least 2"),
        (
            ["--train-list", "unknown.txt"],
            "unknown.txt: names '7.png', which is no photo of this capture",
        ),
        (["--train-list", "absent.txt"], r"absent\.txt: cannot read: No such file"),
        (["--size", "0"], "size '0': expected the longest side in pixels"),
        (["--iterations", "0"], "--iterations 0: expected at least 1"),
        (["--device", "tpu"], "--device tpu: expected auto, cpu"),
        (["--initial-points", "absent.ply"], r"absent\.ply: cannot read: No such file"),
        (["--warm-start", "broken.ply"], r"broken\.ply: "),
        (
            ["--out", "capture/run"],
            "--out .*capture/run: lies inside the capture .*; expected a folder beside it",
        ),
        (["--out", "a.txt"], r"a\.txt: is a file, expected a folder"),
        (["--out", "a.txt/run"], r"a\.txt/run: cannot write: a part of the path is a file"),
        (
            ["--out", "others"],
            "others: holds files that no run wrote .notes.txt.; expected a new or empty folder",
        ),
    ],
)
def test_bad_options(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    good_capture(tmp_path / "capture")
    (tmp_path / "one.txt").write_text("000.png\n")
    (tmp_path / "unknown.txt").write_text("000.png\n7.png\n")
    (tmp_path / "broken.ply").write_text("ply\n")
    (tmp_path / "a.txt").touch()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "notes.txt").touch()
    quick = [
        word
        for option, value in zip(QUICK[::2], QUICK[1::2], strict=True)
        if option not in words
        for word in (option, value)
    ]
    out = [] if "--out" in words else ["--out", "runs/a"]
    assert_refused(["reconstruct", "capture", *out, *quick, *words], capsys, message, tmp_path)


@pytest.mark.parametrize("verb", ["inspect", "reconstruct"])
@pytest.mark.parametrize("name", ["absent", "empty"])
def test_no_capture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    out = ["--out", str(tmp_path / "run")] if verb == "reconstruct" else []
    assert_refused(
        [verb, str(tmp_path / name), *out],
        capsys,
        f"{name}: .*(expected a capture|no known capture format)",
        tmp_path,
    )


def test_a_run_of_another_capture_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when only a digit of its poses differs: files tell captures apart by content."""
    capture, out = good_capture(tmp_path / "capture"), tmp_path / "run"
    words = ["reconstruct", str(capture), "--out", str(out), *QUICK]
    assert main(words) == EXIT_DONE
    good_capture(tmp_path / "other")
    assert_refused(
        ["reconstruct", str(tmp_path / "other"), *words[2:]],
        capsys,
        "capture is .capture. there, .other. now.*--overwrite",
        tmp_path,
    )
    path = capture / "transforms.json"
    path.write_text(path.read_text().replace('"fl_y": 60.0', '"fl_y": 61.0'))
    assert_refused(
        words, capsys, "run: was made from another input: files is .*--overwrite", tmp_path
    )
    assert main([*words, "--overwrite"]) == EXIT_DONE


def test_a_capture_that_is_repaired_can_use_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder exists already; the failed attempt must not claim it."""
    capture, out = good_capture(tmp_path / "capture"), tmp_path / "run"
    out.mkdir()
    cut("images/002.png")(capture)
    assert_refused(
        ["reconstruct", str(capture), "--out", str(out), *QUICK], capsys, r"002\.png", tmp_path
    )
    good_capture(capture)
    assert main(["reconstruct", str(capture), "--out", str(out), *QUICK]) == EXIT_DONE


# No space left ------------------------------------------------------------------------------------


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes, which to a program is a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_space_left_is_said_and_the_same_command_finishes_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = good_capture(tmp_path / "capture")
    words = ["reconstruct", str(capture), *QUICK, "--out"]
    assert main([*words, str(tmp_path / "whole")]) == EXIT_DONE
    splats = (tmp_path / "whole" / "splats.ply").stat().st_size
    capsys.readouterr()
    out = tmp_path / "run"
    for size, file in ((100, "config.json"), (4000, "splats.ply"), (splats - 1, "splats.ply")):
        with files_up_to(size):
            assert main([*words, str(out)]) == EXIT_BAD_INPUT
        *_, error = capsys.readouterr().err.splitlines()
        assert re.fullmatch(
            rf"artifixer: error: .*{file}.*: cannot write: file larger than the system allows",
            error,
        )
        assert not list(tmp_path.rglob(".partial-*"))
        assert out.exists() == (file != "config.json")
    assert main([*words, str(out)]) == EXIT_DONE
    finished, expected = results(out), results(tmp_path / "whole")
    assert {**finished, "log.txt": b""} == {**expected, "log.txt": b""}


# Render -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert (
        main(
            [
                "reconstruct",
                "procedural:7:frames=6,width=24,height=18",
                "--out",
                str(folder / "run"),
                *QUICK,
            ]
        )
        == EXIT_DONE
    )
    return folder / "run"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["absent"],
            "absent: does not exist, expected a folder of reconstruct or run, or a splat file",
        ),
        (["empty"], "empty: holds no finished reconstruction"),
        (["broken.ply"], r"broken\.ply: "),
        (
            ["RUN", "--path", "zigzag"],
            "--path zigzag: neither one of heldout, tour, orbit, spline nor a file of cameras",
        ),
        (["RUN", "--path", "broken.json"], r"broken\.json: line 1"),
        (["RUN", "--cameras", "absent.json"], r"absent\.json: does not exist"),
        (
            ["RUN/splats.ply", "--path", "tour"],
            "--path tour: a PLY file alone has no cameras; give --cameras FILE",
        ),
        (["RUN", "--size", "9x"], "size '9x': expected the longest side"),
        (["RUN", "--path", "orbit", "--frames", "0"], "--frames 0: expected at least 1"),
        (["RUN", "--fps", "nan"], "--fps nan: expected more than 0"),
    ],
)
def test_bad_renders(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.ply").write_text("ply\n")
    (tmp_path / "broken.json").write_text("{")
    words = [word.replace("RUN", str(run)) for word in words]
    assert_refused(
        ["render", *words, "--out", "renders/a", "--device", "cpu"], capsys, message, tmp_path
    )


# What is handled ----------------------------------------------------------------------------------


def test_odd_photos_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Grey, 16-bit, transparent, turned by EXIF, and a reduced copy: each under the name and camera
    that it has in the capture.
    """
    capture = good_capture(tmp_path / "capture")
    images, pixels = capture / "images", noise(WIDTH, HEIGHT)
    Image.fromarray(pixels[..., 0]).save(images / "000.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(images / "001.png")
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:, WIDTH // 2 :] = pixels[:, WIDTH // 2 :, :1]
    Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(images / "002.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(images / "003.png", exif=exif)
    Image.fromarray(pixels[::2, ::2]).save(images / "004.png")
    assert main(["inspect", str(capture), "--json"]) == EXIT_DONE
    inspection = json.loads(capsys.readouterr().out)
    assert inspection["sizes"] == {"64x48": 3, "48x64": 1, "32x24": 1}
    assert inspection["problems"] == [
        "there are no sparse points: the reconstruction starts from random ones"
    ]
    assert (
        main(["reconstruct", str(capture), "--out", str(tmp_path / "run"), "--all-views", *QUICK])
        == EXIT_DONE
    )
    views = json.loads((tmp_path / "run" / "metrics.json").read_text())["train"]["per_view"]
    assert [view["photo"] for view in views] == [f"images/{number:03d}.png" for number in range(5)]
    assert all(math.isfinite(view["psnr"]) for view in views)


def test_missing_photos_of_fox_are_one_line(
    captures_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "reconstruct",
        str(captures_folder / "fox" / "transforms_original.json"),
        "--views",
        "2",
        "--out",
        str(tmp_path / "run"),
        *QUICK,
    ]
    assert main(words) == EXIT_DONE
    lines = [line for line in capsys.readouterr().err.splitlines() if "do not exist" in line]
    assert len(lines) == 1
    assert "transforms_original.json lists 67 photos; 17 do not exist and are left out" in lines[0]
