"""Initial weights of the transformer: for training from scratch, and for the layers that the paper
adds to Wan 2.1 (section 4.1).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from artifixer.video.transformer import VideoTransformer

#: Layers that the public release adds to Wan 2.1, by the last part of their module's name.
ADDED_LAYERS = (
    "opacity_embedding",
    "ray_embedding",
    "reference_key",
    "reference_value",
    "reference_key_norm",
)


@torch.no_grad()
def initialise(
    transformer: VideoTransformer, generator: torch.Generator, zeros: bool = True
) -> None:
    """Draw all weights for training from scratch.

    Linear layers are uniform within sqrt(3 / inputs), norms 1, biases 0, modulation small. zeros:
    initialise the head and the paper's zero-initialised layers with zeros; False draws these and
    the biases too, so that every weight has an effect (tests, benchmarks).
    """
    for name, parameter in sorted(transformer.named_parameters()):
        drawn = torch.empty(parameter.shape)
        if "norm" in name and not name.endswith("bias"):
            drawn.fill_(1)
        elif zeros and is_added_layer(name):
            drawn = initial_added_layer(name, tuple(parameter.shape), generator)
        elif zeros and (name.endswith("bias") or name.startswith("head.")):
            drawn.zero_()
        elif name.endswith("modulation"):
            drawn.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
        else:
            inputs = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
            bound = math.sqrt(3 / inputs)
            drawn.uniform_(-bound, bound, generator=generator)
        parameter.copy_(drawn)


def is_added_layer(name: str) -> bool:
    """Whether a tensor belongs to a layer that Wan 2.1 lacks."""
    return any(part in ADDED_LAYERS for part in name.split("."))


def initial_added_layer(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Initial values of a layer that Wan 2.1 lacks (paper section 4.1). The initial model equals
    Wan 2.1: opacity, rays and reference values are zeros; reference keys are a default linear
    layer, their norm is ones.
    """
    if "reference_key_norm" in name:
        return torch.ones(shape)
    if "reference_key" not in name:
        return torch.zeros(shape)
    bound = 1 / math.sqrt(shape[-1])  # weight and bias of a square layer alike
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
