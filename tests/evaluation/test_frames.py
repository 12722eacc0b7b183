"""Frames of other methods: every producer's naming, and one frame for every held-out photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifixer.evaluation.frames import FrameSource, find_frames
from artifixer.runtime.errors import InputError

#: In the order of the data set's list, which is not that of the names.
PHOTOS = tuple(f"images/p{number}.JPG" for number in (5, 1, 4, 2, 3, 0))
HELDOUT = ("images/p1.JPG", "images/p4.JPG", "images/p0.JPG")

#: Position in the list, and rank among the held-out ones sorted by name.
INDEX = {"images/p1.JPG": 1, "images/p4.JPG": 2, "images/p0.JPG": 5}
RANK = {"images/p0.JPG": 0, "images/p1.JPG": 1, "images/p4.JPG": 2}

SHADE = {"images/p0.JPG": 10, "images/p1.JPG": 20, "images/p4.JPG": 30}


def shade(value: int, width: int = 6) -> np.ndarray:
    return np.full((4, width, 3), value, np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(pixels).save(file, "jpeg" if path.suffix == ".jpg" else "png")


def found(folder: Path, **options: object) -> FrameSource:
    return find_frames("m", folder, "room", PHOTOS, HELDOUT, **options)  # type: ignore[arg-type]


def shades(source: FrameSource) -> dict[str, int]:
    return {photo: int(source.prediction(photo)[0, 0, 0]) for photo in HELDOUT}


# Producers ----------------------------------------------------------------------------------------


def test_the_public_release(tmp_path: Path) -> None:
    for photo, index in INDEX.items():
        for kind, add in (("pred", 0), ("rendered", 100), ("gt", 200)):
            path = tmp_path / "room" / "frames" / "batch_0000" / kind / f"{index:05d}.png"
            save(path, shade(SHADE[photo] + add))
    source = found(tmp_path)
    assert (source.producer, source.naming) == ("artifixer-release", "index")
    assert shades(source) == SHADE
    assert int(source.truth(HELDOUT[0])[0, 0, 0]) == 220


def test_difix3d_gsplat_stores_opacity_upside_down(tmp_path: Path) -> None:
    for step, add in ((29999, 100), (59999, 0)):
        for photo, rank in RANK.items():
            folder = tmp_path / "room" / "renders" / "val" / str(step)
            save(folder / "Pred" / f"{rank:04d}.png", shade(SHADE[photo] + add))
            save(folder / "GT" / f"{rank:04d}.png", shade(200))
            save(folder / "Alpha" / f"{rank:04d}.png", shade(255 if rank == 1 else 0)[..., 0])
    source = found(tmp_path)
    assert (source.producer, source.naming) == ("difix3d-gsplat", "rank")
    assert shades(source) == SHADE, "of the last step"
    opacities = [source.opacity(photo) for photo in ("images/p0.JPG", "images/p1.JPG")]
    assert [float(opacity.mean()) for opacity in opacities if opacity is not None] == [1.0, 0.0]


def test_difix3d_nerfstudio(tmp_path: Path) -> None:
    for photo, rank in RANK.items():
        save(
            tmp_path / "room" / "renders" / "val" / "60000" / f"{rank:04d}.png", shade(SHADE[photo])
        )
    source = found(tmp_path)
    assert (source.producer, shades(source)) == ("difix3d-nerfstudio", SHADE)
    assert not source.has_truth


def test_difix3d_plus_keeps_the_names_of_its_input(tmp_path: Path) -> None:
    for photo, rank in RANK.items():
        save(tmp_path / "room" / f"{rank:04d}.png", shade(SHADE[photo]))
    source = found(tmp_path)
    assert (source.producer, source.naming) == ("plain", "rank")
    assert shades(source) == SHADE


def test_genfusion_writes_png_under_the_photos_names(tmp_path: Path) -> None:
    for photo, value in SHADE.items():
        for kind, add in (("renders", 0), ("gt", 200)):
            path = tmp_path / "room" / "test" / kind / photo.removeprefix("images/")
            save(path, shade(value + add))
    source = found(tmp_path)
    assert (source.producer, source.naming) == ("genfusion", "name")
    assert shades(source) == SHADE, "PNG in files called .JPG"
    assert int(source.truth(HELDOUT[2])[0, 0, 0]) == 210


def test_3dgs(tmp_path: Path) -> None:
    for step in (7000, 30000):
        for photo, rank in RANK.items():
            folder = tmp_path / "room" / "test" / f"ours_{step}"
            save(folder / "renders" / f"{rank:05d}.png", shade(SHADE[photo] + (step < 10000)))
            save(folder / "gt" / f"{rank:05d}.png", shade(200))
    source = found(tmp_path)
    assert (source.producer, shades(source), source.has_truth) == ("3dgs", SHADE, True)


def test_gsplat_has_the_photo_on_the_left(tmp_path: Path) -> None:
    for step in (6999, 29999):
        for photo, rank in RANK.items():
            pair = np.concatenate([shade(200), shade(SHADE[photo] + (step < 10000))], axis=1)
            save(tmp_path / "room" / "renders" / f"val_step{step}_{rank:04d}.png", pair)
    source = found(tmp_path)
    assert (source.producer, shades(source)) == ("gsplat", SHADE)
    assert source.prediction(HELDOUT[0]).shape == (4, 6, 3)
    assert int(source.truth(HELDOUT[0])[0, 0, 0]) == 200


def test_ns_eval_has_the_photo_on_the_left(tmp_path: Path) -> None:
    for photo, rank in RANK.items():
        pair = np.concatenate([shade(200), shade(SHADE[photo])], axis=1)
        save(tmp_path / "room" / f"eval_img_{rank:04d}.png", pair)
    source = found(tmp_path)
    assert (source.producer, shades(source)) == ("ns-eval", SHADE)


def test_ns_render_keeps_paths_below_the_photos_folder(tmp_path: Path) -> None:
    for photo, value in SHADE.items():
        name = photo.removeprefix("images/").replace(".JPG", ".png")
        save(tmp_path / "room" / "test" / "rgb" / name, shade(value))
        save(tmp_path / "room" / "test" / "gt-rgb" / name, shade(200))
    source = found(tmp_path)
    assert (source.producer, shades(source), source.has_truth) == ("ns-render", SHADE, True)


def test_nerfbusters_has_depth(tmp_path: Path) -> None:
    for photo, rank in RANK.items():
        save(tmp_path / "room" / "rgb" / f"{rank:05d}.png", shade(SHADE[photo]))
        save(tmp_path / "room" / "rgb_gt" / f"{rank:05d}.png", shade(200))
        path = tmp_path / "room" / "depth_raw" / f"{rank:05d}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.full((4, 6, 1), rank, np.float32))
    source = found(tmp_path)
    assert (source.producer, shades(source)) == ("nerfbusters", SHADE)
    depth = source.depth("images/p4.JPG")
    assert depth is not None and depth.shape == (4, 6) and float(depth[0, 0]) == 2


def test_3dgrut_renders_all_photos(tmp_path: Path) -> None:
    for index, photo in enumerate(PHOTOS):
        folder = tmp_path / "room" / "ours_30000"
        save(folder / "renders" / f"{index:05d}.png", shade(SHADE.get(photo, 99)))
        save(folder / "opacity" / f"{index:05d}.png", shade(51)[..., 0])
    source = found(tmp_path)
    assert (source.producer, source.naming, shades(source)) == ("3dgrut", "index", SHADE)
    opacity = source.opacity(HELDOUT[0])
    assert opacity is not None and float(opacity[0, 0]) == pytest.approx(0.2)


# Plain folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("naming", ["auto", "name"])
def test_plain_names(tmp_path: Path, naming: str) -> None:
    for photo, value in SHADE.items():
        save(tmp_path / photo.removeprefix("images/").replace("JPG", "png"), shade(value))
    source = found(tmp_path, naming=naming)
    assert (source.naming, shades(source)) == ("name", SHADE)


def test_plain_indices(tmp_path: Path) -> None:
    for photo, index in INDEX.items():
        save(tmp_path / "room" / f"{index:05d}.png", shade(SHADE[photo]))
    assert shades(found(tmp_path)) == SHADE
    with pytest.raises(InputError, match=r"1 missing \(00000\) and 1 surplus \(00005\)"):
        found(tmp_path, naming="rank")


def test_numbers_that_fit_two_namings_ask(tmp_path: Path) -> None:
    """Six photos whose names are numbers, all rendered: position and name disagree."""
    photos = tuple(f"images/{number}.png" for number in (2, 1, 0))
    for number in range(3):
        save(tmp_path / f"{number}.png", shade(number))
    with pytest.raises(
        InputError, match=r"fit several numberings \(name, index, rank\); give --naming"
    ):
        find_frames("m", tmp_path, "room", photos, photos)
    source = find_frames("m", tmp_path, "room", photos, photos, "index")
    assert int(source.prediction("images/2.png")[0, 0, 0]) == 0


def test_side_by_side_on_request(tmp_path: Path) -> None:
    for photo, rank in RANK.items():
        pair = np.concatenate([shade(200), shade(SHADE[photo])], axis=1)
        save(tmp_path / f"{rank}.png", pair)
    source = found(tmp_path, side_by_side="left-gt")
    assert shades(source) == SHADE and source.has_truth
    save(tmp_path / "0.png", shade(1, width=7))
    with pytest.raises(InputError, match="7 pixels wide, expected an even number"):
        source.prediction("images/p0.JPG")


# What is refused ----------------------------------------------------------------------------------


def test_missing_and_surplus_frames_are_refused(tmp_path: Path) -> None:
    for photo, rank in RANK.items():
        save(tmp_path / "room" / "rgb" / f"{rank:05d}.png", shade(SHADE[photo]))
    extra = tmp_path / "room" / "rgb" / "00003.png"
    save(extra, shade(1))
    with pytest.raises(InputError, match=r"4 frames for 3 held-out photos, 1 surplus \(00003\)"):
        found(tmp_path)
    extra.unlink()
    (tmp_path / "room" / "rgb" / "00001.png").unlink()
    with pytest.raises(InputError, match=r"2 frames for 3 held-out photos, 1 missing \(00001\)"):
        found(tmp_path)


def test_frames_of_another_split_are_refused(tmp_path: Path) -> None:
    for name in ("p2", "p3", "p5"):
        save(tmp_path / "room" / "test" / "renders" / f"{name}.JPG", shade(1))
    with pytest.raises(InputError, match=r"3 missing \(p0, p1, p4\) and 3 surplus \(p2, p3, p5\)"):
        found(tmp_path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        found(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no images"):
        found(tmp_path)
    save(tmp_path / "a1.png", shade(1))
    save(tmp_path / "b1.png", shade(1))
    save(tmp_path / "c2.png", shade(1))
    with pytest.raises(InputError, match="have the same number"):
        found(tmp_path, naming="rank")
    for path in tmp_path.iterdir():
        path.unlink()
    save(tmp_path / "a.png", shade(1))
    with pytest.raises(InputError, match="has no number"):
        found(tmp_path, naming="index")
