"""Reconstruction: it fits, resumes bit for bit, and listens to weights."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.recipes.reconstruct import RECIPES
from artifixer.recipes.run import RECIPES as RUN
from artifixer.runtime.errors import InputError, Stopped
from artifixer.scenes.scene import Photo, SparsePoints
from artifixer.scenes.view import View
from artifixer.splats.free_space import FreeSpaceConfig
from artifixer.splats.initial import (
    ColoredPoints,
    InitialConfig,
    add_pixels,
    scene_extent,
    seen_points,
    splats_at,
)
from artifixer.splats.mcmc import McmcConfig
from artifixer.splats.reconstruct import (
    MIN_OPACITY,
    LearningRates,
    ReconstructConfig,
    dropped_out,
    reconstruct,
)
from artifixer.splats.render import render
from artifixer.splats.splats import Splats
from artifixer.splats.training_view import TrainingView

SIZE = 40
EXTENT = 4.0

CONFIG = ReconstructConfig(
    iterations=60,
    sh_degree=1,
    sh_every=20,
    learning_rates=LearningRates(means=2e-3, means_final=2e-4, log_scales=1e-2, sh=1e-2),
    mcmc=McmcConfig(max_gaussians=200, every=10, growth=1.2, noise=1.0),
    free_space=FreeSpaceConfig(weight=0.3),
    unseen_weight=0.01,
)


def cameras(count: int) -> list[Cameras]:
    angles = torch.arange(count) * (2 * math.pi / count)
    eyes = torch.stack([4 * angles.cos(), 4 * angles.sin(), torch.full((count,), 1.5)], dim=1)
    viewmats = invert_rigid(look_at(eyes, torch.zeros(count, 3), torch.tensor([0.0, 0.0, 1.0])))
    K = torch.tensor([[50.0, 0, SIZE / 2], [0, 50, SIZE / 2], [0, 0, 1]])
    batch = Cameras.pinhole(viewmats, K.expand(count, 3, 3), SIZE, SIZE)
    return [batch[view] for view in range(count)]


def blobs(count: int, seed: int) -> Splats:
    generator = torch.Generator().manual_seed(seed)
    return Splats(
        means=torch.randn(count, 3, generator=generator) * 0.6,
        quats=torch.randn(count, 4, generator=generator),
        log_scales=torch.full((count, 3), -1.6) + 0.3 * torch.randn(count, 3, generator=generator),
        opacity_logits=torch.full((count,), 2.0),
        sh=torch.cat(
            [torch.randn(count, 1, 3, generator=generator), torch.zeros(count, 3, 3)], dim=1
        ),
    )


def photographed(splats: Splats, count: int = 6) -> list[TrainingView]:
    views = []
    for index, camera in enumerate(cameras(count)):
        with torch.no_grad():
            pixels = (
                (render(splats, camera).rgb[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
            )
        photo = Photo(f"{index}.png", SIZE, SIZE, lambda pixels=pixels: pixels)
        views.append(TrainingView(photo, camera))
    return views


def photos_of(views: list[TrainingView]) -> list[Photo]:
    return [view.photo for view in views]


def cameras_of(views: list[TrainingView]) -> list[Cameras]:
    return [view.camera for view in views]


def with_photos(views: list[TrainingView], photos: list[Photo]) -> list[TrainingView]:
    """The views with other photos, one for one."""
    return [replace(view, photo=photo) for view, photo in zip(views, photos, strict=True)]


def plain(views: list[TrainingView]) -> list[View]:
    return [View(view.camera, view.photo) for view in views]


def same(a: Splats, b: Splats) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


@pytest.fixture(scope="module")
def views() -> list[TrainingView]:
    return photographed(blobs(30, seed=1))


def test_the_fit_improves_and_repeats_bit_for_bit(views):
    psnrs = []
    fitted = reconstruct(
        views,
        blobs(60, seed=2),
        EXTENT,
        CONFIG,
        seed=0,
        report=lambda report: psnrs.append(report.psnr),
    )
    assert sum(psnrs[-6:]) / 6 > sum(psnrs[:6]) / 6 + 2
    assert same(fitted, reconstruct(views, blobs(60, seed=2), EXTENT, CONFIG, seed=0))
    assert not same(fitted, reconstruct(views, blobs(60, seed=2), EXTENT, CONFIG, seed=1))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_run_broken_off_anywhere_ends_with_the_same_bits(dropout, views, tmp_path, monkeypatch):
    config = replace(CONFIG, dropout=dropout)
    expected = reconstruct(views, blobs(60, seed=2), EXTENT, config, seed=0)

    class Killed(Exception):
        pass

    # between, right before and after moves of the population, and among virtual cameras
    for stop in (7, 31, 33, 46):
        monkeypatch.setattr("artifixer.splats.fit_checkpoint.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        monkeypatch.setattr("artifixer.splats.fit_checkpoint.SAVING_FRACTION", 1e9)

        def kill(report, stop=stop):
            if report.iteration == stop:
                raise Killed

        checkpoint = tmp_path / f"{stop}.safetensors"
        with pytest.raises(Killed):
            reconstruct(
                views, blobs(60, seed=2), EXTENT, config, seed=0, checkpoint=checkpoint, report=kill
            )
        done = []
        resumed = reconstruct(
            views,
            blobs(60, seed=2),
            EXTENT,
            config,
            seed=0,
            checkpoint=checkpoint,
            report=lambda report, done=done: done.append(report.iteration),
        )
        assert done[0] == stop, "the report stops before the state of its iteration is saved"
        assert same(expected, resumed)


def test_a_stop_request_saves_and_raises(views, tmp_path, monkeypatch):
    monkeypatch.setattr("artifixer.splats.reconstruct.stop_requested", lambda: True)
    with pytest.raises(Stopped, match="after iteration 1 of 60"):
        reconstruct(
            views, blobs(60, seed=2), EXTENT, CONFIG, seed=0, checkpoint=tmp_path / "c.safetensors"
        )
    monkeypatch.undo()
    expected = reconstruct(views, blobs(60, seed=2), EXTENT, CONFIG, seed=0)
    assert same(
        expected,
        reconstruct(
            views, blobs(60, seed=2), EXTENT, CONFIG, seed=0, checkpoint=tmp_path / "c.safetensors"
        ),
    )


def test_a_checkpoint_of_other_photos_is_not_used(views, tmp_path, monkeypatch):
    monkeypatch.setattr("artifixer.splats.reconstruct.stop_requested", lambda: True)
    with pytest.raises(Stopped):
        reconstruct(
            views, blobs(60, seed=2), EXTENT, CONFIG, seed=0, checkpoint=tmp_path / "c.safetensors"
        )
    monkeypatch.undo()
    other = photographed(blobs(30, seed=5))
    done = []
    reconstruct(
        other,
        blobs(60, seed=2),
        EXTENT,
        CONFIG,
        0,
        checkpoint=tmp_path / "c.safetensors",
        report=lambda report: done.append(report.iteration),
    )
    assert done[0] == 1


def test_pixels_and_photos_of_weight_zero_have_no_influence(views):
    """A photo that is wrong in its left half, and one wrong altogether, with weights that hide
    both.
    """
    spoiled = []
    for index, photo in enumerate(photos_of(views)):
        pixels = photo.read().copy()
        if index == 0:
            pixels[:, : SIZE // 2] = 255 - pixels[:, : SIZE // 2]
        if index == 1:
            pixels[:] = 128
        spoiled.append(replace(photo, read=lambda pixels=pixels: pixels))
    mask = torch.ones(SIZE, SIZE)
    # the SSIM window is 11 wide: nothing of the wrong half reaches a pixel that counts
    mask[:, : SIZE // 2 + 11] = 0
    fits = []
    for photos in (photos_of(views), spoiled):
        first, second, *rest = with_photos(views, photos)
        weighted = [replace(first, pixel_weights=mask), replace(second, weight=0.0), *rest]
        fits.append(reconstruct(weighted, blobs(60, seed=2), EXTENT, CONFIG, seed=0))
    assert same(*fits)


def test_what_no_photo_sees_is_removed(views):
    hidden = blobs(60, seed=2)
    behind = hidden.means.clone()
    behind[:10] = torch.tensor([0.0, 0.0, 50.0])
    fitted = reconstruct(views, replace(hidden, means=behind), EXTENT, CONFIG, seed=0)
    assert (fitted.means[:, 2] < 40).all()
    assert len(fitted) > 0


def test_a_plain_fit_keeps_every_gaussian_and_has_no_cap_by_pixels(views):
    plain = replace(
        CONFIG.plain(),
        unseen_weight=0.0,
        mcmc=replace(CONFIG.mcmc, max_gaussians=110),
    )
    fitted = reconstruct(views, blobs(60, seed=2), EXTENT, plain, seed=0)
    assert len(fitted) == 110, "the population grows to its limit and none is removed"
    pixels = sum(photo.width * photo.height for photo in photos_of(views))
    capped = reconstruct(
        views, blobs(60, seed=2), EXTENT, replace(plain, gaussians_per_pixel=90.5 / pixels), seed=0
    )
    assert len(capped) == 90


@pytest.mark.parametrize("name", ["paper", "release"])
def test_recipes_of_the_paper_and_the_release_are_plain_3dgut_with_mcmc(name):
    """Paper section 5.1 and appendix B: 3DGUT with MCMC densification, 10,000 iterations; nothing
    of ours.
    """
    config = RECIPES[name]
    assert config.iterations == 10_000
    assert (config.free_space.weight, config.gaussians_per_pixel, config.unseen_weight) == (
        0.0,
        None,
        0.0,
    )
    assert RUN[name].reconstruct == config
    assert config.is_plain and RUN[name].distill.reconstruct.is_plain
    assert config.mcmc.max_gaussians == 1_000_000
    # the release's configuration has no regularisers
    assert (config.opacity_weight == config.scale_weight == 0) == (name == "release")


def test_a_weight_of_the_free_space_loss_is_a_finite_number_from_0():
    assert CONFIG.with_free_space_loss(0.0) == CONFIG.plain()
    assert not CONFIG.is_plain and CONFIG.plain().is_plain
    assert CONFIG.with_free_space_loss(0.7).free_space == replace(CONFIG.free_space, weight=0.7)
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="--free-space-loss"):
            CONFIG.with_free_space_loss(weight)


def test_a_dropout_is_a_fraction_below_1():
    assert CONFIG.with_dropout(0.3).plain() == CONFIG.plain()
    assert not replace(CONFIG.plain(), dropout=0.3).is_plain
    for fraction in (-0.1, 1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="--dropout"):
            CONFIG.with_dropout(fraction)


def test_dropout_leaves_out_a_fraction_and_keeps_the_sum_of_opacities():
    logits = torch.linspace(-4, 4, 4000)
    splats = replace(blobs(4000, seed=1), opacity_logits=logits.requires_grad_())
    kept = dropped_out(splats, 0.25, torch.Generator().manual_seed(0))
    assert len(kept) == pytest.approx(3000, rel=0.05)
    # those that stay below 1; they are sorted
    faint = splats.opacities < 0.75 * (1 - MIN_OPACITY)
    kept_faint = kept.opacities[kept.opacities < 1 - 2 * MIN_OPACITY]
    assert kept_faint.sum().item() == pytest.approx(splats.opacities[faint].sum().item(), rel=0.05)
    assert float(kept.opacities.max()) < 1
    kept.opacities.sum().backward()
    assert int((splats.opacity_logits.grad != 0).sum()) == pytest.approx(len(kept_faint), abs=2)


def test_without_a_fraction_dropout_leaves_every_gaussian_as_it_is():
    splats = blobs(50, seed=1)
    kept = dropped_out(splats, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(kept.means, splats.means)
    torch.testing.assert_close(kept.opacities, splats.opacities)


def test_initial_points_are_those_the_training_views_saw():
    points = SparsePoints(
        xyz=torch.arange(12.0).reshape(4, 3),
        rgb=torch.zeros(4, 3, dtype=torch.uint8),
        observed_point=torch.tensor([0, 0, 1, 1, 2, 3, 3, 3]),
        observed_view=torch.tensor([0, 1, 0, 4, 4, 1, 1, 0]),
        observed_pixel=torch.zeros(8, 2),
    )
    kept = seen_points(points, training=(0, 1), observed_by=2)
    assert torch.equal(kept.xyz, points.xyz[[0, 3]])
    assert len(seen_points(SparsePoints.without_tracks(points.xyz, points.rgb), (0, 1), 2)) == 4


def test_added_pixels_have_their_colour_and_project_back_to_it(views):
    known = ColoredPoints(
        torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 0.5, torch.zeros(50, 3)
    )
    config = InitialConfig(points=650, depth_noise=0.0)
    points = add_pixels(known, plain(views), config, torch.Generator().manual_seed(0))
    assert len(points) == 650
    for index, view in enumerate(views):
        own = slice(50 + 100 * index, 150 + 100 * index)
        pixels, depth, valid = view.camera.project(points.xyz[own])
        assert valid.all() and (depth > 0).all()
        # not on the border of two pixels
        inside = (pixels[0] - pixels[0].round()).abs().min(dim=1).values > 1e-3
        column, row = pixels[0, inside].long().unbind(dim=1)
        assert torch.equal(points.rgb[own][inside], view.photo.pixels()[row, column])


def test_a_scene_without_any_point_still_starts_somewhere_finite(views):
    empty = ColoredPoints(torch.zeros(0, 3), torch.zeros(0, 3))
    points = add_pixels(
        empty,
        plain(views),
        InitialConfig(points=100),
        torch.Generator().manual_seed(0),
    )
    splats = splats_at(points, 1, scene_extent(cameras_of(views), points), InitialConfig())
    assert len(splats) == 100
    assert all(torch.isfinite(value).all() for value in vars(splats).values())
    single = splats_at(ColoredPoints(torch.zeros(1, 3), torch.zeros(1, 3)), 0, 1.0, InitialConfig())
    assert torch.isfinite(single.log_scales).all()


def test_what_is_masked_has_no_influence(views):
    """Other colours behind the mask, and bits stay: also beside its border, where windows of SSIM
    reach into it.
    """
    mask = np.full((SIZE, SIZE), 255, np.uint8)
    mask[:, 25:] = 0
    config = replace(CONFIG, iterations=12)

    def masked(fill: int) -> list[TrainingView]:
        photos = []
        for photo in photos_of(views):
            pixels = photo.read().copy()
            pixels[:, 25:] = fill
            photos.append(replace(photo, read=lambda p=pixels: p, mask=lambda: mask))
        return with_photos(views, photos)

    start = blobs(60, 1)
    white, black = (reconstruct(masked(fill), start, EXTENT, config, 0) for fill in (255, 0))
    assert same(white, black)
    whole = with_photos(views, [replace(photo, mask=None) for photo in photos_of(masked(255))])
    assert not same(white, reconstruct(whole, start, EXTENT, config, 0))


def test_opacity_of_photos_is_fitted(views):
    """Objects over nothing: where photos are transparent, splats get transparent too."""
    opacity = np.full((SIZE, SIZE), 255, np.uint8)
    opacity[:, SIZE // 2 :] = 0
    photos = [
        replace(
            photo,
            read=lambda p=photo: np.where(opacity[..., None] > 0, p.read(), np.uint8(0)),
            opacity=lambda: opacity,
        )
        for photo in photos_of(views)
    ]
    config = replace(CONFIG, iterations=60, unseen_weight=0.0, free_space=FreeSpaceConfig())
    start = blobs(100, 1)
    fits = [
        reconstruct(with_photos(views, own), start, EXTENT, config, 0)
        for own in (photos, [replace(photo, opacity=None) for photo in photos])
    ]
    right = [float(render(f, views[0].camera).opacity[0][:, 24:].mean()) for f in fits]
    assert right[0] < 0.75 * right[1]


def test_points_are_drawn_only_where_photos_count(views):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, :10] = 255
    photos = [replace(photo, mask=lambda: mask) for photo in photos_of(views)]
    none = ColoredPoints(torch.zeros(0, 3), torch.zeros(0, 3))
    points = add_pixels(
        none,
        plain(with_photos(views, photos)),
        InitialConfig(points=90),
        torch.Generator().manual_seed(0),
    )
    assert len(points) == 90
    per_photo = 90 // len(photos)
    pixels, _, _ = views[0].camera.project(points.xyz[:per_photo])
    assert pixels[0, :, 0].max() < 10.1
