"""The teacher's stage: a bidirectional conditional flow-matching model (paper section 4.1).

All frames of a clip are denoised together at one noise level; what a causal generator learns later
is judged by this network.
"""

from __future__ import annotations

from artifixer.training.flow_matching import FlowMatchingStage, FlowMatchingTraining
from artifixer.video.flow import FlowSchedule
from artifixer.video.model import Model

NAME = "bidirectional"


def bidirectional_stage(
    model: Model, settings: FlowMatchingTraining, seed: int, compute: str
) -> FlowMatchingStage:
    """The stage that trains the model's transformer in place."""
    return FlowMatchingStage(
        NAME,
        model.transformer,
        model.vae,
        settings,
        FlowSchedule(shift=model.config.shift),
        seed,
        compute,
    )
