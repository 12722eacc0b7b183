"""The causal start: the same data and loss as the teacher's, under a block-causal mask, every block
at a noise level of its own (Diffusion Forcing, paper section 4.2).

Blocks see earlier blocks at the noise level that those have; no clean copies are added.
"""

from __future__ import annotations

from artifixer.training.flow_matching import FlowMatchingStage, FlowMatchingTraining
from artifixer.video.flow import FlowSchedule
from artifixer.video.model import Model

NAME = "diffusion_forcing"


def diffusion_forcing_stage(
    model: Model, settings: FlowMatchingTraining, seed: int, compute: str
) -> FlowMatchingStage:
    """The stage that trains the model's transformer in place, in blocks as long as the model's."""
    schedule = FlowSchedule(shift=model.config.shift)
    return FlowMatchingStage(
        NAME,
        model.transformer,
        model.vae,
        settings,
        schedule,
        seed,
        compute,
        model.config.block_frames,
    )
