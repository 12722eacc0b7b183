"""The push-pull fill: what it keeps, what it continues, and that it has no edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifixer.imaging.push_pull import diffused, fill_empty, push_pull_fill


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


def between_two_colours() -> tuple[torch.Tensor, torch.Tensor]:
    """Dark on the left, light on the right, empty in the middle."""
    opacity = torch.zeros(1, 64, 64)
    opacity[..., :16] = opacity[..., -16:] = 1
    render = torch.zeros(1, 64, 64, 3)
    render[:, :, :16], render[:, :, -16:] = 0.2, 0.8
    return render, opacity


def test_behind_an_object_its_background_is_continued():
    """The fill takes the colour of what is far, also beside what is near; opaque pixels stay."""
    render, opacity = between_two_colours()
    depth = torch.where(torch.arange(64) < 32, 1.0, 3.0).expand(1, 64, 64)
    filled = fill_empty(render, opacity, depth)
    assert float(fill_empty(render, opacity)[0, :, 31:33].mean()) == pytest.approx(0.5, abs=0.02)
    assert float(filled[0, :, 31:33].mean()) > 0.75
    assert torch.equal(filled[opacity == 1], render[opacity == 1])
    swapped = fill_empty(render, opacity, 4 - depth)
    assert float(swapped[0, :, 31:33].mean()) < 0.25


def test_equal_or_unknown_depths_change_nothing():
    render, opacity = between_two_colours()
    plain = fill_empty(render, opacity)
    for value in (2.5, 1e-3, float("nan"), float("inf"), 0.0, -1.0):
        filled = fill_empty(render, opacity, torch.full((1, 64, 64), value))
        assert torch.allclose(filled, plain, atol=1e-6), value


def test_depths_of_any_unit_give_the_same_fill():
    render, opacity = between_two_colours()
    depth = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    filled = fill_empty(render, opacity, depth)
    assert torch.allclose(fill_empty(render, opacity, 1000 * depth), filled, atol=1e-5)
    assert filled.isfinite().all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 33), (47, 3)])
def test_any_size_is_filled(height, width):
    known = torch.zeros(1, 1, height, width)
    known[..., 0, 0] = 1
    colours = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    filled = diffused(colours, known)
    assert filled.shape == colours.shape
    assert torch.allclose(filled, colours[..., :1, :1].expand_as(filled), atol=1e-5)
