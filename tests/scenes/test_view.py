"""``View``, and the views that the video model attends to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import read_image
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scene import Photo, Scene
from artifixer.scenes.view import View, reference_views, views_of


@pytest.fixture(scope="module")
def scene() -> Scene:
    return load_scene("procedural:7:frames=6,width=24,height=16")


def test_a_view_is_listed_with_its_photo_s_name(scene: Scene) -> None:
    (view,) = views_of(scene, [2])
    assert view.frame.photo == scene.photos[2].name
    assert view.frame.camera is scene.cameras[2]


def test_pixels_in_memory_are_a_view(scene: Scene) -> None:
    pixels = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(16, 24, 3)
    view = View.of_pixels(scene.cameras[0], pixels, "a.png")
    assert (view.photo.name, view.photo.width, view.photo.height) == ("a.png", 24, 16)
    np.testing.assert_array_equal(view.photo.read(), pixels)


def test_an_unreadable_photo_is_found_when_it_is_brought_into_memory(
    scene: Scene, tmp_path: Path
) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG")
    view = View(scene.cameras[0], Photo("broken.png", 24, 16, lambda: read_image(path), path))
    with pytest.raises(InputError, match=r"broken\.png"):
        view.in_memory()


def test_references_are_evenly_spaced_by_name(scene: Scene) -> None:
    names = sorted(photo.name for photo in scene.photos)
    found = reference_views(scene, range(6), 3)
    assert [view.photo.name for view in found] == [names[0], names[2], names[4]]
    assert len(reference_views(scene, range(6), 9)) == 6
    assert reference_views(scene, range(6), 0) == []


def test_references_have_the_lens_model_of_the_first_training_view(scene: Scene) -> None:
    """A capture with two lenses: ``enhance`` refuses references of several lens models."""
    fisheye = tuple(
        replace(camera, model="fisheye") if index in (1, 3) else camera
        for index, camera in enumerate(scene.cameras)
    )
    mixed = replace(scene, cameras=fisheye)
    for training, model, count in ((range(6), "pinhole", 4), (range(1, 6), "fisheye", 2)):
        found = reference_views(mixed, training, 9)
        assert {view.camera.model for view in found} == {model}
        assert len(found) == count
