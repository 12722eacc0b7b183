"""A short training session on one large GPU: pairs in at most 60 MB, all stages within a time
limit, weights in files of at most 16 MB.

    python benchmarks/gpu_session.py prepare SOURCE... --validation SOURCE... --out BUNDLE
        --work WORK [--megabytes 60] [--crf 18] [--size N] [--frames N] [--workers N]
    python benchmarks/gpu_session.py train BUNDLE --work WORK --out OUT [--minutes 10]
        [--reserve 1.5] [--recipe small] [--batch N] [--compile auto|no|BACKEND] [--device cuda]
    OMP_WAIT_POLICY=passive python benchmarks/gpu_session.py dry-run --out FOLDER [--minutes 2]

``prepare`` runs on a CPU beforehand and takes hours. A SOURCE is a capture, a folder of captures
(such as the rooms of ``tools/rooms``), ``procedural:COUNT:SEED``, or a folder of pairs; sources
that are not pairs are curated into WORK first. ``BUNDLE/training`` and ``BUNDLE/validation`` hold
the pairs with compressed pictures (``packed_pairs.py``). Pairs beyond the size limit are left out,
evenly over the sources, and counted.

``train`` decodes the bundle into the GPU's memory and trains the stages of the recipe with compiled
layers. ``--minutes`` is the time of the whole session: ``--reserve`` minutes are kept for start-up,
validation and writing, the others are divided by ``embedded_model.SHARES``. WORK holds the stages'
folders and can be deleted afterwards. OUT, at most about 45 MB, receives ``weights/`` (a model
folder in float16; written from the first causal stage on, so that an aborted session leaves a
model), ``metrics.jsonl`` (one line per step, with its stage, and one per finished stage),
``validation.json`` and ``validation.png``: figures of every stage beside the render, the
inpaintings and the embedded model. The same command continues an interrupted session with its
original minutes.

``dry-run`` does all of this on a CPU with a few scenes, then ``artifixer run --model`` with the
weights: it tests the whole pipeline in two minutes. Its quality is meaningless.

Exit codes: 0 done; 2 bad input; 75 stopped by SIGTERM with the state saved; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded

from embedded_model import SHARES, STAGES, report, split_minutes, stage_job, timed, write_weights
from exit_codes import exit_code_of
from packed_pairs import open_bundle, write_bundle

from artifixer import cli
from artifixer.pairs.loader import open_pairs
from artifixer.pairs.shards import INDEX_FILE
from artifixer.recipes.train import RECIPES
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import EXIT_DONE, InputError
from artifixer.runtime.files import write_bytes
from artifixer.runtime.json_io import is_number, read_json, write_json
from artifixer.runtime.stopping import stop_if_requested, stop_on_sigterm
from artifixer.training.job import run_training
from artifixer.training.recipe import StageName, TrainingRecipe

TRAINING, VALIDATION = "training", "validation"

#: Maximum fraction of the megabytes for the validation pairs.
VALIDATION_FRACTION = 0.1

#: File of the minutes that a session began with; its stages continue only with the same ones.
SESSION_FILE = "session.json"

#: Scenes of a dry run: seeds that neither the embedded model nor its validation uses.
DRY_TRAINING, DRY_VALIDATION = "procedural:3:9000", "procedural:1:9100"
DRY_CAPTURE = "procedural:9200:frames=9,width=64,height=48"


def prepare(arguments: argparse.Namespace) -> None:
    """Curate the sources that are not pairs, and pack all pairs."""
    if not 0 < arguments.megabytes <= 60:
        raise InputError(f"--megabytes {arguments.megabytes:g}: expected above 0, at most 60")
    if not 0 <= arguments.crf <= 51:
        raise InputError(f"--crf {arguments.crf}: expected 0 to 51")
    limit = arguments.megabytes * 1e6
    halves = ((VALIDATION, arguments.validation), (TRAINING, arguments.sources))
    for half, sources in halves:
        sets = [
            open_pairs(_pairs_of(source, arguments.work / half / f"{number:02d}", arguments))
            for number, source in enumerate(sources)
        ]
        share = VALIDATION_FRACTION if half == VALIDATION else 1 - VALIDATION_FRACTION
        write_bundle(arguments.out / half, sets, share * limit, arguments.crf)


def _pairs_of(source: str, folder: Path, arguments: argparse.Namespace) -> Path:
    """The folder of a source's pairs, curated first if the source is not such a folder."""
    place = Path(source)
    if (place / INDEX_FILE).is_file():
        return place
    sources = [source]
    if place.is_dir() and not (place / "transforms.json").is_file():
        below = sorted(str(path.parent) for path in place.glob("*/transforms.json"))
        sources = below or sources
    words = ["curate", *sources, "--out", str(folder), "--workers", str(arguments.workers)]
    for option in ("size", "frames"):
        value = getattr(arguments, option)
        words += [] if value is None else [f"--{option}", str(value)]
    code = cli.main(words)
    if code != EXIT_DONE:
        raise SystemExit(code)
    return folder


