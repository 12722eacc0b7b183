"""Sampling by the bidirectional teacher: all frames of a clip together, in many steps with guidance
(paper section 4.1).

In: a network, latents of the renders with their conditions, noise. Out: clean latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.runtime.extras import needs_extra
from artifixer.video.conditions import Conditions
from artifixer.video.flow import SourceKind, latent_opacity, source_latents
from artifixer.video.sample import Latents, NetworkCall, Noise, source_skip_of

if TYPE_CHECKING:
    from artifixer.video.transformer import VideoTransformer
    from artifixer.video.transformer_layers import CrossAttentionCache

#: Pixel frames of the teacher's training clips; longer videos are split into clips of this length.
TEACHER_FRAMES = 81


@dataclass(frozen=True)
class TeacherConfig:
    """Settings of the bidirectional teacher's sampler; the defaults are the release's."""

    steps: int = 50
    """Steps of the UniPC solver, at least 1."""

    guidance: float = 5.0
    """Classifier-free guidance scale; 1 for none."""

    shift: float = 3.0
    """Shift of the solver's noise levels."""

    source: SourceKind = "mixing"
    """Start of the flow."""

    def __post_init__(self) -> None:
        assert self.steps >= 1, f"{self.steps} steps"


def sample_bidirectional(
    network: VideoTransformer,
    render_latents: Latents,
    conditions: Conditions,
    config: TeacherConfig,
    noise: Noise,
    *,
    negative_text: Float[Tensor, "batch text_tokens text_width"] | None = None,
    clip: int = 0,
    observe: Callable[[NetworkCall], None] | None = None,
) -> Latents:
    """Clean latents of a whole clip, without gradients.

    conditions: of the clip, from its latent frame 0. negative_text: embedding of the negative
    prompt; None for no prompt. References and cameras are the same in both predictions. clip: index
    of the clip in a video, the block index of its noise. observe: called after every step with the
    guided velocity.
    """
    with torch.no_grad():
        opacity = latent_opacity(
            conditions.opacity,
            network.config.temporal_factor,
            network.config.spatial_factor,
            is_first=True,
        )
        drawn = noise(clip, 0, render_latents.shape) if config.source != "direct" else None
        latents = source_latents(render_latents, opacity, drawn, config.source)
        skip = source_skip_of(network, opacity, render_latents)
        branches = [(conditions, network.cross_attention_cache(conditions))]
        if config.guidance != 1:
            negative = (
                conditions.drop(text=True)
                if negative_text is None
                else replace(conditions, text=negative_text)
            )
            branches.append((negative, _text_cache(network, negative, branches[0][1])))
        solver = _unipc(config, latents.device)
        for step, time in enumerate(solver.timesteps):
            sigma = float(solver.sigmas[step])
            timesteps = time.to(torch.float32).expand(len(latents))
            predictions = [
                network(
                    latents,
                    timesteps,
                    branch,
                    cross_attention_cache=cached,
                    source_skip=skip,
                    render_latents=render_latents,
                )
                for branch, cached in branches
            ]
            velocity = (
                predictions[0]
                if len(predictions) == 1
                else predictions[1] + config.guidance * (predictions[0] - predictions[1])
            )
            if observe is not None:
                observe(NetworkCall(clip, step, sigma, timesteps, latents, velocity))
            latents = solver.step(velocity, time, latents, return_dict=False)[0]
        return latents


def _text_cache(
    network: VideoTransformer, conditions: Conditions, references_from: CrossAttentionCache
) -> CrossAttentionCache:
    """The cross-attention cache of conditions that differ in the text alone; the entries of the
    references, the larger part, are shared.
    """
    if conditions.reference_latents is None:
        return network.cross_attention_cache(conditions)
    return network.cross_attention_cache(conditions.drop(references=True)).with_references_of(
        references_from
    )


def _unipc(config: TeacherConfig, device: torch.device) -> Any:
    """The solver of Wan 2.1, set up for ``config.steps`` steps."""
    with needs_extra("wan", "sampling the teacher"):
        from diffusers import UniPCMultistepScheduler

    solver: Any = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=config.shift,
        solver_order=2,
        solver_type="bh2",
    )
    solver.set_timesteps(config.steps, device=device)
    return solver
