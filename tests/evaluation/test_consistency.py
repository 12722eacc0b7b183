"""Warp errors: zero for frames that are views of one painted plane, larger for flicker and for
content that is another when the camera returns.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifixer.evaluation.consistency import (
    REVISIT_FRAMES,
    Sequence3d,
    consistency,
    neighbour_warps,
    revisit_warps,
    warp,
    warp_error,
)
from artifixer.geometry.cameras import Cameras

WIDTH, HEIGHT, DEPTH = 64, 48, 2.0

#: 8-bit rounding, and bilinear samples of a smooth picture.
SMOOTH_TOLERANCE = 0.006


def camera(x: float, turn: float = 0.0) -> Cameras:
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.tensor(
        [[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]]
    )
    viewmat[:3, 3] = viewmat[:3, :3] @ torch.tensor([-x, 0.0, 0.0])
    K = torch.tensor([[60.0, 0, WIDTH / 2], [0, 60, HEIGHT / 2], [0, 0, 1]])
    return Cameras.pinhole(viewmat[None], K[None], WIDTH, HEIGHT)


def rays(view: Cameras) -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    pixels = torch.tensor(np.stack([columns, rows], axis=-1).reshape(1, -1, 2), dtype=torch.float32)
    directions = view.unproject(pixels)[0] @ view.camera_to_world[0, :3, :3].T
    return directions.numpy().reshape(HEIGHT, WIDTH, 3)


def plane_points(view: Cameras) -> np.ndarray:
    """Where the rays meet the plane z = DEPTH."""
    directions, center = rays(view), view.centers[0].numpy()
    return center + directions * ((DEPTH - center[2]) / directions[..., 2:])


def depth(view: Cameras) -> np.ndarray:
    points = torch.tensor(plane_points(view).reshape(-1, 3), dtype=torch.float32)
    return view.project(points)[1][0].numpy().reshape(HEIGHT, WIDTH)


def picture(view: Cameras, phase: float = 0.0) -> np.ndarray:
    x, y, _ = np.moveaxis(plane_points(view), -1, 0)
    waves = np.stack([np.sin(3 * x + phase), np.cos(4 * y + phase), np.sin(2 * (x + y))], axis=-1)
    return np.clip(127.5 + 100 * waves, 0, 255).round().astype(np.uint8)


def sequence(cameras: list[Cameras]) -> Sequence3d:
    depths = [depth(view) for view in cameras]
    return Sequence3d(cameras, lambda index: depths[index])


SWEEP = [camera(0.05 * index, 0.01 * index) for index in range(5)]


def test_views_of_one_plane_are_consistent() -> None:
    pairs = neighbour_warps(sequence(SWEEP))
    assert len(pairs) == 4
    frames = [picture(view) for view in SWEEP]
    found = consistency(lambda index: frames[index], pairs, [])
    assert found.neighbours is not None and found.neighbours < SMOOTH_TOLERANCE
    assert (found.revisit, found.pairs, found.revisits) == (None, 4, 0)


def test_flicker_is_seen() -> None:
    pairs = neighbour_warps(sequence(SWEEP))
    steady = [picture(view) for view in SWEEP]
    flicker = [
        np.clip(frame.astype(int) + 20 * (index % 2), 0, 255).astype(np.uint8)
        for index, frame in enumerate(steady)
    ]
    found = consistency(lambda index: flicker[index], pairs, []).neighbours
    assert found == pytest.approx(20 / 255, abs=0.01)


def test_invention_that_changes_is_seen_when_the_camera_returns() -> None:
    """Content drifts slowly: neighbours hardly differ, the first and the last view do."""
    positions = [*np.linspace(0, 0.5, REVISIT_FRAMES), *np.linspace(0.5, 0, REVISIT_FRAMES)]
    cameras = [camera(float(x)) for x in positions]
    views = sequence(cameras)
    near, far = neighbour_warps(views), revisit_warps(views)
    assert far and all(pair.target - pair.source >= REVISIT_FRAMES for pair in far)
    assert far[-1].source == 0, "the end of the path is where it began"
    drifting = [picture(view, phase=0.08 * index) for index, view in enumerate(cameras)]
    steady = [picture(view) for view in cameras]
    drift, still = (
        consistency(lambda index, frames=frames: frames[index], near, far)  # type: ignore[misc]
        for frames in (drifting, steady)
    )
    assert still.revisit is not None and still.revisit < SMOOTH_TOLERANCE
    assert drift.revisit is not None and drift.neighbours is not None
    assert drift.revisit > 4 * drift.neighbours > 0


def test_the_warp_is_that_of_a_slow_loop() -> None:
    views = sequence(SWEEP)
    pair = warp(views, 3, 0)
    points = plane_points(SWEEP[3])
    for row, column in ((0, 0), (20, 33), (47, 63)):
        point = torch.tensor(points[row, column][None], dtype=torch.float32)
        pixel, z, _ = SWEEP[0].project(point)
        x, y = (float(value) for value in pixel[0, 0])
        is_inside = 0 < x < WIDTH and 0 < y < HEIGHT and float(z) > 0
        assert bool(pair.visible[row, column]) == is_inside
        ours = [float(value) for value in pair.grid[row, column]]
        assert ours == pytest.approx([2 * x / WIDTH - 1, 2 * y / HEIGHT - 1], abs=1e-4)


def test_occluded_pixels_do_not_count() -> None:
    """A wall stands in front of the plane in the source view."""
    views = sequence(SWEEP[:2])
    walled = [views.depths(0).copy(), views.depths(1)]
    walled[0][:, : WIDTH // 2] = 0.5
    pair = warp(Sequence3d(SWEEP[:2], lambda index: walled[index]), 1, 0)
    assert not pair.visible[:, :25].any() and pair.visible[:, 40:60].all()
    frames = [picture(view) for view in SWEEP[:2]]
    frames[0][:, : WIDTH // 2] = 255
    assert warp_error(frames[1], frames[0], pair) < 2 * SMOOTH_TOLERANCE


def test_pixels_without_depth_do_not_count() -> None:
    views = sequence(SWEEP[:2])
    holes = [views.depths(0), views.depths(1).copy()]
    holes[1][:10] = np.nan
    pair = warp(Sequence3d(SWEEP[:2], lambda index: holes[index]), 1, 0)
    assert not pair.visible[:10].any() and pair.visible[12:, :50].all()
    assert torch.isfinite(pair.grid).all()


def test_views_without_overlap_are_no_pair() -> None:
    assert neighbour_warps(sequence([camera(0.0), camera(40.0)])) == []
