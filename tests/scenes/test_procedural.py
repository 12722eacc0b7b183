"""Procedural captures: the same name gives the same bytes, depth and tracks lie on surfaces,
visibility equals brute force.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import rotation_angle
from artifixer.runtime.errors import InputError
from artifixer.scenes import procedural
from artifixer.scenes.procedural.raycast import BALL, BOX, CONE, CYLINDER
from artifixer.scenes.procedural.solids import clearance
from artifixer.scenes.procedural.world import World

ROOM, YARD = (
    "procedural:3:frames=6,width=32,height=24,place=room",
    "procedural:5:frames=6,width=32,height=24,place=yard",
)

#: Pixels: tracks hold exact projections of points stored as float32.
TRACK_PIXELS = 1e-2
#: Metres: depth and cameras are float32 at distances up to some 50 m.
SURFACE_METRES = 2e-3
#: Share of pixels that may differ from the marching twin, whose steps are coarse at grazing sight
#: lines and thin edges.
TWIN_DIFFERENT = 0.02
#: Metres between two samples of the twin's sight lines, and the margin at their ends that counts as
#: the surface itself.
TWIN_STEP, TWIN_END = 2e-3, 6e-3


def batch(name: str) -> tuple[World, Cameras]:
    scene = procedural.load(name)
    return procedural.world_of(scene), scene.batch(range(len(scene.cameras)))


def world_points(cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    """Points ``[views height width 3]`` at camera z ``depth`` behind the pixels, float64."""
    cameras = cameras.to(dtype=torch.float64)
    rows, columns = torch.meshgrid(
        torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij"
    )
    pixels = (
        torch.stack([columns, rows], dim=-1).reshape(1, -1, 2).double().expand(len(cameras), -1, 2)
    )
    rays = cameras.unproject(pixels)
    in_camera = rays / rays[..., 2:] * depth.reshape(len(cameras), -1, 1).double()
    pose = cameras.camera_to_world
    points = in_camera @ pose[:, :3, :3].mT + pose[:, None, :3, 3]
    return points.reshape(*depth.shape, 3)


def holds(world: World, points: np.ndarray) -> np.ndarray:
    """Whether any solid contains each point, by the shapes' inequalities alone."""
    inside = np.zeros(len(points), bool)
    for kind, to_local in zip(world.solids.kind, world.solids.to_local, strict=True):
        x, y, z = to_local[:, :3] @ points.T + to_local[:, 3:]
        in_cube = (abs(x) < 1) & (abs(y) < 1) & (abs(z) < 1)
        if kind == BALL:
            inside |= x * x + y * y + z * z < 1
        elif kind == BOX:
            inside |= in_cube
        elif kind == CYLINDER:
            inside |= in_cube & (x * x + y * y < 1)
        elif kind == CONE:
            inside |= in_cube & (x * x + y * y < ((1 - z) / 2) ** 2)
        else:
            inside |= in_cube & (abs(x) < (1 - z) / 2)
    return inside


@pytest.mark.parametrize("name", [ROOM, YARD])
def test_a_name_always_gives_the_same_bytes(name: str) -> None:
    first = procedural.load(name)
    photo = first.photos[2].read()
    procedural.capture._world_of_name.cache_clear()
    second = procedural.load(name)
    assert np.array_equal(photo, second.photos[2].read())
    assert torch.equal(first.batch(range(6)).viewmats, second.batch(range(6)).viewmats)
    assert first.points is not None and second.points is not None
    assert torch.equal(first.points.xyz, second.points.xyz) and torch.equal(
        first.points.rgb, second.points.rgb
    )
    assert not torch.equal(
        first.cameras[0].viewmats, procedural.load(name.replace(":", ":1", 1)).cameras[0].viewmats
    )


@pytest.mark.parametrize("name", [ROOM, YARD])
def test_colours_lie_in_range_and_show_something(name: str) -> None:
    world, cameras = batch(name)
    views = procedural.render_world(world, cameras)
    assert views.rgb.dtype == views.depth.dtype == torch.float32
    assert float(views.rgb.min()) >= 0 and float(views.rgb.max()) <= 1
    assert float(views.rgb.std()) > 0.05
    assert bool((views.depth > 0).all())


@pytest.mark.parametrize("name", [ROOM, YARD])
def test_depth_lies_where_empty_space_meets_a_solid(name: str) -> None:
    world, cameras = batch(name)
    depth = procedural.render_world(world, cameras[:2], samples=1).depth
    hit = torch.isfinite(depth)
    before, behind = (
        world_points(cameras[:2], depth + side * SURFACE_METRES)[hit].numpy() for side in (-1, 1)
    )
    # A ray that only grazes a solid may leave it again within the tolerance.
    assert not holds(world, before).any()
    assert holds(world, behind).mean() > 0.99


