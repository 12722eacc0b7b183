"""State of a training on disk: complete or absent, the last good ones kept, readable by any number
of processes.

``RUN/checkpoints/step_00001200/`` holds one safetensors file per process that wrote it,
``index.json``, which says which rows of which tensor are in which file, and, written last,
``complete.json`` with the plain values. A folder without it is the rest of an interrupted save and
is removed. Nothing in a checkpoint is unpickled or run, file names come from numbers, and names,
shapes and types are compared with the training's own before a tensor is read: a folder from
somebody else can be wrong, but it can do nothing.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from artifixer.runtime.distributed import (
    all_ranks_values,
    barrier,
    first_rank_value,
    rank,
    world_size,
)
from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import read_json, write_json
from artifixer.training.parallel import is_sharded
from artifixer.video.weights import save_tensors

#: Complete checkpoints that are kept: one to go on from, and one in case the last turns out to be
#: bad.
KEPT = 2

MARKER = "complete.json"
INDEX = "index.json"

FORMAT = "artifixer-training-state"
VERSION = 1

#: What checkpoints of earlier versions have, whose format needs unpickling.
PICKLED_INDEX = ".metadata"

_NAME = re.compile(r"^step_(\d{8})$")


@dataclass(frozen=True)
class Rows:
    """Rows ``first`` to ``end`` along a tensor's first dimension, in the file of part number
    ``part``; a scalar is one row.
    """

    part: int
    first: int
    end: int


@dataclass(frozen=True)
class StoredTensor:
    """One entry of the index; ``rows`` follow each other and are all of the tensor."""

    dtype: str
    shape: tuple[int, ...]
    rows: tuple[Rows, ...]


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Any],
    keep: int = KEPT,
) -> None:
    """Write the state after ``step`` steps; all processes call it. Older checkpoints beyond
    ``keep`` are removed afterwards.

    Each process writes its rows of sharded tensors; the first one writes whole tensors, which are
    the same on all. ``InputError`` when the disk is full or refuses; checkpoints written before
    stay intact.
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
            target / _part_name(rank() + 1, world_size()),
            {name: values for name, (_, values) in mine.items()},
        )

    def write_index() -> None:
        write_json(target / INDEX, _index(tensors, spans))
        write_json(target / MARKER, {"step": step, **plain})

    _all_write(target, write_part)
    spans = all_ranks_values(
        {name: (first, first + _row_count(values.shape)) for name, (first, values) in mine.items()}
    )
    _all_write(target, write_index if rank() == 0 else lambda: None)
    if rank() == 0:
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old)
    barrier()


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, the same on all processes."""
    found = _complete(folder) if rank() == 0 else []
    return first_rank_value(found[-1] if found else None)


def load_checkpoint(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    extra: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Fill modules, optimizers and extra tensors in place; gives the plain values, ``step`` among
    them.

    All processes call it, as many as there are now. ``InputError`` on all of them for a checkpoint
    of another training, of an earlier version of this program, or one that is damaged on any of
    them.
    """
    refusal, plain = None, {}
    try:
        plain = _load(path, modules, optimizers, extra)
    except InputError as error:
        refusal = str(error)
    refusals = [found for found in all_ranks_values(refusal) if found is not None]
    if refusals:
        raise InputError(refusals[0])
    return plain


