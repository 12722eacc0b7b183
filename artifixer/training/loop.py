"""The training loop of all stages: draw pairs, compute the stage's losses, step its optimizers,
save, validate, resume.

In: a ``Stage``, pairs by index, settings, a folder. Out: a trained stage; in the folder
``checkpoints/``, ``metrics.jsonl`` (one line per step) and ``timing.json``. All random numbers of a
step are keyed by the seed, the step and the pair's global index: neither an interruption nor the
number of processes changes them, and on one process a resumed training is bit-identical to an
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
    all_gather_objects,
    all_reduce_mean,
    any_rank,
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

#: Maximum number of steps between two writes of the metrics.
STEPS_BETWEEN_FLUSHES = 10


@dataclass(frozen=True)
class LoopConfig:
    """Settings of one training."""

    steps: int
    """Optimizer steps."""

    minutes: float | None = None
    """Time limit: the cooldown starts when its fraction of this time is left, and ``steps`` is only
    an upper limit. None trains for ``steps`` steps."""

    batch: int = 1
    """Pairs per process and pass."""

    accumulation: int = 1
    """Forward and backward passes per step."""

    seed: int = 0
    """Seed of all random numbers."""

    warmup: int = 0
    """Steps over which learning rates rise linearly from zero."""

    cooldown: float = 0.0
    """Fraction of the steps, at the end, over which learning rates fall linearly to zero."""

    save_interval: int = 1000
    """Steps between checkpoints."""

    validation_interval: int = 1000
    """Steps between validations; there is another one at the end. 0 for none at all."""


class NonFiniteLoss(RuntimeError):
    """A loss or gradient norm is not finite; the last checkpoint is from an earlier step."""


@dataclass
class TrainState:
    """Progress of a training; stored in its checkpoints."""

    step: int = 0
    """Steps done."""

    seconds: float = 0.0
    """Training time before this process started."""

    cooldown_start: int | None = None
    """First step of the cooldown of a training with a time limit; None before it is known."""

    total: int | None = None
    """Total number of steps of a training with a time limit; None before it is known."""

    started: float = field(default_factory=time.monotonic)
    """Clock time at the start of this process; not stored."""

    def elapsed(self) -> float:
        """Training time over all resumed processes, seconds."""
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
    """Train to the end from the latest checkpoint in the folder; returns the total number of steps.

    validate: returns figures of the stage after a number of steps. ahead: number of batches that
    threads prefetch, so that a GPU does not wait; does not change the numbers drawn. Raises
    ``Stopped`` after saving when SIGTERM arrived, ``NonFiniteLoss`` naming stage, step and pairs,
    ``InputError`` when a checkpoint cannot be written.
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
                and config.validation_interval
                and (state.step % config.validation_interval == 0 or is_last)
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
            if stopping or is_last or state.step % config.save_interval == 0:
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
    """The stored progress; ``InputError`` for invalid values."""
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
    """Factor on the learning rates at a step: linear warmup, constant, linear cooldown to almost
    zero.
    """
    warmup = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    start = total - round(config.cooldown * total) if cooldown_start is None else cooldown_start
    cooldown = 1.0 if step < start or total <= start else (total - step) / (total - start)
    return min(warmup, cooldown)


def _plan(state: TrainState, config: LoopConfig) -> int:
    """The total number of steps, an upper limit while it is not known.

    With a time limit the cooldown starts when its fraction of the time is left; the number of steps
    until then determines its length.
    """
    if config.minutes is None:
        return config.steps
    if state.total is None:
        constant = 1 - config.cooldown
        is_over = any_rank(state.elapsed() >= 60 * config.minutes * constant)
        if is_over or state.step >= config.steps * constant:
            state.cooldown_start = state.step
            state.total = (
                min(config.steps, math.ceil(state.step / constant))
                if constant > 0
                else config.steps
            )
    return config.steps if state.total is None else state.total


def _expected_total(state: TrainState, config: LoopConfig) -> int:
    """Total for the progress bar: with a time limit an estimate from the speed so far, 0 before the
    first step.
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
    """One step of the optimizers; returns losses, gradient norms and the stage's metrics, averaged
    over all processes.
    """
    for optimizer in stage.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    totals: dict[str, float] = {}
    active: list[str] = []
    for part in range(config.accumulation):
        batch = batches.batch(step * config.accumulation + part)
        losses, metrics = stage.losses(batch.drawn, batch.generators, step)
        values = {
            ("loss" if len(losses) == 1 else f"loss_{name}"): loss for name, loss in losses.items()
        } | metrics
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
        active = list(losses)
    norms = {}
    for name in active:
        optimizer = stage.optimizers[name]
        average_gradients(optimizer)
        norms["gradient_norm" if len(active) == 1 else f"gradient_norm_{name}"] = clip_gradients(
            optimizer, stage.gradient_limits[name]
        )
    _refuse_non_finite(stage, step, batch.names, norms)
    for name in active:
        stage.optimizers[name].step()
    return dict(zip(totals, all_reduce_mean(list(totals.values())), strict=True)) | norms


def _refuse_non_finite(
    stage: Stage, step: int, names: Sequence[str], values: Mapping[str, float]
) -> None:
    """Raise ``NonFiniteLoss`` on all processes when a value is not finite on one of them."""
    broken = {name: value for name, value in values.items() if not math.isfinite(value)}
    if not any_rank(bool(broken)):
        return
    reports = [report for report in all_gather_objects((broken, list(names))) if report[0]]
    found, where = reports[0]
    shown = ", ".join(f"{name} is {value}" for name, value in found.items())
    raise NonFiniteLoss(
        f"{stage.name}, step {step + 1}: {shown} with pairs {', '.join(where)}; the last "
        "checkpoint is from before"
    )
