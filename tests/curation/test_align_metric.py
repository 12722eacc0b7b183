"""The scale stored with a pair: the median depth, or metres by a depth network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from artifixer.curation.align_metric import camera_scale
from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes import procedural
from artifixer.scenes.scale import METRIC_FACTOR, median_depth_scale
from artifixer.scenes.scene import Scene

NAME = "procedural:3:frames=4,width=64,height=48,points_per_photo=40"


@pytest.fixture(scope="module")
def scene() -> Scene:
    return procedural.load(NAME)


def test_the_median_depth_is_that_of_run(scene: Scene) -> None:
    assert camera_scale(scene, (0, 3), "median_depth") == median_depth_scale(scene, (0, 3))


@pytest.mark.parametrize("metres", [1.0, 3.5])
def test_a_perfect_depth_network_finds_the_unit_of_length(scene: Scene, metres: float) -> None:
    """Exact depth of the pixels' centres times the unit; points lie beside the centres, which the median forgives."""
    world = procedural.world_of(scene)

    def depth(photo: np.ndarray, camera: Cameras) -> np.ndarray:
        exact = procedural.render_world(world, camera, samples=1).depth[0].numpy()
        return metres * np.where(np.isfinite(exact), exact, np.nan)

    assert camera_scale(scene, (0, 3), "metric", depth) == pytest.approx(METRIC_FACTOR * metres, rel=0.02)


def test_metric_needs_a_network_and_tracks(scene: Scene) -> None:
    with pytest.raises(InputError, match="needs a depth network"):
        camera_scale(scene, (0, 3), "metric")
    with pytest.raises(InputError, match="sparse points with tracks"):
        camera_scale(replace(scene, points=None), (0, 3), "metric", lambda photo, camera: photo[..., 0])
