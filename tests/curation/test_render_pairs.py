"""Clips, sizes, and the flaws of an ordinary camera."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from artifixer.curation.render_pairs import (
    FlawConfig,
    draw_clip_indices,
    sized_for_clips,
    spread_clip_indices,
    with_flaws,
)
from artifixer.runtime.errors import InputError
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scene import Scene
from artifixer.scenes.view import views_of


@pytest.fixture(scope="module")
def scene() -> Scene:
    return load_scene("procedural:3:frames=6,width=48,height=32,points_per_photo=5")


@given(
    photos=st.integers(5, 60),
    frames=st.sampled_from([5, 9, 13]),
    first=st.integers(0, 9),
    seed=st.integers(0, 10_000),
)
def test_a_clip_runs_evenly_through_the_captured_photos(
    photos: int, frames: int, first: int, seed: int
) -> None:
    captured = range(first, first + photos)
    if photos < frames:
        with pytest.raises(InputError, match=f"{photos} photos; expected at least the {frames}"):
            draw_clip_indices(captured, frames, np.random.default_rng(seed))
        return
    clip = draw_clip_indices(captured, frames, np.random.default_rng(seed))
    assert len(clip) == frames
    assert set(clip) <= set(captured)
    (step,) = set(np.diff(clip))
    assert abs(step) in (1, 2)


def test_clips_start_anywhere_and_run_both_ways() -> None:
    clips = {draw_clip_indices(range(8), 5, np.random.default_rng(seed)) for seed in range(200)}
    assert clips == {tuple(range(start, start + 5))[::way] for start in range(4) for way in (1, -1)}


@pytest.mark.parametrize(("longest", "size"), [(48, (48, 32)), (32, (32, 16)), (1000, (48, 32))])
def test_captures_come_at_sizes_of_the_model_and_are_never_enlarged(
    scene: Scene, longest: int, size: tuple[int, int]
) -> None:
    sized = sized_for_clips(scene, longest)
    assert {(camera.width, camera.height) for camera in sized.cameras} == {size}
    assert sized.photos[0].read().shape == (size[1], size[0], 3)


def test_no_flaws_change_nothing(scene: Scene) -> None:
    config = FlawConfig(exposure=0, balance=0, noise=0, pose_pixels=0)
    views = views_of(scene, (1, 4))
    for same, view in zip(with_flaws(views, config, np.random.default_rng(0)), views, strict=True):
        assert torch.allclose(same.camera.viewmats, view.camera.viewmats, atol=1e-6)
        assert np.array_equal(same.photo.read(), view.photo.read())


def test_cameras_are_off_by_as_many_pixels_as_asked(scene: Scene) -> None:
    config = FlawConfig(exposure=0, balance=0, noise=0, pose_pixels=3)
    distances = []
    for seed in range(40):
        views = views_of(scene, (1, 4))
        flawed = with_flaws(views, config, np.random.default_rng(seed))
        for camera, true in zip(
            (view.camera for view in flawed), (view.camera for view in views), strict=True
        ):
            assert torch.allclose(camera.centers, true.centers, atol=1e-5)
            far = true.centers + 1000 * true.camera_to_world[:, :3, 2]
            distances.append(float((camera.project(far)[0] - true.project(far)[0]).norm()))
    # Strength is even in [0,1]; two directions count, a third turns about the axis: sqrt(2 / 3) of
    # the standard deviation.
    assert np.sqrt(np.mean(np.square(distances))) == pytest.approx(3 * np.sqrt(2 / 3), rel=0.35)


def test_exposure_moves_a_photo_as_a_whole(scene: Scene) -> None:
    config = FlawConfig(exposure=0.2, balance=0, noise=0, pose_pixels=0)
    (flawed,) = with_flaws(views_of(scene, (2,)), config, np.random.default_rng(1))
    before, after = scene.photos[2].read().astype(float), flawed.photo.read().astype(float)
    usable = (before > 40) & (after < 250)
    gains = after[usable] / before[usable]
    assert abs(np.log(np.median(gains))) > 0.01
    assert gains.std() < 0.02


def test_photos_of_several_lenses_are_refused(scene: Scene) -> None:
    cameras = [replace(scene.cameras[0], model="fisheye"), *scene.cameras[1:]]
    with pytest.raises(InputError, match="different lens models"):
        sized_for_clips(scene.with_photos(scene.photos, cameras), 32)


@pytest.mark.parametrize(("photos", "count"), [(300, 4), (81, 4), (100, 3), (170, 1)])
def test_several_clips_reach_from_the_first_photo_to_the_last(photos: int, count: int) -> None:
    clips = spread_clip_indices(range(1000, 1000 + photos), 81, count, np.random.default_rng(0))
    assert 1 <= len(clips) <= count
    assert all(len(set(clip)) == 81 for clip in clips)
    seen = sorted({index for clip in clips for index in clip})
    if count > 1:
        assert (seen[0], seen[-1]) == (1000, 1000 + photos - 1)
        assert max(np.diff(seen)) <= 2, "no part of the path is left out"
