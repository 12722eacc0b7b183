"""Render folders: there and back, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import write_png
from artifixer.scenes.view import View
from artifixer.splats.render import Renders
from artifixer.splats.render_folder import read_render_folder, to_uint8, write_render_folder


@pytest.fixture
def written(tmp_path):
    generator = torch.Generator().manual_seed(0)
    K = torch.tensor([[[20.0, 0, 12], [0, 20, 8], [0, 0, 1]]])
    frames = [
        CameraFrame(Cameras.pinhole(torch.eye(4)[None], K, 24, 16), name)
        for name in ("a.jpg", None, "c.jpg")
    ]
    renders = []
    for _ in frames:
        opacity = torch.rand(1, 16, 24, generator=generator)
        depth = torch.where(opacity > 0.5, opacity, torch.nan)
        renders.append(
            Renders(
                torch.rand(1, 16, 24, 3, generator=generator) * opacity[..., None], opacity, depth
            )
        )
    photo = np.full((16, 24, 3), 7, np.uint8)
    reference = View.of_pixels(frames[0].camera, photo, "a.jpg")
    write_render_folder(tmp_path, list(zip(frames, renders, strict=True)), [reference])
    return tmp_path, renders, photo


def test_values_come_back_at_eight_bit(written):
    folder, renders, photo = written
    opened = read_render_folder(folder)
    assert [frame.photo for frame in opened.frames] == ["a.jpg", None, "c.jpg"]
    for index, render in enumerate(renders):
        np.testing.assert_array_equal(opened.rgb(index), to_uint8(render.rgb[0]).numpy())
        np.testing.assert_array_equal(opened.opacity(index), to_uint8(render.opacity[0]).numpy())
        np.testing.assert_array_equal(opened.depth(index), render.depth[0].numpy())
    assert opened.references[0].photo.name == "a.jpg"
    np.testing.assert_array_equal(opened.references[0].photo.read(), photo)


def test_a_folder_without_depth_is_fine(written):
    folder, _, _ = written
    for path in (folder / "depth").iterdir():
        path.unlink()
    assert read_render_folder(folder).depth(0) is None


def test_missing_superfluous_and_wrongly_sized_images_are_refused(written):
    folder, _, _ = written
    (folder / "rgb" / "00001.png").rename(folder / "rgb" / "00007.png")
    with pytest.raises(InputError, match=r"expected 00000\.png to 00002\.png"):
        read_render_folder(folder)
    (folder / "rgb" / "00007.png").unlink()
    write_png(folder / "rgb" / "00001.png", np.zeros((16, 23, 3), np.uint8))
    with pytest.raises(InputError, match="23x16"):
        read_render_folder(folder)


def test_a_missing_reference_and_a_missing_camera_file_are_refused(written):
    folder, _, _ = written
    (folder / "references" / "00000.png").unlink()
    with pytest.raises(InputError, match="reference photo"):
        read_render_folder(folder)
    (folder / "cameras.json").unlink()
    with pytest.raises(InputError, match=r"no cameras\.json"):
        read_render_folder(folder)
