"""Masks: where they are found, how they are turned and resized, and what alpha channels mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from capture_files import HEIGHT, WIDTH, noise, transforms_content, write_colmap, write_transforms
from PIL import Image

from artifixer.imaging.resize import resize_photo
from artifixer.pipeline.inspect_capture import inspect_capture
from artifixer.runtime.errors import InputError
from artifixer.scenes.formats import load_scene
from artifixer.scenes.mask_files import MaskFiles, read_mask
from artifixer.scenes.photo_files import open_photo
from artifixer.scenes.resize_scene import resize_scene


def _mask(path: Path, seen: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(seen).save(path)
    return path


def _left_half(value: int = 255) -> np.ndarray:
    seen = np.zeros((HEIGHT, WIDTH), np.uint8)
    seen[:, : WIDTH // 2] = value
    return seen


@pytest.mark.parametrize(
    "place",
    [
        "masks/000.png.png",
        "masks/000.png",
        "masks/000.jpg",
        "mask/000.png",
        "masks/images/000.png",
        "images/masks/000.png",
        "images/000.mask.png",
        "mask.png",
        "Masks/000.PNG",
    ],
)
def test_masks_are_found_where_tools_put_them(tmp_path: Path, place: str) -> None:
    write_transforms(tmp_path, transforms_content())
    path = _mask(tmp_path / place, _left_half())
    assert MaskFiles(tmp_path).find(tmp_path / "images" / "000.png") == path
    scene = load_scene(tmp_path)
    masked = 3 if place == "mask.png" else 1
    assert [photo.mask is not None for photo in scene.photos] == [n < masked for n in range(3)]
    mask = scene.photos[0].mask
    assert mask is not None and np.array_equal(mask(), _left_half())
    assert any(f"masks of {masked} of 3 photos" in note for note in scene.notes)
    whole = load_scene(tmp_path, ignore_masks=True)
    assert all(photo.mask is None for photo in whole.photos)
    assert any("are ignored" in note for note in whole.notes)


def test_mask_paths_of_a_transforms_file_win(tmp_path: Path) -> None:
    content = transforms_content()
    content["frames"][1]["mask_path"] = "elsewhere/m.png"
    write_transforms(tmp_path, content)
    _mask(tmp_path / "masks" / "001.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    _mask(tmp_path / "elsewhere" / "m.png", _left_half())
    mask = load_scene(tmp_path).photos[1].mask
    assert mask is not None and np.array_equal(mask(), _left_half())
    content["frames"][1]["mask_path"] = "../m.png"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="leaves the capture's folder"):
        load_scene(tmp_path)
    content["frames"][1]["mask_path"] = "elsewhere/none.png"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"none\.png, which does not exist"):
        load_scene(tmp_path)


def test_colmap_captures_have_masks_and_masks_are_not_unlisted_photos(tmp_path: Path) -> None:
    write_colmap(tmp_path)
    name = "camera000001_frame000001.png"
    _mask(tmp_path / "images" / "masks" / name, _left_half())
    _mask(tmp_path / "images" / "camera000001_frame000000.mask.png", _left_half())
    scene = load_scene(tmp_path)
    assert [photo.mask is not None for photo in scene.photos] == [True, True, False, False]
    assert not any("have no pose" in note for note in scene.notes)


@pytest.mark.parametrize("value", [255, 1, 200])
def test_masks_of_ones_and_of_grey_mean_the_same(tmp_path: Path, value: int) -> None:
    path = _mask(tmp_path / "mask.png", _left_half(value))
    assert np.array_equal(read_mask(path, WIDTH, HEIGHT), _left_half())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_turn_with_their_photos(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.where(_left_half()[..., None], np.uint8(200), np.uint8(20)).repeat(3, axis=2)
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    mask = _mask(tmp_path / "mask.png", _left_half())
    photo = open_photo(tmp_path / "photo.png", "photo.png", mask)
    assert photo.mask is not None
    assert np.array_equal(photo.mask() > 0, photo.read()[..., 0] > 100)


def test_a_mask_of_another_size_is_resized_and_of_another_shape_refused(tmp_path: Path) -> None:
    small = _mask(tmp_path / "small.png", _left_half()[::2, ::2])
    seen = read_mask(small, WIDTH, HEIGHT)
    assert np.array_equal(seen, _left_half())
    square = _mask(tmp_path / "square.png", np.full((40, 40), 255, np.uint8))
    with pytest.raises(
        InputError, match=r"square\.png: the mask has 40x40 pixels, its photo 64x48"
    ):
        read_mask(square, WIDTH, HEIGHT)


def test_alpha_masks_a_photo_and_resizing_takes_no_masked_pixel_in(tmp_path: Path) -> None:
    write_transforms(tmp_path, transforms_content())
    seen = np.full((HEIGHT, WIDTH), 255, np.uint8)
    seen[:, 31:] = 0
    Image.fromarray(np.dstack([noise(WIDTH, HEIGHT), seen])).save(tmp_path / "images" / "000.png")
    scene = load_scene(tmp_path)
    assert scene.photos[0].mask is not None and scene.photos[0].opacity is None
    assert np.array_equal(scene.photos[0].mask(), seen)
    small = resize_scene(scene, 32).photos[0].mask
    assert small is not None and small().shape == (24, 32)
    assert small()[:, :12].min() == 255 and small()[:, 14:].max() == 0
    other = noise(WIDTH, HEIGHT)
    other[:, 31:] = 255 - other[:, 31:]
    small_photos = [resize_photo(pixels, 32, 24) for pixels in (noise(WIDTH, HEIGHT), other)]
    assert np.array_equal(*(pixels[small() > 0] for pixels in small_photos))


def test_a_mask_that_covers_all_is_a_problem(tmp_path: Path) -> None:
    write_transforms(tmp_path, transforms_content())
    _mask(tmp_path / "masks" / "000.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    problems = inspect_capture(str(tmp_path)).problems
    assert any("000.png" in problem and "mask" in problem for problem in problems)


def _write_synthetic(folder: Path, parts: tuple[str, ...] = ("train", "val", "test")) -> None:
    for part in parts:
        frames = []
        for number in range(3):
            path = folder / part / f"r_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            alpha = _left_half(128 if number else 255)
            Image.fromarray(np.dstack([noise(WIDTH, HEIGHT, number), alpha])).save(path)
            matrix = np.eye(4)
            matrix[0, 3] = number
            frames.append(
                {
                    "file_path": f"./{part}/r_{number}",
                    "rotation": 0.1,
                    "transform_matrix": matrix.tolist(),
                }
            )
        content = {"camera_angle_x": 0.6911112070083618, "frames": frames}
        (folder / f"transforms_{part}.json").write_text(json.dumps(content))


def test_synthetic_folders_bring_their_split_and_opacity(tmp_path: Path) -> None:
    _write_synthetic(tmp_path)
    scene = load_scene(tmp_path)
    assert scene.format == "nerf_synthetic"
    split = scene.splits["transforms"]
    assert split.train == tuple(f"train/r_{n}.png" for n in range(3))
    assert split.heldout == tuple(f"test/r_{n}.png" for n in range(3))
    assert any("transforms_val.json is left out (3 photos)" in note for note in scene.notes)
    photo = scene.photos[scene.index("train/r_1.png")]
    assert photo.mask is None and photo.opacity is not None
    assert np.array_equal(photo.opacity(), _left_half(128))
    expected = (noise(WIDTH, HEIGHT, 1).astype(int) * _left_half(128)[..., None] + 127) // 255
    assert np.array_equal(photo.read(), expected)
    camera = scene.cameras[scene.index("test/r_2.png")]
    focal = WIDTH / 2 / np.tan(0.6911112070083618 / 2)
    assert abs(float(camera.Ks[0, 0, 0]) - focal) < 1e-4
    assert camera.centers[0].tolist() == [2, 0, 0]


def test_synthetic_folders_without_test_photos_hold_out_the_validation(tmp_path: Path) -> None:
    _write_synthetic(tmp_path, ("train", "val"))
    assert load_scene(tmp_path).splits["transforms"].heldout[0] == "val/r_0.png"
    _write_synthetic(tmp_path / "alone", ("train",))
    assert load_scene(tmp_path / "alone").splits == {}
