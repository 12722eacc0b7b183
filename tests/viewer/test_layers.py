"""Layers of a scene as pictures."""

from __future__ import annotations

import numpy as np
import torch

from artifixer.geometry.camera_file import CameraFrame
from artifixer.splats.render import render
from artifixer.splats.render_folder import to_uint8
from artifixer.viewer.layers import (
    LayerPainter,
    depth_picture,
    layer_titles,
    letterboxed,
    side_by_side,
)
from artifixer.viewer.motion import fitting_fov, window_camera
from artifixer.viewer.scene import ViewedScene, axis_name, plain, up_axis
from tests.viewer.test_trajectory import camera, wall


def scene(**changes: object) -> ViewedScene:
    return ViewedScene("wall", {"Plain splats": wall()}, distance=4.0, **changes)  # type: ignore[arg-type]


def test_layers_are_colour_opacity_and_depth_of_the_render() -> None:
    view = camera(0.3)
    painter = LayerPainter(scene())
    assert layer_titles(painter.scene) == [
        "Plain splats",
        "Plain splats: opacity",
        "Plain splats: depth",
    ]
    colour, opacity, depth = painter.paint(layer_titles(painter.scene), view)
    found = render(wall(), view)
    assert np.array_equal(colour, to_uint8(found.rgb[0]).numpy())
    assert np.array_equal(opacity[..., 1], to_uint8(found.opacity[0]).numpy())
    assert not depth[opacity[..., 0] == 0].any(), "nothing is black"
    assert depth[opacity[..., 0] == 255].any()


def test_near_is_red_and_far_is_blue() -> None:
    ramp = torch.linspace(1, 9, 90).expand(4, 90)
    picture = depth_picture(ramp).astype(int)
    assert picture[0, 3, 0] > picture[0, 3, 2]
    assert picture[0, -3, 2] > picture[0, -3, 0]
    assert not depth_picture(torch.full((2, 2), torch.nan)).any()


def test_photos_are_put_onto_the_splats_that_they_see() -> None:
    taken = camera(0.5)
    photo = np.zeros((48, 64, 3), np.uint8)
    photo[:] = (10, 200, 30)
    frames = (CameraFrame(taken, "a.jpg"),)
    painter = LayerPainter(scene(frames=frames, photos={"a.jpg": lambda: photo}))
    blend, plain_render, opacity = painter.paint(
        ["Plain splats: photo blend", "Plain splats", "Plain splats: opacity"], camera(-0.5)
    )
    opaque, empty = opacity[..., 0] > 250, opacity[..., 0] == 0
    seen = (np.abs(blend.astype(int) - (10, 200, 30)).max(axis=-1) < 3) & opaque
    assert seen.sum() > 0.8 * opaque.sum(), "the photo's colour lies on the wall"
    assert np.array_equal(blend[empty], plain_render[empty])


def test_a_comparison_has_both_sides_and_a_line() -> None:
    left, right = np.zeros((4, 10, 3), np.uint8), np.full((4, 10, 3), 9, np.uint8)
    picture = side_by_side(left, right, 0.5)
    assert (picture[:, :4] == 0).all()
    assert (picture[:, 4:6] == 255).all()
    assert (picture[:, 6:] == 9).all()


def test_a_picture_of_a_job_is_whole() -> None:
    picture = letterboxed(np.full((10, 20, 3), 7, np.uint8), 30, 40)
    assert picture.shape == (40, 30, 3)
    assert (picture[20] == 7).all()
    assert (picture[0] == 0).all()


def test_a_window_shows_all_of_the_photo() -> None:
    photo = camera(0.0)
    for aspect in (0.5, 64 / 48, 3.0):
        fov = fitting_fov(photo, aspect)
        view = window_camera(photo.camera_to_world[0].double(), fov, round(300 * aspect), 300)
        rays = photo.unproject(torch.tensor([[[0.0, 0.0], [64.0, 48.0]]]))[0]
        pixels, _, valid = view.project(photo.centers + 2 * rays @ photo.viewmats[0, :3, :3])
        assert valid.all()
        assert (pixels[0] > -1).all()
        assert (pixels[0] < torch.tensor([view.width + 1.0, view.height + 1.0])).all()


def test_the_axis_that_is_up_has_a_name() -> None:
    assert axis_name(up_axis((CameraFrame(camera(0.0)),))) == "-y"
    assert axis_name((0.6, 0.8, 0.0)) == "(0.60, 0.80, 0.00)"


def test_names_of_files_are_no_markdown() -> None:
    assert plain("![x](/etc/passwd) <b>*") == r"\!\[x\]\(/etc/passwd\) \<b\>\*"
