"""Words about a clip: an interface, and nothing by default.

The paper's model is trained with captions of 80 to 100 words that say nothing about camera motion. The embedded model reads no text;
whoever trains a larger one passes a function from frames to words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

#: Frames of a clip -> words about the scene.
Captioner = Callable[[UInt8[Tensor, "frames height width 3"]], str]


@dataclass(frozen=True)
class Caption:
    """Words and, if a text encoder was at hand, their embedding."""

    text: str | None = None
    embedding: Float[Tensor, "tokens width"] | None = None


#: What pairs have without a captioner.
NO_CAPTION = Caption()

#: Frames shown to a captioner at most; more say nothing new.
CAPTION_FRAMES = 8


def caption_clip(
    frames: UInt8[Tensor, "frames height width 3"],
    captioner: Captioner | None,
    embed: Callable[[str], Float[Tensor, "tokens width"]] | None = None,
) -> Caption:
    """The caption of a clip from a few evenly spaced frames. embed: a text encoder."""
    if captioner is None:
        return NO_CAPTION
    count = min(CAPTION_FRAMES, len(frames))
    chosen = torch.linspace(0, len(frames) - 1, count).round().long()
    text = " ".join(captioner(frames[chosen]).split())
    return Caption(text, None if embed is None or not text else embed(text))