@pytest.mark.parametrize("name", [ROOM, YARD])
def test_depth_and_projection_go_there_and_back(name: str) -> None:
    world, cameras = batch(name)
    depth = procedural.render_world(world, cameras[:1], samples=1).depth
    hit = torch.isfinite(depth[0]).flatten()
    pixels, z, valid = (
        cameras[:1]
        .to(dtype=torch.float64)
        .project(world_points(cameras[:1], depth)[0].reshape(-1, 3)[hit])
    )
    rows, columns = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    assert bool(valid.all())
    torch.testing.assert_close(
        pixels[0],
        torch.stack([columns, rows], dim=-1).reshape(-1, 2)[hit].double(),
        atol=1e-4,
        rtol=0,
    )
    torch.testing.assert_close(z[0], depth[0].flatten()[hit].double(), atol=1e-4, rtol=1e-6)


def test_a_yard_has_sky_at_infinity_and_no_surface_there() -> None:
    world, cameras = batch(YARD)
    up = cameras.viewmats[:1].clone()
    up[0, :3, :3] = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, 1]])  # straight up
    up[0, :3, 3] = -up[0, :3, :3] @ torch.tensor([0.0, 0, 60])
    sky = Cameras.pinhole(up, cameras.Ks[:1], cameras.width, cameras.height)
    assert bool(torch.isinf(procedural.render_world(world, sky).depth).all())
    assert bool((procedural.seen_by(world, sky, cameras) == procedural.NO_SURFACE).all())


@pytest.mark.parametrize("name", [ROOM, YARD])
def test_visibility_equals_marching_along_every_sight_line(name: str) -> None:
    world, cameras = batch(name)
    small, others = cameras[:1].resized(12, 9), cameras[[2, 5]]
    counts = procedural.seen_by(world, small, others)[0].flatten()
    depth = procedural.render_world(world, small, samples=1).depth
    points = world_points(small, depth)[0].reshape(-1, 3)
    expected = torch.full_like(counts, procedural.NO_SURFACE)
    for pixel in range(len(points)):
        if not torch.isfinite(depth.flatten()[pixel]):
            continue
        expected[pixel] = 0
        at, _, valid = others.to(dtype=torch.float64).project(points[pixel : pixel + 1])
        for view in range(len(others)):
            x, y = at[view, 0].tolist()
            if bool(valid[view, 0]) and 0 <= x < others.width and 0 <= y < others.height:
                eye, point = others.centers[view].double().numpy(), points[pixel].numpy()
                length = float(np.linalg.norm(point - eye))
                along = np.arange(0, length - TWIN_END, TWIN_STEP)[:, None] / length
                expected[pixel] += not holds(world, eye + along * (point - eye)).any()
    assert float((counts != expected).double().mean()) <= TWIN_DIFFERENT
    assert len(set(counts.tolist())) > 1


@pytest.mark.parametrize("name", [ROOM, YARD])
def test_own_surfaces_are_seen_by_the_own_camera(name: str) -> None:
    world, cameras = batch(name)
    own = procedural.seen_by(world, cameras[:1], cameras[:1])
    assert set(own.unique().tolist()) <= {procedural.NO_SURFACE, 1}


@pytest.mark.parametrize("name", [ROOM, YARD])
def test_tracks_hold_two_views_or_more_and_reproject(name: str) -> None:
    scene = procedural.load(name)
    points = scene.points
    assert points is not None and len(points) > 50
    pixels, _, _ = scene.batch(range(6)).project(points.xyz)
    error = (pixels[points.observed_view, points.observed_point] - points.observed_pixel).norm(
        dim=1
    )
    assert float(error.max()) < TRACK_PIXELS
    assert int(torch.bincount(points.observed_point, minlength=len(points)).min()) >= 2


@pytest.mark.parametrize("place", ["room", "yard"])
@pytest.mark.parametrize("seed", [1, 2, 8])
def test_paths_are_smooth_and_keep_clear_of_solids(seed: int, place: procedural.Place) -> None:
    world, cameras = batch(f"procedural:{seed}:frames=48,width=32,height=24,place={place}")
    eyes = cameras.centers.double()
    steps = eyes.diff(dim=0)
    assert float(steps.norm(dim=1).max()) < 0.6
    # No jerk: neighbouring steps differ by less than a step.
    assert float(steps.diff(dim=0).norm(dim=1).max()) < 0.15
    assert (
        float(rotation_angle(cameras.viewmats[:-1, :3, :3], cameras.viewmats[1:, :3, :3]).max())
        < 0.35
    )
    between = torch.cat([eyes, (eyes[1:] + eyes[:-1]) / 2]).numpy()
    assert not holds(world, between).any()
    assert clearance(world.solids, between).min() > 0.05
    focal = float(cameras.Ks[0, 0, 0]) / 32
    assert 0.7 <= focal <= 1.5


@pytest.mark.parametrize(
    "name",
    [
        "procedural:",
        "procedural:x",
        "procedural:-1",
        "procedural:1:2:3",
        "procedural:1:frames=1",
        "procedural:1:colour=red",
        "procedural:²",
    ],
)
def test_malformed_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as caught:
        procedural.load(name)
    assert "\n" not in str(caught.value) and name in str(caught.value)
