import pytest
import torch

from artifixer.video.finish import FinishConfig, finish, smooth_empty


def views(height: int = 40, width: int = 56, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of noise, and an opacity that goes from 1 at the left to 0 at the right."""
    frames = torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(seed))
    opacity = torch.linspace(1.5, -0.5, width).clamp(0, 1).expand(2, height, width).clone()
    return frames, opacity


def test_nothing_is_done_by_default():
    frames, opacity = views()
    assert finish(frames, opacity, FinishConfig()) is frames
    assert not FinishConfig().reads_render


@pytest.mark.parametrize("cells", [2, 8, 64])
def test_smoothing_leaves_opaque_pixels_to_the_bit(cells: int):
    frames, opacity = views()
    smoothed = smooth_empty(frames, opacity, cells)
    assert torch.equal(smoothed[opacity == 1], frames[opacity == 1])
    assert not torch.allclose(smoothed[opacity == 0], frames[opacity == 0])


def test_a_pattern_of_the_cells_is_gone_where_nothing_is_known_and_its_colours_stay():
    height, width, cells = 64, 64, 8
    tiles = ((torch.arange(width) // 4)[None] + (torch.arange(height) // 4)[:, None]) % 2
    frames = (0.3 + 0.4 * tiles.float())[None, :, :, None].expand(1, height, width, 3)
    smoothed = smooth_empty(frames, torch.zeros(1, height, width), cells)
    assert torch.allclose(smoothed, torch.full_like(smoothed, 0.5), atol=1e-5)


def test_what_is_known_goes_on_into_what_is_not_without_a_step():
    """The frame is 0.2 where it is opaque and 0.8 where it is empty: no neighbours differ by more
    than a smooth ramp.
    """
    opacity = (torch.arange(64) < 32).float().expand(1, 64, 64)
    frames = torch.where(opacity > 0, 0.2, 0.8)[..., None].expand(-1, -1, -1, 3)
    smoothed = smooth_empty(frames, opacity, 8)
    assert smoothed.diff(dim=2).abs().max() < 0.15
    assert smoothed[0, :, -8:].mean() > 0.75, "far from what is known the frame's own colours stand"


def test_a_uniform_frame_stays_as_it_is():
    opacity = torch.rand(1, 33, 47, generator=torch.Generator().manual_seed(1))
    frames = torch.full((1, 33, 47, 3), 0.37)
    assert torch.allclose(smooth_empty(frames, opacity, 8), frames, atol=1e-5)


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
    assert settings.reads_render


def test_a_finish_that_needs_the_render_says_so():
    frames, opacity = views()
    with pytest.raises(AssertionError, match="residual needs the render"):
        finish(frames, opacity, FinishConfig(keep_residual=True))
    with pytest.raises(AssertionError, match="strength -1"):
        FinishConfig(strength=-1)
