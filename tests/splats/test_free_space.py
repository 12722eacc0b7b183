"""Virtual cameras, what counts as supported, and that the loss keeps unseen space empty."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from artifixer.geometry.cameras import Cameras
from artifixer.scenes.scene import Photo
from artifixer.splats.free_space import (
    FreeSpaceConfig,
    FreeSpaceLoss,
    PhotoDepth,
    sample_virtual_camera,
    supported,
)
from artifixer.splats.mcmc import McmcConfig
from artifixer.splats.reconstruct import (
    LearningRates,
    ReconstructConfig,
    reconstruct,
)
from artifixer.splats.render import render
from artifixer.splats.splats import Splats
from artifixer.splats.training_view import TrainingView

SIZE = 32


def looking_along_z(x: float, z: float = 0.0, angle: float = 0.0) -> Cameras:
    """A camera at (x, 0, z) with a field of view of 90 degrees, turned by ``angle`` radians towards
    +x.
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.tensor([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    viewmat[:3, 3] = -viewmat[:3, :3] @ torch.tensor([x, 0, z])
    K = torch.tensor([[SIZE / 2, 0, SIZE / 2], [0, SIZE / 2, SIZE / 2], [0, 0, 1]])
    return Cameras.pinhole(viewmat[None], K[None], SIZE, SIZE)


def wall(distance: float, left: float, right: float, opacity: float = 0.99) -> Splats:
    """A flat wall of Gaussians at z = ``distance`` from x = ``left`` to ``right``, 12 high."""
    x, y = torch.meshgrid(
        torch.arange(left, right + 0.01, 0.2), torch.arange(-6.0, 6.01, 0.2), indexing="ij"
    )
    count = x.numel()
    return Splats(
        means=torch.stack([x.flatten(), y.flatten(), torch.full((count,), distance)], dim=1),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        log_scales=torch.tensor([[0.15, 0.15, 0.01]]).log().repeat(count, 1),
        opacity_logits=torch.logit(torch.full((count,), opacity)),
        sh=torch.zeros(count, 1, 3),
    )


def test_a_wall_is_supported_where_the_photo_shows_it_and_not_beyond_its_frame():
    splats, photo, virtual = wall(4.0, -12, 12), looking_along_z(0.0), looking_along_z(3.0)
    photos = [PhotoDepth(photo, render(splats, photo).depth[0])]
    found = supported(render(splats, virtual), virtual, photos, tolerance=0.1)
    columns = torch.arange(SIZE) + 0.5
    x = 3.0 + 4.0 * (columns - SIZE / 2) / (SIZE / 2)  # where the wall is met
    expected = (x > -4) & (x < 4)
    border = (x.abs() - 4).abs() < 0.3
    assert torch.equal(found[:, ~border], expected[~border].expand(SIZE, -1))
    assert expected.any() and not expected.all()


def test_what_hides_behind_or_floats_before_the_photos_surface_is_not_supported():
    photo = looking_along_z(0.0)
    photos = [PhotoDepth(photo, render(wall(4.0, -12, 12), photo).depth[0])]
    for distance, expected in ((4.0, True), (4.3, True), (5.0, False), (3.0, False)):
        found = supported(render(wall(distance, -12, 12), photo), photo, photos, tolerance=0.1)
        assert bool((found == expected).all()), distance


def test_one_of_several_photos_is_enough_and_an_empty_pixel_has_no_support():
    splats, virtual = wall(4.0, -2, 2), looking_along_z(0.0)
    away, towards = looking_along_z(0.0, z=5.0), looking_along_z(0.5)
    photos = [PhotoDepth(camera, render(splats, camera).depth[0]) for camera in (away, towards)]
    renders = render(splats, virtual)
    found = supported(renders, virtual, photos, tolerance=0.1)
    assert found[SIZE // 2, SIZE // 2]
    assert not found[renders.opacity[0] < 0.01].any()
    assert not supported(renders, virtual, photos[:1], tolerance=0.1).any()


def test_virtual_cameras_stay_near_the_photos_and_repeat():
    cameras = [looking_along_z(0.0), looking_along_z(2.0)]
    config = FreeSpaceConfig(position_spread=0.05, angle_spread=0.3)
    drawn = [
        sample_virtual_camera(cameras, 2.0, config, torch.Generator().manual_seed(k))
        for k in range(200)
    ]
    assert {(camera.width, camera.height) for camera in drawn} == {
        (SIZE // config.downscale, SIZE // config.downscale)
    }
    centers = torch.cat([camera.centers for camera in drawn])
    assert centers[:, 0].min() < 0.2 and centers[:, 0].max() > 1.8
    # a quarter beyond the ends, and the spread
    assert centers[:, 0].min() > -1.2 and centers[:, 0].max() < 3.2
    assert centers[:, 1:].std() == pytest.approx(0.1, rel=0.3)
    forward = torch.cat([camera.camera_to_world[:, 2, 2] for camera in drawn])
    assert 0.1 < torch.acos(forward.clamp(-1, 1)).mean() < 0.4
    again = sample_virtual_camera(cameras, 2.0, config, torch.Generator().manual_seed(7))
    assert torch.equal(again.viewmats, drawn[7].viewmats)
    for camera in drawn[:5]:
        assert torch.allclose(
            camera.viewmats[0, :3, :3] @ camera.viewmats[0, :3, :3].mT, torch.eye(3), atol=1e-5
        )


def test_the_loss_lowers_only_what_has_no_support():
    """A photo looks straight; the wall goes on to the right of its frame."""
    splats, photo = wall(4.0, -5, 12, opacity=0.9), looking_along_z(0.0)
    logits = splats.opacity_logits.clone().requires_grad_()
    leaves = replace(splats, opacity_logits=logits)
    penalty = FreeSpaceLoss(
        [photo], extent=2.0, near=0.1, config=FreeSpaceConfig(weight=0.3, angle_spread=0.7)
    )
    total = sum(penalty.loss(leaves, 1, torch.Generator().manual_seed(seed)) for seed in range(30))
    (gradient,) = torch.autograd.grad(total, logits)
    x = splats.means[:, 0]
    shown = (x.abs() < 3.5) & (splats.means[:, 1].abs() < 3.5)
    assert gradient[x > 4.5].sum() > 0
    assert gradient[shown].abs().sum() < 0.02 * gradient[x > 4.5].abs().sum()


def test_with_the_loss_the_space_beside_the_photos_stays_empty():
    scene = wall(4.0, -12, 12)
    checks = torch.rand(len(scene), 1, 3, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    scene = replace(scene, sh=checks)
    cameras = [looking_along_z(-0.3), looking_along_z(0.3)]
    photos = []
    for camera in cameras:
        pixels = (render(scene, camera).rgb[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        photos.append(Photo("photo.png", SIZE, SIZE, lambda pixels=pixels: pixels))
    generator = torch.Generator().manual_seed(1)
    count = 150
    start = Splats(
        means=torch.rand(count, 3, generator=generator) * torch.tensor([10.0, 8, 0.4])
        - torch.tensor([5.0, 4, -3.8]),
        quats=torch.randn(count, 4, generator=generator),
        log_scales=torch.full((count, 3), math.log(0.8)),
        opacity_logits=torch.zeros(count),
        sh=torch.zeros(count, 1, 3),
    )
    rates = LearningRates(means=5e-3, means_final=5e-4, log_scales=2e-2, sh=2e-2)
    config = ReconstructConfig(
        iterations=150,
        sh_degree=0,
        learning_rates=rates,
        mcmc=McmcConfig(max_gaussians=200, every=20, noise=1.0),
    )
    opacities = {}
    for weight in (0.0, 2.0):
        free_space = FreeSpaceConfig(weight=weight, start=0.3, interval=2, angle_spread=0.6)
        views = [TrainingView(*view) for view in zip(photos, cameras, strict=True)]
        splats = reconstruct(views, start, 2.0, replace(config, free_space=free_space), seed=0)
        aside = render(splats, looking_along_z(0.0, angle=0.9)).opacity[0]
        ahead = render(splats, looking_along_z(0.0)).opacity[0]
        beyond = aside[8:24, 20:]  # rays that leave the photos' frames
        opacities[weight] = (float(beyond.mean()), float(ahead[2:-2, 2:-2].mean()))
    assert opacities[2.0][0] < 0.6 * opacities[0.0][0]
    assert opacities[2.0][1] > 0.85, "what the photos show stays opaque"
