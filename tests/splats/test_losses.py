"""Losses against their definitions, and the optimiser's surgery against a fresh optimiser."""

from __future__ import annotations

import torch

from artifixer.imaging.metrics import ssim
from artifixer.splats.losses import photometric_loss, regulariser
from artifixer.splats.splats import Splats
from artifixer.splats.trainable import NAMES, TrainableSplats
from tests.splats.splat_scenes import random_splats

RATES = dict.fromkeys(NAMES, 1e-2)


def splats() -> Splats:
    return random_splats(8, 4, torch.Generator().manual_seed(0))


def test_photometric_loss_is_the_weighted_sum_of_l1_and_dissimilarity():
    a, b = torch.rand(2, 20, 24, 3, generator=torch.Generator().manual_seed(0))
    expected = 0.8 * (a - b).abs().mean() + 0.2 * (1 - ssim(a, b))
    torch.testing.assert_close(photometric_loss(a, b, 0.2), expected)
    torch.testing.assert_close(
        photometric_loss(a, b, 0.2, torch.full((20, 24), 0.25)), 0.25 * expected
    )
    assert photometric_loss(a, a, 0.2) < 1e-6


def test_regulariser_does_not_depend_on_the_unit_of_length():
    given = splats()
    larger = Splats(
        given.means * 7,
        given.quats,
        given.log_scales + torch.tensor(7.0).log(),
        given.opacity_logits,
        given.sh,
    )
    torch.testing.assert_close(
        regulariser(given, 0.1, 0.2, 3.0), regulariser(larger, 0.1, 0.2, 21.0)
    )


def one_step(trainable: TrainableSplats) -> None:
    sum(getattr(trainable.splats, name).square().sum() for name in NAMES).backward()
    trainable.step()


def test_gathered_rows_go_on_as_if_nothing_had_happened_and_fresh_ones_start_anew():
    changed, untouched = TrainableSplats(splats(), RATES), TrainableSplats(splats(), RATES)
    for trainable in (changed, untouched):
        one_step(trainable)
        one_step(trainable)
    index = torch.tensor([5, 0, 1, 2, 3, 5])
    changed.gather(index, fresh=torch.tensor([True, False, False, False, False, False]))
    for trainable in (changed, untouched):
        one_step(trainable)
    for name in NAMES:
        torch.testing.assert_close(
            getattr(changed.splats, name)[1:], getattr(untouched.splats, name)[index][1:]
        )
    moments = changed.state_tensors()
    assert not torch.equal(moments["adam.means.exp_avg"][0], moments["adam.means.exp_avg"][5])


def test_state_tensors_continue_exactly():
    first = TrainableSplats(splats(), RATES)
    one_step(first)
    second = TrainableSplats.from_state(
        {name: tensor.clone() for name, tensor in first.state_tensors().items()}, RATES
    )
    for trainable in (first, second):
        one_step(trainable)
    for name in NAMES:
        assert torch.equal(getattr(first.splats, name), getattr(second.splats, name))
