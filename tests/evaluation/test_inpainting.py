"""Inpainting fills what is empty, and nothing else."""

import numpy as np
import pytest

from artifixer.evaluation.inpainting import METHODS, InpaintingMethod, inpaint

SIDE = 48

#: Methods that either fill or keep a pixel.
BINARY: tuple[InpaintingMethod, ...] = ("telea", "ns")

#: A smooth gradient is nearly linear across the hole: filling it errs by a few grey levels, leaving
#: it black by about 120.
FILLED_ERROR = 12


def gradient() -> np.ndarray:
    ramp = np.linspace(60, 180, SIDE)
    return np.stack(
        np.broadcast_arrays(ramp[:, None], ramp[None], ramp[None, ::-1]), axis=-1
    ).astype(np.uint8)


def hole() -> np.ndarray:
    opacity = np.full((SIDE, SIDE), 255, np.uint8)
    opacity[18:28, 20:30] = 0
    return opacity


@pytest.mark.parametrize("method", METHODS)
def test_a_hole_takes_the_colours_around_it(method: InpaintingMethod) -> None:
    truth, opacity = gradient(), hole()
    render = np.where(opacity[..., None] > 0, truth, 0).astype(np.uint8)
    filled = inpaint(render, opacity, method)
    assert filled.dtype == np.uint8 and filled.shape == truth.shape
    error = np.abs(filled.astype(int) - truth)[opacity == 0]
    assert error.mean() < FILLED_ERROR


@pytest.mark.parametrize("method", BINARY)
@pytest.mark.parametrize("opacity_value", [128, 200, 255])
def test_pixels_above_half_opacity_stay(method: InpaintingMethod, opacity_value: int) -> None:
    """Premultiplied colours are kept as they are: nothing is divided by opacity."""
    render = (gradient() // 2).astype(np.uint8)
    opacity = np.where(hole() > 0, opacity_value, 0).astype(np.uint8)
    filled = inpaint(render, opacity, method)
    np.testing.assert_array_equal(filled[opacity > 0], render[opacity > 0])


@pytest.mark.parametrize("method", BINARY)
def test_the_limit_is_half(method: InpaintingMethod) -> None:
    render, opacity = gradient(), np.full((SIDE, SIDE), 255, np.uint8)
    opacity[10, 10], opacity[30, 30] = 127, 128
    render[10, 10] = render[30, 30] = 0
    filled = inpaint(render, opacity, method)
    assert filled[10, 10].min() > 0
    assert filled[30, 30].max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_without_empty_or_without_opaque_pixels_the_render_comes_back(
    method: InpaintingMethod,
) -> None:
    render = gradient()
    for value in (0, 255):
        filled = inpaint(render, np.full((SIDE, SIDE), value, np.uint8), method)
        np.testing.assert_array_equal(filled, render)
        assert filled is not render