def state_tensors(
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    extra: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Everything a checkpoint must hold, by name; the tensors themselves, not copies."""
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


# --------------------------------------------------------------------------------------------------
# writing


def _own_part(tensor: Tensor) -> tuple[int, Tensor] | None:
    """This process's first row of a tensor, and its rows; None where it writes none."""
    first, values = _own_rows(tensor)
    writes = values.numel() > 0 if is_sharded(tensor) else rank() == 0
    return (first, values) if writes else None


def _own_rows(tensor: Any) -> tuple[int, Tensor]:
    """First row and values of what this process holds of a tensor; the values share its memory."""
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


def _row_count(shape: torch.Size | tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def _index(
    tensors: Mapping[str, Tensor], spans: list[dict[str, tuple[int, int]]]
) -> dict[str, Any]:
    """spans: of each process, the first and end row that it has written of each tensor."""
    entries = {}
    for name, tensor in tensors.items():
        rows = sorted(
            (*span[name], part) for part, span in enumerate(spans, start=1) if name in span
        )
        entries[name] = {
            "dtype": _dtype_name(tensor),
            "shape": list(tensor.shape),
            "rows": [[part, first, end] for first, end, part in rows],
        }
    return {"format": FORMAT, "version": VERSION, "parts": len(spans), "tensors": entries}


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _part_name(number: int, count: int) -> str:
    return f"part-{number:05d}-of-{count:05d}.safetensors"


def _all_write(target: Path, action: Callable[[], None]) -> None:
    """Run the action on every process; when the system refuses one of them, remove what was written
    and raise on all.
    """
    refusal = None
    try:
        action()
    except InputError as error:
        refusal = str(error).rpartition(": cannot write: ")[2]
    refusals = [found for found in all_ranks_values(refusal) if found is not None]
    if refusals:
        if rank() == 0:
            shutil.rmtree(target, ignore_errors=True)
        raise InputError(
            f"{target}: cannot write the checkpoint: {refusals[0]}; earlier ones are intact"
        )


# --------------------------------------------------------------------------------------------------
# reading


def _load(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    extra: Mapping[str, Tensor],
) -> dict[str, Any]:
    plain = read_json(path / MARKER)
    if not isinstance(plain, dict) or plain.get("step") != int(path.name.removeprefix("step_")):
        raise _damaged(
            path / MARKER, "not the values after as many steps as the folder's name says"
        )
    parts, stored = _read_index(path)
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
            (_dtype_name(tensor), tuple(tensor.shape)),
        )
        if found != wanted:
            raise InputError(
                f"{path}: holds another training: {name} is {_described(*found)} there, "
                f"{_described(*wanted)} here"
            )
    reader = _PartReader(path, parts)
    for name, tensor in tensors.items():
        first, values = _own_rows(tensor)
        reader.fill(name, stored[name], first, values)
    return plain


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """The state that the optimizer has after a step, to read into: a step that changes nothing,
    with gradients and rates of zero.
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


def _read_index(path: Path) -> tuple[int, dict[str, StoredTensor]]:
    """Number of parts, and the tensors by name."""
    if not (path / INDEX).exists() and (path / PICKLED_INDEX).exists():
        raise InputError(
            f"{path}: was written by an earlier version, in a format whose reader would run code "
            "in it; it cannot be resumed: "
            f"use --overwrite to start anew, or another folder"
        )
    content = read_json(path / INDEX)
    if (
        not isinstance(content, dict)
        or content.get("format") != FORMAT
        or content.get("version") != VERSION
    ):
        raise _damaged(
            path / INDEX, f'expected an object of "format": "{FORMAT}", "version": {VERSION}'
        )
    parts, entries = content.get("parts"), content.get("tensors")
    if not isinstance(parts, int) or not _is_count(parts) or not isinstance(entries, dict):
        raise _damaged(path / INDEX, 'expected "parts", a number, and "tensors", an object')
    return parts, {
        name: _stored_tensor(path / INDEX, name, entry, parts) for name, entry in entries.items()
    }


def _stored_tensor(index: Path, name: str, entry: Any, parts: int) -> StoredTensor:
    """An entry of the index; ``InputError`` unless its rows follow each other from the first to the
    last.
    """
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, rows = (entry.get(key) for key in ("dtype", "shape", "rows"))
    is_formed = (
        isinstance(dtype, str)
        and isinstance(shape, list)
        and isinstance(rows, list)
        and all(_is_count(size) for size in shape)
    )
    if not is_formed or not all(
        isinstance(row, list) and len(row) == 3 and all(_is_count(value) for value in row)
        for row in rows
    ):
        raise _damaged(
            index,
            f'{name}: expected "dtype", "shape" and "rows", the latter of part, first and end row',
        )
    stored = StoredTensor(dtype, tuple(shape), tuple(Rows(*row) for row in rows))
    ends = [0, *(row.end for row in stored.rows)]
    follows = all(row.first == end for row, end in zip(stored.rows, ends, strict=False))
    if (
        not follows
        or ends[-1] != _row_count(stored.shape)
        or not all(1 <= row.part <= parts for row in stored.rows)
    ):
        raise _damaged(
            index,
            f"{name}: its rows are not the tensor's {_row_count(stored.shape)} in {parts} parts",
        )
    return stored


class _PartReader:
    """The safetensors files of a checkpoint, each opened when it is first needed."""

    def __init__(self, path: Path, parts: int) -> None:
        self._path, self._parts = path, parts
        self._open: dict[int, Any] = {}

    @torch.no_grad()
    def fill(self, name: str, stored: StoredTensor, first: int, values: Tensor) -> None:
        """Read rows from ``first`` on into ``values``, as many as it has."""
        end = first + (_row_count(values.shape) if values.numel() else 0)
        for rows in stored.rows:
            low, high = max(first, rows.first), min(end, rows.end)
            if low < high:
                found = self._rows(name, stored, rows, low, high)
                (values[low - first : high - first] if values.ndim else values).copy_(found)
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise _damaged(self._path, f"{name} has values that are not finite")

    def _rows(self, name: str, stored: StoredTensor, rows: Rows, low: int, high: int) -> Tensor:
        """Rows ``low`` to ``high`` of the tensor, which are among ``rows``."""
        from safetensors import SafetensorError

        file = self._path / _part_name(rows.part, self._parts)
        try:
            piece = self._part(rows.part, file).get_slice(name)
            shape = [rows.end - rows.first, *stored.shape[1:]] if stored.shape else []
            if piece.get_shape() != shape:
                raise _damaged(file, f"{name} is {piece.get_shape()}, the index says {shape}")
            found: Tensor = piece[low - rows.first : high - rows.first] if shape else piece[...]
        except (SafetensorError, OSError) as error:
            raise _damaged(
                file, f"truncated or damaged ({error}), expected a safetensors file with {name}"
            ) from error
        if _dtype_name(found) != stored.dtype:
            raise _damaged(file, f"{name} is {_dtype_name(found)}, the index says {stored.dtype}")
        return found

    def _part(self, number: int, file: Path) -> Any:
        from safetensors import safe_open

        if number not in self._open:
            if file.is_symlink() or not file.is_file():
                raise _damaged(file, "does not exist, expected a file of the checkpoint")
            self._open[number] = safe_open(file, framework="pt")
        return self._open[number]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _damaged(file: Path, found: str) -> InputError:
    return InputError(
        f"{file}: {found}; without this checkpoint's folder the training goes on from the one "
        "before"
    )


def _described(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} of {'x'.join(map(str, shape)) or 'one number'}"


def _parameter_names(modules: Mapping[str, nn.Module]) -> dict[Tensor, str]:
    return {
        parameter: f"{label}.{name}"
        for label, module in modules.items()
        for name, parameter in module.named_parameters()
    }


# --------------------------------------------------------------------------------------------------
# folders


def _complete(folder: Path) -> list[Path]:
    """Oldest first."""
    return [path for path in _checkpoints(folder) if (path / MARKER).is_file()]


def _remove_incomplete(folder: Path) -> None:
    for path in _checkpoints(folder):
        if not (path / MARKER).is_file():
            shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    """Folders that are named like checkpoints, complete or not; never links to folders elsewhere."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if _NAME.match(path.name) and path.is_dir() and not path.is_symlink()
    )
