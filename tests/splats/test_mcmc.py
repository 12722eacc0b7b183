"""MCMC moves: the picture barely changes, the books of the optimiser stay right, opaque Gaussians
stay put.
"""

import math

import torch

from artifixer.splats.mcmc import McmcConfig, perturb, relocate_and_grow, share_between_copies
from artifixer.splats.splats import Splats
from artifixer.splats.trainable import NAMES, TrainableSplats

#: float32 results of a float64 computation.
FLOAT32 = 1e-6


def splats_with(opacities: torch.Tensor) -> Splats:
    count = len(opacities)
    draw = torch.Generator().manual_seed(0)
    return Splats(
        means=torch.randn(count, 3, generator=draw),
        quats=torch.randn(count, 4, generator=draw),
        log_scales=torch.randn(count, 3, generator=draw) * 0.3 - 2,
        opacity_logits=torch.logit(opacities),
        sh=torch.randn(count, 4, 3, generator=draw),
    )


def trainable_with(opacities: torch.Tensor) -> TrainableSplats:
    trainable = TrainableSplats(splats_with(opacities), dict.fromkeys(NAMES, 1e-3))
    sum(getattr(trainable.splats, name).square().sum() for name in NAMES).backward()
    trainable.step()
    return trainable


def test_copies_together_are_as_opaque_as_the_original():
    opacities = torch.tensor([0.05, 0.4, 0.9, 0.99])
    for copies in (1, 2, 5, 20):
        shared, _ = share_between_copies(opacities, torch.ones(4, 3), torch.full((4,), copies))
        together = 1 - (1 - shared) ** copies
        # (1-o)^(1/n) loses digits near 1 in float32
        torch.testing.assert_close(together, opacities, atol=1e-5, rtol=0)


def test_equation_9_against_a_literal_double_sum():
    opacities = torch.tensor([0.1, 0.5, 0.8])
    for copies in (1, 2, 3, 7):
        _, scales = share_between_copies(opacities, torch.ones(3, 3), torch.full((3,), copies))
        for opacity, scale in zip(opacities.tolist(), scales[:, 0].tolist(), strict=True):
            new = 1 - (1 - opacity) ** (1 / copies)
            total = sum(
                math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
                for i in range(1, copies + 1)
                for k in range(i)
            )
            assert abs(scale - opacity / total) < FLOAT32 * 10


def test_the_light_blocked_along_a_line_is_kept():
    """Equation 9 keeps the integral over a line of the composited opacity, to which the sum is the
    exact answer.
    """
    opacity, copies = torch.tensor([0.6]), torch.tensor([4])
    shared, scales = share_between_copies(opacity, torch.ones(1, 3), copies)
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    before = opacity.double() * torch.exp(-0.5 * x**2)
    after = 1 - (1 - shared.double() * torch.exp(-0.5 * (x / scales[0, 0].double()) ** 2)) ** 4
    torch.testing.assert_close(
        torch.trapezoid(after, x), torch.trapezoid(before, x), atol=1e-5, rtol=0
    )


def test_the_dead_move_onto_the_living_and_the_population_grows_to_the_cap():
    opacities = torch.cat([torch.full((60,), 0.5), torch.full((40,), 0.001)])
    trainable = trainable_with(opacities)
    before = trainable.splats.means.detach().clone()
    moved = relocate_and_grow(
        trainable, McmcConfig(max_gaussians=103, growth=1.5), torch.Generator().manual_seed(1)
    )
    assert moved == 40 + 3
    assert len(trainable) == 103
    after = trainable.splats.means.detach()
    assert torch.equal(after[:60], before[:60])
    living = {tuple(row) for row in before[:60].tolist()}
    assert all(tuple(row) in living for row in after[60:].tolist())
    assert (trainable.splats.opacities > 0.005).all()


def test_moments_are_kept_for_the_untouched_and_zero_for_sources_and_copies():
    opacities = torch.cat([torch.full((50,), 0.5), torch.full((3,), 0.001)])
    trainable = trainable_with(opacities)
    before = trainable.state_tensors()["adam.means.exp_avg"].clone()
    relocate_and_grow(trainable, McmcConfig(max_gaussians=53), torch.Generator().manual_seed(1))
    after = trainable.state_tensors()["adam.means.exp_avg"]
    zero = (after == 0).all(dim=1)
    assert zero[50:].all()
    sources = zero[:50]
    assert 1 <= sources.sum() <= 3
    assert torch.equal(after[:50][~sources], before[:50][~sources])
    trainable.splats.means.sum().backward()
    trainable.step()


def test_noise_has_the_covariance_squared_and_spares_the_opaque():
    count = 20000
    one = splats_with(torch.tensor([0.001]))
    faint = one.map(lambda tensor: tensor.repeat(count, *([1] * (tensor.dim() - 1))))
    trainable = TrainableSplats(faint, dict.fromkeys(NAMES, 1e-3))
    config = McmcConfig(noise=100.0)
    perturb(trainable, config, 0.01, torch.Generator().manual_seed(2))
    moves = (trainable.splats.means.detach() - faint.means).double()
    from artifixer.geometry.transforms import quaternion_to_matrix

    axes = quaternion_to_matrix(one.unit_quats)[0] * one.scales[0]
    covariance = (axes @ axes.T).double()
    gate = 1 / (1 + math.exp(-100.0 * (0.005 - 0.001)))
    expected = covariance @ covariance * gate**2
    measured = moves.T @ moves / count
    # 20,000 draws estimate a variance to 1 %; 5 % leaves room for all nine entries.
    assert (measured - expected).abs().max() < 0.05 * expected.diagonal().max()

    opaque = TrainableSplats(splats_with(torch.full((5,), 0.5)), dict.fromkeys(NAMES, 1e-3))
    before = opaque.splats.means.detach().clone()
    perturb(opaque, config, 0.01, torch.Generator().manual_seed(2))
    assert torch.equal(opaque.splats.means.detach(), before)


def test_saved_state_continues_as_if_uninterrupted():
    through, stopped = (
        trainable_with(torch.full((20,), 0.5)),
        trainable_with(torch.full((20,), 0.5)),
    )
    restored = TrainableSplats.from_state(
        {k: v.clone() for k, v in stopped.state_tensors().items()}, dict.fromkeys(NAMES, 1e-3)
    )
    for trainable in (through, restored):
        for _ in range(3):
            sum(getattr(trainable.splats, name).square().sum() for name in NAMES).backward()
            trainable.step()
    for name in NAMES:
        assert torch.equal(getattr(through.splats, name), getattr(restored.splats, name))
