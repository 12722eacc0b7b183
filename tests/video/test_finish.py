import pytest
import torch

from artifixer.imaging.push_pull import fill_empty
from artifixer.video.finish import CHANGE_FRACTION, LUMA, VERSION, FinishConfig, finish, smoothed


def views(height: int = 40, width: int = 56, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of noise, and an opacity that goes from 1 at the left to 0 at the right."""
    frames = torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(seed))
    opacity = torch.linspace(1.5, -0.5, width).clamp(0, 1).expand(2, height, width).clone()
    return frames, opacity


def test_nothing_is_done_by_default():
    frames, opacity = views()
    assert finish(frames, opacity, FinishConfig()) is frames
    assert not FinishConfig().reads_depth


def test_a_grid_of_the_cells_is_gone_and_the_models_brightness_stays():
    """Where the render is empty and where it is opaque, the model adds light and tiles of 8.
    Where it is opaque, finer changes stay, and the steps between tiles are less than half.
    """
    height, width, cells = 64, 64, 8
    opacity = (torch.arange(width) < 32).float().expand(1, height, width)
    render = opacity[..., None] * torch.tensor([0.4, 0.5, 0.6])
    tiles = ((torch.arange(width) // 4)[None] + (torch.arange(height) // 4)[:, None]) % 2
    frames = fill_empty(render, opacity) + 0.1 + (0.2 * tiles.float() - 0.1)[None, ..., None]
    settings = FinishConfig(smooth_cells=cells)
    finished = finish(frames, opacity, settings, render)
    change = finished - fill_empty(render, opacity)
    assert settings.reads_depth
    assert (change[:, 12:-12, 44:-12] - 0.1 * CHANGE_FRACTION).abs().max() < 0.01 * CHANGE_FRACTION
    assert change[:, 12:-12, 44:-12].diff(dim=2).abs().max() < 0.001
    steps = change[:, 12:-12, 8:16].diff(dim=2).abs().max()
    whole = frames[:, 12:-12, 8:16].diff(dim=2).abs().max()
    assert 0.01 < steps < 0.5 * CHANGE_FRACTION * whole
    assert (frames - fill_empty(render, opacity) - 0.1).abs().min() > 0.09


def test_the_model_may_lighten_and_darken_but_not_fade_or_tint():
    """A model whose frames have 0.7 of the render's contrast around 0.45, are lighter by 0.05 and
    have a tint without brightness.
    """
    luma = torch.tensor(LUMA)
    random = torch.Generator().manual_seed(0)
    render = torch.rand(1, 1, 64, 1, generator=random).expand(1, 64, 64, 3)
    opacity = torch.ones(1, 64, 64)
    tint = torch.tensor([0.1, 0.0, -0.1 * LUMA[0] / LUMA[2]])
    frames = 0.45 + 0.7 * (render - 0.45) + 0.05 + tint
    finished = finish(frames, opacity, FinishConfig(smooth_cells=8), render)
    assert (tint @ luma).abs() < 1e-6
    expected = render + CHANGE_FRACTION * (frames - render).mean(dim=(1, 2)) @ luma
    assert torch.allclose(finished, expected, atol=1e-4)


def test_detail_that_the_model_adds_to_opaque_places_stays():
    """Stripes that the render does not have, of a period of 16 pixels."""
    render, opacity = torch.full((1, 64, 64, 3), 0.5), torch.ones(1, 64, 64)
    stripes = 0.1 * (torch.arange(64) * (2 * torch.pi / 16)).sin()[None, None, :, None]
    finished = finish(render + stripes, opacity, FinishConfig(smooth_cells=8), render)
    assert 0.7 < (finished - render)[0, 32].abs().max() / (0.1 * CHANGE_FRACTION) < 1


def test_detail_of_the_render_survives_to_the_bit_where_the_model_changes_nothing():
    frames, _ = views()
    opacity = torch.ones(frames.shape[:3])
    assert torch.equal(finish(frames, opacity, FinishConfig(smooth_cells=8), frames), frames)


def test_what_is_known_goes_on_into_what_is_not_without_a_step():
    """The render is 0.2 where it is opaque; the model paints 0.8 where it is empty."""
    opacity = (torch.arange(64) < 32).float().expand(1, 64, 64)
    render = 0.2 * opacity[..., None].expand(-1, -1, -1, 3)
    frames = torch.where(opacity > 0, 0.2, 0.8)[..., None].expand(-1, -1, -1, 3)
    finished = finish(frames, opacity, FinishConfig(smooth_cells=8), render)
    assert finished.diff(dim=2).abs().max() < 0.1 * CHANGE_FRACTION, (
        "a tenth of the step that is taken"
    )
    assert finished[0, :, -8:].mean() > 0.2 + 0.9 * CHANGE_FRACTION * 0.6, (
        "far from what is known the model's brightness stands"
    )


def test_other_smoothed_frames_are_another_version():
    """Runs keep frames of the same version."""
    frames, opacity = views()
    render = opacity[..., None] * views(seed=1)[0]
    base = fill_empty(render, opacity)
    depth = torch.linspace(1, 2, frames.shape[2]).expand(frames.shape[:3])
    change = finish(frames, opacity, FinishConfig(smooth_cells=8), render, depth=depth) - base
    found = [float(change[..., columns, :].std()) for columns in (slice(28), slice(28, None))]
    assert (VERSION, found) == (4, pytest.approx([0.016689, 0.011639], abs=2e-6)), (
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
