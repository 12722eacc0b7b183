import pytest
import torch

from artifixer.imaging.push_pull import fill_empty
from artifixer.video.finish import CHANGE_FRACTION, VERSION, FinishConfig, finish, smoothed


def views(height: int = 40, width: int = 56, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of noise, and an opacity that goes from 1 at the left to 0 at the right."""
    frames = torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(seed))
    opacity = torch.linspace(1.5, -0.5, width).clamp(0, 1).expand(2, height, width).clone()
    return frames, opacity


def test_nothing_is_done_by_default():
    frames, opacity = views()
    assert finish(frames, opacity, FinishConfig()) is frames
    assert not FinishConfig().reads_depth


def test_empty_regions_get_the_models_colours_without_its_grid_and_opaque_ones_nothing():
    """The model adds a colour and tiles of 8 pixels everywhere."""
    height, width, cells = 64, 136, 8
    opacity = (torch.arange(width) < 48).float().expand(1, height, width)
    render = opacity[..., None] * torch.tensor([0.4, 0.5, 0.6])
    base = fill_empty(render, opacity)
    tiles = ((torch.arange(width) // 4)[None] + (torch.arange(height) // 4)[:, None]) % 2
    colour = torch.tensor([0.1, 0.05, -0.1])
    frames = base + colour + (0.2 * tiles.float() - 0.1)[None, ..., None]
    settings = FinishConfig(smooth_cells=cells)
    change = finish(frames, opacity, settings, render) - base
    assert settings.reads_depth
    far = change[:, 24:-24, 88:-24]  # at its borders a picture repeats half a tile
    assert (far - colour * CHANGE_FRACTION).abs().max() < 0.05 * 0.1 * CHANGE_FRACTION
    assert change[:, 24:-24, :-24].diff(dim=2).abs().max() < 0.1 * 0.1 * CHANGE_FRACTION
    assert change[:, :, :48].abs().max() < 1e-6


def test_an_opaque_render_stays_to_the_bit():
    frames, _ = views()
    render, _ = views(seed=1)
    opacity = torch.ones(frames.shape[:3])
    assert torch.equal(finish(frames, opacity, FinishConfig(smooth_cells=8), render), render)


def test_what_is_known_goes_on_into_what_is_not_without_a_step():
    """The render is 0.2 where it is opaque; the model paints 0.8 where it is empty."""
    opacity = (torch.arange(96) < 32).float().expand(1, 64, 96)
    render = 0.2 * opacity[..., None].expand(-1, -1, -1, 3)
    frames = torch.where(opacity > 0, 0.2, 0.8)[..., None].expand(-1, -1, -1, 3)
    finished = finish(frames, opacity, FinishConfig(smooth_cells=8), render)
    assert finished.diff(dim=2).abs().max() < 0.04 * CHANGE_FRACTION, (
        "a fifteenth of the step that is taken"
    )
    assert finished[0, :, -8:].mean() > 0.2 + 0.9 * CHANGE_FRACTION * 0.6, (
        "far from what is known the model's colour stands"
    )


def test_other_smoothed_frames_are_another_version():
    """Runs keep frames of the same version."""
    frames, opacity = views()
    render = opacity[..., None] * views(seed=1)[0]
    base = fill_empty(render, opacity)
    depth = torch.linspace(1, 2, frames.shape[2]).expand(frames.shape[:3])
    change = finish(frames, opacity, FinishConfig(smooth_cells=8), render, depth=depth) - base
    found = [float(change[..., columns, :].std()) for columns in (slice(28), slice(28, None))]
    assert (VERSION, found) == (9, pytest.approx([0.001940, 0.014246], abs=2e-6)), (
        "increment VERSION in video/finish.py, then write both here"
    )


def test_a_uniform_picture_stays_uniform_up_to_its_borders():
    picture = torch.full((2, 33, 47, 3), 0.37)
    assert torch.allclose(smoothed(picture, 4.0), picture, atol=1e-6)


def test_residual_and_strength_follow_their_formulas():
    frames, opacity = views()
    render, decoded = torch.rand_like(frames), torch.rand_like(frames)
    opaque = opacity.square()[..., None]
    with_residual = frames + opaque * (render - decoded)
    assert torch.allclose(
        finish(frames, opacity, FinishConfig(keep_residual=True), render, decoded), with_residual
    )
    settings = FinishConfig(keep_residual=True, strength=0.25)
    expected = with_residual + 0.75 * opaque * (render - with_residual)
    assert torch.allclose(finish(frames, opacity, settings, render, decoded), expected)


def test_a_finish_that_needs_the_render_says_so():
    frames, opacity = views()
    with pytest.raises(AssertionError, match="residual needs the render"):
        finish(frames, opacity, FinishConfig(keep_residual=True))
    with pytest.raises(AssertionError, match="smoothing needs the render"):
        finish(frames, opacity, FinishConfig(smooth_cells=8))
    with pytest.raises(AssertionError, match="strength -1"):
        FinishConfig(strength=-1)
