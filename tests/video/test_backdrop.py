"""Lent structure: it is the photos' own, hangs still, goes on everywhere, has no colour of its own, and leaves what was rendered alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.video.backdrop import COARSENESS, RADIUS, UNSEEN, Backdrop

WIDTH, HEIGHT = 96, 64

#: Pixels by which angles and tangents differ in narrow fields of view, times the steepest slope of the made photos.
NARROW_TOLERANCE = 2e-3

#: Bilinear interpolation of the made photos, twice.
INTERPOLATION_TOLERANCE = 0.05

#: float32 in world units far from the origin, in pixels, times the slope.
MOTION_TOLERANCE = 1e-3

#: float32 in another order.
GPU_TOLERANCE = 1e-4


def cameras_at(positions: list[tuple[float, float, float]], yaws: list[float], field: float = 60.0) -> Cameras:
    """yaws: to the right of +z, degrees. field: of view from left to right, degrees."""
    angles = torch.deg2rad(torch.tensor(yaws))
    to_world = torch.eye(4).repeat(len(yaws), 1, 1)
    to_world[:, 0, 0] = to_world[:, 2, 2] = angles.cos()
    to_world[:, 0, 2], to_world[:, 2, 0] = angles.sin(), -angles.sin()
    to_world[:, :3, 3] = torch.tensor(positions)
    focal = WIDTH / 2 / math.tan(math.radians(field / 2))
    K = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    return Cameras.pinhole(torch.linalg.inv(to_world), K.repeat(len(yaws), 1, 1), WIDTH, HEIGHT)


def wavy_photos(count: int) -> Tensor:
    """Waves of 14 to 24 pixels on a slope of colours; each photo has its own."""
    random = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    turns = torch.rand(count, 3, generator=random) * 6.3
    waves = 2 * math.pi / (14 + 10 * torch.rand(count, 3, generator=random))
    along = columns[..., None, None] * turns.cos() + rows[..., None, None] * turns.sin()
    values = 0.5 + 0.25 * torch.sin(along * waves) + 0.2 * (columns / WIDTH - 0.5)[..., None, None]
    return (values * 255).round().to(torch.uint8).permute(2, 0, 1, 3).contiguous()


def structure_of(photo: Tensor) -> Tensor:
    """What a Gaussian takes from a photo, by another implementation of it."""
    values = photo.numpy() / 255
    blurred = gaussian_filter(values, COARSENESS * WIDTH, mode="mirror", truncate=3, axes=(0, 1))
    return torch.from_numpy((values - blurred).astype(np.float32))


def around(count: int = 6) -> Cameras:
    """Cameras that move and look ahead, to all sides, and behind."""
    return cameras_at(
        [(0.1 * index, 0.05 * index, -0.1 * index) for index in range(count)], [360 * index / count for index in range(count)]
    )


def test_a_camera_in_a_photos_place_sees_its_structure() -> None:
    photos, cameras = wavy_photos(2), cameras_at([(1, 0, 0), (-1, 0.5, 0)], [20, 200], field=3)
    seen = Backdrop.of(photos, cameras, depth=3.0).seen_by(cameras)
    assert seen.shape == (2, HEIGHT, WIDTH, 3)
    for view in range(2):
        expected = structure_of(photos[view])
        assert float(expected.std()) > 0.05
        torch.testing.assert_close(seen[view], expected, rtol=0, atol=NARROW_TOLERANCE)


def test_photos_of_wide_lenses_are_in_place_in_the_middle() -> None:
    photos, cameras = wavy_photos(1), cameras_at([(1, 0, 0)], [20], field=90)
    seen = Backdrop.of(photos, cameras, depth=3.0).seen_by(cameras)[0]
    middle = slice(HEIGHT // 2 - 2, HEIGHT // 2 + 2), slice(WIDTH // 2 - 2, WIDTH // 2 + 2)
    torch.testing.assert_close(seen[middle], structure_of(photos[0])[middle], rtol=0, atol=INTERPOLATION_TOLERANCE)


def test_a_place_on_the_sphere_looks_the_same_from_everywhere() -> None:
    photographer, depth = cameras_at([(0.5, 0, 0)], [0]), 2.0
    backdrop = Backdrop.of(wavy_photos(1), photographer, depth)
    viewers = cameras_at([(-0.6, 0.2, 0.5), (1.2, -0.3, -0.8)], [10, -15])
    images = backdrop.seen_by(viewers).permute(0, 3, 1, 2)

    def differences(radius: float) -> Tensor:
        """Between what both see at the places that both see."""
        random = torch.Generator().manual_seed(1)
        directions = F.normalize(torch.randn(4000, 3, generator=random), dim=-1)
        pixels, _, valid = viewers.project(photographer.centers + radius * directions)
        sides = torch.tensor([WIDTH, HEIGHT])
        shared = (valid & ((pixels > 1) & (pixels < sides - 1)).all(dim=-1)).all(dim=0)
        assert int(shared.sum()) > 50
        grid = (pixels[:, shared] / sides * 2 - 1)[:, None]
        first, second = F.grid_sample(images, grid, align_corners=False)[:, :, 0]
        assert float(first.std()) > 0.05
        return (first - second).abs()

    assert float(differences(RADIUS * depth).max()) < INTERPOLATION_TOLERANCE
    assert float(differences(RADIUS * depth * 1.5).max()) > 4 * INTERPOLATION_TOLERANCE, "elsewhere it would not"


def test_structure_goes_on_beyond_all_photos() -> None:
    backdrop = Backdrop.of(wavy_photos(1), cameras_at([(0, 0, 0)], [0], field=40), depth=1.0)
    seen = backdrop.seen_by(around(12))
    assert seen.isfinite().all()
    assert (seen.std(dim=(1, 2)) > 0.02).all(), "to every side and behind"


def test_cameras_outside_of_the_sphere_see_something_too() -> None:
    backdrop = Backdrop.of(wavy_photos(1), cameras_at([(0, 0, 0)], [0]), depth=1.0)
    outside = cameras_at([(0, 0, 50), (0, 0, 50), (50, 0, 0), (0, 50, -50), (0, 0, RADIUS)], [0, 180, 5, 77, 0])
    assert backdrop.seen_by(outside).isfinite().all()
    assert (backdrop.seen_by(outside).std(dim=(1, 2)).amax(dim=-1) > 0).all()


def test_rays_that_miss_the_sphere_go_on_where_others_touch_it() -> None:
    distance = 3 * RADIUS
    edge = math.degrees(math.asin(1 / 3))
    outside = cameras_at([(0, 0, -distance)], [edge], field=0.05)  # the sphere's edge is in the middle
    seen = Backdrop.of(wavy_photos(1), cameras_at([(0, 0, 0)], [0]), depth=1.0).seen_by(outside)[0]
    assert float(seen.abs().max()) > 0.05
    assert float(seen.diff(dim=1).abs().max()) < 0.1


def test_structure_has_no_colour_of_its_own() -> None:
    cameras = cameras_at([(0, 0, 0)], [0], field=3)
    plain = torch.tensor([200, 30, 90], dtype=torch.uint8).expand(1, HEIGHT, WIDTH, 3)
    assert float(Backdrop.of(plain, cameras, depth=1.0).seen_by(around()).abs().max()) < 1e-6

    photos = wavy_photos(1)
    seen = Backdrop.of(photos, cameras, depth=1.0).seen_by(cameras)
    means, colours = (F.avg_pool2d(image.permute(0, 3, 1, 2), 32) for image in (seen, photos / 255))
    assert float(means.abs().max()) < 0.03
    assert float(colours.amax() - colours.amin()) > 0.1, "the photo has"


def test_a_place_is_lent_by_the_photo_in_whose_middle_it_lies_nearest() -> None:
    """A photo with red stripes ahead, a plain one behind; then with a wider lens on the one ahead."""
    photos = torch.full((2, HEIGHT, WIDTH, 3), 100, dtype=torch.uint8)
    photos[0, :, ::4, 0] = 255
    cameras = cameras_at([(0, 0, 0.1), (0, 0, -0.1)], [0, 180], field=80)

    def striped(lenders: Cameras, yaw: float) -> bool:
        seen = Backdrop.of(photos, lenders, depth=2.0).seen_by(cameras_at([(0.2, 0, 0)], [yaw], field=4))
        assert float(seen[..., 1:].abs().max()) < 1e-6, "the stripes are red"
        is_lent = seen[..., 0].abs() > 1e-3
        assert bool(is_lent.any()) == (float(is_lent.float().mean()) > 0.5)
        return bool(is_lent.any())

    assert [striped(cameras, yaw) for yaw in (0, 70, -70, 110, -110, 180)] == [True, True, True, False, False, False]
    wider = cameras.Ks.clone()
    wider[0, 0, 0] /= 2
    assert [striped(replace(cameras, Ks=wider), yaw) for yaw in (70, 100, -100, 180)] == [True, True, True, False]


def test_frames_get_structure_as_far_as_they_are_empty() -> None:
    backdrop, cameras = Backdrop.of(wavy_photos(2), around()[:2], depth=2.0), around()[2:5]
    frames = torch.rand(3, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(2))
    opacity = torch.ones(3, HEIGHT, WIDTH)
    opacity[:2, :, 32:64], opacity[:2, :, 64:] = 0.5, 0.0
    before = frames.clone()
    lent, structure = backdrop.lend(frames, opacity, cameras), backdrop.seen_by(cameras)
    assert torch.equal(frames, before), "the caller's frames stay"
    assert torch.equal(lent[:, :, :32], frames[:, :, :32])
    assert torch.equal(lent[2], frames[2])
    torch.testing.assert_close(lent[:2, :, 32:64] - frames[:2, :, 32:64], structure[:2, :, 32:64] / 4, rtol=0, atol=1e-6)
    torch.testing.assert_close(lent[:2, :, 64:] - frames[:2, :, 64:], structure[:2, :, 64:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("emptiness", [0.0, UNSEEN / 2])
def test_frames_without_empty_places_stay_as_they_are(emptiness: float) -> None:
    backdrop, cameras = Backdrop.of(wavy_photos(1), around()[:1], depth=2.0), around()
    frames = torch.rand(len(cameras), HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(backdrop.lend(frames, torch.full(frames.shape[:3], 1 - emptiness), cameras), frames)


def test_a_frame_does_not_depend_on_the_others() -> None:
    backdrop, cameras = Backdrop.of(wavy_photos(3), around()[1:4], depth=2.0), around(7)
    random = torch.Generator().manual_seed(4)
    frames, opacity = torch.rand(7, HEIGHT, WIDTH, 3, generator=random), torch.rand(7, HEIGHT, WIDTH, generator=random)
    opacity[3] = 1
    whole = backdrop.lend(frames, opacity, cameras)
    for length in (1, 2, 5):
        cuts = [slice(first, first + length) for first in range(0, 7, length)]
        parts = [backdrop.lend(frames[part], opacity[part], cameras[part]) for part in cuts]
        assert torch.equal(torch.cat(parts), whole)


def test_frames_of_half_precision_keep_their_type() -> None:
    backdrop, cameras = Backdrop.of(wavy_photos(1), around()[:1], depth=2.0), around()[:2]
    frames = torch.full((2, HEIGHT, WIDTH, 3), 0.5, dtype=torch.bfloat16)
    lent = backdrop.lend(frames, torch.zeros(2, HEIGHT, WIDTH), cameras)
    assert lent.dtype == torch.bfloat16
    torch.testing.assert_close(lent.float(), 0.5 + backdrop.seen_by(cameras), rtol=0, atol=0.01)


def test_moving_the_world_changes_nothing() -> None:
    photos, lenders, viewers = wavy_photos(2), around()[:2], around()[2:]
    before = Backdrop.of(photos, lenders, depth=2.0).seen_by(viewers)
    motion = torch.eye(4)
    motion[:3, :3] = quaternion_to_matrix(torch.tensor([0.6, -0.3, 0.7, 0.2]))
    motion[:3, 3] = torch.tensor([5.0, -3.0, 8.0])
    moved = (replace(cameras, viewmats=cameras.viewmats @ torch.linalg.inv(motion)) for cameras in (lenders, viewers))
    after = Backdrop.of(photos, next(moved), depth=2.0).seen_by(next(moved))
    torch.testing.assert_close(after, before, rtol=0, atol=MOTION_TOLERANCE)


def test_the_unit_of_length_changes_nothing() -> None:
    photos, lenders, viewers = wavy_photos(2), around()[:2], around()[2:]
    before = Backdrop.of(photos, lenders, depth=2.0).seen_by(viewers)
    scaled = []
    for cameras in (lenders, viewers):
        viewmats = cameras.viewmats.clone()
        viewmats[:, :3, 3] *= 37
        scaled.append(replace(cameras, viewmats=viewmats))
    after = Backdrop.of(photos, scaled[0], depth=2.0 * 37).seen_by(scaled[1])
    torch.testing.assert_close(after, before, rtol=0, atol=MOTION_TOLERANCE)
    other = Backdrop.of(photos, lenders, depth=1.0).seen_by(viewers)
    assert float((other - before).abs().mean()) > 0.01, "the sphere's size does"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_lends_what_a_cpu_lends() -> None:
    photos, lenders, viewers = wavy_photos(1), cameras_at([(0.5, 0, 0)], [0]), cameras_at([(-0.6, 0.2, 0.5), (1.2, -0.3, -0.8)], [10, -15])
    frames, opacity = torch.full((2, HEIGHT, WIDTH, 3), 0.5), torch.linspace(0, 1, WIDTH).expand(2, HEIGHT, WIDTH)
    expected = Backdrop.of(photos, lenders, depth=2.0).lend(frames, opacity, viewers)
    with torch.backends.cudnn.flags(allow_tf32=False):
        backdrop = Backdrop.of(photos.cuda(), lenders.to("cuda"), depth=2.0)
    ours = backdrop.lend(frames.cuda(), opacity.cuda(), viewers.to("cuda"))
    torch.testing.assert_close(ours.cpu(), expected, rtol=0, atol=GPU_TOLERANCE)
