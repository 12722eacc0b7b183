"""The push-pull fill: what it keeps, what it continues, and that it has no edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifixer.imaging.push_pull import diffused, push_pull_fill


def half(colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Left half opaque in one colour, right half empty."""
    opacity = np.zeros((48, 70), np.uint8)
    opacity[:, :35] = 255
    rgb = np.where(opacity[..., None] > 0, np.array(colour, np.uint8), 0).astype(np.uint8)
    return rgb, opacity


def test_a_single_colour_is_continued_everywhere():
    rgb, opacity = half((200, 90, 30))
    filled = push_pull_fill(rgb, opacity)
    assert np.abs(filled.astype(int) - [200, 90, 30]).max() <= 1


def test_opaque_pixels_stay_and_empty_ones_lie_between_known_colours():
    random = np.random.default_rng(0)
    opacity = np.where(random.random((40, 56)) < 0.3, 255, 0).astype(np.uint8)
    colours = random.integers(60, 200, (40, 56, 3)).astype(np.uint8)
    rgb = np.where(opacity[..., None] > 0, colours, 0).astype(np.uint8)
    filled = push_pull_fill(rgb, opacity)
    assert np.array_equal(filled[opacity == 255], rgb[opacity == 255])
    assert filled[opacity == 0].min() >= 59 and filled[opacity == 0].max() <= 200


def test_the_fill_has_no_edge_where_the_render_ends():
    """Two colours side by side: the steps inside the empty part are small everywhere."""
    opacity = np.zeros((64, 64), np.uint8)
    opacity[:, :16] = opacity[:, -16:] = 255
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[:, :16], rgb[:, -16:] = 40, 220
    filled = push_pull_fill(rgb, opacity).astype(int)
    steps = np.abs(np.diff(filled, axis=1))
    assert steps.max() < 180 / 6
    assert np.abs(np.diff(filled, axis=0)).max() <= 4
    middle = filled[:, 31:33].mean()
    assert middle == pytest.approx(130, abs=4)


def test_a_render_without_known_pixels_comes_back():
    rgb = np.full((8, 9, 3), 7, np.uint8)
    assert np.array_equal(push_pull_fill(rgb, np.full((8, 9), 100, np.uint8)), rgb)


def test_half_transparent_pixels_lend_no_colour():
    """A faint red floater in the empty part does not colour its surroundings."""
    rgb, opacity = half((50, 50, 50))
    rgb[20:24, 55:59, 0], opacity[20:24, 55:59] = 120, 128
    filled = push_pull_fill(rgb, opacity)
    assert np.abs(filled[40, 60].astype(int) - 50).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 33), (47, 3)])
def test_any_size_is_filled(height, width):
    known = torch.zeros(1, 1, height, width)
    known[..., 0, 0] = 1
    colours = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    filled = diffused(colours, known)
    assert filled.shape == colours.shape
    assert torch.allclose(filled, colours[..., :1, :1].expand_as(filled), atol=1e-5)
