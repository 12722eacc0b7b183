"""Distillation: evidence from depths, weights of frames and photos, and fits that follow them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.enhance.distill import (
    DistillConfig,
    DistillViews,
    distill,
    evidence,
    photo_repeats,
    with_degree,
)
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.imaging.metrics import psnr
from artifixer.runtime.errors import InputError
from artifixer.scenes.scene import Photo
from artifixer.scenes.view import View
from artifixer.splats.initial import ColoredPoints, InitialConfig
from artifixer.splats.mcmc import McmcConfig
from artifixer.splats.reconstruct import (
    LearningRates,
    ReconstructConfig,
    reconstruct,
)
from artifixer.splats.render import render
from artifixer.splats.splats import SH_BASE, Splats
from artifixer.splats.training_view import TrainingView

SIZE = 32
DISTANCE = 4.0
TOLERANCE = 0.05

CONFIG = DistillConfig(
    ReconstructConfig(
        iterations=80,
        sh_degree=0,
        learning_rates=LearningRates(means=2e-3, means_final=2e-4, log_scales=1e-2, sh=5e-2),
        initial=InitialConfig(points=300),
        mcmc=McmcConfig(max_gaussians=400, every=20, growth=1.1, noise=1.0),
    ),
    start="warm",
)


def wall(
    low: float,
    high: float,
    z: float = 0.0,
    step: float = 0.1,
    colour: tuple[float, float, float] = (0.8, 0.3, 0.2),
) -> Splats:
    """A flat opaque wall across x in [low, high], y in [-1.5, 1.5], at depth z."""
    x, y = torch.meshgrid(
        torch.arange(low, high + 1e-6, step), torch.arange(-1.5, 1.5 + 1e-6, step), indexing="xy"
    )
    count = x.numel()
    stripes = 0.3 * torch.sin(3 * x.reshape(-1, 1, 1)) * torch.ones(1, 1, 3)
    return Splats(
        means=torch.stack([x.flatten(), y.flatten(), torch.full((count,), z)], dim=1),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        log_scales=torch.tensor([0.6 * step, 0.6 * step, 0.02]).log().repeat(count, 1),
        opacity_logits=torch.full((count,), 4.0),
        sh=(torch.tensor(colour).expand(count, 1, 3) + stripes - 0.5) / SH_BASE,
    )


def camera(x: float, focal: float = 40.0) -> Cameras:
    """A camera in front of the wall (z = -DISTANCE), looking straight at it."""
    eye = torch.tensor([[x, 0.0, -DISTANCE]])
    viewmats = invert_rigid(
        look_at(eye, torch.tensor([[x, 0.0, 0.0]]), torch.tensor([0.0, -1.0, 0.0]))
    )
    return Cameras.pinhole(
        viewmats,
        torch.tensor([[[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]]]),
        SIZE,
        SIZE,
    )


def picture(splats: Splats, view: Cameras) -> np.ndarray:
    with torch.no_grad():
        return (render(splats, view).rgb[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def photo(name: str, pixels: np.ndarray) -> Photo:
    return Photo(name, pixels.shape[1], pixels.shape[0], lambda: pixels)


def taken(photos: list[Photo], cameras: list[Cameras]) -> list[View]:
    """Views of these photos, one per camera."""
    return [View(camera, photo) for photo, camera in zip(photos, cameras, strict=True)]


def column_x(view: Cameras) -> Float[Tensor, " columns"]:
    """World x that each pixel column sees on the wall."""
    return view.centers[0, 0] + (torch.arange(SIZE) + 0.5 - SIZE / 2) * DISTANCE / view.Ks[0, 0, 0]


def test_evidence_counts_the_views_that_see_a_point() -> None:
    target, training = camera(0.0), [camera(-2.0), camera(-1.2)]
    count = evidence(wall(-4, 4), training, target, TOLERANCE)
    x, half = column_x(target), SIZE / 2 * DISTANCE / 40
    expected = (x < -2.0 + half).long() + (x < -1.2 + half).long()
    middle = count[SIZE // 2]
    # a pixel's width or so
    border = (
        torch.stack([(x - edge).abs() for edge in (-2.0 + half, -1.2 + half)]).amin(dim=0) < 0.15
    )
    assert torch.equal(middle[~border], expected[~border])
    assert set(middle.tolist()) == {0, 1, 2}


def test_what_is_hidden_from_the_training_views_has_no_evidence() -> None:
    """A small wall close to the training camera hides the large one from it, not from
    the target.
    """
    near = wall(-0.35, 0.35, z=-3.0)
    both = wall(-4, 4).map(lambda tensor: tensor)
    scene = Splats(*(torch.cat([getattr(both, name), getattr(near, name)]) for name in vars(both)))
    training, target = [camera(0.0)], camera(2.0)
    count = evidence(scene, training, target, TOLERANCE)[SIZE // 2]
    x = column_x(target)
    assert (count[(x > 0.6) & (x < 0.9)] == 0).all(), (
        "behind the small wall as seen from the training camera"
    )
    assert (
        evidence(wall(-4, 4), training, target, TOLERANCE)[SIZE // 2][(x > 0.6) & (x < 0.9)] == 1
    ).all()


def test_empty_pixels_have_no_evidence() -> None:
    count = evidence(wall(-4, 0), [camera(0.0)], camera(0.0), TOLERANCE)
    x = column_x(camera(0.0))
    assert (count[SIZE // 2, x > 0.3] == 0).all() and (count[SIZE // 2, x < -0.3] == 1).all()


@pytest.mark.parametrize(
    ("photos", "frames", "expected"), [(6, 80, 6), (3, 80, 8), (40, 80, 1), (2, 1, 1)]
)
def test_photos_are_repeated_to_their_share(photos: int, frames: int, expected: int) -> None:
    assert photo_repeats(photos, frames, CONFIG) == expected


def test_wrong_frames_spoil_what_photos_saw_only_without_evidence() -> None:
    """Frames of the right place in the wrong colour: with evidence the photos keep their say, and
    the unseen part follows the frames.
    """
    truth = wall(-4, 4)
    views = [camera(x) for x in (-0.6, 0.0, 0.6)]
    photos = [photo(f"{index}.png", picture(truth, view)) for index, view in enumerate(views)]
    targets = [camera(x) for x in (0.0, 2.4)]
    frames = [
        photo(f"frame{index}", 255 - picture(truth, target)) for index, target in enumerate(targets)
    ]
    source = wall(-4, 4)
    config = replace(
        CONFIG,
        photo_fraction=0.5,
        evidence=(1.0, 0.1, 0.02),
        reconstruct=replace(CONFIG.reconstruct, iterations=160),
    )
    fits = {
        weights: distill(
            DistillViews(taken(photos, views), taken(frames, targets)),
            source,
            ColoredPoints(source.means, torch.full_like(source.means, 0.5)),
            replace(config, weights=weights),
            seed=0,
        )
        for weights in ("uniform", "evidence")
    }
    seen = {
        name: float(psnr(render(fit, views[1]).rgb[0], photos[1].pixels()))
        for name, fit in fits.items()
    }
    assert seen["evidence"] > seen["uniform"] + 3
    unseen = {
        name: render(fit, targets[1]).rgb[0][:, SIZE * 3 // 4 :] for name, fit in fits.items()
    }
    wanted = frames[1].pixels()[:, SIZE * 3 // 4 :]
    before = render(source, targets[1]).rgb[0][:, SIZE * 3 // 4 :]
    assert (unseen["evidence"] - wanted).abs().mean() < 0.5 * (before - wanted).abs().mean()


@pytest.mark.parametrize("start", ["fresh", "warm"])
def test_the_same_seed_gives_the_same_splats_from_at_most_so_many_frames(start: str) -> None:
    truth = wall(-2, 2)
    views, targets = [camera(0.0), camera(0.5)], [camera(x / 4) for x in range(9)]
    read = []

    def recorded(index: int, target: Cameras) -> Photo:
        pixels = picture(truth, target)

        def read_pixels() -> np.ndarray:
            read.append(index)
            return pixels

        return Photo(f"{index}", SIZE, SIZE, read_pixels)

    photos = [photo(f"{index}.png", picture(truth, view)) for index, view in enumerate(views)]
    frames = [recorded(index, target) for index, target in enumerate(targets)]
    config = replace(
        CONFIG, start=start, frames=3, reconstruct=replace(CONFIG.reconstruct, iterations=10)
    )
    points = ColoredPoints(truth.means[::10], torch.full_like(truth.means[::10], 0.5))
    pictures = DistillViews(taken(photos, views), taken(frames, targets))
    fits = [distill(pictures, truth, points, config, seed=4) for _ in range(2)]
    assert all(getattr(fits[0], name).equal(getattr(fits[1], name)) for name in vars(fits[0]))
    assert set(read) == {0, 4, 8}


def test_splats_of_any_degree_can_be_continued() -> None:
    """Nothing that the fit does not optimise is left in the result, and what is there is where it
    was.
    """
    source = wall(-2, 2)
    detailed = replace(
        source, sh=torch.cat([source.sh, torch.full((len(source), 15, 3), 0.3)], dim=1)
    )
    assert with_degree(detailed, 0).sh.equal(source.sh)
    wider = with_degree(source, 1).sh
    assert wider.shape[1] == 4 and wider[:, :1].equal(source.sh) and not wider[:, 1:].any()
    view = camera(0.0)
    photos = taken([photo("0.png", picture(source, view))], [view])
    config = replace(CONFIG, reconstruct=replace(CONFIG.reconstruct, iterations=2))
    fitted = distill(
        DistillViews(photos, photos),
        detailed,
        ColoredPoints(source.means, source.means),
        config,
        seed=0,
    )
    assert fitted.sh_degree == 0


def test_a_view_with_a_loss_of_its_own_is_fitted_by_it() -> None:
    """The mean absolute difference as a loss of its own is the photometric loss without SSIM,
    whatever the weights of the pixels.
    """
    truth = wall(-2, 2)
    views = [camera(0.0), camera(0.5)]
    photos = [photo(f"{index}.png", picture(truth, view)) for index, view in enumerate(views)]
    config = replace(CONFIG.reconstruct, iterations=6, ssim_weight=0.0)
    plain = [TrainingView.of(view) for view in taken(photos, views)]
    own = [
        replace(
            view,
            pixel_weights=torch.zeros(SIZE, SIZE),
            loss=lambda image, frame: (image - frame).abs().mean(),
        )
        for view in plain
    ]
    start = replace(truth, sh=truth.sh + 0.5)
    fits = [reconstruct(training, start, DISTANCE, config, seed=0) for training in (plain, own)]
    for name in vars(fits[0]):
        assert torch.allclose(getattr(fits[0], name), getattr(fits[1], name), atol=1e-4), name


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="the extra 'metrics' is installed"
)
def test_weights_by_lpips_say_what_they_need() -> None:
    views = DistillViews([], [])
    with pytest.raises(InputError, match=r"frame weights lpips: .*install the extra 'metrics'"):
        distill(
            views,
            wall(-1, 1),
            ColoredPoints(torch.zeros(0, 3), torch.zeros(0, 3)),
            replace(CONFIG, weights="lpips"),
            seed=0,
        )
