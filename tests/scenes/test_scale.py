"""Camera scale: the release's weighted median, a slow weighted median, and depths that can be
counted by hand.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_scenes import scene_at

from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import to_json, write_json
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scale import (
    CameraScale,
    camera_scale,
    metres_per_unit,
    metric_scale,
    point_depths,
    read_scale,
    scale_depth_model,
)
from artifixer.scenes.scene import SparsePoints


def test_metres_per_unit_equal_the_release(parity_folder):
    stored = json.loads((parity_folder / "protocol.json").read_text())["metric_scale"]

    def all_views(key: str) -> torch.Tensor:
        return torch.tensor(
            [float(value) for view in stored["input"] for value in view[key]], dtype=torch.float64
        )

    scale = metres_per_unit(
        all_views("depths_colmap"), all_views("depths_metric"), all_views("mask")
    )
    assert scale == stored["scale"]


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, 4)), min_size=1, max_size=20).filter(
        lambda rows: any(w for _, w in rows)
    )
)
def test_weights_count_like_repeated_observations(rows):
    """The upper median of a list in which every ratio stands as often as its weight says."""
    repeated = sorted(ratio for ratio, weight in rows for _ in range(weight))
    ratios, weights = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)
    )
    assert metres_per_unit(torch.ones_like(ratios), ratios, weights) == repeated[len(repeated) // 2]


def test_depths_that_are_not_positive_do_not_count():
    world = torch.tensor([1.0, -1.0, 0.0, math.nan, 1.0, 2.0])
    metric = torch.tensor([3.0, 9.0, 9.0, 9.0, math.nan, 6.0])
    assert metres_per_unit(world, metric, torch.ones(6)) == 3.0


@pytest.mark.parametrize("metric", [-1.0, math.nan, math.inf])
def test_observations_without_a_metric_depth_are_refused(metric):
    with pytest.raises(InputError, match="observations have a metric depth"):
        metres_per_unit(torch.ones(3), torch.full((3,), metric), torch.ones(3))


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(InputError, match="all 3 observations have weight 0; expected some"):
        metres_per_unit(torch.ones(3), torch.ones(3), torch.zeros(3))


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_that_are_no_shares_are_refused(weight):
    """An infinite weight once was an index error: its half is as large."""
    with pytest.raises(InputError, match="expected finite numbers, 0 or more"):
        metres_per_unit(torch.ones(2), torch.ones(2), torch.tensor([1.0, weight]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected a JSON object"),
        ('{"value": NaN, "kind": "metric", "source": "x"}', '"value" is nan'),
        ('{"value": 0, "kind": "metric", "source": "x"}', '"value" is 0, expected a positive'),
        ('{"value": 1, "kind": "median_depth", "source": "x"}', "no camera scale of kind metric"),
        ('{"value": 1, "kind": "metric", "source": 3}', "no camera scale of kind metric"),
    ],
)
def test_a_stored_scale_that_was_damaged_is_refused(tmp_path, content, message):
    path = tmp_path / "camera_scale.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        read_scale(path, "metric")
    assert str(path) in str(error.value)


def test_a_stored_scale_is_read_as_it_was(tmp_path):
    scale = CameraScale(0.1 + 0.2, "metric", "metric depth of things")
    write_json(tmp_path / "scale.json", to_json(scale))
    assert read_scale(tmp_path / "scale.json", "metric") == scale


def test_a_scene_that_knows_its_metres_asks_no_depth_model():
    """Drawn scenes are in metres; the views are not even looked at."""
    scene = load_scene("procedural:3:frames=2,width=32,height=16")
    scale = camera_scale("metric", [], metres_per_unit=scene.metres_per_unit)
    assert (scale.value, scale.is_guess) == (0.01, False)
    assert scale_depth_model("metric", None, scene.metres_per_unit, "some") is None
    assert scale_depth_model("metric", None, None, "some") == "some"
    assert scale_depth_model("median_depth", None, None, None) is None


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


def _median_depth(scene, views) -> float:
    return 1 / camera_scale("median_depth", point_depths(scene, views)).value


def test_median_depth_counts_what_each_training_view_sees():
    scene = _two_views(_POINTS)
    assert _median_depth(scene, [0]) == pytest.approx(4)  # of 2, 4, 13
    assert _median_depth(scene, [1]) == pytest.approx(3)
    assert _median_depth(scene, [0, 1]) == pytest.approx(3)  # the lower middle of 2, 3, 4, 13


def test_without_tracks_points_in_the_picture_count():
    scene = _two_views(
        SparsePoints.without_tracks(
            torch.cat([_POINTS.xyz, torch.tensor([[100.0, 0, 5]])]), torch.zeros(4, 3).byte()
        )
    )
    assert _median_depth(scene, [0]) == pytest.approx(4)  # the fourth point is outside
    assert _median_depth(scene, [1]) == pytest.approx(3)  # two are behind


@pytest.mark.parametrize("points", [None, _POINTS])
def test_an_unknown_median_depth_is_refused(points):
    with pytest.raises(InputError, match="have no depth; expected at least one view"):
        _median_depth(_two_views(points), [])


def test_real_captures_have_a_median_depth_in_front_of_the_cameras(captures_folder):
    """Fountain is metric: the relief stands some 8 m from the cameras."""
    scene = load_scene(captures_folder / "fountain")
    assert 5 < _median_depth(scene, range(len(scene.photos))) < 12
