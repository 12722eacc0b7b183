"""Gain of ``artifixer run`` over the plain 3DGUT fit, for several fits of its input render.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python benchmarks/main_job.py --out OUT [--captures
        FOLDER] [--size 192] [--fits plain,dropout=0.3,median=0.3,loss=0.3] [--procedural 6]
        [--only NAME,...] [--print]

Three real captures (``fountain`` with 3 views, ``plush`` and ``fox`` with 6, by Algorithm 1; below
``--captures``, or ``$ARTIFIXER_CAPTURES``) and procedural ones from seeds that the embedded model
was not trained on, with 3 to 6 views. One run per capture and fit, whose folder is kept: the same
command continues after an interruption and skips finished runs. All runs of a capture share one
plain fit. Fits: ``plain``, with dropout, the median of the plain fit and two with dropout, or with
a free-space loss of this weight. Prints mean / pooled PSNR of the held-out photos of every variant,
dB, as a Markdown table per fit; then the mean over the captures of each variant minus the plain
fit. ``--print``: tables of the finished runs, without starting others.

Exit codes: 0 done; 2 bad input; 75 stopped by SIGTERM with the state saved; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exit_codes import exit_code_of

from artifixer.commands.run import Command, run_config
from artifixer.evaluation.evaluate import VARIANT_TITLES, VariantQuality
from artifixer.evaluation.variant_table import read_variants
from artifixer.pipeline.run import run
from artifixer.runtime.errors import InputError
from artifixer.runtime.progress import Progress

REAL = (("fountain", "algorithm1_K3"), ("plush", "algorithm1_K6"), ("fox", "algorithm1_K6"))

#: The embedded model was trained on seeds 1 to 224 and is validated on 404 to 435.
FIRST_SEED = 500


@dataclass(frozen=True)
class InputFit:
    """The fit whose renders the model gets; with ``count`` 2 the median of three fits."""

    name: str
    count: int = 1
    dropout: float = 0.0
    free_space_loss: float = 0.0

    @staticmethod
    def of(word: str) -> InputFit:
        """``plain``, ``dropout=FRACTION``, ``median=FRACTION`` or ``loss=WEIGHT``. Raises
        ``InputError``.
        """
        kind, _, value = word.partition("=")
        try:
            if word == "plain":
                return InputFit(word)
            if kind == "dropout":
                return InputFit(word, dropout=float(value))
            if kind == "median":
                return InputFit(word, 2, dropout=float(value))
            if kind == "loss":
                return InputFit(word, free_space_loss=float(value))
        except ValueError:
            pass
        raise InputError(
            f"--fits {word}: expected plain, dropout=FRACTION, median=FRACTION or loss=WEIGHT"
        )

    @property
    def is_plain(self) -> bool:
        return self.dropout == self.free_space_loss == 0


@dataclass(frozen=True)
class Case:
    """A capture with its split: a named one, or a number of views."""

    name: str
    capture: str
    split: str | None = None
    views: int | None = None

    def command(self, out: Path, size: str, fit: InputFit) -> Command:
        return Command(
            self.capture,
            out,
            split=self.split,
            views=self.views,
            size=size,
            dropout=fit.dropout,
            input_fits=fit.count,
            free_space_loss=fit.free_space_loss,
            recipe="tiny",
            device="cpu",
        )


def cases(captures: Path, procedural: int) -> list[Case]:
    """The real captures first."""
    real = [
        Case(f"{name} {split.rpartition('_')[2]}", str(captures / name), split)
        for name, split in REAL
    ]
    drawn = []
    for number in range(procedural):
        views = 3 + number % 4
        name = f"procedural:{FIRST_SEED + number}:frames=24,width=192,height=144"
        drawn.append(Case(f"procedural {FIRST_SEED + number} K{views}", name, views=views))
    return [*real, *drawn]


def folder_of(out: Path, case: Case, fit: InputFit) -> Path:
    return out / re.sub(r"[^a-zA-Z0-9.]+", "_", f"{case.name} {fit.name}")


def run_all(chosen: Sequence[Case], fits: Sequence[InputFit], out: Path, size: str) -> None:
    """Run all cases that are not finished."""
    for case in chosen:
        for fit in fits:
            folder, plain = folder_of(out, case, fit), folder_of(out, case, fits[0])
            if not folder.exists() and (plain / "report.html").exists():
                share_stages(plain, folder)
            print(f"{case.name}, {fit.name}: {folder}", flush=True)
            run(run_config(case.command(folder, size, fit)), progress=Progress(output=None))


def share_stages(source: Path, folder: Path) -> None:
    """Start from a copy of another run's folder: stages independent of the fit are kept."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    part.rename(folder)


