"""What a training leaves to look at: one line of numbers per step, TensorBoard's files where it is installed, and grids of pictures."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from artifixer.runtime.media import write_png
from artifixer.runtime.run_folder import append_text, write_bytes


class MetricsFile:
    """``metrics.jsonl``: its bytes depend on settings, pairs and seed alone, however often the training was interrupted.

    Lines beyond ``step`` are from after the checkpoint that is continued, and are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._waiting: list[str] = []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if kept != lines:
            write_bytes(path, "".join(kept).encode())
        self._board = _board(path.parent / "tensorboard", step)

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of one step; they reach the disk with ``flush``."""
        self._waiting.append(json.dumps({"step": step, **numbers}) + "\n")
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what is waiting."""
        if self._waiting:
            append_text(self.path, "".join(self._waiting))
            self._waiting.clear()
        if self._board is not None:
            self._board.flush()


def write_grid(path: Path, columns: Sequence[UInt8[Tensor, "rows height width 3"]]) -> None:
    """One picture: columns side by side, their images one below the other."""
    write_png(path, torch.cat([column.flatten(0, 1) for column in columns], dim=1).numpy())


def _board(folder: Path, step: int) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
