"""The index of a training checkpoint, and the reader of its parts.

In: a checkpoint folder, possibly untrusted. Out: the location of each tensor's rows, and their
values. All files are safetensors and JSON; sizes and offsets are checked before anything is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import read_json

INDEX = "index.json"

FORMAT = "artifixer-training-state"

VERSION = 1

#: Index file of checkpoints of earlier versions, whose format needs unpickling.
PICKLED_INDEX = ".metadata"


@dataclass(frozen=True)
class Rows:
    """Rows ``first`` to ``end`` (exclusive) along a tensor's first dimension, in the file of part
    ``part``; a scalar is one row.
    """

    part: int
    first: int
    end: int


@dataclass(frozen=True)
class CheckpointTensor:
    """One entry of the index; ``rows`` are contiguous and cover the tensor."""

    dtype: str
    shape: tuple[int, ...]
    rows: tuple[Rows, ...]


def row_count(shape: torch.Size | tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def part_name(number: int, count: int) -> str:
    return f"part-{number:05d}-of-{count:05d}.safetensors"


def read_checkpoint_index(path: Path) -> tuple[int, dict[str, CheckpointTensor]]:
    """Number of parts, and tensors by name. Raises ``InputError`` for a damaged index and for a
    checkpoint of an earlier version.
    """
    if not (path / INDEX).exists() and (path / PICKLED_INDEX).exists():
        raise InputError(
            f"{path}: was written by an earlier version, in a format whose reader would execute "
            "code in it; it cannot be resumed: use --overwrite to start anew, or another folder"
        )
    content = read_json(path / INDEX)
    if (
        not isinstance(content, dict)
        or content.get("format") != FORMAT
        or content.get("version") != VERSION
    ):
        raise damaged(
            path / INDEX, f'expected an object of "format": "{FORMAT}", "version": {VERSION}'
        )
    parts, entries = content.get("parts"), content.get("tensors")
    if not isinstance(parts, int) or not _is_count(parts) or not isinstance(entries, dict):
        raise damaged(path / INDEX, 'expected "parts", a number, and "tensors", an object')
    return parts, {
        name: _checkpoint_tensor(path / INDEX, name, entry, parts)
        for name, entry in entries.items()
    }


def _checkpoint_tensor(index: Path, name: str, entry: Any, parts: int) -> CheckpointTensor:
    """An entry of the index; ``InputError`` unless its rows are contiguous and cover the tensor."""
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
        raise damaged(
            index,
            f'{name}: expected "dtype", "shape" and "rows", the latter of part, first and end row',
        )
    stored = CheckpointTensor(dtype, tuple(shape), tuple(Rows(*row) for row in rows))
    ends = [0, *(row.end for row in stored.rows)]
    follows = all(row.first == end for row, end in zip(stored.rows, ends, strict=False))
    if (
        not follows
        or ends[-1] != row_count(stored.shape)
        or not all(1 <= row.part <= parts for row in stored.rows)
    ):
        raise damaged(
            index,
            f"{name}: its rows are not the tensor's {row_count(stored.shape)} in "
            f"{counted(parts, 'part')}",
        )
    return stored


class PartReader:
    """The safetensors files of a checkpoint, each opened on first use."""

    def __init__(self, path: Path, parts: int) -> None:
        self._path, self._parts = path, parts
        self._open: dict[int, Any] = {}

    @torch.no_grad()
    def fill(self, name: str, stored: CheckpointTensor, first: int, values: Tensor) -> None:
        """Read consecutive rows from ``first`` on into ``values``."""
        end = first + (row_count(values.shape) if values.numel() else 0)
        for rows in stored.rows:
            low, high = max(first, rows.first), min(end, rows.end)
            if low < high:
                found = self._rows(name, stored, rows, low, high)
                (values[low - first : high - first] if values.ndim else values).copy_(found)
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise damaged(self._path, f"{name} has values that are not finite")

    def _rows(self, name: str, stored: CheckpointTensor, rows: Rows, low: int, high: int) -> Tensor:
        """Rows ``low`` to ``high`` of the tensor, a part of ``rows``."""
        from safetensors import SafetensorError

        file = self._path / part_name(rows.part, self._parts)
        try:
            piece = self._part(rows.part, file).get_slice(name)
            shape = [rows.end - rows.first, *stored.shape[1:]] if stored.shape else []
            if piece.get_shape() != shape:
                raise damaged(file, f"{name} is {piece.get_shape()}, the index says {shape}")
            found: Tensor = piece[low - rows.first : high - rows.first] if shape else piece[...]
        except (SafetensorError, OSError) as error:
            raise damaged(
                file, f"truncated or damaged ({error}), expected a safetensors file with {name}"
            ) from error
        if dtype_name(found) != stored.dtype:
            raise damaged(file, f"{name} is {dtype_name(found)}, the index says {stored.dtype}")
        return found

    def _part(self, number: int, file: Path) -> Any:
        from safetensors import safe_open

        if number not in self._open:
            if file.is_symlink() or not file.is_file():
                raise damaged(file, "does not exist, expected a file of the checkpoint")
            self._open[number] = safe_open(file, framework="pt")
        return self._open[number]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def damaged(file: Path, found: str) -> InputError:
    return InputError(
        f"{file}: {found}; remove this checkpoint's folder to continue from the one before"
    )
