"""Photos: every kind of file is read, photo and camera fit each other in every EXIF orientation,
and resizing happens once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from capture_files import noise
from hypothesis import given
from hypothesis import strategies as st
from made_photos import HEIGHT, PIXEL_TOLERANCE, WIDTH, made_camera, world_points, write_photo
from PIL import Image

from artifixer.runtime.errors import InputError
from artifixer.scenes.photo_files import (
    fit_camera,
    open_photo,
    path_inside,
    stored_size,
)

#: What turns an upright picture into the stored pixels of each EXIF orientation.
_STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


# Kinds of files -----------------------------------------------------------------------------------


def test_grey_photos_are_repeated(tmp_path):
    grey = noise(WIDTH, HEIGHT)[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(
        open_photo(tmp_path / "a.png", "a").read(), np.repeat(grey[..., None], 3, axis=2)
    )


def test_sixteen_bit_photos_are_rounded_to_eight(tmp_path):
    values = np.array([[0, 127, 128, 129, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert open_photo(tmp_path / "a.png", "a").read()[0, :, 0].tolist() == [0, 0, 0, 1, 1, 128, 255]


def test_sixteen_bit_colour_photos_are_read(tmp_path):
    import cv2

    values = noise(WIDTH, HEIGHT).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1])
    assert np.array_equal(open_photo(tmp_path / "a.png", "a").read(), noise(WIDTH, HEIGHT))


def test_transparent_photos_lie_on_black(tmp_path):
    rgba = np.concatenate(
        [noise(WIDTH, HEIGHT), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=2
    )
    rgba[0, 0, 3], rgba[0, 1] = 0, (200, 100, 50, 51)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = open_photo(tmp_path / "a.png", "a").read()
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[0, 1].tolist() == [40, 20, 10]
    assert np.array_equal(pixels[1:], rgba[1:, :, :3])


@pytest.mark.parametrize("content", [b"", b"not a photo", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_photos_are_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png"):
        open_photo(tmp_path / "a.png", "a")


def test_a_truncated_photo_is_refused_when_it_is_read(tmp_path):
    write_photo(tmp_path / "a.png", noise(200, 100))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    photo = open_photo(tmp_path / "a.png", "a")
    with pytest.raises(InputError, match=r"a\.png"):
        photo.read()


@pytest.mark.parametrize(
    "listed", ["../a", "a/../../b", "/a", "\\\\server\\a", "C:/a", "C:\\a", "", "a\0b", "..\\a"]
)
def test_paths_that_leave_the_folder_are_refused(listed):
    with pytest.raises(InputError, match="leaves the capture's folder"):
        path_inside(Path("capture"), listed, Path("capture/list.json"))


@given(st.text(max_size=30))
def test_paths_stay_inside_or_are_refused(listed):
    try:
        path = path_inside(Path("/capture"), listed, Path("list.json"))
    except InputError:
        return
    assert path.is_relative_to("/capture")
    assert ".." not in path.parts


# Orientation and size -----------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path, orientation):
    upright = noise(WIDTH, HEIGHT)
    write_photo(tmp_path / "a.png", _STORED[orientation](upright), orientation)
    photo = open_photo(tmp_path / "a.png", "a")
    assert (photo.width, photo.height) == (WIDTH, HEIGHT)
    assert np.array_equal(photo.read(), upright)
    assert stored_size(photo) == _STORED[orientation](upright).shape[1::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [1, 2])
def test_points_fall_on_the_same_colours_in_every_orientation(tmp_path, orientation, scale):
    """The camera is the one of the stored pixels. Every pixel of the picture has a colour of its
    own.
    """
    stored = (
        np.arange(HEIGHT * WIDTH * 3, dtype=np.uint16).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)
    )
    stored[..., 1] = np.arange(HEIGHT)[:, None]
    stored[..., 2] = np.arange(WIDTH)
    write_photo(tmp_path / "a.png", stored, orientation)
    camera = made_camera(scale * WIDTH, scale * HEIGHT)
    fitted = fit_camera(open_photo(tmp_path / "a.png", "a"), camera, Path("cameras.txt"))
    pixels = fitted.photo.read()
    assert (
        pixels.shape[:2]
        == (fitted.photo.height, fitted.photo.width)
        == (fitted.camera.height, fitted.camera.width)
    )

    points = world_points(camera)
    listed, listed_depth, _ = camera.project(points)
    moved, depth, is_imaged = fitted.camera.project(points)
    assert is_imaged.all()
    torch.testing.assert_close(depth, listed_depth)
    mapped = torch.from_numpy(fitted.pixel_map).float()
    torch.testing.assert_close(
        moved[0],
        listed[0] @ mapped[:, :2].T + mapped[:, 2],
        atol=PIXEL_TOLERANCE,
        rtol=PIXEL_TOLERANCE,
    )
    inside = ((listed[0] > 0) & (listed[0] < torch.tensor([scale * WIDTH, scale * HEIGHT]))).all(
        dim=1
    )
    assert inside.sum() > 20
    (x, y), (new_x, new_y) = (listed[0][inside] / scale).long().T, moved[0][inside].long().T
    assert np.array_equal(stored[y, x], pixels[new_y, new_x])


def test_cameras_of_the_upright_photo_are_kept(tmp_path):
    """Some software turns photos before it looks at them; sizes tell which."""
    write_photo(tmp_path / "a.png", noise(WIDTH, HEIGHT), 6)
    photo = open_photo(tmp_path / "a.png", "a")
    assert (photo.width, photo.height) == (HEIGHT, WIDTH)
    camera = made_camera(HEIGHT, WIDTH)
    fitted = fit_camera(photo, camera, Path("cameras.txt"))
    assert torch.equal(fitted.camera.viewmats, camera.viewmats)
    assert np.array_equal(fitted.photo.read(), np.rot90(noise(WIDTH, HEIGHT), -1))


def test_rounded_sizes_fit_and_other_aspects_are_refused(tmp_path):
    write_photo(tmp_path / "a.png", noise(333, 250))
    photo = open_photo(tmp_path / "a.png", "a")
    assert fit_camera(photo, made_camera(1000, 750), Path("cameras.txt")).camera.width == 333
    with pytest.raises(
        InputError,
        match=r"a\.png: the photo has 333x250 pixels, its camera in cameras\.txt 1000x800; "
        "expected the same",
    ):
        fit_camera(photo, made_camera(1000, 800), Path("cameras.txt"))


# Resizing -----------------------------------------------------------------------------------------
