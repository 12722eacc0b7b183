"""Scenes at another size: cameras and observations follow, pixels are computed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from capture_files import noise
from made_photos import made_camera, world_points, write_photo

from artifixer.runtime.errors import InputError
from artifixer.scenes.photo_files import (
    open_photo,
)
from artifixer.scenes.resize_scene import resize_scene
from artifixer.scenes.scene import Scene, SparsePoints


def _scene(folder: Path, sizes: list[tuple[int, int]]) -> Scene:
    for number, (width, height) in enumerate(sizes):
        write_photo(folder / f"{number}.png", noise(width, height, number))
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
    return Scene("made", "made", photos, tuple(made_camera(*size) for size in sizes), points)


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
    points = world_points(original.cameras[0])
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

    write_photo(tmp_path / "photos" / "0.png", noise(80, 40, seed=9))
    changed = resize_scene(_scene(tmp_path / "photos", [(80, 40)]), 40, cache).photos[0].read()
    write_photo(tmp_path / "photos" / "0.png", noise(80, 40, seed=9))
    with pytest.raises(InputError, match="read again"):
        resize_scene(again, 40, cache).photos[0].read()
    # the original noise was written again: another file, the same pixels
    assert np.array_equal(changed, first)
