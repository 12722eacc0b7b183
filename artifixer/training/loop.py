"""The training loop of all stages: draw pairs, ask the stage for its losses, step its optimizers,
save, validate, resume.

In: a ``Stage``, pairs by index, settings, a folder. Out: a trained stage; in the folder
``checkpoints/``, ``metrics.jsonl`` (one line per step) and ``timing.json``. All randomness of a
step is keyed by the seed, the step and the pair's global index: neither a kill nor another number
of processes changes what is drawn, and on one process a resumed training has the bits of an
uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from artifixer.runtime.distributed import (
    all_ranks_values,
    any_rank,
    mean_over_ranks,
    rank,
    world_size,
)
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.json_io import write_json
from artifixer.runtime.progress import Progress
from artifixer.runtime.stopping import stop_on_sigterm, stop_requested
from artifixer.training.batches import Batches
from artifixer.training.checkpoint import (
    MARKER,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    state_tensors,
)
from artifixer.training.parallel import average_gradients, clip_gradients
from artifixer.training.stage import PairSource, Stage
from artifixer.training.watching import MetricsFile

#: Steps after which lines of metrics reach the disk at the latest.
STEPS_BETWEEN_FLUSHES = 10


@dataclass(frozen=True)
class LoopConfig:
    """Settings of one training.

    steps: optimizer steps. minutes: with a number, the training ends by the state instead: the
    rates begin to fall when their share of this time is left, and ``steps`` is only the upper
    limit.
    batch: pairs per process and pass; accumulation: passes per step. seed: of everything drawn.
    warmup: steps over which learning rates rise from zero; cooldown: share of the steps at the end
    over which they fall back to zero. save_every, validate_every: steps; validation also runs at
    the end, 0 for never.
    """

    steps: int
    minutes: float | None = None
    batch: int = 1
    accumulation: int = 1
    seed: int = 0
    warmup: int = 0
    cooldown: float = 0.0
    save_every: int = 1000
    validate_every: int = 1000


class NonFiniteLoss(RuntimeError):
    """The training cannot go on; the last checkpoint is from before."""


@dataclass
class TrainState:
    """Where a training stands, kept in its checkpoints. seconds: of work so far. cooldown_start:
    the step at which rates began to fall.
    """

    step: int = 0
    seconds: float = 0.0
    cooldown_start: int | None = None
    total: int | None = None
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started


def train(
    stage: Stage,
    pairs: PairSource,
    config: LoopConfig,
    folder: Path,
    progress: Progress,
    validate: Callable[[int], Mapping[str, float]] | None = None,
    ahead: int = 0,
) -> int:
    """Train until the end, starting from the newest checkpoint in the folder; gives the number of
    steps done in all.

    validate: measures the stage as it is after so many steps. ahead: batches that are drawn in
    other threads while the steps before them run, for a GPU that would wait; the numbers stay the
    same. Raises ``Stopped`` after saving when SIGTERM arrived, ``NonFiniteLoss`` naming stage, step
    and pairs, ``InputError`` when a checkpoint cannot be written.
    """
    checkpoints = folder / "checkpoints"
    state = TrainState()
    newest = latest_checkpoint(checkpoints)
    if newest is not None:
        state = _stored_state(
            newest, load_checkpoint(newest, stage.modules, stage.optimizers, stage.extra_state)
        )
    metrics = MetricsFile(folder / "metrics.jsonl", state.step) if rank() == 0 else None
    rates = {
        name: [group["lr"] for group in optimizer.param_groups]
        for name, optimizer in stage.optimizers.items()
    }

    def save() -> None:
        if metrics is not None:
            metrics.flush()
        plain = {
            "seconds": state.elapsed(),
            "cooldown_start": state.cooldown_start,
            "total": state.total,
        }
        tensors = state_tensors(stage.modules, stage.optimizers, stage.extra_state)
        save_checkpoint(checkpoints, state.step, tensors, plain)

    batches = Batches(stage, pairs, config.batch, config.accumulation, config.seed, ahead)
    with (
        stop_on_sigterm(),
        batches,
        progress.stage(stage.name, _expected_total(state, config)) as shown,
    ):
        shown.update(state.step)
        while (total := _plan(state, config)) > state.step:
            factor = rate_factor(state.step, total, config, state.cooldown_start)
            for name, optimizer in stage.optimizers.items():
                for group, rate in zip(optimizer.param_groups, rates[name], strict=True):
                    group["lr"] = rate * factor
            numbers = _step(stage, batches, config, state.step)
            state.step += 1
            stage.updated(state.step)
            is_last = state.step == total
            if (
                validate is not None
                and config.validate_every
                and (state.step % config.validate_every == 0 or is_last)
            ):
                numbers |= {
                    f"validation/{name}": value for name, value in validate(state.step).items()
                }
            if metrics is not None:
                metrics.add(state.step, numbers | {"learning_rate_factor": factor})
                if state.step % STEPS_BETWEEN_FLUSHES == 0:
                    metrics.flush()
            speed = (
                config.batch
                * config.accumulation
                * world_size()
                * state.step
                / max(state.elapsed(), 1e-9)
            )
            shown.total = _expected_total(state, config)
            shown.update(
                state.step,
                **{name: value for name, value in numbers.items() if "/" not in name},
                samples_per_s=speed,
            )
            stopping = any_rank(stop_requested())
            if stopping or is_last or state.step % config.save_every == 0:
                save()
            if stopping and not is_last:
                raise Stopped(
                    f"{folder}: {stage.name} stopped after step {state.step}; run the same command "
                    "to continue"
                )
    if rank() == 0:
        samples = config.batch * config.accumulation * world_size() * state.step
        write_json(
            folder / "timing.json",
            {"seconds": state.elapsed(), "steps": state.step, "samples": samples},
        )
    return state.step


def _stored_state(checkpoint: Path, plain: Mapping[str, Any]) -> TrainState:
    """Where the training stood; ``InputError`` for values that no training writes."""
    step, seconds, cooldown_start, total = (
        plain.get(name) for name in ("step", "seconds", "cooldown_start", "total")
    )
    numbers = [value for value in (step, cooldown_start, total) if value is not None]
    is_sound = step is not None and all(isinstance(value, int) and value >= 0 for value in numbers)
    if not is_sound or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        raise InputError(
            f"{checkpoint / MARKER}: damaged; expected step, seconds, cooldown_start and total of "
            "a training"
        )
    return TrainState(int(plain["step"]), float(seconds), cooldown_start, total)


def rate_factor(
    step: int, total: int, config: LoopConfig, cooldown_start: int | None = None
) -> float:
    """What learning rates are multiplied with at a step: a rise, a plateau, and a fall to (almost)
    zero.
    """
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    start = total - round(config.cooldown * total) if cooldown_start is None else cooldown_start
    fall = 1.0 if step < start or total <= start else (total - step) / (total - start)
    return min(rise, fall)


def _plan(state: TrainState, config: LoopConfig) -> int:
    """The total number of steps as far as it is known now.

    With a time limit the plateau lasts until its share of the time has passed; its length in steps
    then fixes that of the fall.
    """
    if config.minutes is None:
        return config.steps
    if state.total is None:
        plateau = 1 - config.cooldown
        is_over = any_rank(state.elapsed() >= 60 * config.minutes * plateau)
        if is_over or state.step >= config.steps * plateau:
            state.cooldown_start = state.step
            state.total = (
                min(config.steps, math.ceil(state.step / plateau)) if plateau > 0 else config.steps
            )
    return config.steps if state.total is None else state.total


def _expected_total(state: TrainState, config: LoopConfig) -> int:
    """For the progress bar: with a time limit, what the speed so far makes likely; 0 before there
    is any.
    """
    if config.minutes is None:
        return config.steps
    if state.total is not None:
        return state.total
    if state.step == 0:
        return 0
    return min(
        config.steps,
        max(state.step + 1, round(state.step * 60 * config.minutes / max(state.elapsed(), 1e-3))),
    )


def _step(stage: Stage, batches: Batches, config: LoopConfig, step: int) -> dict[str, float]:
    """One step of the optimizers; gives losses, gradient norms and the stage's numbers, means over
    all processes.
    """
    for optimizer in stage.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    totals: dict[str, float] = {}
    turns: list[str] = []
    for part in range(config.accumulation):
        batch = batches.batch(step * config.accumulation + part)
        losses, numbers = stage.losses(batch.drawn, batch.generators, step)
        values = {
            ("loss" if len(losses) == 1 else f"loss_{name}"): loss for name, loss in losses.items()
        } | numbers
        plain = {name: float(value.detach()) for name, value in values.items()}
        _refuse_non_finite(
            stage,
            step,
            batch.names,
            {name: plain[name] for name in plain if name.startswith("loss")},
        )
        torch.stack([loss.to(torch.float64) for loss in losses.values()]).sum().div(
            config.accumulation
        ).backward()
        for name, value in plain.items():
            totals[name] = totals.get(name, 0.0) + value / config.accumulation
        turns = list(losses)
    norms = {}
    for name in turns:
        optimizer = stage.optimizers[name]
        average_gradients(optimizer)
        norms["gradient_norm" if len(turns) == 1 else f"gradient_norm_{name}"] = clip_gradients(
            optimizer, stage.gradient_limits[name]
        )
    _refuse_non_finite(stage, step, batch.names, norms)
    for name in turns:
        stage.optimizers[name].step()
    return dict(zip(totals, mean_over_ranks(list(totals.values())), strict=True)) | norms


def _refuse_non_finite(
    stage: Stage, step: int, names: Sequence[str], values: Mapping[str, float]
) -> None:
    """Stop on all processes when a number is not finite on one of them."""
    broken = {name: value for name, value in values.items() if not math.isfinite(value)}
    if not any_rank(bool(broken)):
        return
    reports = [report for report in all_ranks_values((broken, list(names))) if report[0]]
    found, where = reports[0]
    shown = ", ".join(f"{name} is {value}" for name, value in found.items())
    raise NonFiniteLoss(
        f"{stage.name}, step {step + 1}: {shown} with pairs {', '.join(where)}; the last "
        "checkpoint is from before"
    )
