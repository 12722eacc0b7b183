"""Choice of the device, and deterministic kernels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from artifixer.runtime.errors import InputError
from artifixer.runtime.system import peak_memory

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> str:
    """``auto`` -> ``cuda`` if a GPU is available, else ``cpu``; other names are checked. Raises
    ``InputError`` for unusable ones.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not (
        torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise InputError(
            f"--device {name}: this machine offers no such GPU (torch {torch.__version__} sees "
            f"{torch.cuda.device_count()})"
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    return str(device)


def peak_memory_on(device: torch.device) -> int:
    """Peak memory in bytes: of the tensors since the last reset on a GPU, of the process on a
    CPU.
    """
    import torch

    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


@contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Prefer deterministic GPU kernels within the context; CPU kernels always are deterministic.

    Operations without a deterministic kernel, such as the backward pass of fused attention, run
    nondeterministically. Enter the context before the first matrix product on the GPU: cuBLAS reads
    its setting only once.
    """
    import torch

    if torch.device(device).type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*does not have a deterministic implementation.*"
        )
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
