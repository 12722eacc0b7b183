"""Paths: steps within their limits, target views hit exactly, nothing depends on where the world's
origin is.
"""

from __future__ import annotations

import math

import pytest
import torch

from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.geometry.paths import (
    StepLimits,
    alike,
    focus_point,
    orbit,
    short_order,
    spline,
    tour,
    typical_distance,
)
from artifixer.geometry.transforms import (
    invert_rigid,
    look_at,
    quaternion_to_matrix,
    rotation_angle,
)

UP = torch.tensor([0.0, 0.0, 1.0])
LIMITS = StepLimits()

#: The angle of two float32 rotations is known to about 1e-3 radians at worst (it is the square root
#: of their rounding).
ANGLE_TOLERANCE = 1e-3


def arc(count: int = 9, shuffle: bool = False) -> Cameras:
    """Views on an arc of 100 degrees at radius 4 around the origin, a little wobbly, in order or
    shuffled.
    """
    generator = torch.Generator().manual_seed(0)
    angles = torch.linspace(0, math.radians(100), count)
    eyes = torch.stack(
        [4 * angles.cos(), 4 * angles.sin(), 1.0 + 0.3 * torch.rand(count, generator=generator)],
        dim=1,
    )
    K = torch.tensor([[200.0, 0, 80], [0, 200, 60], [0, 0, 1]]).repeat(count, 1, 1)
    cameras = Cameras.pinhole(invert_rigid(look_at(eyes, torch.zeros(count, 3), UP)), K, 160, 120)
    return cameras[torch.randperm(count, generator=generator)] if shuffle else cameras


def steps(cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    rotations = cameras.viewmats[:, :3, :3].double()
    return rotation_angle(rotations[1:], rotations[:-1]), (
        cameras.centers[1:] - cameras.centers[:-1]
    ).norm(dim=1)


def test_tour_hits_every_view_exactly_within_the_step_limits():
    views = arc(shuffle=True)
    path = tour(views, distance=4.0)
    stops = {stop: frame for frame, stop in enumerate(path.stops) if stop is not None}
    assert sorted(stops) == list(range(len(views)))
    for view, frame in stops.items():
        assert torch.equal(path.cameras.viewmats[frame], views.viewmats[view])
    angle, translation = steps(path.cameras)
    assert angle.max() <= LIMITS.angle + ANGLE_TOLERANCE
    assert translation.max() <= LIMITS.translation * 4.0 + 1e-5
    assert len(path) <= LIMITS.frames


def test_tour_of_shuffled_views_follows_the_arc():
    views = arc(shuffle=True)
    ordered = views[short_order(views, 4.0)].centers
    along = torch.atan2(ordered[:, 1], ordered[:, 0])
    assert (along.diff() > 0).all() or (along.diff() < 0).all()


def test_a_long_tour_keeps_the_number_of_frames_and_evens_its_steps():
    views = arc(30, shuffle=True)
    path = tour(views, distance=4.0, limits=StepLimits(frames=60))
    assert len(path) <= 60
    assert {stop for stop in path.stops if stop is not None} == set(range(30))
    thinned = tour(views, distance=4.0, limits=StepLimits(frames=10))
    assert len(thinned) == 10


def test_tour_moves_with_the_world():
    views = arc()
    rotation = quaternion_to_matrix(torch.tensor([0.3, -0.2, 0.8, 0.1]))
    motion = torch.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, torch.tensor([5.0, -3, 2])
    moved = Cameras.pinhole(
        views.viewmats @ invert_rigid(motion[None])[0], views.Ks, views.width, views.height
    )
    expected, found = tour(views, 4.0), tour(moved, 4.0)
    assert expected.stops == found.stops
    torch.testing.assert_close(
        found.cameras.viewmats @ motion, expected.cameras.viewmats, atol=1e-4, rtol=1e-4
    )


def test_tour_of_one_view_is_that_view_and_equal_views_do_not_hang():
    assert len(tour(arc()[2], 4.0)) == 1
    views = arc()
    assert len(tour(concatenate([views[0], views[0], views[1]]), 4.0)) >= 3


def test_spline_reaches_beyond_both_ends_smoothly():
    views = arc(20)
    path = spline(views, 4.0, beyond=0.5)
    along = torch.atan2(path.cameras.centers[:, 1], path.cameras.centers[:, 0])
    captured = torch.atan2(views.centers[:, 1], views.centers[:, 0])
    assert along.min() < captured.min() and along.max() > captured.max()
    angle, translation = steps(path.cameras)
    assert (
        angle.max() <= LIMITS.angle + ANGLE_TOLERANCE
        and translation.max() <= LIMITS.translation * 4.0 + 1e-5
    )


def test_orbit_circles_what_the_views_look_at():
    path = orbit(arc(), frames=36)
    centre = torch.zeros(1, 3)
    pixels, depth, valid = path.cameras.project(centre)
    assert valid.all()
    assert (pixels[:, 0] - torch.tensor([80.0, 60.0])).norm(dim=1).max() < 3
    torch.testing.assert_close(depth, depth[:1].expand_as(depth), rtol=0.02, atol=0)
    angle, _ = steps(path.cameras)
    assert angle.max() < 1.2 * math.radians(10)


def test_focus_point_is_where_the_axes_meet_or_ahead_when_they_never_do():
    torch.testing.assert_close(focus_point(arc()), torch.zeros(3), atol=1e-4, rtol=0)
    parallel = arc()[[0, 0, 0]]
    viewmats = parallel.viewmats.clone()
    viewmats[:, 0, 3] += torch.tensor([0.0, 1.0, 2.0])
    point = focus_point(Cameras.pinhole(viewmats, parallel.Ks, 160, 120))
    assert torch.isfinite(point).all()
    assert ((viewmats[:, :3, :3] @ point + viewmats[:, :3, 3])[:, 2] > 0).all()


def test_views_of_other_sizes_join_one_path():
    views = arc(3)
    mixed = alike([views[0], views[1].resized(320, 240), views[2]])
    torch.testing.assert_close(mixed.Ks[1], views.Ks[1])
    assert (mixed.width, mixed.height) == (160, 120)


def test_typical_distance_counts_what_is_in_the_image():
    views = arc()
    assert typical_distance(views, torch.zeros(1, 3)) == pytest.approx(4.15, abs=0.1)
    assert typical_distance(views, torch.tensor([[0.0, 0.0, 50.0]])) is None
