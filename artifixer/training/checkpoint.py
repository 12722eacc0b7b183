"""State of a training on disk: complete or absent, the last good ones kept, readable by any number of processes.

``RUN/checkpoints/step_00001200/`` holds the tensors in the format of ``torch.distributed.checkpoint`` and, written last, when all processes
have written theirs, ``complete.json`` with the plain values. A folder without it is the rest of an interrupted save and is removed.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from artifixer.runtime.distributed import any_rank, barrier, first_rank_value, rank, world_size
from artifixer.runtime.errors import InputError
from artifixer.runtime.run_folder import WRITE_REFUSALS, read_json, write_json

#: Complete checkpoints that are kept: one to go on from, and one in case the last turns out to be bad.
KEPT = 2

MARKER = "complete.json"

_NAME = re.compile(r"^step_(\d{8})$")


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], keep: int = KEPT) -> None:
    """Write the state after ``step`` steps; all processes call it. Older checkpoints beyond ``keep`` are removed afterwards.

    ``InputError`` when the disk is full or refuses; checkpoints written before stay intact.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException  # no ``Exception``

    target = folder / f"step_{step:08d}"
    if rank() == 0:
        _remove_incomplete(folder)
        shutil.rmtree(target, ignore_errors=True)
    barrier()
    refusal = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about saving without a process group, which is meant
            dcp.save(dict(tensors), checkpoint_id=target, no_dist=world_size() == 1)
    except (Exception, CheckpointException) as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
    if any_rank(refusal is not None):
        if rank() == 0:
            shutil.rmtree(target, ignore_errors=True)
        raise InputError(f"{target}: cannot write the checkpoint: {refusal or 'another process could not'}; earlier ones are intact")
    if rank() == 0:
        write_json(target / MARKER, {"step": step, **plain})
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old)
    barrier()


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, the same on all processes."""
    found = _complete(folder) if rank() == 0 else []
    return first_rank_value(found[-1] if found else None)


def load_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], extra: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Fill modules, optimizers and extra tensors in place; gives the plain values, ``step`` among them."""
    import torch.distributed.checkpoint as dcp

    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    for label, optimizer in optimizers.items():
        _make_state(optimizer, f"optimizers.{label}.", modules, stored)
    tensors = state_tensors(modules, optimizers, extra)
    missing = sorted(tensors.keys() - stored.keys())
    if missing or stored.keys() - tensors.keys():
        odd = [*missing, *sorted(stored.keys() - tensors.keys())]
        raise InputError(f"{path}: holds another training: {odd[0]} is {'missing' if missing else 'unexpected'} ({len(odd)} differ)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(tensors, checkpoint_id=path, no_dist=world_size() == 1)
    return read_json(path / MARKER)


def state_tensors(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], extra: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Everything a checkpoint must hold, by name; the tensors themselves, not copies."""
    tensors = {f"modules.{label}.{name}": value for label, module in modules.items() for name, value in module.state_dict().items()}
    names = _parameter_names(modules)
    for label, optimizer in optimizers.items():
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                tensors[f"optimizers.{label}.{names[parameter]}:{key}"] = value
    return tensors | {f"extra.{name}": value for name, value in extra.items()}


def _make_state(optimizer: torch.optim.Optimizer, prefix: str, modules: Mapping[str, nn.Module], stored: Mapping[str, Any]) -> None:
    """Tensors to read into, for each parameter that had a state when it was saved."""
    parameters = {name: parameter for parameter, name in _parameter_names(modules).items()}
    optimizer.state.clear()
    for entry, description in stored.items():
        if entry.startswith(prefix):
            name, _, key = entry.removeprefix(prefix).rpartition(":")
            parameter = parameters.get(name)
            if parameter is None:
                continue  # another training's checkpoint, which the caller refuses
            is_scalar = len(description.size) == 0
            optimizer.state[parameter][key] = (
                torch.zeros((), dtype=description.properties.dtype) if is_scalar else torch.zeros_like(parameter)
            )


def _parameter_names(modules: Mapping[str, nn.Module]) -> dict[Tensor, str]:
    return {parameter: f"{label}.{name}" for label, module in modules.items() for name, parameter in module.named_parameters()}


def _complete(folder: Path) -> list[Path]:
    """Oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.match(path.name) and (path / MARKER).is_file())


def _remove_incomplete(folder: Path) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            if _NAME.match(path.name) and not (path / MARKER).is_file():
                shutil.rmtree(path)


def _refusal(error: BaseException) -> str | None:
    """Why the system refused to write; None for other errors.

    DCP wraps what happened on each process. There the archive's writer complains last, about bytes that are not where they should be; the
    system's refusal is what it was dealing with.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    causes = [failure[0] for failure in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    while causes:
        cause = causes.pop()
        if isinstance(cause, OSError) and cause.errno in WRITE_REFUSALS:
            return WRITE_REFUSALS[cause.errno]
        causes += [earlier for earlier in (cause.__cause__, cause.__context__) if earlier is not None]
    return None
