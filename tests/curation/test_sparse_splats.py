"""Which photos are kept, and what is drawn about a fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from short_fits import CONFIG

from artifixer.curation.sparse_splats import draw_fit, training_groups
from artifixer.recipes.curate import RECIPES
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scene import Scene
from artifixer.scenes.splits import algorithm1_orders


@pytest.fixture(scope="module")
def scene() -> Scene:
    return load_scene("procedural:3:frames=20,width=16,height=16,points_per_photo=5")


def test_groups_are_those_of_algorithm_1_among_the_captured_photos(scene: Scene) -> None:
    captured = range(4, 16)
    groups = training_groups(scene, captured)
    assert sorted(index for group in groups for index in group) == list(captured)
    orders = algorithm1_orders(
        torch.cat([scene.cameras[index].camera_to_world for index in captured])
    )
    assert groups == tuple(tuple(position + 4 for position in order) for order in orders)


def test_raw_distances_are_those_of_metres_whatever_the_worlds_unit(scene: Scene) -> None:
    """The paper's formula adds translations to rotations as they are, so that the unit counts: a
    world in centimetres gives other groups, and with its unit those of metres.
    """
    captured = range(len(scene.photos))
    cameras = []
    for camera in scene.cameras:
        viewmats = camera.viewmats.clone()
        viewmats[:, :3, 3] *= 100
        cameras.append(replace(camera, viewmats=viewmats))
    centimetres = scene.with_photos(scene.photos, cameras)
    metres = training_groups(scene, captured, normalise=False)
    assert training_groups(centimetres, captured, normalise=False, unit=0.01) == metres
    assert training_groups(centimetres, captured, normalise=False) != metres
    assert training_groups(centimetres, captured) == training_groups(scene, captured)


def test_a_group_of_one_is_left_out(scene: Scene) -> None:
    assert [len(group) for group in training_groups(scene, [0, 1, 19])] == [2]
    assert training_groups(scene, [0, 19]) == ()


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_fits_stay_within_their_ranges(seed: int) -> None:
    sparse = RECIPES["tiny"].sparse
    fit = draw_fit(sparse, np.random.default_rng(seed))
    for value, (low, high) in (
        (fit.views, sparse.views),
        (fit.config.iterations, sparse.iterations),
        (fit.config.mcmc.max_gaussians, sparse.max_gaussians),
        (fit.config.initial.points, sparse.initial_points),
    ):
        assert low <= value <= high
    # Proportions of the schedule: as many events as in the whole fit, up to rounding.
    whole = sparse.reconstruct
    assert fit.config.iterations / fit.config.sh_every == pytest.approx(
        whole.iterations / whole.sh_every, rel=0.05
    )
    assert fit.config.learning_rates == whole.learning_rates


def test_all_numbers_of_views_occur() -> None:
    rng = np.random.default_rng(0)
    assert {draw_fit(CONFIG.sparse, rng).views for _ in range(300)} == set(range(2, 13))