def train(arguments: argparse.Namespace) -> None:
    """All stages within the time limit; finished ones are skipped."""
    began = time.monotonic()
    device, work, out = resolve_device(arguments.device), arguments.work, arguments.out
    if not 0 < arguments.reserve < arguments.minutes:
        raise InputError(
            f"--reserve {arguments.reserve:g}: expected above 0, below the "
            f"{arguments.minutes:g} minutes"
        )
    pairs, measured = (open_bundle(arguments.bundle / half) for half in (TRAINING, VALIDATION))
    recipe = session_recipe(arguments.recipe, arguments.batch, arguments.compile, device)
    minutes = _session_minutes(arguments, device)
    folders: dict[StageName, Path] = {}
    for stage in STAGES:
        stop_if_requested(f"before {stage}")
        started = time.monotonic()
        job = stage_job(
            stage, timed(recipe, stage, minutes[stage]), folders, pairs, measured, device
        )
        folders[stage] = run_training(job, work / stage)
        if stage in ("diffusion_forcing", "self_forcing"):
            write_weights(folders[stage], out / "weights")
        event = {"stage": stage, "seconds": round(time.monotonic() - started, 1)}
        _write_metrics(out, [work / name for name in folders], event)
        print(f"{stage}: {event['seconds']} s, {_left(began, arguments):.1f} minutes left")
    stop_if_requested("before the validation")
    # ``report`` reads the weights from the folder that it writes to
    (out / "model").unlink(missing_ok=True)
    (out / "model").symlink_to("weights", target_is_directory=True)
    report(folders, out, [stored.read() for stored in measured.pairs], device)
    (out / "model").unlink()
    print(f"session: {(time.monotonic() - began) / 60:.1f} minutes, results in {out}")


def session_recipe(name: str, batch: int | None, compiler: str, device: str) -> TrainingRecipe:
    """The recipe with large batches and compiled layers, and without validation between steps.

    batch: clips per step, None for the recipe's. compiler: a backend of ``torch.compile``, ``no``,
    or ``auto`` for the default one on a GPU.
    """
    recipe = RECIPES[name]
    if compiler == "auto":
        compiler = "no" if device == "cpu" else "inductor"
    backend = None if compiler == "no" else compiler
    changes: dict[str, Any] = {"parallel": replace(recipe.parallel, compile=backend)}
    for stage in STAGES:
        loop = replace(recipe.loop(stage), validation_interval=0)
        changes[f"{stage}_loop"] = loop if batch is None else replace(loop, batch=batch)
    return replace(recipe, **changes)


def _session_minutes(arguments: argparse.Namespace, device: str) -> dict[StageName, float]:
    """Minutes of every stage: those that the session began with, or by ``SHARES``."""
    path = arguments.work / SESSION_FILE
    if path.is_file():
        stored = read_json(path)
        if isinstance(stored, dict) and all(is_number(stored.get(stage), 1e6) for stage in STAGES):
            return {stage: float(stored[stage]) for stage in STAGES}
        raise InputError(f"{path}: expected minutes of {', '.join(STAGES)}; choose another --work")
    shares = SHARES["tiny" if device == "cpu" else "small"]
    minutes = split_minutes(arguments.minutes - arguments.reserve, STAGES, shares)
    write_json(path, minutes)
    return minutes


def _write_metrics(out: Path, stages: Sequence[Path], event: Mapping[str, Any]) -> None:
    """``metrics.jsonl`` from the stages that are done, and when the last one ended."""
    path = out / "metrics.jsonl"
    before = path.read_text().splitlines() if path.is_file() else []
    ends = [line for line in before if "seconds" in json.loads(line)]
    if event["stage"] not in (json.loads(line)["stage"] for line in ends):
        ends.append(json.dumps(event))
    lines = [
        json.dumps({"stage": folder.name, **json.loads(line)})
        for folder in stages
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    write_bytes(path, ("\n".join([*lines, *ends]) + "\n").encode())


def _left(began: float, arguments: argparse.Namespace) -> float:
    return float(arguments.minutes - (time.monotonic() - began) / 60)


def dry_run(arguments: argparse.Namespace) -> None:
    """The whole session on a CPU, and a run with the weights."""
    out = arguments.out
    _run(
        *("prepare", DRY_TRAINING, "--validation", DRY_VALIDATION, "--out", out / "bundle"),
        *("--work", out / "work", "--size", 48, "--frames", 13, "--workers", 1),
    )
    options = ("--minutes", arguments.minutes, "--reserve", arguments.minutes / 2, "--batch", 2)
    _run(
        *("train", out / "bundle", "--work", out / "work", "--out", out / "back", *options),
        *("--recipe", "tiny", "--device", "cpu"),
    )
    words = ["run", DRY_CAPTURE, "--views", "3", "--size", "64", "--path", "heldout"]
    words += ["--variants", "artifixer", "--device", "cpu", "--iterations", "100"]
    words += ["--model", str(out / "back" / "weights"), "--out", str(out / "run")]
    code = cli.main(words)
    if code != EXIT_DONE:
        raise SystemExit(code)


def _run(*words: object) -> None:
    """One of the commands, in this process."""
    arguments = _arguments([str(word) for word in words])
    COMMANDS[arguments.command](arguments)


COMMANDS = {"prepare": prepare, "train": train, "dry-run": dry_run}


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("prepare")
    making.add_argument("sources", nargs="+")
    making.add_argument("--validation", nargs="+", required=True)
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--work", type=Path, required=True)
    making.add_argument("--megabytes", type=float, default=60)
    making.add_argument("--crf", type=int, default=18)
    making.add_argument("--size", type=int)
    making.add_argument("--frames")
    making.add_argument("--workers", type=int, default=os.cpu_count())
    training = commands.add_parser("train")
    training.add_argument("bundle", type=Path)
    training.add_argument("--work", type=Path, required=True)
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--minutes", type=float, default=10)
    training.add_argument("--reserve", type=float, default=1.5)
    training.add_argument("--recipe", choices=tuple(SHARES), default="small")
    training.add_argument("--batch", type=int)
    training.add_argument("--compile", default="auto")
    training.add_argument("--device", default="auto")
    rehearsal = commands.add_parser("dry-run")
    rehearsal.add_argument("--out", type=Path, required=True)
    rehearsal.add_argument("--minutes", type=float, default=2)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Command line, with the exit codes of ``artifixer``."""

    def work() -> None:
        arguments = _arguments(words)
        with stop_on_sigterm():
            COMMANDS[arguments.command](arguments)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main())
