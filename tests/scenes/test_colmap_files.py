"""Files of COLMAP models: both forms read alike, damage is named."""

from __future__ import annotations

import pytest
import torch
from capture_files import write_colmap, write_word

from artifixer.runtime.errors import InputError
from artifixer.scenes import colmap
from artifixer.scenes.colmap_folders import find_model
from artifixer.scenes.scene import Scene


def _load(capture) -> Scene:
    return colmap.load(capture, find_model(capture))


def _equal(first: Scene, second: Scene) -> bool:
    """The same photos, cameras and points, bit for bit."""
    names = [photo.name for photo in first.photos] == [photo.name for photo in second.photos]
    cameras = all(
        torch.equal(a.viewmats, b.viewmats)
        and torch.equal(a.Ks, b.Ks)
        and torch.equal(a.distortion, b.distortion)
        and a.model == b.model
        for a, b in zip(first.cameras, second.cameras, strict=True)
    )
    fields = ("xyz", "rgb", "observed_point", "observed_view", "observed_pixel")
    return (
        names
        and cameras
        and all(
            torch.equal(getattr(first.points, name), getattr(second.points, name))
            for name in fields
        )
    )


def test_binary_and_text_models_are_equal(tmp_path):
    for suffix in (".bin", ".txt"):
        write_colmap(tmp_path / suffix, "OPENCV", suffix)
    assert _equal(_load(tmp_path / ".bin"), _load(tmp_path / ".txt"))


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_three_and_five_files_are_equal(tmp_path, suffix):
    """Older models have no rigs and frames. Here two cameras form a rig, so that poses in them are
    composed.
    """
    for files in ("three", "five"):
        write_colmap(tmp_path / files, suffix=suffix, cameras_per_rig=2)
    for name in ("rigs", "frames"):
        (tmp_path / "three" / "sparse" / "0" / (name + suffix)).unlink()
    scene = _load(tmp_path / "five")
    assert len(scene.photos) == 8
    assert _equal(_load(tmp_path / "three"), scene)


def test_a_lens_model_from_the_future_is_refused(tmp_path):
    write_colmap(tmp_path, suffix=".txt")
    path = tmp_path / "sparse" / "0" / "cameras.txt"
    path.write_text(path.read_text().replace("PINHOLE", "HOLOGRAM"))
    with pytest.raises(
        InputError,
        match=r"cameras\.txt: line \d has the lens model 'HOLOGRAM'; "
        r"expected one of SIMPLE_PINHOLE, ",
    ):
        _load(tmp_path)


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin", "points3D.bin"])
@pytest.mark.parametrize("change", ["cut in half", "one byte short", "empty", "one byte too many"])
def test_damaged_binary_files_are_refused_by_name(tmp_path, file, change):
    write_colmap(tmp_path)
    path = tmp_path / "sparse" / "0" / file
    content = path.read_bytes()
    changed = {
        "cut in half": content[: len(content) // 2],
        "one byte short": content[:-1],
        "empty": b"",
        "one byte too many": content + b"0",
    }
    path.write_bytes(changed[change])
    with pytest.raises(InputError, match=rf"{file}: .*(truncated|damaged)"):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "cameras.txt",
            "PINHOLE 64 48 64 60 31 25",
            "PINHOLE 64 48 64 60 31",
            "has 3 parameters; PINHOLE expects 4",
        ),
        ("cameras.txt", "PINHOLE 64 48 64 60 31 25", "PINHOLE 64 48 nan 60 31 25", "fx = nan"),
        (
            "cameras.txt",
            "PINHOLE 64 48 64 60 31 25",
            "PINHOLE 64 48 -64 60 31 25",
            "focal length -64",
        ),
        ("cameras.txt", "PINHOLE 64 48", "PINHOLE 0 48", "has the size 0x48"),
        ("cameras.txt", "1 PINHOLE", "7 PINHOLE", "uses camera 1, which does not exist"),
        ("cameras.txt", "1 PINHOLE", "one PINHOLE", "should hold whole numbers"),
        ("images.txt", "2 0.", "1 0.", "occurs twice; expected unique ids"),
        (
            "images.txt",
            "camera000001_frame000001.png",
            "../frame.png",
            "leaves the capture's folder",
        ),
        (
            "images.txt",
            "camera000001_frame000001.png",
            "/etc/hostname",
            "leaves the capture's folder",
        ),
    ],
)
def test_inconsistent_text_files_are_refused(tmp_path, file, old, new, message):
    write_colmap(tmp_path, suffix=".txt")
    path = tmp_path / "sparse" / "0" / file
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    with pytest.raises(InputError, match=rf"(cameras|images)(\.txt)?: .*{message}"):
        _load(tmp_path)


def test_a_point_colour_out_of_range_is_refused(tmp_path):
    write_colmap(tmp_path, suffix=".txt")
    write_word(tmp_path / "sparse" / "0" / "points3D.txt", 0, 4, "256")
    with pytest.raises(InputError, match=r"points3D\.txt: .*has the colour \[256"):
        _load(tmp_path)


def test_half_a_model_is_refused(tmp_path):
    write_colmap(tmp_path)
    (tmp_path / "sparse" / "0" / "images.bin").unlink()
    with pytest.raises(
        InputError, match=r"incomplete COLMAP model; expected cameras\.bin and images\.bin"
    ):
        _load(tmp_path)
