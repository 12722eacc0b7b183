"""Memory of a rollout by part, estimated before anything is loaded, and the check against a device.

In: a model's configuration, the size of its frames, the number of reference photos. Out: bytes.
Weights and caches are exact; activations follow a formula with measured factors that slightly
overestimates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.system import available_memory
from artifixer.video.model import ModelConfig
from artifixer.video.model_files import default_dtype, locate_model
from artifixer.video.model_zoo import NAMED_MODELS
from artifixer.video.transformer import VideoTransformer
from artifixer.video.transformer_config import VideoTransformerConfig
from artifixer.video.vae import AutoencoderConfig, VaeConfig, build_vae

#: Peak number of values per pixel and ``base_dim`` in Wan's encoder and decoder, and number of
#: values in the decoder's state between calls (measured).
WAN_ENCODER_PEAK, WAN_DECODER_PEAK, WAN_DECODER_MEMORY = 40, 54, 25

#: Blocks that are processed concurrently: read, generated, decoded.
BLOCKS_UNDER_WAY = 3

#: Memory of CUDA, cuDNN and the allocator's rounding besides tensors, bytes.
CUDA_OVERHEAD = 1_500_000_000

GIGABYTE = 1e9

#: Longest sides that an error may suggest, in this order.
SUGGESTED_SIZES = (1280, 1024, 960, 832, 640, 512, 384, 256, 192, 128)


@dataclass(frozen=True)
class MemoryPlan:
    """The properties of a rollout that determine its memory."""

    width: int
    """Width of the model's frames, pixels."""

    height: int
    """Height of the model's frames, pixels."""

    references: int = 6
    """Number of reference photos."""

    dtype: torch.dtype = torch.bfloat16
    """dtype of weights and activations."""

    offload: bool = False
    """Keep the transformer's layers in host memory."""

    clip_frames: int | None = None
    """Pixel frames per clip of the teacher, which has no key-value cache; None for the few-step
    generator, block by block."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device, by part."""

    transformer: int
    """Weights of the transformer."""

    vae: int
    """Weights of the autoencoder."""

    window: int
    """Keys and values of the frames in the window."""

    references: int
    """Keys and values of all reference photos."""

    text: int
    """Keys and values of the prompt."""

    activations: int
    """Activations of a layer, and the conditions of a block."""

    vae_activations: int
    """Activations of the autoencoder, including the state of its causal convolutions."""

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def memory_estimate(config: ModelConfig, plan: MemoryPlan) -> MemoryEstimate:
    """The memory of a rollout by part."""
    network, itemsize = config.transformer, plan.dtype.itemsize
    tokens = (plan.width // config.grid) * (plan.height // config.grid)  # per latent frame
    keys_and_values = 2 * network.layers * network.width * itemsize  # per token
    parameters = parameter_count(network)
    if plan.offload:
        per_layer = layer_parameter_count(network)
        parameters -= (network.layers - min(2, network.layers)) * per_layer
    pixels = plan.width * plan.height
    latent_frames = (
        config.block_frames
        if plan.clip_frames is None
        else config.vae.latent_frames(plan.clip_frames)
    )
    window_frames = config.window_frames if plan.clip_frames is None else 0
    frames = latent_frames * config.vae.temporal_factor
    in_flight = BLOCKS_UNDER_WAY * pixels * (frames * (3 * itemsize + 4) + latent_frames * 6 * 4)
    return MemoryEstimate(
        transformer=parameters * itemsize,
        vae=vae_parameter_count(config.vae) * itemsize,
        window=window_frames * tokens * keys_and_values,
        references=plan.references * tokens * keys_and_values,
        text=network.text_tokens * keys_and_values,
        activations=latent_frames * tokens * _bytes_per_token(network, itemsize) + in_flight,
        vae_activations=_vae_activations(config, pixels, frames, itemsize),
    )


def check_memory(
    config: ModelConfig, plan: MemoryPlan, device: torch.device, option: str = "--model"
) -> None:
    """Raise ``InputError`` when the model does not fit into the device's free memory, with the
    excess and alternatives that fit.

    option: command-line option that selected the model, for the message.
    """
    free = free_memory(device)
    estimate = memory_estimate(config, plan)
    needed = estimate.total + _overhead(device)
    if needed <= free:
        return
    parts = ", ".join(
        f"{label} {_gigabytes(value)}"
        for label, value in part_rows(estimate)
        if value >= 0.01 * estimate.total
    )
    fitting = list(_what_fits(config, plan, device, free))
    raise InputError(
        f"{option} {config.name} at {plan.width}x{plan.height} with "
        f"{counted(plan.references, 'reference')} needs {_gigabytes(needed)} ({parts}), "
        f"{device} has {_gigabytes(free)} free: {_gigabytes(needed - free)} too much; "
        + (f"what would fit: {', '.join(fitting)}" if fitting else "nothing known would fit")
    )


def part_rows(estimate: MemoryEstimate) -> Iterator[tuple[str, int]]:
    """The parts with their names in messages."""
    yield "weights", estimate.transformer + estimate.vae
    yield "window cache", estimate.window
    yield "reference cache", estimate.references
    yield "text cache", estimate.text
    yield "activations", estimate.activations
    yield "autoencoder", estimate.vae_activations


def free_memory(device: torch.device) -> int:
    """Free memory of the device, bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


@lru_cache(maxsize=8)
def parameter_count(config: VideoTransformerConfig) -> int:
    """Number of values in the transformer's weights."""
    with torch.device("meta"):
        one, two = (VideoTransformer(replace(config, layers=layers)) for layers in (1, 2))
    first, second = (
        sum(tensor.numel() for tensor in network.state_dict().values()) for network in (one, two)
    )
    count: int = first + (config.layers - 1) * (second - first)
    return count


def layer_parameter_count(config: VideoTransformerConfig) -> int:
    """Number of values in the weights of one layer."""
    return parameter_count(replace(config, layers=2)) - parameter_count(replace(config, layers=1))


@lru_cache(maxsize=8)
def vae_parameter_count(config: AutoencoderConfig) -> int:
    """Number of values in the autoencoder's weights."""
    return sum(tensor.numel() for tensor in build_vae(config, "meta").network.state_dict().values())


def _bytes_per_token(network: VideoTransformerConfig, itemsize: int) -> int:
    """Peak memory of a layer per token of the block (verified with a trace of all tensors): hidden
    values of the feed-forward network before and after the activation, or queries and results of
    the attention to references with float32 copies transformed by PRoPE; plus the values of opacity
    and rays.
    """
    feed_forward = 2 * network.ffn_width * itemsize + network.width * (2 * itemsize + 2 * 4)
    attention = network.width * (5 * itemsize + 4 * 4)
    return (
        max(feed_forward, attention) + (network.opacity_channels + network.ray_channels) * itemsize
    )


def _vae_activations(config: ModelConfig, pixels: int, frames: int, itemsize: int) -> int:
    """Encoder and decoder at their peaks at the same time; with the residual also the state of a
    second decoder, which runs after the first one.
    """
    if isinstance(config.vae, VaeConfig):
        per_pixel = config.vae.base_dim * (
            WAN_ENCODER_PEAK + WAN_DECODER_PEAK + config.keep_residual * WAN_DECODER_MEMORY
        )
    else:
        per_pixel = 2 * (9 * frames + config.vae.width)
    return pixels * per_pixel * itemsize


def _what_fits(
    config: ModelConfig, plan: MemoryPlan, device: torch.device, free: int
) -> Iterator[str]:
    """Changes of the plan or model that fit, smallest change first."""

    def fits(config: ModelConfig, plan: MemoryPlan) -> bool:
        return memory_estimate(config, plan).total + _overhead(device) <= free

    def smaller(plan: MemoryPlan) -> MemoryPlan | None:
        longest = max(plan.width, plan.height)
        for side in SUGGESTED_SIZES:
            width, height = config.model_size(
                plan.width * side // longest, plan.height * side // longest
            )
            if side < longest and fits(config, replace(plan, width=width, height=height)):
                return replace(plan, width=width, height=height)
        return None

    if plan.references > 1:
        fewer = next(
            (
                count
                for count in range(plan.references - 1, 0, -1)
                if fits(config, replace(plan, references=count))
            ),
            None,
        )
        if fewer is not None:
            yield f"--references {fewer}"
    offloaded = replace(plan, offload=True)
    if device.type == "cuda" and not plan.offload:
        if fits(config, offloaded):
            yield "--offload"
        elif (small := smaller(offloaded)) is not None:
            yield f"--offload with renders of {small.width}x{small.height}"
    if (small := smaller(plan)) is not None:
        yield f"renders of {small.width}x{small.height}"
    for name, named in NAMED_MODELS.items():
        if name == config.name:
            continue
        other = named.config or _embedded_config(name)
        if (
            other is not None
            and parameter_count(other.transformer) < parameter_count(config.transformer)
            and fits(other, plan)
        ):
            yield f"--model {name}"


def _embedded_config(name: str) -> ModelConfig | None:
    """Config of a model in the package; None where an installation lacks it."""
    try:
        return locate_model(name).config
    except InputError:
        return None


def _overhead(device: torch.device) -> int:
    return CUDA_OVERHEAD if device.type == "cuda" else 0


def _gigabytes(value: float) -> str:
    return f"{value / GIGABYTE:.3g} GB"


def default_plan(
    config: ModelConfig,
    width: int,
    height: int,
    references: int,
    device: torch.device,
    offload: bool = False,
) -> MemoryPlan:
    """The plan for frames of any size on a device, in its default dtype."""
    return MemoryPlan(*config.model_size(width, height), references, default_dtype(device), offload)
