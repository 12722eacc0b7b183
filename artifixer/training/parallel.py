"""Parallel training, applied from outside the model files: sharded or replicated weights and
gradient averaging.

``replicate``: every process holds all weights; gradients are averaged after the backward pass.
``shard``: FSDP2, every process holds a part of the weights, gradients and optimizer state; compute
in bfloat16, master weights and reductions in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from artifixer.runtime.distributed import rank, world_size
from artifixer.video.transformer import VideoTransformer


@dataclass(frozen=True)
class ParallelConfig:
    """How a training runs on its processes and devices."""

    strategy: Literal["auto", "replicate", "shard"] = "auto"
    """``auto`` shards on GPUs and replicates on CPUs."""

    compute: Literal["float32", "bfloat16"] = "bfloat16"
    """dtype of matrix products; the weights are float32."""

    checkpoint_layers: bool = False
    """Activation checkpointing: recompute layers in the backward pass instead of storing their
    activations."""

    attention: str = "auto"
    """Backend of ``attend``."""

    compile: str | None = None
    """Backend of ``torch.compile`` for every layer of the networks, such as ``inductor``; None for
    no compilation. Layers are compiled once for all, and again for other shapes of clips."""


def autocast(compute: str, device: torch.device) -> torch.autocast:
    """The autocast context of a stage's forward passes, with matrix products in ``compute``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute == "bfloat16")


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is float64: the precision of losses."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def distribute(
    module: nn.Module, layers: Iterable[nn.Module], config: ParallelConfig, device: torch.device
) -> nn.Module:
    """The module on the device, with sharded weights where the settings and the number of processes
    require it. Changed in place.

    layers: units that are gathered and freed together. Weights are moved to the device layer by
    layer, so a model that is too large for one GPU may be passed on the CPU.
    """
    should_shard = config.strategy == "shard" or (
        config.strategy == "auto" and device.type == "cuda"
    )
    if world_size() == 1 or not should_shard:
        return module.to(device)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    mesh = init_device_mesh(device.type, (world_size(),))
    compute = torch.bfloat16 if config.compute == "bfloat16" and device.type == "cuda" else None
    policy = MixedPrecisionPolicy(
        param_dtype=compute,
        reduce_dtype=torch.float32 if compute else None,
        cast_forward_inputs=False,
    )
    layers = list(layers)
    for part in (*layers, module):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    if isinstance(module, VideoTransformer):
        module.streamed_layers = partial(_gathered_in_turn, layers)
        register_fsdp_forward_method(module, "cross_attention_cache")
    return module


def compile_layers(layers: Iterable[nn.Module], config: ParallelConfig) -> None:
    """Compile each layer in place; names and values of its weights stay the same."""
    if config.compile is not None:
        for layer in layers:
            layer.compile(backend=config.compile)


def _gathered_in_turn(layers: Iterable[Any]) -> Iterator[nn.Module]:
    """Sharded layers, each unsharded while it is used outside its forward pass."""
    for layer in layers:
        layer.unshard()
        yield layer
        layer.reshard()


def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Average gradients of replicated weights over all processes; FSDP averages sharded ones.
    Missing gradients become zeros.

    A weight that a batch does not use (no references were drawn) thus has gradient zero for any
    number of processes.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if not is_sharded(parameter)]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(
        gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True
    ):
        gradient.copy_(part.view_as(gradient))


def clip_gradients(optimizer: torch.optim.Optimizer, limit: float) -> float:
    """Clip the gradients of an optimizer's weights to the norm ``limit``; returns their norm
    before.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm: Any = nn.utils.clip_grad_norm_(parameters, limit)
    return float(norm.full_tensor() if is_sharded(norm) else norm)


def whole_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All weights of a module on the first process's CPU, gathered one by one; empty on the others.
    Every process must call it.
    """
    gathered = {}
    for name, value in module.state_dict().items():
        whole = value.full_tensor() if is_sharded(value) else value
        if rank() == 0:
            gathered[name] = whole.detach().to("cpu", copy=True)
    return gathered


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds only a part of the tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
