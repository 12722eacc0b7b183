"""Quality of models on unseen pairs, beside the plain renders and inpainting.

    python benchmarks/validation.py PAIRS [--model tiny[,OTHER,...]] [--steps 1,2,4,adaptive]
        [--source mixing|direct] [--pairs 32] [--device cpu] [--picture grid.png]
        [--teacher TEACHER [--teacher-steps 4,16] [--teacher-frames 13]] [--drift] [--adaptive
        [--empty-fractions 0.02,0.1,0.35]]

Prints mean and pooled PSNR, PSNR of hard frames (render below 20 dB), of opaque and of empty
pixels, and SSIM. Frames are generated block by block, as by ``artifixer enhance``. A model is a
name, a model folder or the folder of a training; several are compared on the same clips. Without
``--steps`` each uses its own number: that of its mode ``generate`` where ``--source mixing`` is not
its own source.

``benchmarks/invention.py`` measures content generated in empty pixels, on clips with exact depth
and beside controls; ``benchmarks/blind.py`` compares it by judges.

``--teacher``: a bidirectional model on the same clips, sampled whole, and in independent parts of
as many frames as it was trained on. Prints pooled PSNR of the causal model minus the teacher's.

``--drift``: pooled PSNR of the first, middle and last third of the clips at equal opacity (errors
are averaged at each of ten levels of opacity, which have the same weights in all thirds), and the
last minus the first. Content may be harder at one end of a clip; in the same clips played backwards
it is harder at the other end, so this effect cancels in the mean of both differences.

``--adaptive``: adaptive steps against 4 fixed steps, by the opaque fraction of a block: PSNR, loss
in dB, network calls and median time per block, and the speed-up of the network alone and with
encoding and decoding. On a CPU with one thread, in CPU time.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from artifixer.commands.enhance import read_steps
from artifixer.evaluation.invention import BASELINES
from artifixer.pairs.loader import open_pairs
from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.errors import InputError
from artifixer.training.clip_comparison import (
    BLOCK_CLASSES,
    DriftFigures,
    block_figures,
    codec_seconds,
    compare_steps,
    drift,
)
from artifixer.training.initial_model import model_folder
from artifixer.training.validation import (
    Steps,
    ValidationConfig,
    generated_frames,
    validate,
)
from artifixer.video.flow import SourceKind
from artifixer.video.model import Model
from artifixer.video.model_files import load_model
from artifixer.video.sample import AdaptiveSteps

COLUMNS = (
    "psnr_mean",
    "psnr_pooled",
    "psnr_hard",
    "psnr_opaque",
    "psnr_empty",
    "ssim",
    "ssim_hard",
    "ssim_opaque",
    "ssim_empty",
)

#: Number of fixed steps that adaptive steps are compared with.
FIXED_STEPS = 4


def main() -> None:
    arguments = _arguments()
    if arguments.adaptive and torch.device(arguments.device).type == "cpu":
        torch.set_num_threads(1)
    pairs = [stored.read() for stored in open_pairs(arguments.folder).pairs[: arguments.pairs]]
    adaptive = AdaptiveSteps(_limits(arguments.empty_fractions))
    common = ValidationConfig(
        len(pairs), grid_pairs=10, source=arguments.source, adaptive_steps=adaptive
    )
    models = _models(
        [name for part in arguments.model for name in part.split(",")], arguments.device
    )
    configs = {
        label: replace(common, steps=_steps(arguments.steps, model, arguments.source))
        for label, model in models.items()
    }
    frames = sorted({pair.frames for pair in pairs})
    print(
        f"{len(pairs)} clips of {', '.join(map(str, frames))} frames; source "
        f"{arguments.source or 'of the model'}\n"
    )
    figures = _qualities(models, configs, pairs, arguments.picture)
    teachers = _teacher_qualities(arguments, common, pairs) if arguments.teacher else {}
    _print_qualities(figures | teachers)
    if teachers:
        _print_gaps(figures, teachers)
    if arguments.drift:
        _print_drift(models, configs, pairs)
    if arguments.adaptive:
        for label, model in models.items():
            _print_adaptive(label, model, common, pairs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--model",
        action="append",
        help="names or folders; may be given several times, or with commas",
    )
    parser.add_argument(
        "--steps", help="numbers of steps with commas, or adaptive; the model's own by default"
    )
    parser.add_argument("--source", choices=get_args(SourceKind))
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--picture", type=Path, help="of the first model")
    parser.add_argument("--teacher")
    parser.add_argument("--teacher-steps")
    parser.add_argument("--teacher-frames", type=int, default=13)
    parser.add_argument(
        "--teacher-source", choices=get_args(SourceKind), help="as --source by default"
    )
    parser.add_argument("--drift", action="store_true")
    parser.add_argument("--adaptive", action="store_true")
    parser.add_argument(
        "--empty-fractions",
        default=",".join(map(str, AdaptiveSteps().max_empty_fractions)),
        help="maximum for 1, 2, ... steps",
    )
    arguments = parser.parse_args()
    arguments.model = arguments.model or ["tiny"]
    return arguments


def _models(names: Sequence[str], device: str) -> dict[str, Model]:
    """Models by unique labels: the last part of a path, or all of it."""
    short = [
        Path(name).parent.name if Path(name).name == "model" else Path(name).name for name in names
    ]
    labels = short if len(set(short)) == len(names) else names
    return {
        label: load_model(str(model_folder(Path(name))), device)
        for label, name in zip(labels, names, strict=True)
    }


def _limits(text: str) -> tuple[float, ...]:
    """``--empty-fractions``; raises ``InputError`` for anything but ascending numbers."""
    words = text.split(",")
    limits = tuple(float(word) for word in words if re.fullmatch(r"\d*\.?\d+", word))
    if len(limits) < len(words) or list(limits) != sorted(limits):
        raise InputError(
            f"--empty-fractions {text}: expected ascending numbers separated by commas, such as "
            "0.02,0.1,0.35"
        )
    return limits


def _steps(wanted: str | None, model: Model, source: SourceKind | None) -> tuple[Steps, ...]:
    """The given numbers of steps, else the model's own: of its mode ``generate`` for ``--source
    mixing``.
    """
    if wanted is not None:
        return tuple(steps for part in wanted.split(",") if (steps := read_steps(part)) is not None)
    is_other = source == "mixing" and model.config.source != source
    return (model.config.generate_steps if is_other else model.config.steps,)


def _qualities(
    models: dict[str, Model],
    configs: dict[str, ValidationConfig],
    pairs: Sequence[TrainingPair],
    picture: Path | None,
) -> dict[str, dict[str, float]]:
    """Figures by row: render and baselines once, then every model at each number of steps."""
    baselines = BASELINES
    rows: dict[str, dict[str, float]] = {}
    for label, model in models.items():
        is_first = not rows
        figures = validate(
            model,
            pairs,
            configs[label],
            baselines=baselines if is_first else None,
            picture=picture if is_first else None,
        )
        rows |= {_row_name(row, label): values for row, values in _by_row(figures).items()}
    return rows


def _teacher_qualities(
    arguments: argparse.Namespace, common: ValidationConfig, pairs: Sequence[TrainingPair]
) -> dict[str, dict[str, float]]:
    """Figures of the teacher, with clips sampled whole and in parts."""
    (teacher,) = _models([arguments.teacher], arguments.device).values()
    source = arguments.teacher_source or arguments.source
    config = replace(
        common,
        is_causal=False,
        steps=_steps(arguments.teacher_steps, teacher, source),
        source=source,
    )
    rows: dict[str, dict[str, float]] = {}
    for label, length in (
        ("teacher, at once", None),
        (f"teacher, {arguments.teacher_frames} frames", arguments.teacher_frames),
    ):
        figures = _by_row(validate(teacher, pairs, replace(config, clip_frames=length)))
        rows |= {
            _row_name(row, label): values for row, values in figures.items() if row != "render"
        }
    return rows


def _by_row(figures: dict[str, float]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for key, value in figures.items():
        row, name = key.split("/")
        rows.setdefault(row, {})[name] = value
    return rows


def _row_name(row: str, label: str) -> str:
    steps = row.removeprefix("steps")
    return row if steps == row else f"{label}, {steps} step{'s' * (steps != '1')}"


def _print_qualities(rows: dict[str, dict[str, float]]) -> None:
    width = max(map(len, rows)) + 2
    print(f"{'':{width}}" + "".join(f"{column:>13}" for column in COLUMNS))
    for row, values in rows.items():
        print(
            f"{row:{width}}"
            + "".join(f"{values.get(column, float('nan')):13.3f}" for column in COLUMNS)
        )


def _print_gaps(
    figures: dict[str, dict[str, float]], teachers: dict[str, dict[str, float]]
) -> None:
    """Causal rows by teacher's rows."""
    rows = {
        row: values["psnr_pooled"]
        for row, values in figures.items()
        if row not in ("render", *BASELINES)
    }
    width, column = max(map(len, rows)) + 2, max(map(len, teachers)) + 2
    best = max(values["psnr_pooled"] for values in teachers.values())
    print("\npooled PSNR minus the teacher's, dB")
    print(f"{'':{width}}" + "".join(f"{name:>{column}}" for name in (*teachers, "its best")))
    for row, ours in rows.items():
        theirs = (*(values["psnr_pooled"] for values in teachers.values()), best)
        print(f"{row:{width}}" + "".join(f"{ours - value:+{column}.3f}" for value in theirs))