def results(
    chosen: Sequence[Case], fit: InputFit, out: Path
) -> dict[str, Mapping[str, VariantQuality]]:
    """Quality by case, of the finished runs."""
    found = {}
    for case in chosen:
        folder = folder_of(out, case, fit)
        if (folder / "report.html").exists():
            variants = read_variants(folder / "metrics.json")
            # a copied folder has the other run's figures until it is finished
            if ("input" in variants) != fit.is_plain:
                found[case.name] = variants
    return found


def table(found: Mapping[str, Mapping[str, VariantQuality]]) -> list[str]:
    """Markdown: variants by captures, mean / pooled PSNR."""
    names = [
        name for name in VARIANT_TITLES if any(name in variants for variants in found.values())
    ]
    lines = ["| | " + " | ".join(found) + " |", "|---" * (1 + len(found)) + "|"]
    for name in names:
        cells = [
            f"{_figure(variants[name].psnr)} / {_figure(variants[name].psnr_pooled)}"
            for variants in found.values()
        ]
        lines.append(f"| {VARIANT_TITLES[name]} | " + " | ".join(cells) + " |")
    return lines


def gains(found: Mapping[str, Mapping[str, VariantQuality]]) -> list[str]:
    """Markdown: each variant minus the plain fit, mean and smallest over the captures, of mean /
    pooled PSNR and SSIM.
    """
    lines = [
        "| minus the plain fit | mean PSNR | smallest | pooled PSNR | smallest | SSIM |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in VARIANT_TITLES.items():
        if name == "3dgut" or not all(name in variants for variants in found.values()):
            continue
        cells = []
        for field in ("psnr", "psnr_pooled", "ssim"):
            changes = [
                getattr(variants[name], field) - getattr(variants["3dgut"], field)
                for variants in found.values()
            ]
            digits = 3 if field == "ssim" else 2
            cells.append(f"{sum(changes) / len(changes):+.{digits}f}")
            if field != "ssim":
                cells.append(f"{min(changes):+.{digits}f}")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--captures", type=Path, default=os.environ.get("ARTIFIXER_CAPTURES"))
    parser.add_argument("--size", default="192")
    parser.add_argument("--fits", default="plain,dropout=0.3")
    parser.add_argument("--procedural", type=int, default=6)
    parser.add_argument("--only", help="beginnings of the names of captures, with commas")
    parser.add_argument("--print", dest="only_print", action="store_true")
    return parser.parse_args(words)


def measure(arguments: argparse.Namespace) -> None:
    """Run the unfinished cases, and print the tables."""
    if arguments.captures is None:
        raise InputError(
            "--captures: expected the folder of the real captures, or $ARTIFIXER_CAPTURES"
        )
    fits = [InputFit.of(word) for word in arguments.fits.split(",")]
    chosen = cases(Path(arguments.captures), arguments.procedural)
    if arguments.only:
        chosen = [case for case in chosen if case.name.startswith(tuple(arguments.only.split(",")))]
    if not arguments.only_print:
        run_all(chosen, fits, arguments.out, arguments.size)
    for fit in fits:
        found = results(chosen, fit, arguments.out)
        if found:
            lines = ["", f"{fit.name}:", "", *table(found), "", *gains(found)]
            print("\n".join(lines))


def main(words: Sequence[str] | None = None) -> int:
    """Command line, with the exit codes of ``artifixer``."""
    arguments = _arguments(words)
    return exit_code_of(lambda: measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
