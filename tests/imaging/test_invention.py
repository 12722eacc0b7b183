"""Figures of invented content on pictures where the right answer is known."""

from __future__ import annotations

import pytest
import torch

from artifixer.imaging.invention import (
    BAND,
    Mean,
    Seam,
    TileRatio,
    empty_crops,
    grown,
    near_border,
    region_distance,
)

TOKEN = 8


def everywhere(height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.ones(1, height, width, dtype=torch.bool)


def ramp(height: int = 32, width: int = 48) -> torch.Tensor:
    """A seamless picture: the same gradient everywhere."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((rows + columns) / 100)[None, ..., None].expand(1, height, width, 3)


def test_a_seamless_picture_has_the_tile_ratio_one():
    ratio = TileRatio(TOKEN)
    ratio.add(ramp(), everywhere())
    assert ratio.value() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("step", [0.05, 0.2])
def test_a_grid_of_tiles_has_the_ratio_of_its_steps(step):
    """On the ramp each tile adds a constant step of its column and row."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(48), indexing="ij")
    tiles = step * (rows // TOKEN + columns // TOKEN)
    ratio = TileRatio(TOKEN)
    ratio.add(ramp() + tiles[None, ..., None], everywhere())
    assert ratio.value() == pytest.approx((0.01 + step) / 0.01, rel=1e-4)


def test_tiles_of_another_size_do_not_raise_the_ratio_of_their_borders_alone():
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(48), indexing="ij")
    tiles = 0.2 * (rows // 5 + columns // 5)
    ratio = TileRatio(TOKEN)
    ratio.add(ramp() + tiles[None, ..., None], everywhere())
    assert ratio.value() < 1.1


def test_the_tile_ratio_counts_chosen_pixels_only():
    frames, where = ramp().clone(), everywhere().clone()
    frames[:, :, 24:] += torch.rand(1, 32, 24, 3, generator=torch.Generator().manual_seed(0))
    where[:, :, 24:] = False
    ratio = TileRatio(TOKEN)
    ratio.add(frames, where)
    assert ratio.value() == pytest.approx(1, abs=1e-5)
    assert TileRatio(TOKEN).value() is None


def half_empty(ramp_pixels: int = 0) -> torch.Tensor:
    """Opacity 1 on the left half and 0 on the right, with a linear transition."""
    columns = torch.arange(48) + 0.5
    opacity = (24 - columns) / max(ramp_pixels, 1) + 0.5
    return opacity.clamp(0, 1).expand(1, 32, 48)


def test_a_visible_edge_is_a_seam_and_the_truth_is_none():
    truth = ramp()
    edge = truth + 0.3 * (half_empty() < 0.5)[..., None]
    for frames, expected in ((truth, 1.0), (edge, (0.01 + 0.3) / 0.01)):
        seam = Seam()
        seam.add(frames, truth, half_empty())
        assert seam.value() == pytest.approx(expected, rel=1e-4)
    flat = Seam()
    flat.add(torch.zeros_like(truth), truth, half_empty())
    assert flat.value() == 0
    assert Seam().value() is None


def test_an_edge_elsewhere_is_no_seam():
    truth = ramp()
    edge = truth.clone()
    edge[:, :, 40:] += 0.3
    seam = Seam()
    seam.add(edge, truth, half_empty())
    assert seam.value() == pytest.approx(1, rel=1e-4)


def test_half_transparent_surfaces_are_no_border():
    assert near_border(half_empty(ramp_pixels=4)).any()
    assert not near_border(half_empty(ramp_pixels=40)).any()
    assert not near_border(torch.full((1, 32, 48), 0.5)).any()


def test_a_region_grows_by_its_band():
    places = torch.zeros(2, 64, 64, dtype=torch.bool)
    places[0, 30, 30] = True
    band = grown(places, BAND)
    assert int(band[0].sum()) == (2 * BAND + 1) ** 2
    assert bool(band[0, 30 - BAND, 30 + BAND]) and not bool(band[0, 30 - BAND - 1, 30])
    assert not band[1].any()


def squared(frames: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return (frames - others).square().mean(dim=(1, 2, 3))


def test_the_distance_of_a_region_knows_nothing_of_the_rest():
    others = torch.zeros(2, 32, 48, 3)
    where = half_empty().expand(2, 32, 48) > 0.5
    frames = torch.where(where[..., None], 0.1, 0.9).expand(2, 32, 48, 3)
    distances, shares = region_distance(squared, frames, others, where)
    assert shares.tolist() == pytest.approx([0.5, 0.5])
    assert distances.tolist() == pytest.approx([0.01, 0.01])
    nothing = torch.zeros_like(where)
    distances, shares = region_distance(squared, frames, others, nothing)
    assert distances.tolist() == [0, 0] and shares.tolist() == [0, 0]


def test_crops_are_those_that_are_empty_enough():
    where = torch.zeros(64, 96, dtype=torch.bool)
    where[:, :32] = True
    assert empty_crops(where, 32, 0.6) == [(0, 0), (16, 0), (32, 0)]
    assert empty_crops(where, 32, 0.5) == [(top, left) for top in (0, 16, 32) for left in (0, 16)]
    assert empty_crops(where, 65, 0.1) == []


def test_means_of_running_sums():
    mean = Mean()
    assert mean.value() is None
    mean.add(torch.tensor([1.0, 2.0]))
    mean.add_weighted(6.0, 2.0)
    assert mean.value() == pytest.approx(15 / 4)
