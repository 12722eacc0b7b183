"""Sizes that --size asks for, and resizing: published values, constants stay constant, equal sizes
change nothing.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from artifixer.imaging.resize import GRID, fit_size, multiple_of_16, resize_bilinear, resize_photo
from artifixer.runtime.errors import InputError

FLOAT32_ROUNDING = 1e-6

SIDES = st.integers(1, 10_000)


def test_published_resize(parity_folder: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(parity_folder / "g_metrics_resize.safetensors")
    image, resized = stored["a"].movedim(1, -1), stored["a_resized16"].movedim(1, -1)
    width, height = multiple_of_16(image.shape[2], image.shape[1])
    torch.testing.assert_close(
        resize_bilinear(image, width, height), resized, rtol=0, atol=FLOAT32_ROUNDING
    )


@pytest.mark.parametrize(("width", "height"), [(11, 4), (3, 9)])
def test_resize_is_bilinear_between_pixel_centres(width: int, height: int) -> None:
    """The formula with loops: the centre of a new pixel lies between four old ones; beyond the
    border the nearest pixel goes on.
    """
    image = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def weights(new: int, old: int) -> list[tuple[int, int, float]]:
        places = [(i + 0.5) * old / new - 0.5 for i in range(new)]
        clamped = [min(max(place, 0.0), old - 1.0) for place in places]
        return [(int(x), min(int(x) + 1, old - 1), x - int(x)) for x in clamped]

    rows, columns = weights(height, 5), weights(width, 7)
    expected = torch.stack(
        [
            torch.stack(
                [
                    (1 - v) * ((1 - u) * image[top, left] + u * image[top, right])
                    + v * ((1 - u) * image[low, left] + u * image[low, right])
                    for left, right, u in columns
                ]
            )
            for top, low, v in rows
        ]
    )
    torch.testing.assert_close(
        resize_bilinear(image, width, height), expected, rtol=0, atol=FLOAT32_ROUNDING
    )


@given(SIDES, SIDES, SIDES)
def test_longest_side(width: int, height: int, size: int) -> None:
    new_width, new_height = fit_size(width, height, size)
    assert max(new_width, new_height) == min(size, max(width, height))
    scale = min(1, size / max(width, height))
    assert abs(new_width - max(1, width * scale)) <= 0.5
    assert abs(new_height - max(1, height * scale)) <= 0.5
    assert fit_size(width, height, str(size)) == (new_width, new_height)


def test_renders_may_be_larger_than_photos() -> None:
    assert fit_size(100, 50, 200) == (100, 50)
    assert fit_size(100, 50, 200, enlarge=True) == (200, 100)
    assert fit_size(100, 50, 40, enlarge=True) == (40, 20)


def test_exact_size_and_none() -> None:
    assert fit_size(100, 50, "64x48") == (64, 48)
    assert fit_size(100, 50, None) == (100, 50)


@pytest.mark.parametrize(
    "size",
    [
        "",
        "0",
        0,
        -3,
        "0x5",
        "5x0",
        "5x",
        "x5",
        "1.5",
        "nan",
        "5 x 5",
        "large",
        "99999",
        "5x99999",
        "9" * 5000,
    ],
)
def test_other_sizes_are_refused(size: int | str) -> None:
    with pytest.raises(InputError, match="expected the longest side in pixels, or WIDTHxHEIGHT"):
        fit_size(100, 50, size)


@given(SIDES, SIDES)
def test_multiples_of_16_are_near(width: int, height: int) -> None:
    for before, after in zip((width, height), multiple_of_16(width, height), strict=True):
        assert after % GRID == 0
        assert after >= GRID
        assert abs(after - before) <= GRID / 2 or after == GRID


def test_bilinear_keeps_constants_and_linear_ramps() -> None:
    columns = torch.arange(20, dtype=torch.float64) + 0.5
    ramp = columns.expand(2, 12, 20)[..., None].repeat(1, 1, 1, 3)
    wider = resize_bilinear(ramp, 40, 24)
    expected = (torch.arange(40, dtype=torch.float64) + 0.5) / 2
    inner = slice(2, -2)  # at the borders the nearest pixel is continued
    torch.testing.assert_close(wider[0, 5, inner, 1], expected[inner])
    torch.testing.assert_close(
        resize_bilinear(torch.full((9, 9, 3), 0.3), 5, 17), torch.full((17, 5, 3), 0.3)
    )


def test_equal_size_changes_nothing() -> None:
    image = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0))
    assert resize_bilinear(image, 7, 5) is image
    photo = (255 * image.numpy()).astype(np.uint8)
    assert resize_photo(photo, 7, 5) is photo


def test_photo_resize_antialiases() -> None:
    checker = (
        (255 * (np.indices((64, 64)).sum(0) % 2)).astype(np.uint8)[..., None].repeat(3, axis=2)
    )
    small = resize_photo(checker, 16, 16)
    assert small.shape == (16, 16, 3)
    # a finer pattern than the pixels becomes its mean
    assert np.abs(small[2:-2, 2:-2].astype(int) - 128).max() <= 2
