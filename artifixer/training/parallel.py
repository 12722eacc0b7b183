"""Several processes, from outside the model files: sharded or replicated weights, activation
checkpointing, gradients.

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
    """strategy: see above; ``auto`` shards on GPUs and replicates on CPUs. compute: type of matrix
    products (with float32 weights). checkpoint_layers: run layers again in the backward pass
    instead of keeping what they computed. attention: backend of ``attend``."""

    strategy: Literal["auto", "replicate", "shard"] = "auto"
    compute: Literal["float32", "bfloat16"] = "bfloat16"
    checkpoint_layers: bool = False
    attention: str = "auto"


def autocast(compute: str, device: torch.device) -> torch.autocast:
    """The context of a stage's forward passes: matrix products in ``compute``, the rest as the
    modules have it.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute == "bfloat16")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Float32, or float64 if it is: what losses are computed in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def distribute(
    module: nn.Module, layers: Iterable[nn.Module], config: ParallelConfig, device: torch.device
) -> nn.Module:
    """The module on the device, its weights sharded where the settings and the number of processes
    ask for it. Changed in place.

    layers: what is gathered and freed together. Weights go to the device layer by layer: a model
    that fits no GPU whole comes on the CPU.
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


def _gathered_in_turn(layers: Iterable[Any]) -> Iterator[nn.Module]:
    """Sharded layers, each whole while it is used outside its own forward pass."""
    for layer in layers:
        layer.unshard()
        yield layer
        layer.reshard()


def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Make gradients of replicated weights the mean over all processes; sharded ones are already.
    Missing gradients become zeros.

    A weight that a batch does not use (no references were drawn) then counts as one with gradient
    zero, whatever the number of processes.
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
    """Scale the gradients of an optimizer's weights down to the norm ``limit``; gives the norm they
    had.
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
