"""``artifixer train``: training pairs -> a video model, stage by stage."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.training.choices import StageName

if TYPE_CHECKING:
    from artifixer.pairs.loader import PairSet
    from artifixer.training.recipe import TrainingRecipe

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = (
    "artifixer.training.job",
    "artifixer.pipeline.view",
    "artifixer.recipes.train",
    "artifixer.evaluation.inpainting",
)


@dataclass(frozen=True)
class Command:
    """Train a video model on pairs of degraded and clean clips.

    The folder OUT receives model/ (for enhance --model and the next stage), metrics.jsonl, pictures
    of the validation, and checkpoints. The same command continues an interrupted training; on one
    process it ends with the same bits. Start it with torchrun for several GPUs.

    Stages, each started from the one before with --init:
      autoencoder        the small models' own autoencoder (large models keep Wan's)
      bidirectional      the teacher: all frames at once
      diffusion_forcing  causal: blocks of frames with a noise level each
      self_forcing       few steps: a student trained on its own rollouts

    Examples:
      artifixer train autoencoder --pairs pairs --out run/auto
      artifixer train bidirectional --pairs pairs --init run/auto --out run/teacher
      artifixer train diffusion_forcing --pairs pairs --init run/teacher --out run/causal
      artifixer train self_forcing --pairs pairs --init run/causal --teacher run/teacher --out run/s
    """

    stage: Annotated[StageName, tyro.conf.Positional]
    """Stage to train, see above."""
    pairs: tuple[Path, ...]
    """Folders of training pairs (artifixer curate)."""
    out: Path
    """Output folder, created or continued."""
    recipe: Literal[
        "tiny",
        "small",
        "paper",
        "release",
        "paper-diagnostic",
        "paper-diagnostic-direct",
        "paper-diagnostic-concatenation",
        "reproduce",
        "reproduce-direct",
        "reproduce-concatenation",
    ] = "tiny"
    """tiny: for a CPU; small: for one GPU; paper, release: Wan 2.1 14B as in the paper or the
    public release, for many GPUs; paper-diagnostic*: the variants of the paper's Table 4 with its
    shorter schedule; reproduce*: these variants at the size of tiny.
    """
    init: Path | None = None
    """Model folder or run folder of the stage before, or the name of a model, such as tiny
    (artifixer models); for the recipes paper and release also a folder of Wan 2.1. Default: random
    weights.
    """
    teacher: Path | None = None
    """Bidirectional model, or the run folder of its training; self_forcing needs it."""
    validation: Path | None = None
    """Folder of pairs that are not trained on, for validation at intervals. Default: no validation.
    """
    skip_broken: bool = False
    """Skip pairs that cannot be read, instead of failing."""
    steps: int | None = None
    """Number of training steps. Default: the recipe's."""
    minutes: float | None = None
    """End after about this many minutes instead of after the recipe's steps; such a training is not
    reproducible to the bit. Default: no limit.
    """
    batch: int | None = None
    """Pairs per process and forward pass. Default: the recipe's."""
    accumulation: int | None = None
    """Passes whose gradients are accumulated per step. Default: the recipe's."""
    learning_rate: float | None = None
    """Maximum learning rate (the student's in self_forcing). Default: the recipe's."""
    seed: int = 0
    """Random seed of initial weights, noise and the order of the clips."""
    save_every: int | None = None
    """Steps between checkpoints. Default: the recipe's."""
    validate_every: int | None = None
    """Steps between validations; 0 for none. Default: the recipe's."""
    validation_steps: str | None = None
    """Numbers of denoising steps that validation compares, such as 1,2,4. Default: the recipe's."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto selects a GPU when there is one. With torchrun each process uses
    its own GPU.
    """
    view: bool = False
    """Serve a web page that shows the progress (extra viewer); its address is printed."""
    overwrite: bool = False
    """Delete another training that OUT holds, and start again."""


def run_command(command: Command) -> None:
    from artifixer.evaluation.inpainting import METHODS, inpaint
    from artifixer.pairs.loader import open_pairs
    from artifixer.pipeline.view import viewed
    from artifixer.recipes.train import RECIPES
    from artifixer.training.job import run_training
    from artifixer.training.recipe import TrainingJob
    from artifixer.training.validation import Baseline

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
    """The pairs; skipped ones are printed."""
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
    from artifixer.training.loop import LoopConfig

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
