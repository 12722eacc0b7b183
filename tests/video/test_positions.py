"""Positions of tokens: slow twins, what depends only on differences, and places far away."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.video.positions import ViewPositions, rope_table, rotate_pairs, rotate_pairs_real

#: Float32 against float64 or against the same sum in another order.
TOLERANCE = 1e-5


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moving_cameras(views: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """World to camera matrices and normalised intrinsics of one clip."""
    viewmats = torch.eye(4).repeat(1, views, 1, 1)
    viewmats[..., :3, :3] = quaternion_to_matrix(randn(1, views, 4, seed=seed))
    viewmats[..., :3, 3] = randn(1, views, 3, seed=seed + 1)
    Ks = torch.tensor([[0.8, 0.0, 0.02], [0.0, 1.1, -0.03], [0.0, 0.0, 1.0]]).repeat(1, views, 1, 1)
    Ks[..., 0, 0] += 0.1 * torch.arange(views)
    return viewmats, Ks


@pytest.mark.parametrize("head_width", [16, 32, 64, 128])
def test_rope_of_each_token_by_the_formula(head_width: int):
    first, frames, rows, columns = 5, 2, 3, 4
    x = randn(1, frames * rows * columns, 1, head_width)
    turned = rotate_pairs(x, rope_table(first, frames, rows, columns, head_width))[0, :, 0]
    space = 2 * (head_width // 6)
    for token in range(x.shape[1]):
        place = (first + token // (rows * columns), token // columns % rows, token % columns)
        channel = 0
        for position, width in zip(place, (head_width - 2 * space, space, space), strict=True):
            for pair in range(width // 2):
                angle = position * 10_000 ** (-2 * pair / width)
                a, b = x[0, token, 0, channel : channel + 2].tolist()
                expected = (
                    a * math.cos(angle) - b * math.sin(angle),
                    a * math.sin(angle) + b * math.cos(angle),
                )
                assert turned[token, channel : channel + 2].tolist() == pytest.approx(
                    expected, abs=TOLERANCE
                )
                channel += 2
        assert channel == head_width


def test_rope_in_real_numbers_is_the_complex_product():
    x, table = randn(2, 24, 3, 16), rope_table(3, 2, 3, 4, 16)
    torch.testing.assert_close(
        rotate_pairs_real(x.unflatten(-1, (-1, 2)), table).flatten(-2), rotate_pairs(x, table)
    )


def test_rope_takes_and_returns_bfloat16_and_turns_in_float32():
    x, table = randn(1, 24, 2, 16).bfloat16(), rope_table(3, 2, 3, 4, 16)
    assert torch.equal(rotate_pairs(x, table), rotate_pairs(x.float(), table).bfloat16())


def test_products_depend_on_the_difference_of_frames_also_after_ten_million():
    """Float32 angles would be off by a whole turn there, a table of 1024 positions would have
    ended.
    """
    x, y = randn(1, 12, 2, 32, seed=1), randn(1, 12, 2, 32, seed=2)

    def products(first: int) -> Tensor:
        q = rotate_pairs(x, rope_table(first, 2, 2, 3, 32))
        k = rotate_pairs(y, rope_table(first + 3, 2, 2, 3, 32))
        return torch.einsum("bqhw,bkhw->bhqk", q, k)

    torch.testing.assert_close(products(10_000_000), products(0), atol=TOLERANCE, rtol=TOLERANCE)
    assert (products(0) - torch.einsum("bqhw,bkhw->bhqk", x, y)).abs().max() > 1


def slow_prope(x: Tensor, matrices: Tensor, rows: int, columns: int, sign: float) -> Tensor:
    """One matrix per token for the whole head, in float64. x: tokens of one head; matrices: per
    view.
    """
    width = x.shape[-1]
    out = torch.empty(x.shape, dtype=torch.float64)
    for token in range(x.shape[0]):
        view, inside = divmod(token, rows * columns)
        whole = torch.zeros(width, width, dtype=torch.float64)
        for group in range(width // 8):
            whole[4 * group : 4 * group + 4, 4 * group : 4 * group + 4] = matrices[view].double()
        for axis, position in enumerate((inside % columns, inside // columns)):
            start = width // 2 + axis * width // 4
            for pair in range(width // 8):
                angle = sign * position * 100 ** (-pair / (width // 8))
                i, j = start + pair, start + width // 8 + pair
                whole[i, i] = whole[j, j] = math.cos(angle)
                whole[i, j], whole[j, i] = math.sin(angle), -math.sin(angle)
        out[token] = whole @ x[token].double()
    return out


def test_prope_of_each_token_by_the_formula():
    views, rows, columns, width = 3, 2, 3, 16
    viewmats, Ks = moving_cameras(views)
    positions = ViewPositions.of_cameras(viewmats, Ks, rows, columns, width)
    projections = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    projections[:, :3, :3] = Ks[0].double()
    projections = projections @ viewmats[0].double()
    x = randn(1, views * rows * columns, 2, width)
    for actual, matrices, sign in (
        (positions.query(x), projections.mT, 1),
        (positions.key_or_value(x), torch.linalg.inv(projections), 1),
        (positions.result(x), projections, -1),
    ):
        for head in range(x.shape[2]):
            expected = slow_prope(x[0, :, head], matrices, rows, columns, sign)
            torch.testing.assert_close(
                actual[0, :, head].double(), expected, atol=TOLERANCE, rtol=TOLERANCE
            )


def attended(
    queries: ViewPositions, keys: ViewPositions, q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    logits = torch.einsum("bqhw,bkhw->bhqk", queries.query(q), keys.key_or_value(k)) / 8
    return queries.result(
        torch.einsum("bhqk,bkhw->bqhw", logits.softmax(dim=-1), keys.key_or_value(v))
    )


def test_prope_sees_cameras_relative_to_each_other_only():
    """Moving the whole world changes nothing; moving the target cameras does."""
    q, k, v = randn(1, 12, 2, 16, seed=3), randn(1, 18, 2, 16, seed=4), randn(1, 18, 2, 16, seed=5)
    targets, references = moving_cameras(2, seed=6), moving_cameras(3, seed=7)
    motion = moving_cameras(1, seed=8)[0][0, 0]

    def result(target_motion: Tensor, reference_motion: Tensor) -> Tensor:
        queries = ViewPositions.of_cameras(targets[0] @ target_motion, targets[1], 2, 3, 16)
        keys = ViewPositions.of_cameras(references[0] @ reference_motion, references[1], 2, 3, 16)
        return attended(queries, keys, q, k, v)

    still = result(torch.eye(4), torch.eye(4))
    torch.testing.assert_close(result(motion, motion), still, atol=1e-4, rtol=1e-4)
    assert (result(motion, torch.eye(4)) - still).abs().max() > 0.1
