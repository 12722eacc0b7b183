"""The flow: pooled opacity, sources, the line and its inverse, the schedule; against a slow twin
and the release's tables.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from artifixer.video.flow import (
    FlowSchedule,
    clean_from_velocity,
    latent_opacity,
    noisy_latents,
    source_latents,
    timestep,
    velocity,
)
from tests.video.parity_cases import cases_of, read_case

#: float32 against the release's own tables.
PARITY_TOLERANCE = 1e-4

#: float32 rounding of values of order one.
ROUNDING = 1e-6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slow_latent_opacity(
    opacity: torch.Tensor, temporal: int, spatial: int, is_first: bool
) -> torch.Tensor:
    """The definition, latent by latent."""
    batch, frames, height, width = opacity.shape
    groups = [
        list(range(start, start + temporal)) for start in range(int(is_first), frames, temporal)
    ]
    groups = [[0], *groups] if is_first else groups
    pooled = torch.empty(batch, 1, len(groups), height // spatial, width // spatial)
    for sample in range(batch):
        for index, group in enumerate(groups):
            for row in range(height // spatial):
                for column in range(width // spatial):
                    cell = opacity[sample, group, row * spatial :, column * spatial :][
                        :, :spatial, :spatial
                    ]
                    pooled[sample, 0, index, row, column] = cell.max()
    return pooled


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("temporal", "spatial"), [(4, 8), (2, 4), (1, 8)])
@pytest.mark.parametrize("is_first", [True, False])
def test_latent_opacity_is_the_largest_of_its_pixels(batch, temporal, spatial, is_first):
    opacity = torch.rand(
        batch,
        is_first + 2 * temporal,
        2 * spatial,
        3 * spatial,
        generator=torch.Generator().manual_seed(0),
    )
    expected = slow_latent_opacity(opacity, temporal, spatial, is_first)
    assert torch.equal(latent_opacity(opacity, temporal, spatial, is_first), expected)


def test_pieces_of_opacity_pool_to_pieces_of_the_clip():
    opacity = torch.rand(2, 13, 16, 16, generator=torch.Generator().manual_seed(0))
    pieces = [
        latent_opacity(opacity[:, :5], 4, 8, is_first=True),
        latent_opacity(opacity[:, 5:], 4, 8, is_first=False),
    ]
    assert torch.equal(torch.cat(pieces, dim=2), latent_opacity(opacity, 4, 8, is_first=True))


def test_opacity_of_incomplete_groups_is_refused():
    with pytest.raises(AssertionError, match="groups of 4 after the first"):
        latent_opacity(torch.zeros(1, 4, 8, 8), 4, 8, is_first=True)
    with pytest.raises(AssertionError, match=r"groups of 4$"):
        latent_opacity(torch.zeros(1, 5, 8, 8), 4, 8, is_first=False)


def test_sources_are_the_render_where_opaque_and_noise_where_empty():
    render, noise = normal(2, 3, 2, 2, 2), normal(2, 3, 2, 2, 2, seed=1)
    opacity = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1).expand(2, 1, 2, 2, 2)
    mixed = source_latents(render, opacity, noise)
    assert torch.equal(mixed[0], noise[0])
    assert torch.equal(mixed[1], render[1])
    torch.testing.assert_close(
        source_latents(render, torch.full_like(opacity, 0.25), noise), 0.25 * render + 0.75 * noise
    )
    assert torch.equal(source_latents(render, opacity, noise, "direct"), render)
    assert source_latents(render.bfloat16(), opacity, noise.bfloat16()).dtype == torch.bfloat16


@given(sigma=st.floats(0, 1))
def test_the_clean_end_is_found_from_any_point_of_the_line(sigma):
    clean, source = normal(2, 3, 2, 2, 2), normal(2, 3, 2, 2, 2, seed=1)
    noisy = noisy_latents(clean, source, sigma)
    torch.testing.assert_close(
        clean_from_velocity(noisy, velocity(source, clean), sigma), clean, rtol=0, atol=4 * ROUNDING
    )
    torch.testing.assert_close(
        noisy_latents(source, clean, 1 - sigma), noisy, rtol=0, atol=4 * ROUNDING
    )


def test_levels_per_clip_and_per_frame():
    clean, source = normal(2, 3, 4, 2, 2), normal(2, 3, 4, 2, 2, seed=1)
    per_clip, per_frame = (
        torch.tensor([0.2, 0.9]),
        torch.rand(2, 4, generator=torch.Generator().manual_seed(2)),
    )
    by_clip, by_frame = (
        noisy_latents(clean, source, per_clip),
        noisy_latents(clean, source, per_frame),
    )
    flow = velocity(source, clean)
    for sample in range(2):
        alone = slice(sample, sample + 1)
        one = noisy_latents(clean[alone], source[alone], per_clip[alone])
        assert torch.equal(by_clip[alone], one)
        for frame in range(4):
            part = alone, slice(None), slice(frame, frame + 1)
            one = noisy_latents(clean[part], source[part], per_frame[alone, frame])
            assert torch.equal(by_frame[part], one)
    torch.testing.assert_close(
        clean_from_velocity(by_frame, flow, per_frame), clean, rtol=0, atol=4 * ROUNDING
    )


def test_low_precision_latents_keep_the_levels_precision():
    clean, source = normal(1, 1, 1, 8, 8), normal(1, 1, 1, 8, 8, seed=1)
    level = 0.937570333480835  # bfloat16 knows 0.9375 and 0.941 only
    low = noisy_latents(clean.bfloat16(), source.bfloat16(), level)
    assert torch.equal(
        low, noisy_latents(clean.bfloat16().float(), source.bfloat16().float(), level).bfloat16()
    )


def test_schedule_equals_the_release(parity_folder):
    for case in cases_of(parity_folder, "d"):
        stored = read_case(parity_folder, case)
        schedule = FlowSchedule(levels=len(stored["sigmas"]))
        ours = {
            "sigmas": schedule.sigmas,
            "timesteps": schedule.timesteps,
            "weights": schedule.training_weights,
        }
        ours |= {
            name: timestep(schedule.few_step_sigmas(int(name[6:])))
            for name in stored
            if name.startswith("steps_")
        }
        assert set(ours) == set(stored) and len(ours) > 3
        for name, values in ours.items():
            torch.testing.assert_close(
                values,
                stored[name],
                rtol=0,
                atol=PARITY_TOLERANCE,
                msg=lambda text, name=name: f"{name}: {text}",
            )


def test_four_steps_of_the_release():
    expected = torch.tensor([1000.0, 937.5, 833.3333, 625.0])
    torch.testing.assert_close(
        timestep(FlowSchedule().few_step_sigmas(4)), expected, rtol=0, atol=PARITY_TOLERANCE
    )


@given(steps=st.integers(1, 50), shift=st.floats(1, 10))
def test_few_step_levels_fall_from_the_source_and_stay_on_the_grid(steps, shift):
    schedule = FlowSchedule(shift=shift)
    levels = schedule.few_step_sigmas(steps)
    assert len(levels) == steps
    assert levels[0] == pytest.approx(1, abs=ROUNDING)
    assert (levels.diff() < 0).all() and levels[-1] > 0
    assert torch.isin(levels, schedule.sigmas).all()


def test_training_weights_are_a_bell_of_mean_one():
    schedule = FlowSchedule()
    weights = schedule.training_weights
    assert weights[0] == 0
    assert weights.mean() == pytest.approx(1, abs=ROUNDING)
    assert abs(float(schedule.timesteps[weights.argmax()]) - 500) < 3
