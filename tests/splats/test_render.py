"""``render``: which rasterizer, what its maps mean, and that units of length don't matter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from splat_scenes import NEAR, one_camera, varied_splats

from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.runtime.errors import InputError
from artifixer.splats.rasterizers.constants import MIN_DEPTH_OPACITY, RELATIVE_NEAR
from artifixer.splats.render import (
    MEDIAN_VERSION,
    Renders,
    contributions,
    default_near,
    median_render,
    render,
)
from artifixer.splats.splats import SH_BASE, Splats

BASE_COLOR = torch.tensor([0.9, 0.5, 0.2])


def disc(distance: float, opacity: float, radius: float = 1.0) -> Splats:
    """A flat round Gaussian facing the camera ``straight()``."""
    return Splats(
        means=torch.tensor([[0.0, 0.0, distance]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        log_scales=torch.tensor([[radius, radius, 1e-3]]).log(),
        opacity_logits=torch.logit(torch.tensor([opacity])),
        sh=((BASE_COLOR - 0.5) / SH_BASE).reshape(1, 1, 3),
    )


def straight(size: int = 31, focal: float = 40.0) -> Cameras:
    """At the origin, looking along z, the middle pixel exactly ahead."""
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return Cameras.pinhole(torch.eye(4)[None], K[None], size, size)


def together(*parts: Splats) -> Splats:
    return Splats(
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    )


@pytest.mark.parametrize("backend", ["reference", "numba_cpu"])
def test_colours_are_premultiplied_on_black_and_depth_is_the_mean_along_the_ray(backend):
    scene = together(disc(4.0, 0.5), disc(2.0, 0.4))
    renders = render(scene, straight(), backend=backend, near=0.1)
    front, back = 0.4, 0.6 * 0.5
    middle = (0, 15, 15)
    assert float(renders.opacity[middle]) == pytest.approx(front + back, abs=1e-5)
    assert torch.allclose(renders.rgb[middle], (front + back) * BASE_COLOR, atol=1e-5)
    assert float(renders.depth[middle]) == pytest.approx(
        (2 * front + 4 * back) / (front + back), abs=1e-4
    )


def test_depth_is_nan_exactly_where_next_to_nothing_is_seen():
    renders = render(disc(3.0, 0.9, radius=0.1), straight())
    empty = renders.opacity < MIN_DEPTH_OPACITY
    assert 0 < empty.sum() < empty.numel()
    assert torch.equal(renders.depth.isnan(), empty)
    assert torch.allclose(renders.depth[~empty], torch.tensor(3.0), atol=1e-3)
    assert (renders.rgb[renders.opacity == 0] == 0).all()


def test_gradients_through_the_depth_map_are_finite_although_parts_of_it_are_nan():
    splats = disc(3.0, 0.9, radius=0.1)
    means = splats.means.clone().requires_grad_()
    depth = render(replace(splats, means=means), straight()).depth
    depth[~depth.isnan()].mean().backward()
    assert means.grad is not None
    assert torch.allclose(means.grad, torch.tensor([[0.0, 0.0, 1.0]]), atol=1e-3)


def test_several_views_are_the_same_as_each_alone():
    splats, camera = varied_splats(60, seed=1), one_camera("distorted")
    moved = replace(
        camera,
        viewmats=camera.viewmats
        + torch.tensor([[[0, 0, 0, 0.3], [0, 0, 0, 0], [0, 0, 0, 0.5], [0, 0, 0, 0]]]),
    )
    both = render(splats, concatenate([camera, moved]))
    assert len(both) == 2
    for view, alone in enumerate((camera, moved)):
        single = render(splats, alone)
        for name, maps in vars(both).items():
            assert torch.equal(
                maps[view].nan_to_num(-1), getattr(single, name)[0].nan_to_num(-1)
            ), name


def test_auto_is_the_numba_rasterizer_on_the_cpu():
    splats, camera = varied_splats(30, seed=1), one_camera("ideal")
    assert torch.equal(render(splats, camera).rgb, render(splats, camera, backend="numba_cpu").rgb)


def test_backends_that_do_not_exist_or_cannot_run_are_named_in_the_error():
    splats, camera = varied_splats(5, seed=1), one_camera("ideal")
    with pytest.raises(
        InputError,
        match="'opengl': unknown; expected auto or one of reference, numba_cpu, gsplat_cuda",
    ):
        render(splats, camera, backend="opengl")
    with pytest.raises(
        InputError, match="gsplat_cuda: the splats are on cpu; expected a CUDA device"
    ):
        render(splats, camera, backend="gsplat_cuda")
    with pytest.raises(InputError, match="numba_cpu: the splats are on meta; expected the CPU"):
        render(splats.map(lambda tensor: tensor.to("meta")), camera, backend="numba_cpu", near=NEAR)


def test_a_lower_degree_leaves_out_the_higher_coefficients():
    splats, camera = varied_splats(60, seed=2), one_camera("ideal")
    low = render(splats, camera, sh_degree=1).rgb
    assert torch.equal(low, render(replace(splats, sh=splats.sh[:, :4].contiguous()), camera).rgb)
    assert not torch.allclose(low, render(splats, camera).rgb, atol=1e-2)


def test_the_unit_of_length_does_not_matter():
    """Everything a thousand times larger: the near plane follows the scene."""
    splats, camera = varied_splats(100, seed=5, sh_degree=0), one_camera("ideal")
    viewmats = camera.viewmats.clone()
    viewmats[:, :3, 3] *= 1024
    large = replace(
        splats, means=splats.means * 1024, log_scales=splats.log_scales + math.log(1024)
    )
    here, there = render(splats, camera), render(large, replace(camera, viewmats=viewmats))
    assert (here.rgb - there.rgb).abs().quantile(0.99) < 1e-4
    assert (here.opacity - there.opacity).abs().max() < 2 / 255
    assert torch.allclose(here.depth * 1024, there.depth, rtol=1e-2, equal_nan=True)


def test_the_near_plane_cuts_centres_and_is_relative_to_the_median_depth():
    near_one, far_one = disc(0.05, 0.9, radius=0.01), disc(5.0, 0.9)
    scene = together(near_one, far_one, far_one, far_one)
    assert default_near(scene, straight()) == pytest.approx(5 * RELATIVE_NEAR)
    assert torch.equal(
        render(scene, straight()).rgb, render(together(far_one, far_one, far_one), straight()).rgb
    )
    assert float(render(scene, straight(), near=0.01).depth[0, 15, 15]) < 1
    assert default_near(disc(-3.0, 0.5), straight()) == 0


def test_contributions_add_up_to_the_opacity_of_all_pixels():
    splats = varied_splats(80, seed=6)
    cameras = concatenate([one_camera("ideal"), one_camera("distorted")])
    weights = contributions(splats, cameras, near=NEAR)
    assert float(weights.sum()) == pytest.approx(
        float(render(splats, cameras, near=NEAR).opacity.sum()), rel=1e-4
    )
    hidden = replace(disc(9.0, 0.9), sh=torch.zeros(1, 1, 3))
    walls = [disc(3.0 + 0.1 * k, 0.99, radius=50.0) for k in range(4)]
    assert float(contributions(together(hidden, *walls), straight())[0]) == 0
    assert (contributions(together(hidden, *walls), straight())[1:3] > 0).all()


def test_what_one_of_three_fits_shows_alone_is_not_in_their_median():
    place, floater = disc(4.0, 0.95, radius=3.0), disc(1.0, 0.9, radius=0.05)
    camera, empty = straight(), disc(4.0, 0.5, radius=1e-4)
    fits = [render(splats, camera) for splats in (place, together(place, floater), place)]
    median = median_render(fits)
    for name in ("rgb", "opacity", "depth"):
        assert torch.equal(
            getattr(median, name).nan_to_num(), getattr(fits[0], name).nan_to_num()
        ), name
    assert not torch.equal(fits[0].rgb, fits[1].rgb)
    two_empty = median_render([fits[0], *(render(empty, camera) for _ in range(2))])
    assert float(two_empty.opacity[0, 15, 10]) == 0, "as most fits say"
    assert bool(two_empty.depth[0, 15, 10].isnan()), "no depth where the median shows nothing"
    one_empty = median_render([fits[0], fits[0], render(empty, camera)])
    assert float(one_empty.depth[0, 15, 10]) == pytest.approx(4.0), "the median of the known ones"


def test_the_colour_of_a_median_is_not_above_its_opacity():
    fits = [random_renders(seed) for seed in range(3)]
    median = median_render(fits)
    assert bool((median.rgb <= median.opacity[..., None]).all())
    middle = np.sort(np.stack([fit.rgb.numpy() for fit in fits]), axis=0)[1]
    assert np.array_equal(median.rgb.numpy(), middle)


def random_renders(seed: int) -> Renders:
    """Premultiplied colours with the depth unknown in places."""
    made = torch.Generator().manual_seed(seed)
    opacity = torch.rand(1, 6, 7, generator=made)
    depth = torch.where(opacity < 0.3, torch.nan, 1 + opacity)
    return Renders(torch.rand(1, 6, 7, 3, generator=made) * opacity[..., None], opacity, depth)


def test_another_median_is_another_version():
    """Runs keep the renders of a version."""
    renders = [
        Renders(
            torch.full((1, 1, 2, 3), value),
            torch.tensor([[[value, 0.0]]]),
            torch.tensor([[[10 * value, 3.0]]]),
        )
        for value in (0.1, 0.5, 0.3)
    ]
    median = median_render(renders)
    values = [float(median.rgb[0, 0, 0, 0]), *median.opacity.flatten().tolist()]
    assert (MEDIAN_VERSION, values) == (2, pytest.approx([0.3, 0.3, 0.0])), (
        "increment MEDIAN_VERSION in splats/render.py, then write both here"
    )
    assert median.depth.flatten().tolist() == pytest.approx([3.0, float("nan")], nan_ok=True)