def _print_drift(
    models: dict[str, Model], configs: dict[str, ValidationConfig], pairs: Sequence[TrainingPair]
) -> None:
    rows: dict[str, DriftFigures] = {"render": drift(pairs, lambda pair: pair.renders)}
    for label, model in models.items():
        for steps in configs[label].steps:
            make = partial(
                generated_frames, model, steps=steps, config=configs[label], compute="float32"
            )
            rows[_row_name(f"steps{steps}", label)] = drift(pairs, make)
    width = max(map(len, rows)) + 2
    print(
        "\npooled PSNR of thirds at equal opacity, dB: forwards, then backwards; last column: mean "
        "of both changes"
    )
    print(
        f"{'':{width}}"
        + "".join(f"{name:>12}" for name in ("first", "middle", "last", "last-first") * 2)
        + f"{'mean':>12}"
    )
    for row, found in rows.items():
        values = (
            *found.forwards,
            found.change_forwards,
            *found.backwards,
            found.change_backwards,
            found.change,
        )
        print(f"{row:{width}}" + "".join(f"{value:12.3f}" for value in values))


def _print_adaptive(
    label: str, model: Model, common: ValidationConfig, pairs: Sequence[TrainingPair]
) -> None:
    results = compare_steps(model, pairs, replace(common, steps=(FIXED_STEPS, "adaptive")))
    fixed, adaptive = block_figures(results[FIXED_STEPS]), block_figures(results["adaptive"])
    outside = statistics.median(codec_seconds(model, pair) for pair in pairs[:8])
    classes = ", ".join(
        f"{name} from {share:.0%} opaque pixels on" for name, share in BLOCK_CLASSES[:-1]
    )
    print(
        f"\n{label}: adaptive steps {common.adaptive_steps.max_empty_fractions} against "
        f"{FIXED_STEPS}; blocks {classes}, else empty"
    )
    titles = (
        "blocks",
        "calls",
        "pooled 4",
        "adaptive",
        "lost",
        "mean 4",
        "adaptive",
        "lost",
        "ms 4",
        "adaptive",
        "speed-up",
        "with codec",
    )
    print(f"{'':8}" + "".join(f"{title:>11}" for title in titles))
    for name, ours in adaptive.items():
        theirs = fixed[name]
        print(
            f"{name:8}{ours.blocks:11d}{ours.calls:11.2f}"
            f"{theirs.psnr_pooled:11.3f}{ours.psnr_pooled:11.3f}"
            f"{theirs.psnr_pooled - ours.psnr_pooled:11.3f}"
            f"{theirs.psnr_mean:11.3f}{ours.psnr_mean:11.3f}"
            f"{theirs.psnr_mean - ours.psnr_mean:11.3f}"
            f"{1e3 * theirs.seconds:11.1f}{1e3 * ours.seconds:11.1f}"
            f"{theirs.seconds / ours.seconds:11.2f}"
            f"{(theirs.seconds + outside) / (ours.seconds + outside):11.2f}"
        )
    print(f"encoding and decoding take {1e3 * outside:.1f} ms per block")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
