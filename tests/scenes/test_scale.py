"""Camera scale: the release's weighted median, a slow weighted median, and depths that can be counted by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_scenes import scene_at

from artifixer.runtime.errors import InputError
from artifixer.scenes import procedural
from artifixer.scenes.formats import load_scene
from artifixer.scenes.metric_depth import default_depth_model
from artifixer.scenes.scale import (
    METRIC_FACTOR,
    DepthView,
    Observations,
    camera_scale,
    check_scale_options,
    median_depth,
    metres_per_unit,
    metric_scale,
    observed_metres_per_unit,
    sparse_observations,
)
from artifixer.scenes.scene import SparsePoints


def test_metres_per_unit_equal_the_release(parity_folder):
    stored = json.loads((parity_folder / "protocol.json").read_text())["metric_scale"]

    def all_views(key: str) -> torch.Tensor:
        return torch.tensor([float(value) for view in stored["input"] for value in view[key]], dtype=torch.float64)

    scale = metres_per_unit(all_views("depths_colmap"), all_views("depths_metric"), all_views("mask"))
    assert scale == stored["scale"]


@given(st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, 4)), min_size=1, max_size=20).filter(lambda rows: any(w for _, w in rows)))
def test_weights_count_like_repeated_observations(rows):
    """A median of the list in which every ratio stands as often as its weight says; with two in the middle, one of them."""
    repeated = sorted(ratio for ratio, weight in rows for _ in range(weight))
    ratios, weights = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    middle = {repeated[(len(repeated) - 1) // 2], repeated[len(repeated) // 2]}
    assert metres_per_unit(torch.ones_like(ratios), ratios, weights) in middle


def test_the_median_is_the_first_ratio_that_reaches_half_of_the_weights():
    ratios = torch.tensor([4.0, 1.0, 2.0, 3.0])
    assert metres_per_unit(torch.ones(4), ratios, torch.ones(4)) == 2.0
    assert metres_per_unit(torch.ones(4), ratios, torch.tensor([1.0, 0, 0, 1])) == 3.0


def test_without_any_weight_all_observations_count_the_same():
    assert metres_per_unit(torch.ones(3), torch.tensor([5.0, 7.0, 6.0]), torch.zeros(3)) == 6.0


def test_depths_that_are_not_positive_do_not_count():
    world = torch.tensor([1.0, -1.0, 0.0, math.nan, 1.0, 2.0])
    metric = torch.tensor([3.0, 9.0, 9.0, 9.0, math.nan, 6.0])
    assert metres_per_unit(world, metric, torch.ones(6)) == 3.0


@pytest.mark.parametrize("metric", [-1.0, math.nan, math.inf])
def test_observations_without_a_metric_depth_are_refused(metric):
    with pytest.raises(InputError, match="observations have a metric depth"):
        metres_per_unit(torch.ones(3), torch.full((3,), metric), torch.ones(3))


def test_metres_become_centimetres_for_the_released_weights():
    assert metric_scale(2.5) == pytest.approx(0.025)


def _two_views(points: SparsePoints):
    """Cameras at z = 0 and z = 10, both looking along +z."""
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    poses[1, 2, 3] = 10
    return scene_at(poses, points)


_POINTS = SparsePoints(
    xyz=torch.tensor([[0.0, 0, 2], [0, 0, 4], [0, 0, 13]]),
    rgb=torch.zeros(3, 3, dtype=torch.uint8),
    observed_point=torch.tensor([0, 1, 2, 2]),
    observed_view=torch.tensor([0, 0, 0, 1]),
    observed_pixel=torch.zeros(4, 2),
)


def test_median_depth_counts_what_each_training_view_sees():
    scene = _two_views(_POINTS)
    assert median_depth(scene, [0]) == 4  # of 2, 4, 13
    assert median_depth(scene, [1]) == 3
    assert median_depth(scene, [0, 1]) == 3  # the lower middle of 2, 3, 4, 13
    assert camera_scale("median_depth", sparse_observations(scene, [0])).value == 0.25


def test_without_tracks_points_in_the_picture_count():
    scene = _two_views(SparsePoints.without_tracks(torch.cat([_POINTS.xyz, torch.tensor([[100.0, 0, 5]])]), torch.zeros(4, 3).byte()))
    assert median_depth(scene, [0]) == 4  # the fourth point is outside
    assert median_depth(scene, [1]) == 3  # two are behind


@pytest.mark.parametrize("points", [None, _POINTS])
def test_an_unknown_median_depth_is_refused(points):
    with pytest.raises(InputError, match="no sparse point is seen by the 0 training views"):
        median_depth(_two_views(points), [])


def test_real_captures_have_a_median_depth_in_front_of_the_cameras(captures_folder):
    """Fountain is metric: the relief stands some 8 m from the cameras."""
    scene = load_scene(captures_folder / "fountain")
    assert 5 < median_depth(scene, range(len(scene.photos))) < 12


# ------------------------------------------------------------------------------------------------------------------- the one function


def wall_at(depth: float) -> Observations:
    """Two views of three points each, at this depth in the median."""
    camera = _two_views(_POINTS).cameras[0]
    black = np.zeros((camera.height, camera.width, 3), np.uint8)
    view = DepthView(lambda: black, camera, torch.tensor([[0, 0], [1, 0], [2, 1]]), depth * torch.tensor([0.5, 1, 2]))
    return Observations("the wall", (view, view))


def test_a_given_value_goes_before_everything():
    for kind in ("metric", "median_depth"):
        scale = camera_scale(kind, wall_at(4), given=0.3, depth_model="nowhere")
        assert (scale.value, scale.kind, scale.source, scale.warning) == (0.3, kind, "given", None)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_value_that_is_no_scale_is_refused(value):
    with pytest.raises(InputError, match=r"camera scale .*: expected a positive finite number"):
        camera_scale("metric", wall_at(4), given=value)
    with pytest.raises(InputError, match=r"camera scale .*: expected a positive finite number"):
        check_scale_options("metric", value, None, "m")


@pytest.mark.skipif(default_depth_model() is not None, reason="MoGe-2 is installed and is asked")
def test_weights_that_know_metres_get_an_assumption_with_a_warning_that_says_what_to_do():
    scale = camera_scale("metric", wall_at(4))
    assert scale.value == pytest.approx(0.01 * 3 / 4)
    assert scale.source == "assumed: the median depth of the wall is 3 m"
    for word in ("--depth-model", "--camera-scale", "metres per unit x 0.01", "3 m"):
        assert word in scale.warning
    with pytest.raises(InputError, match=r"nothing says how many metres .* --depth-model"):
        camera_scale("metric", wall_at(4), may_assume=False)


def test_a_capture_that_knows_its_metres_needs_no_network():
    scale = camera_scale("metric", replace(wall_at(4), metres_per_unit=2.0), may_assume=False)
    assert (scale.value, scale.warning) == (0.02, None)
    drawn = procedural.load("procedural:3:frames=2,width=32,height=16")
    assert camera_scale("metric", sparse_observations(drawn, (0, 1)), may_assume=False).value == METRIC_FACTOR


def test_nothing_seen_is_refused():
    for kind in ("metric", "median_depth"):
        with pytest.raises(InputError, match="none is seen"):
            camera_scale(kind, Observations("the dark", ()))


@pytest.mark.parametrize(
    ("kind", "given", "model", "message"),
    [
        ("metric", 0.1, "some", "--depth-model some: --camera-scale 0.1 is given as well; expected one of them"),
        ("median_depth", None, "some", "--depth-model some: model m measures in median depths, not in metres; expected none"),
        ("metric", None, "/nowhere/at/all", "depth model /nowhere/at/all: cannot be loaded"),
    ],
)
def test_options_that_do_not_fit_are_refused(kind, given, model, message):
    with pytest.raises(InputError, match=message):
        check_scale_options(kind, given, model, "m")


# ---------------------------------------------------------------------------------------------------------------------- observations


@pytest.mark.parametrize("has_tracks", [True, False])
@pytest.mark.parametrize("metres", [1.0, 3.5])
def test_a_perfect_depth_network_finds_the_unit_of_length(metres, has_tracks):
    """Exact depth of the pixels' centres times the unit; points lie beside the centres, and without tracks some are hidden."""
    scene = procedural.load("procedural:3:frames=4,width=64,height=48,points_per_photo=40")
    if not has_tracks:
        scene = replace(scene, points=SparsePoints.without_tracks(scene.points.xyz, scene.points.rgb))
    world = procedural.world_of(scene)

    def depth(photo, camera):
        exact = procedural.render_world(world, camera, samples=1).depth[0].numpy()
        return metres * np.where(np.isfinite(exact), exact, np.nan)

    assert observed_metres_per_unit(sparse_observations(scene, (0, 3)), depth) == pytest.approx(metres, rel=0.02)


def test_sky_has_no_weight():
    """Where all but one of the pixels are infinitely far, that one decides."""

    def depth(photo, camera):
        metres = np.full(photo.shape[:2], np.inf)
        metres[0, 0] = 6.0
        return metres

    assert observed_metres_per_unit(wall_at(4), depth) == 3.0  # its depth is 2


def test_observed_pixels_are_truncated_and_kept_inside_the_picture():
    points = replace(_POINTS, observed_pixel=torch.tensor([[-0.5, 1.9], [1e4, 0.0], [2.99, 1e4], [0.0, 0.0]]))
    scene = _two_views(points)
    view = sparse_observations(scene, [0]).views[0]
    assert view.pixels.tolist() == [[0, 1], [view.camera.width - 1, 0], [2, view.camera.height - 1]]
    assert view.depths.tolist() == [2, 4, 13]
