"""Logs of a training: metrics per step, also for TensorBoard where it is installed, and grids of
pictures.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import LARGEST_TEXT, append_text, read_whole, write_bytes
from artifixer.runtime.image_files import write_png
from artifixer.runtime.json_io import is_whole


class MetricsFile:
    """``metrics.jsonl``: its bytes depend on settings, pairs and seed alone, also after
    interruptions.

    Lines of steps after ``step``, the checkpoint that is continued, are removed, and so is a
    truncated last line. ``InputError`` for any other line without a step.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._waiting: list[str] = []
        lines = (
            read_whole(path, "a metrics file", LARGEST_TEXT).splitlines(keepends=True)
            if path.exists()
            else []
        )
        steps = [_step(line) for line in lines]
        broken = next(
            (number for number, found in enumerate(steps[:-1], start=1) if found is None), None
        )
        if broken is not None:
            raise InputError(
                f"{path}: line {broken} is {lines[broken - 1][:60]!r}, expected an object with "
                '"step"'
            )
        kept = [
            line
            for line, found in zip(lines, steps, strict=True)
            if found is not None and found <= step
        ]
        if kept != lines:
            write_bytes(path, b"".join(kept))
        self._board = _board(path.parent / "tensorboard", step)

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Metrics of one step, written by ``flush``."""
        self._waiting.append(json.dumps({"step": step, **numbers}) + "\n")
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write all pending lines."""
        if self._waiting:
            append_text(self.path, "".join(self._waiting))
            self._waiting.clear()
        if self._board is not None:
            self._board.flush()


def _step(line: bytes) -> int | None:
    """The step of a complete line; None for a truncated one."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = content.get("step") if isinstance(content, dict) else None
    return step if line.endswith(b"\n") and is_whole(step) else None


def write_grid(path: Path, columns: Sequence[UInt8[Tensor, "rows height width 3"]]) -> None:
    """Write one picture: columns side by side, the images of each stacked vertically."""
    write_png(path, torch.cat([column.flatten(0, 1) for column in columns], dim=1).numpy())


def _board(folder: Path, step: int) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
