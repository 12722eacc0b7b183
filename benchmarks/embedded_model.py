"""The embedded model from scratch in one command: pairs, all stages, validation, weights in files
of at most 16 MB.

    OMP_WAIT_POLICY=passive python benchmarks/embedded_model.py --out OUT [--pairs PAIRS...]
        [--validation PAIRS] [--minutes 25] [--recipe tiny|small] [--device cuda|cpu] [--stages
        autoencoder,bidirectional,diffusion_forcing,self_forcing] [--scenes 1000] [--size N] [--seed
        1] [--workers N] [--overwrite]

Without ``--pairs`` it curates ``--scenes`` procedural scenes first (recipe ``tiny``; ``--size``:
longest side), without ``--validation`` the 32 scenes of the model card. ``--minutes``: total time
of all trainings, divided among the stages by ``SHARES``; curation, start-up and validation come on
top. ``tiny`` is the recipe of that name, the default on a CPU; ``small``, the default on a GPU, is
a larger network in larger batches that still fits 40 MB as float16.

``OUT/`` receives ``pairs/`` and ``validation_pairs/`` if they are made here, a folder per stage as
of ``artifixer train``, ``model/``, and ``validation.json``. Each stage's model is measured; the
last one is written, and measured again as read from its files, beside the model that is embedded
now. It counts as better when PSNR is higher in the mean over frames, pooled, and on hard frames,
and not lower in opaque pixels. The package is not changed.

The same command continues after an interruption. Exit codes: 0 done, better or not; 2 bad input; 75
stopped by SIGTERM with the state saved; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded

import torch
from exit_codes import exit_code_of

from artifixer import cli
from artifixer.evaluation.inpainting import METHODS, inpaint
from artifixer.pairs.loader import PairSet, open_pairs
from artifixer.pairs.pair import TrainingPair
from artifixer.recipes.train import RECIPES
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import EXIT_DONE, InputError
from artifixer.runtime.json_io import write_json
from artifixer.runtime.stopping import stop_if_requested, stop_on_sigterm
from artifixer.training.job import run_training
from artifixer.training.recipe import StageName, TrainingJob, TrainingRecipe
from artifixer.training.validation import Baseline, ValidationConfig, validate
from artifixer.video.checkpoints.ours import save_model
from artifixer.video.model_files import load_model

STAGES: tuple[StageName, ...] = get_args(StageName)

#: Fraction of the minutes per stage, by recipe: those of tiny are for two CPU cores; on a GPU the
#: first stages need less.
SHARES: dict[str, dict[StageName, float]] = {
    "tiny": {"autoencoder": 6, "bidirectional": 17, "diffusion_forcing": 25, "self_forcing": 8},
    "small": {"autoencoder": 3, "bidirectional": 6, "diffusion_forcing": 14, "self_forcing": 4},
}

#: Bytes of an embedded model: of all files, of one file, and of the tensors in one, which leaves
#: room for a header.
LARGEST_MODEL, LARGEST_FILE, PART_BYTES = 40_000_000, 16_000_000, 15_900_000

#: The scenes on which the model card measures.
VALIDATION_SCENES = "procedural:32:404"

#: Figures that must rise, and those that must not fall, for a model to count as better.
RISING, NOT_FALLING = ("psnr_mean", "psnr_pooled", "psnr_hard"), ("psnr_opaque",)

COLUMNS = ("psnr_mean", "psnr_pooled", "psnr_hard", "psnr_opaque", "psnr_empty", "ssim")


def run(arguments: argparse.Namespace) -> None:
    """All steps in order; finished ones are skipped."""
    device, out = resolve_device(arguments.device), arguments.out
    stages = _stages(arguments.stages)
    if not arguments.minutes > 0:
        raise InputError(f"--minutes {arguments.minutes}: expected a positive number")
    name = arguments.recipe or ("tiny" if device == "cpu" else "small")
    recipe = RECIPES[name]
    training = arguments.pairs or [
        curated(f"procedural:{arguments.scenes}:{arguments.seed}", out / "pairs", arguments)
    ]
    measured_on = arguments.validation or curated(
        VALIDATION_SCENES, out / "validation_pairs", arguments
    )
    pairs, validation_pairs = open_pairs(training), open_pairs(measured_on)
    minutes = split_minutes(arguments.minutes, stages, SHARES[name])
    folders: dict[StageName, Path] = {}
    for stage in stages:
        stop_if_requested(f"before {stage}")
        job = stage_job(
            stage, timed(recipe, stage, minutes[stage]), folders, pairs, validation_pairs, device
        )
        folders[stage] = run_training(job, out / stage, arguments.overwrite)
    stop_if_requested("before the validation")
    write_weights(folders[stages[-1]], out / "model")
    report(folders, out, [stored.read() for stored in validation_pairs.pairs], device)


def split_minutes(
    total: float, stages: Sequence[StageName], shares: Mapping[StageName, float]
) -> dict[StageName, float]:
    """The total minutes of each stage that runs, in proportion to its share."""
    whole = sum(shares[stage] for stage in stages)
    return {stage: total * shares[stage] / whole for stage in stages}


def timed(recipe: TrainingRecipe, stage: StageName, minutes: float) -> TrainingRecipe:
    """The recipe with a time limit for a stage."""
    return replace(
        recipe, **{f"{stage}_loop": replace(recipe.loop(stage), steps=10**9, minutes=minutes)}
    )  # type: ignore[arg-type]


def stage_job(
    stage: StageName,
    recipe: TrainingRecipe,
    before: Mapping[StageName, Path],
    pairs: PairSet,
    validation_pairs: PairSet,
    device: str,
) -> TrainingJob:
    """Train the stage from the model before it; the teacher is the bidirectional one."""
    init = list(before.values())[-1] if before else None
    teacher = before.get("bidirectional") if stage == "self_forcing" else None
    return TrainingJob(stage, recipe, pairs, init, teacher, validation_pairs, device)


def curated(source: str, folder: Path, arguments: argparse.Namespace) -> Path:
    """The folder of pairs after ``artifixer curate``; leaves with its exit code if not 0."""
    words = ["curate", source, "--out", str(folder), "--workers", str(arguments.workers)]
    if arguments.size is not None and source != VALIDATION_SCENES:
        words += ["--size", str(arguments.size)]
    if arguments.overwrite:
        words.append("--overwrite")
    code = cli.main(words)
    if code != EXIT_DONE:
        raise SystemExit(code)
    return folder


def write_weights(trained: Path, folder: Path) -> None:
    """The model as float16 in files that are small enough; ``InputError`` when it is too large to
    be embedded.
    """
    shutil.rmtree(folder, ignore_errors=True)
    save_model(folder, load_model(trained, "cpu", torch.float32), torch.float16, PART_BYTES)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
    for name, size in sizes.items():
        print(f"{folder / name}: {size / 1e6:.1f} MB")
    if max(sizes.values()) > LARGEST_FILE or sum(sizes.values()) > LARGEST_MODEL:
        largest, total = max(sizes.values()) / 1e6, sum(sizes.values()) / 1e6
        raise InputError(
            f"{folder}: {total:.1f} MB, largest file {largest:.1f} MB; expected at most 40 MB in "
            "files of at most 16 MB"
        )


def report(
    folders: Mapping[StageName, Path], out: Path, pairs: Sequence[TrainingPair], device: str
) -> None:
    """Figures of render, inpainting, each stage, the written weights and the embedded model; and
    which of the last two is better.
    """
    baselines: dict[str, Baseline] = {method: partial(inpaint, method=method) for method in METHODS}
    rows: dict[str, dict[str, float]] = {}
    models: dict[str, str | Path] = {
        stage: folder for stage, folder in folders.items() if stage != "autoencoder"
    }
    for label, place in [*models.items(), ("embedded now", "tiny"), ("written", out / "model")]:
        stop_if_requested(f"before the validation of {label}")
        model = load_model(place, device, torch.float32)
        config = ValidationConfig(
            len(pairs),
            steps=(model.config.steps,),
            is_causal=label != "bidirectional",
            grid_pairs=10,
        )
        picture = out / "validation.png" if label == "written" else None
        figures = validate(
            model, pairs, config, baselines=None if rows else baselines, picture=picture
        )
        for key, value in figures.items():
            row, name = key.split("/", 1)
            rows.setdefault(label if row.startswith("steps") else row, {})[name] = value
    print(f"\n{len(pairs)} clips{'':12}" + "".join(f"{column:>13}" for column in COLUMNS))
    for label, values in rows.items():
        print(
            f"{label:20}"
            + "".join(f"{values.get(column, float('nan')):13.3f}" for column in COLUMNS)
        )
    lower = not_better(rows["written"], rows["embedded now"])
    write_json(
        out / "validation.json", {"pairs": len(pairs), "figures": rows, "is_better": not lower}
    )
    print(
        "\nbetter than the embedded model"
        if not lower
        else f"\nnot better than the embedded model: {', '.join(lower)}"
    )


def not_better(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[str]:
    """The figures in which ours is not better, with their differences; figures that neither has do
    not count.
    """
    shared = [name for name in (*RISING, *NOT_FALLING) if name in ours and name in theirs]
    difference = {name: ours[name] - theirs[name] for name in shared}
    failed = [
        name
        for name in shared
        if (difference[name] <= 0 if name in RISING else difference[name] < 0)
    ]
    return [f"{name} {difference[name]:+.3f}" for name in failed]


def _stages(text: str) -> list[StageName]:
    chosen = [stage for stage in STAGES if stage in text.split(",")]
    unknown = sorted(set(text.split(",")) - set(STAGES))
    if unknown:
        raise InputError(f"--stages {unknown[0]}: expected some of {', '.join(STAGES)}")
    if chosen[0] != "autoencoder" or not {"diffusion_forcing", "self_forcing"} & set(chosen):
        raise InputError(
            f"--stages {text}: expected autoencoder, and diffusion_forcing or self_forcing for a "
            "causal model"
        )
    if "self_forcing" in chosen and "bidirectional" not in chosen:
        raise InputError(
            f"--stages {text}: expected bidirectional too, the teacher of self_forcing"
        )
    return chosen


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, nargs="+")
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--recipe", choices=tuple(SHARES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument(
        "--scenes",
        type=int,
        default=1000,
        help="about as many as the loader keeps decoded in memory",
    )
    parser.add_argument("--size", type=int)
    parser.add_argument("--seed", type=int, default=1, help="of the procedural scenes")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--overwrite", action="store_true", help="anew where a folder holds something else"
    )
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Command line, with the exit codes of ``artifixer``."""
    arguments = _arguments(words)

    def job() -> None:
        with stop_on_sigterm():
            run(arguments)

    return exit_code_of(job)


if __name__ == "__main__":
    sys.exit(main())
