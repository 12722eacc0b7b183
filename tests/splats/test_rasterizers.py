"""The rasterizers are twins: one picture and one gradient, against the plain one in float64 and
that one against central differences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from splat_scenes import HEIGHT, NEAR, WIDTH, one_camera, varied_splats

from artifixer.geometry.transforms import matrix_to_quaternion, quaternion_to_matrix
from artifixer.splats.rasterizers.constants import MIN_ALPHA
from artifixer.splats.rasterizers.reference import Raster
from artifixer.splats.render import BACKENDS
from artifixer.splats.splats import Splats

LENSES = ("ideal", "distorted", "fisheye")


@dataclass(frozen=True)
class Tolerance:
    """Largest error of a value in [0,1]: median, 99.9th percentile, maximum; and of ||g - g*|| /
    ||g*|| per parameter.
    """

    median: float
    most: float
    maximum: float
    gradient: float


#: Float32 against float64. The maximum leaves room for one contribution that rounding moves across
#: the threshold of 1/255.
FLOAT32 = Tolerance(1e-6, 1e-4, 2 / 255, 1e-4)

#: gsplat besides uses fast exponentials and sums in float32. It gets splats that fit their boxes,
#: because it cuts them at tiles, and of which no two lie at the same depth in float32, where their
#: order would be that of the list.
CUDA = Tolerance(1e-5, 1e-4, 2 / 255, 1e-3)

TWINS = {"reference": FLOAT32, "numba_cpu": FLOAT32, "gsplat_cuda": CUDA}


def scene_for(backend: str, sh_degree: int = 3) -> Splats:
    if backend == "gsplat_cuda":
        return varied_splats(1200, seed=22, sh_degree=sh_degree, small=True)
    return varied_splats(150, seed=3, sh_degree=sh_degree)


def device_of(backend: str) -> str:
    if backend != "gsplat_cuda":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("gsplat_cuda needs a CUDA device")
    pytest.importorskip("gsplat", reason="gsplat_cuda needs the extra 'gpu'")
    return "cuda"


def drawn(backend: str, splats: Splats, camera, degree: int = 3) -> tuple[Raster, Splats]:
    """The picture, and the gradients of a fixed random sum over it."""
    device = device_of(backend)
    leaves = splats.map(lambda tensor: tensor.detach().clone().to(device).requires_grad_())
    raster = BACKENDS[backend](leaves, camera.to(device), degree, NEAR)
    random_sum(raster).backward()
    detached = Raster(*(values.detach().cpu() for values in raster))
    return detached, leaves.map(
        lambda leaf: torch.zeros_like(leaf).cpu() if leaf.grad is None else leaf.grad.cpu()
    )


def random_sum(raster: Raster) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros_like(raster.opacity).sum()
    for values, weight in zip(raster, (1.0, 1.0, 0.25), strict=True):
        total = (
            total
            + weight * (values * torch.randn(values.shape, generator=generator).to(values)).sum()
        )
    return total


def in_float64(splats: Splats, camera):
    return splats.map(torch.Tensor.double), camera.to(dtype=torch.float64)


def test_every_backend_has_a_twin_test():
    assert set(TWINS) == set(BACKENDS)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("backend", TWINS)
def test_values_and_gradients_agree_with_the_plain_rasterizer_in_float64(backend, lens):
    splats, camera = scene_for(backend), one_camera(lens)
    tolerance = TWINS[backend]
    image, gradient = drawn(backend, splats, camera)
    expected, expected_gradient = drawn("reference", *in_float64(splats, camera))
    assert 0.2 < expected.opacity.mean() < 0.95, "the scene shows both emptiness and much overlap"
    # 4: the distance of the scene
    for name, scale in (("rgb", 1.0), ("opacity", 1.0), ("weighted_depth", 4.0)):
        errors = (getattr(image, name).double() - getattr(expected, name)).abs().flatten() / scale
        assert errors.median() <= tolerance.median, name
        assert errors.quantile(0.999) <= tolerance.most, name
        assert errors.max() <= tolerance.maximum, name
    for name, found in vars(gradient).items():
        wanted = getattr(expected_gradient, name)
        assert wanted.norm() > 0, f"{name} has no gradient in this scene"
        assert (found.double() - wanted).norm() / wanted.norm() <= tolerance.gradient, name


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_lower_degrees_of_colour_agree(degree):
    splats, camera = varied_splats(60, seed=4), one_camera("ideal")
    image, gradient = drawn("numba_cpu", splats, camera, degree)
    expected, expected_gradient = drawn("reference", *in_float64(splats, camera), degree)
    assert torch.allclose(image.rgb.double(), expected.rgb, atol=1e-5)
    assert torch.allclose(gradient.sh.double(), expected_gradient.sh, atol=1e-4)
    assert (gradient.sh[:, (degree + 1) ** 2 :] == 0).all()


@pytest.mark.parametrize("lens", LENSES)
def test_gradients_of_the_plain_rasterizer_are_central_differences(lens):
    """Along random directions, parameter by parameter, in float64."""
    splats, camera = in_float64(varied_splats(25, seed=8), one_camera(lens))
    step = 1e-6
    _, gradient = drawn("reference", splats, camera)

    def total(moved: Splats) -> float:
        return float(random_sum(BACKENDS["reference"](moved, camera, 3, NEAR)))

    for position, name in enumerate(vars(splats)):
        value = getattr(splats, name)
        for trial in range(2):
            direction = torch.randn(
                value.shape,
                generator=torch.Generator().manual_seed(10 * position + trial),
                dtype=torch.float64,
            )
            ahead, behind = (
                total(replace(splats, **{name: value + sign * step * direction}))
                for sign in (1, -1)
            )
            slope = float((getattr(gradient, name) * direction).sum())
            scale = float(getattr(gradient, name).norm())
            assert (ahead - behind) / (2 * step) == pytest.approx(slope, abs=1e-5 * scale), name


def test_threads_do_not_change_a_bit():
    splats, camera = varied_splats(300, seed=6), one_camera("distorted")
    results: list[tuple[Raster, Splats]] = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(drawn("numba_cpu", splats, camera))
    finally:
        torch.set_num_threads(before)
    for image, gradient in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(image, results[0][0], strict=True))
        assert all(
            torch.equal(value, getattr(results[0][1], name))
            for name, value in vars(gradient).items()
        )


@pytest.mark.parametrize("backend", TWINS)
def test_the_order_of_the_gaussians_does_not_matter(backend):
    splats, camera = scene_for(backend), one_camera("ideal")
    order = torch.randperm(len(splats), generator=torch.Generator().manual_seed(0))
    image, gradient = drawn(backend, splats, camera)
    shuffled, shuffled_gradient = drawn(backend, splats.map(lambda tensor: tensor[order]), camera)
    for a, b in zip(image, shuffled, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(gradient.means[order], shuffled_gradient.means, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", TWINS)
def test_moving_scene_and_camera_together_changes_nothing(backend):
    splats, camera = scene_for(backend, sh_degree=0), one_camera("fisheye")
    image, _ = drawn(backend, splats, camera, degree=0)
    turn = quaternion_to_matrix(torch.tensor([0.4, -0.3, 0.8, 0.2]))
    shift = torch.tensor([3.0, -5.0, 1.0])
    rotations = turn @ quaternion_to_matrix(splats.quats)
    moved = replace(
        splats, means=splats.means @ turn.mT + shift, quats=matrix_to_quaternion(rotations)
    )
    world = torch.eye(4)
    world[:3, :3], world[:3, 3] = turn, shift
    there, _ = drawn(
        backend,
        moved,
        replace(camera, viewmats=camera.viewmats @ torch.linalg.inv(world)),
        degree=0,
    )
    for a, b in zip(image, there, strict=True):
        difference = (a - b).abs()
        assert difference.quantile(0.99) < 1e-4
        assert difference.max() < 4 * 2 / 255  # depth is up to 4 per contribution


@pytest.mark.parametrize("backend", TWINS)
def test_scenes_of_which_nothing_is_visible_are_black_and_have_no_gradient(backend):
    splats, camera = varied_splats(20, seed=2), one_camera("ideal")
    behind = camera.centers[0] - 10 * camera.camera_to_world[0, :3, 2]
    scenes: list[Callable[[], Splats]] = [
        lambda: replace(splats, means=behind.expand(20, 3)),
        lambda: replace(
            splats,
            opacity_logits=torch.full((20,), float(torch.logit(torch.tensor(0.9 * MIN_ALPHA)))),
        ),
    ]
    for scene in scenes:
        image, gradient = drawn(backend, scene(), camera)
        assert all((values == 0).all() and torch.isfinite(values).all() for values in image)
        assert all((values == 0).all() for values in vars(gradient).values())


@pytest.mark.parametrize("backend", TWINS)
def test_one_wide_opaque_gaussian_has_the_alpha_of_the_formula(backend):
    """A sphere straight ahead: alpha = opacity exp(-q / 2), with q the squared distance of the ray
    from its centre.
    """
    camera = one_camera("ideal")
    forward = camera.camera_to_world[0, :3, 2]
    splats = Splats(
        means=(camera.centers[0] + 3 * forward)[None],
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        log_scales=torch.full((1, 3), 0.3).log(),
        opacity_logits=torch.tensor([1.0]),
        sh=torch.zeros(1, 1, 3),
    )
    image, _ = drawn(backend, splats, camera, degree=0)
    columns, rows = torch.arange(WIDTH) + 0.5, torch.arange(HEIGHT) + 0.5
    x, y = (columns - 21.3) / 38.0, (rows - 18.9) / 40.0
    slope = x[None, :] ** 2 + y[:, None] ** 2
    squared_distance = 9 * slope / (1 + slope) / 0.3**2
    alpha = torch.sigmoid(torch.tensor(1.0)) * torch.exp(-squared_distance / 2)
    drawn_part = alpha > 0.02  # well inside the box
    assert torch.allclose(image.opacity[drawn_part], alpha[drawn_part], atol=1e-5)
    assert torch.allclose(image.rgb[drawn_part], 0.5 * alpha[drawn_part][:, None], atol=1e-5)
    assert torch.allclose(image.weighted_depth[drawn_part], 3 * alpha[drawn_part], atol=1e-4)
    assert (image.opacity[alpha < MIN_ALPHA - 1e-4] == 0).all()


def test_float64_and_infinite_splats_are_refused_by_the_numba_rasterizer():
    splats, camera = varied_splats(20, seed=2), one_camera("ideal")
    with pytest.raises(AssertionError, match="float32"):
        drawn("numba_cpu", splats.map(torch.Tensor.double), camera)
    broken = splats.log_scales.clone()
    broken[3, 1] = float("nan")
    with pytest.raises(AssertionError, match="log_scales holds values that are not finite"):
        drawn("numba_cpu", replace(splats, log_scales=broken), camera)
