"""Render folders: there and back, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import write_png
from artifixer.scenes.view import View
from artifixer.splats.render import Renders
from artifixer.splats.render_folder import (
    read_render_folder,
    reference_files,
    to_uint8,
    write_render_folder,
)


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


def test_the_mask_of_a_reference_is_kept_and_goes_with_it(tmp_path):
    camera = Cameras.pinhole(
        torch.eye(4)[None], torch.tensor([[[20.0, 0, 10], [0, 20, 7], [0, 0, 1]]]), 20, 14
    )
    frame = CameraFrame(camera, None)
    renders = Renders(torch.zeros(1, 14, 20, 3), torch.ones(1, 14, 20), torch.ones(1, 14, 20))
    mask = np.full((14, 20), 255, np.uint8)
    mask[:, :7] = 0
    plain = View.of_pixels(camera, np.full((14, 20, 3), 9, np.uint8), "a.png")
    masked = replace(plain, photo=replace(plain.photo, mask=lambda: mask))
    write_render_folder(tmp_path, [(frame, renders)], [masked, plain])
    with_mask, without = read_render_folder(tmp_path).references
    assert with_mask.photo.mask is not None
    np.testing.assert_array_equal(with_mask.photo.mask(), mask)
    assert without.photo.mask is None
    masked_files = reference_files([with_mask, without])
    assert [file.name for file in masked_files] == ["00000.png", "00000.mask.png", "00001.png"]
    write_render_folder(tmp_path, [(frame, renders)], [plain, plain])
    assert [view.photo.mask for view in read_render_folder(tmp_path).references] == [None, None]
