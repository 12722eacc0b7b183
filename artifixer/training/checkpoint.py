"""Training checkpoints: complete or absent, the latest kept, readable by any number of processes.

``RUN/checkpoints/step_00001200/`` holds one safetensors file per process that wrote it,
``index.json``, which maps the rows of each tensor to files, and, written last, ``complete.json``
with the plain values. A folder without it is an interrupted save and is removed. Checkpoints may be
untrusted: nothing in them is unpickled or executed, file names come from numbers, and names, shapes
and types are compared with the training's own before a tensor is read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from artifixer.runtime.distributed import (
    all_gather_objects,
    barrier,
    broadcast_object,
    rank,
    world_size,
)
from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import read_json, write_json
from artifixer.training.checkpoint_index import (
    FORMAT,
    INDEX,
    VERSION,
    PartReader,
    damaged,
    dtype_name,
    part_name,
    read_checkpoint_index,
    row_count,
)
from artifixer.training.parallel import is_sharded
from artifixer.video.checkpoints.tensor_files import save_tensors

#: Number of complete checkpoints that are kept: the latest, and one as a fallback.
KEPT = 2

MARKER = "complete.json"

_NAME = re.compile(r"^step_(\d{8})$")


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Any],
    keep: int = KEPT,
) -> None:
    """Write the state after ``step`` steps; all processes call it. Older checkpoints beyond
    ``keep`` are removed afterwards.

    Each process writes its rows of sharded tensors; the first one writes replicated tensors.
    ``InputError`` when the disk is full or not writable; earlier checkpoints stay intact.
    """
    target = folder / f"step_{step:08d}"
    if rank() == 0:
        _remove_incomplete(folder)
        shutil.rmtree(target, ignore_errors=True)
    barrier()
    mine = {
        name: part for name, tensor in tensors.items() if (part := _own_part(tensor)) is not None
    }

    def write_part() -> None:
        save_tensors(
            target / part_name(rank() + 1, world_size()),
            {name: values for name, (_, values) in mine.items()},
        )

    def write_index() -> None:
        write_json(target / INDEX, _index(tensors, spans))
        write_json(target / MARKER, {"step": step, **plain})

    _all_write(target, write_part)
    spans = all_gather_objects(
        {name: (first, first + row_count(values.shape)) for name, (first, values) in mine.items()}
    )
    _all_write(target, write_index if rank() == 0 else lambda: None)
    if rank() == 0:
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old)
    barrier()


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, the same on all processes."""
    found = _complete(folder) if rank() == 0 else []
    newest: Path | None = broadcast_object(found[-1] if found else None)
    return newest


