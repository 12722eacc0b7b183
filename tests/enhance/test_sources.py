"""What enters the model: sizes, padding, eight bits, and refusals."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from artifixer.enhance.sources import (
    RendersInMemory,
    alike_cameras,
    checked_source,
    read_frames,
    reference_batch,
)
from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes.view import View
from artifixer.splats.render import Renders
from artifixer.splats.render_folder import read_render_folder, write_render_folder
from tests.unchecked import unchecked


def some_cameras(views: int, width: int = 20, height: int = 14) -> Cameras:
    K = torch.tensor([[18.0, 0, 10], [0, 18, 7], [0, 0, 1]])
    return Cameras.pinhole(
        torch.eye(4).expand(views, 4, 4).clone(), K.expand(views, 3, 3).clone(), width, height
    )


def some_renders(views: int, width: int = 20, height: int = 14) -> Renders:
    generator = torch.Generator().manual_seed(0)
    rgb, opacity = (
        torch.rand(views, height, width, 3, generator=generator),
        torch.rand(views, height, width, generator=generator),
    )
    return Renders(rgb, opacity, torch.ones(views, height, width))


def write_renders(folder: Path, renders: Renders, cameras: Cameras) -> None:
    single = [
        Renders(renders.rgb[i : i + 1], renders.opacity[i : i + 1], renders.depth[i : i + 1])
        for i in range(len(renders))
    ]
    frames = [CameraFrame(cameras[i]) for i in range(len(renders))]
    write_render_folder(folder, list(zip(frames, single, strict=True)))


def test_memory_and_disk_give_the_same_numbers(tmp_path: Path):
    renders, cameras = some_renders(3), some_cameras(3)
    write_renders(tmp_path, renders, cameras)
    folder = read_render_folder(tmp_path)
    ours = read_frames(checked_source(folder, cameras), cameras, 0, 3)
    theirs = read_frames(checked_source(renders, cameras), cameras, 0, 3)
    assert torch.equal(ours.rgb, theirs.rgb) and torch.equal(ours.opacity, theirs.opacity)
    assert ours.depth is not None and theirs.depth is not None
    assert torch.equal(ours.depth, theirs.depth)


def test_depth_of_a_frame_does_not_depend_on_the_frames_read_with_it(tmp_path: Path):
    renders, cameras = some_renders(3), some_cameras(3)
    write_renders(tmp_path, renders, cameras)
    (tmp_path / "depth" / "00002.npy").unlink()
    source = checked_source(read_render_folder(tmp_path), cameras)
    pair = read_frames(source, cameras, 1, 2).depth
    assert pair is not None and torch.equal(pair[0], renders.depth[1]) and pair[1].isnan().all()
    assert read_frames(source, cameras, 2, 1).depth is None
    assert read_frames(source, cameras, 0, 2, with_depth=False).depth is None


def test_depth_of_another_size_is_refused():
    renders = some_renders(2)
    expected = r"depth 0: array of \(7, 10\); expected \(14, 20\)"
    with unchecked():
        source = RendersInMemory(replace(renders, depth=torch.ones(2, 7, 10)))
        with pytest.raises(InputError, match=expected):
            read_frames(source, some_cameras(2), 0, 2)


def test_depth_beyond_float32_is_unknown_without_a_warning(tmp_path: Path):
    renders, cameras = some_renders(1), some_cameras(1)
    write_render_folder(tmp_path, [(CameraFrame(cameras), renders)])
    np.save(tmp_path / "depth" / "00000.npy", np.full((14, 20), 1e300, ">f8"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        depth = read_frames(read_render_folder(tmp_path), cameras, 0, 1).depth
    assert depth is not None and depth.isinf().all()


def test_frames_behind_the_last_repeat_it():
    cameras = some_cameras(3)
    frames = read_frames(RendersInMemory(some_renders(3)), cameras, 1, 4)
    rgb, opacity = frames.rgb, frames.opacity
    assert rgb.shape == (4, 14, 20, 3)
    assert torch.equal(rgb[1:], rgb[1:2].expand(3, -1, -1, -1))
    assert torch.equal(opacity[1:], opacity[1:2].expand(3, -1, -1))
    assert torch.equal(rgb * 255, (some_renders(3).rgb[[1, 2, 2, 2]] * 255).round())


def with_opacity(*shape: int) -> Renders:
    with unchecked():
        return replace(some_renders(2), opacity=torch.zeros(shape))


@pytest.mark.parametrize(
    ("renders", "cameras", "message"),
    [
        (some_renders(3), some_cameras(2), "3 renders for 2 cameras"),
        (
            some_renders(2),
            some_cameras(2, width=21),
            "render 0: 20x14 pixels; its camera says 21x14",
        ),
        (
            with_opacity(3, 14, 20),
            some_cameras(2),
            "opacity: 3 of 20x14; the renders are 2 of 20x14",
        ),
        (
            with_opacity(2, 7, 20),
            some_cameras(2),
            "opacity: 2 of 20x7",
        ),
        (some_renders(0), some_cameras(0), "no frames"),
    ],
)
def test_counts_and_sizes_must_agree(renders: Renders, cameras: Cameras, message: str):
    with pytest.raises(InputError, match=message):
        checked_source(renders, cameras)


@pytest.mark.parametrize("field", ["viewmats", "Ks", "distortion"])
def test_cameras_must_be_finite(field: str):
    cameras = some_cameras(3)
    getattr(cameras, field)[1].view(-1)[0] = torch.nan
    with pytest.raises(InputError, match="target camera 1: not finite"):
        checked_source(some_renders(3), cameras)
    photo = np.zeros((14, 20, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="reference camera 1: not finite"):
        reference_batch([View.of_pixels(cameras[i], photo) for i in range(3)], 20, 14, (16, 16))


def test_references_of_any_size_come_to_the_model_s_size_with_their_cameras():
    cameras = some_cameras(1, width=40, height=40)
    photo = np.full((40, 40, 3), 51, dtype=np.uint8)
    loaded = reference_batch(
        [View.of_pixels(cameras, photo), View.of_pixels(some_cameras(1), photo[:14, :20])],
        20,
        14,
        (32, 16),
    )
    assert loaded is not None
    photos = loaded.photos
    for pixels, batch, (width, height) in (
        (loaded.pixels, loaded.cameras, (32, 16)),
        (photos.pixels, photos.cameras, (20, 14)),
    ):
        assert pixels.shape == (2, height, width, 3)
        torch.testing.assert_close(pixels, torch.full_like(pixels, 0.2))
        assert (batch.width, batch.height) == (width, height)
        torch.testing.assert_close(batch.Ks[0, 0, 0], cameras.Ks[0, 0, 0] * width / 40)
    with pytest.raises(InputError, match="reference 0: 20x14 pixels; its camera says 40x40"):
        reference_batch([View.of_pixels(cameras, photo[:14, :20])], 20, 14, (32, 16))
    assert reference_batch([], 20, 14, (32, 16)) is None


def test_a_clip_has_one_size_and_lens_model():
    frames = [CameraFrame(some_cameras(1)), CameraFrame(some_cameras(1, width=30))]
    with pytest.raises(
        InputError, match="clip: frame 1 is 30x14 pinhole, frame 0 is 20x14 pinhole"
    ):
        alike_cameras(frames, "clip")
    with pytest.raises(InputError, match="fisheye"):
        alike_cameras([frames[0], CameraFrame(replace(some_cameras(1), model="fisheye"))], "clip")
    assert len(alike_cameras(frames[:1] * 3, "clip")) == 3


def test_masks_of_references_come_along_at_the_renders_size():
    photo = np.full((40, 40, 3), 51, np.uint8)
    mask = np.full((40, 40), 255, np.uint8)
    mask[:, :20] = 0
    plain = View.of_pixels(some_cameras(1, 40, 40), photo)
    masked = replace(plain, photo=replace(plain.photo, mask=lambda: mask))
    loaded = reference_batch([plain, masked], 20, 14, (32, 16))
    assert loaded is not None
    masks = loaded.photos.masks
    assert masks is not None
    assert masks.shape == (2, 14, 20)
    assert bool(masks[0].all())
    assert float(masks[1, :, :10].max()) == 0
    assert bool(masks[1, :, 16:].all())
    unmasked = reference_batch([plain], 20, 14, (32, 16))
    assert unmasked is not None
    assert unmasked.photos.masks is None
