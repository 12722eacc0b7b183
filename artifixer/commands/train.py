"""``artifixer train``: training pairs -> a video model, stage by stage."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from artifixer.evaluation.inpainting import METHODS, inpaint
from artifixer.pairs.loader import PairSet, open_pairs
from artifixer.pipeline.view import viewed
from artifixer.recipes.train import RECIPES
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.training.job import run_training
from artifixer.training.loop import LoopConfig
from artifixer.training.recipe import StageName, TrainingJob, TrainingRecipe
from artifixer.training.validation import Baseline


@dataclass(frozen=True)
class Command:
    """Train a video model on pairs of degraded and clean clips.

    STAGE is autoencoder (small models only), bidirectional (the teacher), diffusion_forcing
    (causal), self_forcing (few steps). Each stage starts from the one before with --init. The
    folder RUN receives model/ (for enhance --model and the next stage), metrics.jsonl, pictures of
    the validation, checkpoints. The same command continues an interrupted training, on one process
    with the same bits. Start it with torchrun for several GPUs.

    Examples:
      artifixer train autoencoder --pairs pairs --out run/autoencoder
      artifixer train bidirectional --pairs pairs --init run/autoencoder --out run/teacher
      --validation validation_pairs artifixer train diffusion_forcing --pairs pairs --init
      run/teacher --out run/causal
      artifixer train self_forcing --pairs pairs --init run/causal --teacher run/teacher --out
      run/student
    """

    stage: Annotated[StageName, tyro.conf.Positional]
    """autoencoder, bidirectional, diffusion_forcing or self_forcing."""
    pairs: tuple[Path, ...]
    """Folders of training pairs (artifixer curate)."""
    out: Path
    """Run folder to create or continue."""
    recipe: Literal["tiny", "small", "paper", "release"] = "tiny"
    """tiny for a CPU; small for one GPU; paper and release for many."""
    init: Path | None = None
    """Model or run folder to start from; for the recipes paper and release also a folder of Wan
    2.1.
    """
    teacher: Path | None = None
    """For self_forcing, which needs it: the bidirectional model, or the run folder of its training.
    """
    validation: Path | None = None
    """Folder of pairs that are never trained on, to measure the model with at intervals."""
    skip_broken: bool = False
    """Go on without pairs that cannot be read."""
    steps: int | None = None
    """Instead of the recipe's number of steps."""
    minutes: float | None = None
    """End after about this time instead of after the recipe's steps; such a training does not
    repeat to the bit.
    """
    batch: int | None = None
    """Pairs per process and pass."""
    accumulation: int | None = None
    """Passes per step."""
    learning_rate: float | None = None
    """Instead of the recipe's largest learning rate (of the student in self_forcing)."""
    seed: int = 0
    """Of initial weights and of everything drawn."""
    save_every: int | None = None
    """Steps between checkpoints."""
    validate_every: int | None = None
    """Steps between validations; 0 for none."""
    validation_steps: str | None = None
    """Numbers of denoising steps to validate with, such as 1,2,4. Default: the recipe's."""
    device: str = "auto"
    """cpu or cuda; with torchrun every process takes its own GPU."""
    view: bool = False
    """Serve a page that shows the work while it goes on (extra viewer); its address is printed."""
    overwrite: bool = False
    """Start anew in a folder that holds another training."""


def run_command(command: Command) -> None:
    recipe = with_overrides(RECIPES[command.recipe], command)
    baselines: Mapping[str, Baseline] = {
        method: partial(inpaint, method=method) for method in METHODS
    }
    job = TrainingJob(
        stage=command.stage,
        recipe=recipe,
        pairs=_reported(open_pairs(command.pairs, skip_broken=command.skip_broken)),
        init=command.init,
        teacher=command.teacher,
        validation_pairs=None
        if command.validation is None
        else _reported(open_pairs(command.validation, skip_broken=command.skip_broken)),
        device=resolve_device(command.device),
        baselines=baselines,
    )
    is_first = os.environ.get("RANK", "0") == "0"
    with viewed(command.out, command.view and is_first):
        model = run_training(job, command.out, command.overwrite)
    if is_first:
        print(f"trained model in {model}")


def _reported(pairs: PairSet) -> PairSet:
    """The pairs; those left out are named."""
    for line in pairs.skipped:
        print(f"left out: {line}", file=sys.stderr)
    return pairs


def read_validation_steps(text: str) -> tuple[int, ...]:
    """``--validation-steps``; raises ``InputError`` for anything but small numbers."""
    if not re.fullmatch(r"[1-9]\d?(,[1-9]\d?)*", text):
        raise InputError(
            f"--validation-steps {text}: expected numbers from 1 to 99 separated by commas, such "
            "as 1,2,4"
        )
    return tuple(sorted({int(word) for word in text.split(",")}))


def with_overrides(recipe: TrainingRecipe, command: Command) -> TrainingRecipe:
    """The recipe with the command's settings for its stage. ``InputError`` for numbers that are not
    positive.
    """
    for name in ("steps", "minutes", "batch", "accumulation", "learning_rate", "save_every"):
        value = getattr(command, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected a positive number")
    if command.validate_every is not None and command.validate_every < 0:
        raise InputError(f"--validate-every {command.validate_every}: expected 0 or more")
    given = {
        **{name: getattr(command, name) for name in ("steps", "minutes", "batch", "accumulation")},
        "save_interval": command.save_every,
        "validation_interval": command.validate_every,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if command.minutes is not None and command.steps is None:
        changes["steps"] = 10**9  # the clock ends it
    loop: LoopConfig = replace(recipe.loop(command.stage), seed=command.seed, **changes)
    if command.validation_steps is not None:
        name = recipe.validation_name(command.stage)
        recipe = replace(
            recipe,
            **{
                name: replace(
                    getattr(recipe, name), steps=read_validation_steps(command.validation_steps)
                )
            },
        )
    settings = getattr(recipe, command.stage)
    if command.learning_rate is not None:
        rate = "student_learning_rate" if command.stage == "self_forcing" else "learning_rate"
        settings = replace(settings, **{rate: command.learning_rate})
    return replace(recipe, **{command.stage: settings, f"{command.stage}_loop": loop})
