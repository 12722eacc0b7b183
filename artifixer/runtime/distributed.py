"""torch.distributed helpers that are no-ops on one process.

Under ``torchrun`` (or any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR),
``joined_processes`` creates the process group; without these variables a job has one process. CPU
tensors are communicated by gloo, CUDA tensors by NCCL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist


@contextmanager
def joined_processes(device: str) -> Iterator[str]:
    """Create the process group for the context; yields the device of this process, which is
    ``cuda:LOCAL_RANK`` if ``device`` is ``cuda``.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
        dist.barrier()  # the first process to exit would close the connections of the others
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if _is_joined() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _is_joined() else 1


def barrier() -> None:
    """Wait for all processes."""
    if _is_joined():
        dist.barrier()


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    return bool(_reduced(float(flag), dist.ReduceOp.MAX)) if _is_joined() else flag


def all_reduce_mean(values: list[float]) -> list[float]:
    """Mean of each number over the processes."""
    if not _is_joined():
        return values
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total)
    return (total / dist.get_world_size()).tolist()


def broadcast_object(value: Any) -> Any:
    """Value of rank 0, on every process; any picklable object."""
    if not _is_joined():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def all_gather_objects(value: Any) -> list[Any]:
    """Values of all processes in the order of ranks, on every process; picklable objects."""
    if not _is_joined():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _reduced(value: float, operation: Any) -> float:
    tensor = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(tensor, op=operation)
    return float(tensor)
