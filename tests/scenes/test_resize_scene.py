"""Scenes at another size: cameras and observations follow, pixels are computed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from capture_files import noise
from PIL import Image

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes.photo_files import (
    open_photo,
)
from artifixer.scenes.resize_scene import resize_scene
from artifixer.scenes.scene import Scene, SparsePoints

WIDTH, HEIGHT = 16, 10

#: float32 projections.
PIXEL_TOLERANCE = 1e-4


def _write(path: Path, stored: np.ndarray, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)


def _camera(width: int = WIDTH, height: int = HEIGHT) -> Cameras:
    """Anything but symmetric: off-centre, different focal lengths, tangential distortion, a turned
    pose.
    """
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    )[0]
    viewmat[:3, :3] *= torch.linalg.det(viewmat[:3, :3])
    viewmat[:3, 3] = torch.tensor([0.3, -0.2, 0.5])
    K = torch.tensor([[1.1 * width, 0, 0.45 * width], [0, 1.2 * width, 0.6 * height], [0, 0, 1]])
    distortion = torch.tensor([[0.1, -0.05, 0.01, 0, 0, 0, 0.02, -0.03]])
    return Cameras(viewmat[None], K[None], width, height, "pinhole", distortion)


def _world_points(camera: Cameras) -> torch.Tensor:
    """Random points in front of the camera."""
    generator = torch.Generator().manual_seed(0)
    in_camera = torch.cat([0.2 * torch.randn(50, 2, generator=generator), torch.ones(50, 1)], dim=1)
    pose = camera.camera_to_world[0]
    return in_camera @ pose[:3, :3].T + pose[:3, 3]


def _scene(folder: Path, sizes: list[tuple[int, int]]) -> Scene:
    for number, (width, height) in enumerate(sizes):
        _write(folder / f"{number}.png", noise(width, height, number))
    photos = tuple(
        open_photo(folder / f"{number}.png", f"{number}.png") for number in range(len(sizes))
    )
    views = torch.arange(len(sizes))
    points = SparsePoints(
        torch.zeros(1, 3),
        torch.zeros(1, 3).byte(),
        torch.zeros_like(views),
        views,
        torch.tensor(sizes, dtype=torch.float32),
    )
    return Scene("made", "made", photos, tuple(_camera(*size) for size in sizes), points)


def test_mixed_sizes_keep_their_aspects_and_are_never_enlarged(tmp_path):
    scene = resize_scene(_scene(tmp_path, [(80, 40), (30, 60), (16, 10)]), 40)
    assert [(photo.width, photo.height) for photo in scene.photos] == [(40, 20), (20, 40), (16, 10)]
    for photo, camera in zip(scene.photos, scene.cameras, strict=True):
        assert photo.read().shape == (photo.height, photo.width, 3)
        assert (camera.width, camera.height) == (photo.width, photo.height)
    # the bottom right corners
    assert scene.points.observed_pixel.tolist() == [[40, 20], [20, 40], [16, 10]]


def test_projections_scale_with_the_photo(tmp_path):
    original = _scene(tmp_path, [(80, 40)])
    points = _world_points(original.cameras[0])
    small = resize_scene(original, "20x30")
    factors = torch.tensor([20 / 80, 30 / 40])
    torch.testing.assert_close(
        small.cameras[0].project(points)[0], original.cameras[0].project(points)[0] * factors
    )


def test_without_a_size_everything_stays(tmp_path):
    original = _scene(tmp_path, [(80, 40)])
    kept = resize_scene(original, None)
    assert np.array_equal(kept.photos[0].read(), original.photos[0].read())
    assert torch.equal(kept.cameras[0].Ks, original.cameras[0].Ks)


@pytest.mark.parametrize("size", ["0", "0x10", "-5", "wide", "10x", "1.5", ""])
def test_malformed_sizes_are_refused(tmp_path, size):
    with pytest.raises(InputError, match="expected the longest side in pixels"):
        resize_scene(_scene(tmp_path, [(80, 40)]), size)


def test_photos_are_read_and_resized_once(tmp_path):
    scene = _scene(tmp_path, [(80, 40)])
    reads = []

    def counted() -> np.ndarray:
        reads.append(1)
        return scene.photos[0].read()

    photo = resize_scene(
        scene.with_photos([replace(scene.photos[0], read=counted)], scene.cameras), 40
    ).photos[0]
    first = photo.read()
    assert photo.read() is first
    assert len(reads) == 1


def test_resized_photos_come_from_the_cache_folder_until_the_file_changes(tmp_path):
    (tmp_path / "photos").mkdir()
    scene = _scene(tmp_path / "photos", [(80, 40)])
    cache = tmp_path / "cache"
    first = resize_scene(scene, 40, cache).photos[0].read()

    def unreachable() -> np.ndarray:
        raise InputError("the photo's file was read again")

    again = scene.with_photos([replace(scene.photos[0], read=unreachable)], scene.cameras)
    assert np.array_equal(resize_scene(again, 40, cache).photos[0].read(), first)

    _write(tmp_path / "photos" / "0.png", noise(80, 40, seed=9))
    changed = resize_scene(_scene(tmp_path / "photos", [(80, 40)]), 40, cache).photos[0].read()
    _write(tmp_path / "photos" / "0.png", noise(80, 40, seed=9))
    with pytest.raises(InputError, match="read again"):
        resize_scene(again, 40, cache).photos[0].read()
    # the original noise was written again: another file, the same pixels
    assert np.array_equal(changed, first)