def load_checkpoint(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    extra: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Load modules, optimizers and extra tensors in place; returns the plain values, including
    ``step``.

    All processes call it; their number may differ from that at saving. ``InputError`` on all of
    them if any finds the checkpoint damaged, of another training, or of an earlier version of this
    program.
    """
    refusal, plain = None, {}
    try:
        plain = _load(path, modules, optimizers, extra)
    except InputError as error:
        refusal = str(error)
    refusals = [found for found in all_gather_objects(refusal) if found is not None]
    if refusals:
        raise InputError(refusals[0])
    return plain


def state_tensors(
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    extra: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name; not copies."""
    tensors = {
        f"modules.{label}.{name}": value
        for label, module in modules.items()
        for name, value in module.state_dict().items()
    }
    names = _parameter_names(modules)
    for label, optimizer in optimizers.items():
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                tensors[f"optimizers.{label}.{names[parameter]}:{key}"] = value
    return tensors | {f"extra.{name}": value for name, value in extra.items()}


def _own_part(tensor: Tensor) -> tuple[int, Tensor] | None:
    """First row and values of the part of a tensor that this process writes; None for no part."""
    first, values = _own_rows(tensor)
    writes = values.numel() > 0 if is_sharded(tensor) else rank() == 0
    return (first, values) if writes else None


def _own_rows(tensor: Any) -> tuple[int, Tensor]:
    """First row and values of the part of a tensor on this process; the values share its memory."""
    if not is_sharded(tensor):
        return 0, tensor.detach()
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    assert list(tensor.placements) == [Shard(0)], (
        f"weights are sharded by rows, not {tensor.placements}"
    )
    _, offsets = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return offsets[0], tensor.detach().to_local()


def _index(
    tensors: Mapping[str, Tensor], spans: list[dict[str, tuple[int, int]]]
) -> dict[str, Any]:
    """The content of ``index.json``. spans: per process, first and end row written of each
    tensor.
    """
    entries = {}
    for name, tensor in tensors.items():
        rows = sorted(
            (*span[name], part) for part, span in enumerate(spans, start=1) if name in span
        )
        entries[name] = {
            "dtype": dtype_name(tensor),
            "shape": list(tensor.shape),
            "rows": [[part, first, end] for first, end, part in rows],
        }
    return {"format": FORMAT, "version": VERSION, "parts": len(spans), "tensors": entries}


def _all_write(target: Path, action: Callable[[], None]) -> None:
    """Run the action on every process; if writing fails on one, remove the checkpoint and raise on
    all.
    """
    refusal = None
    try:
        action()
    except InputError as error:
        refusal = str(error).rpartition(": cannot write: ")[2]
    refusals = [found for found in all_gather_objects(refusal) if found is not None]
    if refusals:
        if rank() == 0:
            shutil.rmtree(target, ignore_errors=True)
        raise InputError(
            f"{target}: cannot write the checkpoint: {refusals[0]}; earlier ones are intact"
        )


def _load(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    extra: Mapping[str, Tensor],
) -> dict[str, Any]:
    plain = read_json(path / MARKER)
    if not isinstance(plain, dict) or plain.get("step") != int(path.name.removeprefix("step_")):
        raise damaged(path / MARKER, "not the values after the steps of the folder's name")
    parts, stored = read_checkpoint_index(path)
    for label, optimizer in optimizers.items():
        optimizer.state.clear()
        if any(name.startswith(f"optimizers.{label}.") for name in stored):
            _make_state(optimizer)
    tensors = state_tensors(modules, optimizers, extra)
    missing, unexpected = (
        sorted(tensors.keys() - stored.keys()),
        sorted(stored.keys() - tensors.keys()),
    )
    if missing or unexpected:
        odd = [*missing, *unexpected]
        raise InputError(
            f"{path}: holds another training: {odd[0]} is {'missing' if missing else 'unexpected'} "
            f"({len(odd)} differ)"
        )
    for name, tensor in tensors.items():
        found, wanted = (
            (stored[name].dtype, stored[name].shape),
            (dtype_name(tensor), tuple(tensor.shape)),
        )
        if found != wanted:
            raise InputError(
                f"{path}: holds another training: {name} is {_described(*found)} there, "
                f"{_described(*wanted)} here"
            )
    reader = PartReader(path, parts)
    for name, tensor in tensors.items():
        first, values = _own_rows(tensor)
        reader.fill(name, stored[name], first, values)
    return plain


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Allocate the optimizer's state by a step with zero gradients and learning rates, which
    changes no weight.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _described(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} of {'x'.join(map(str, shape)) or 'one number'}"


def _parameter_names(modules: Mapping[str, nn.Module]) -> dict[Tensor, str]:
    return {
        parameter: f"{label}.{name}"
        for label, module in modules.items()
        for name, parameter in module.named_parameters()
    }


def _complete(folder: Path) -> list[Path]:
    """Oldest first."""
    return [path for path in _checkpoints(folder) if (path / MARKER).is_file()]


def _remove_incomplete(folder: Path) -> None:
    for path in _checkpoints(folder):
        if not (path / MARKER).is_file():
            shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    """Folders with the name of a checkpoint, complete or not; symbolic links are ignored."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if _NAME.match(path.name) and path.is_dir() and not path.is_symlink()
    )
