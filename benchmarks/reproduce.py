"""The paper's Table 4 and its three products at small scale, from scratch, in one command.

    OMP_WAIT_POLICY=passive python benchmarks/reproduce.py --out OUT [--page PAGE] [--quick]
        [--workers N]

Curates pairs of drawn scenes; trains for each seed one autoencoder and the four variants of Table 4
with the same number of steps and clips in every stage: opacity mixing, direct render, channel
concatenation, and mixing without a Diffusion Forcing start (its student starts from the teacher,
trained on bidirectionally for as many steps as the others are trained causally). Then evaluates, on
scenes that were never trained on, ArtiFixer, 3D and 3D+ beside the plain 3DGUT fit, two inpaintings
and all variants (``artifixer evaluate heldout --diagnostics``). Sizes are in
``artifixer/recipes/reproduce.py``; ``--quick`` is its other entry, whose figures are meaningless.

``OUT/`` receives ``pairs/``, ``seed_N/`` with a folder per stage as of ``artifixer train`` and per
scene as of ``artifixer evaluate``, ``timing.json`` (seconds of each job, summed over resumed
processes), ``figures.json`` and ``reproduction.md``; ``--page``: a second path for
``reproduction.md``. The same command continues after an interruption. Exit codes: 0 done; 2 bad
input; 75 stopped by SIGTERM with the state saved; 130 interrupted.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded

from exit_codes import exit_code_of

from artifixer.curation.jobs import curate
from artifixer.curation.sources import expand_sources
from artifixer.evaluation.benchmarks.scene import Options
from artifixer.evaluation.tables import method_title
from artifixer.pairs.loader import PairSet, open_pairs
from artifixer.pipeline.evaluate import evaluate
from artifixer.pipeline.evaluate_config import EvaluateConfig
from artifixer.pipeline.run_config import VARIANTS
from artifixer.recipes.reproduce import RECIPES, ReproductionRecipe
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import write_bytes
from artifixer.runtime.json_io import as_object, read_json, write_json
from artifixer.runtime.stopping import stop_if_requested, stop_on_sigterm
from artifixer.training.job import run_training
from artifixer.training.recipe import StageName, TrainingJob, TrainingRecipe

#: Rows of the products' table, and of Table 4's variants with the paper's PSNR (dB).
PRODUCTS = (
    *("3dgut", "inpainting_telea", "inpainting_ns", "inpainting_push_pull", "diagnostic_direct"),
    *("artifixer", "artifixer3d", "artifixer3d_plus"),
)
TABLE_4 = {
    "diagnostic_concatenation": 14.52,
    "diagnostic_direct": 17.34,
    "diagnostic_no_forcing": 17.58,
    "diagnostic_mixing": 17.99,
}

#: Pairs of rows of which the first is better in the paper: Table 4, and Table 3 for the products.
CLAIMS = (
    ("diagnostic_mixing", "diagnostic_direct"),
    ("diagnostic_mixing", "diagnostic_no_forcing"),
    ("diagnostic_direct", "diagnostic_concatenation"),
    ("artifixer", "3dgut"),
    ("artifixer3d", "artifixer"),
    ("artifixer3d_plus", "artifixer3d"),
)

FIGURES = ("psnr", "psnr_pooled", "ssim", "st_lpips")
HEADINGS = ("PSNR", "PSNR pooled", "SSIM", "ST-LPIPS")
DIGITS = (2, 2, 3, 3)

Figures = dict[str, dict[str, float | None]]


class Clock:
    """Seconds of each job, summed over the processes that worked on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = as_object(read_json(path), path) if path.exists() else {}

    @contextmanager
    def job(self, name: str) -> Iterator[None]:
        stop_if_requested(f"before {name}")
        began = time.monotonic()
        try:
            yield
        finally:
            spent = self.seconds.get(name, 0.0) + time.monotonic() - began
            self.seconds[name] = round(spent, 1)
            write_json(self.path, self.seconds)


def run(recipe: ReproductionRecipe, out: Path, name: str, page: Path | None, workers: int) -> None:
    """All steps in order; finished ones are skipped."""
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock(out / "timing.json")
    with clock.job("pairs"):
        sources = expand_sources([recipe.pairs])
        made = curate(sources, recipe.curation, 0, out / "pairs", workers)
    if not made.pairs:
        raise InputError(f"{out / 'pairs'}: no scene gave a pair")
    pairs = open_pairs([out / "pairs"])
    figures: dict[str, Figures] = {}
    for seed in recipe.seeds:
        folder = out / f"seed_{seed}"
        models = train_variants(recipe, pairs, folder, seed, clock)
        figures[str(seed)] = evaluate_variants(recipe, models, folder, clock)
    write_json(out / "figures.json", figures)
    text = written_page(recipe, name, figures, clock.seconds, made.pairs).encode()
    for path in [out / "reproduction.md", *([] if page is None else [page])]:
        write_bytes(path, text)
        print(f"written: {path}")


def train_variants(
    recipe: ReproductionRecipe, pairs: PairSet, folder: Path, seed: int, clock: Clock
) -> dict[str, Path]:
    """Run folders of the four students by the names of ``--diagnostic-models``."""

    def trained(
        name: str,
        stage: StageName,
        settings: TrainingRecipe,
        init: Path | None = None,
        teacher: Path | None = None,
    ) -> Path:
        loop = replace(settings.loop(stage), seed=seed)
        settings = replace(settings, **{f"{stage}_loop": loop})  # type: ignore[arg-type]
        with clock.job(f"{folder.name}/{name}"):
            run_training(TrainingJob(stage, settings, pairs, init, teacher), folder / name)
        return folder / name

    first = trained("autoencoder", "autoencoder", recipe.variants["mixing"])
    students = {}
    for name, settings in recipe.variants.items():
        teacher = trained(f"{name}_teacher", "bidirectional", settings, first)
        causal = trained(f"{name}_causal", "diffusion_forcing", settings, teacher)
        students[name] = trained(name, "self_forcing", settings, causal, teacher)
    mixing = recipe.variants["mixing"]
    longer = replace(
        mixing,
        bidirectional=mixing.diffusion_forcing,
        bidirectional_loop=mixing.diffusion_forcing_loop,
    )
    teacher = folder / "mixing_teacher"
    start = trained("no-forcing_start", "bidirectional", longer, teacher)
    students["no-forcing"] = trained("no-forcing", "self_forcing", mixing, start, teacher)
    return students


def evaluate_variants(
    recipe: ReproductionRecipe, models: Mapping[str, Path], folder: Path, clock: Clock
) -> Figures:
    """Mean figures over the validation scenes by method."""
    found: list[Mapping[str, Any]] = []
    for number, capture in enumerate(recipe.validation):
        config = EvaluateConfig(
            "heldout",
            capture,
            folder / f"evaluation_{number}",
            options=Options(views=recipe.views),
            variants=tuple(VARIANTS.values()),
            path="heldout",
            model=str(models["mixing"] / "model"),
            reconstruct=recipe.reconstruct,
            distill=recipe.distill,
            diagnostics=True,
            diagnostic_models={role: path for role, path in models.items() if role != "mixing"},
        )
        with clock.job(f"{folder.name}/evaluation_{number}"):
            found.append(evaluate(config).results["methods"])
    return {
        method: figures_of([methods[method] for methods in found])
        for method in found[0]
        if all(method in methods for methods in found)
    }


def figures_of(scenes: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of one method: means over scenes of the means over views; PSNR of all pixels pooled."""
    views = [view for scene in scenes for view in scene["views"]]
    squared = math.fsum(view["squared"][0] for view in views)
    values = 3 * sum(view["pixels"] for view in views)
    return {
        "psnr": mean([scene["summary"]["frames"]["genfusion"]["psnr"] for scene in scenes]),
        "psnr_pooled": 10 * math.log10(255**2 * values / squared) if squared else None,
        "ssim": mean([scene["summary"]["frames"]["genfusion"]["ssim_zero"] for scene in scenes]),
        "st_lpips": mean([scene["summary"]["frames"]["st_lpips"] for scene in scenes]),
    }


def mean(values: Sequence[float | None]) -> float | None:
    """None where a value is missing."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


# The page -----------------------------------------------------------------------------------------


def written_page(
    recipe: ReproductionRecipe,
    name: str,
    figures: Mapping[str, Figures],
    seconds: Mapping[str, float],
    pairs: int,
) -> str:
    """All tables, and which of the paper's orders hold in every seed."""
    mixing = recipe.variants["mixing"]
    stages = ("autoencoder", "bidirectional", "diffusion_forcing", "self_forcing")
    steps = ", ".join(f"{mixing.loop(stage).steps} {stage}" for stage in stages)  # type: ignore[arg-type]
    hours = math.fsum(seconds.values()) / 3600
    quick = [] if name == "full" else ["", "**Quick form: these figures mean nothing.**"]
    lines = [
        "# Reproduction at small scale",
        *quick,
        "",
        "Written by `make reproduce` (`python benchmarks/reproduce.py --out reproduction --page "
        "docs/reproduction.md`), with these sizes from `artifixer/recipes/reproduce.py`, recipe "
        f"`{name}`:",
        "",
        f"* {pairs} training pairs (`{recipe.pairs}`), seeds {', '.join(map(str, recipe.seeds))}",
        f"* steps: {steps}; {mixing.loop('bidirectional').batch} clips per step; the same in all "
        "variants",
        f"* {len(recipe.validation)} validation scenes (`{recipe.validation[0]}` and the following "
        f"seeds), {recipe.views} training photos each, {mixing.model.steps} denoising steps",
        f"* {hours:.2f} hours in all jobs on {os.cpu_count()} cores, other load included",
        "",
        "The variant without a Diffusion Forcing start is trained bidirectionally for as many "
        "steps as the others are trained causally. PSNR and SSIM: means over the scenes of the "
        "means over held-out photos (profile `genfusion`). ST-LPIPS is not LPIPS.",
    ]
    lines += ["", "## Variants of Table 4", "", *_table(figures, list(TABLE_4), TABLE_4)]
    lines += ["", "## Products", "", *_table(figures, list(PRODUCTS), None)]
    lines += ["", "## What agrees with the paper", "", *_claims(figures)]
    return "\n".join(lines) + "\n"


def _table(
    figures: Mapping[str, Figures], methods: Sequence[str], paper: Mapping[str, float] | None
) -> Iterator[str]:
    seeds = list(figures)
    headings = [*HEADINGS, *(f"PSNR, seed {seed}" for seed in seeds)]
    if paper is not None:
        headings.append("PSNR in the paper*")
    yield "| | " + " | ".join(headings) + " |"
    yield "|---" + "|---:" * len(headings) + "|"
    for method in methods:
        found = [figures[seed].get(method, {}) for seed in seeds]
        cells = [
            _number(mean([one.get(figure) for one in found]), digits)
            for figure, digits in zip(FIGURES, DIGITS, strict=True)
        ]
        cells += [_number(one.get("psnr"), 2) for one in found]
        if paper is not None:
            cells.append(_number(paper[method], 2))
        yield f"| {method_title(method)} | " + " | ".join(cells) + " |"
    if paper is not None:
        yield ""
        yield "\\* Mip-NeRF 360, models of 1.3 or 14 billion weights: another data set and scale."


def _claims(figures: Mapping[str, Figures]) -> Iterator[str]:
    """One line per order that the paper states."""
    holds = []
    for better, worse in CLAIMS:
        gaps = [
            found[better]["psnr"] - found[worse]["psnr"]  # type: ignore[operator]
            for found in figures.values()
            if all(found.get(name, {}).get("psnr") is not None for name in (better, worse))
        ]
        count = sum(gap > 0 for gap in gaps)
        agrees = bool(gaps) and count == len(gaps)
        verdict = "agrees" if agrees else "does not agree" if not count else "undecided"
        shown = ", ".join(f"{gap:+.2f} dB" for gap in gaps)
        holds.append(agrees)
        yield (
            f"* {method_title(better)} above {method_title(worse)} in PSNR: {verdict} ({shown} by "
            "seed)."
        )
    yield ""
    yield (
        f"{sum(holds)} of the paper's {len(holds)} orders hold in every seed. "
        f"{len(figures)} seeds and networks this small can contradict no statement about large "
        "ones; they show what the code does at this budget."
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def main(words: Sequence[str] | None = None) -> int:
    """Command line, with the exit codes of ``artifixer``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--quick", action="store_true", help="in seconds, for tests")
    parser.add_argument("--workers", type=int, default=1, help="processes that curate")
    arguments = parser.parse_args(words)
    name = "quick" if arguments.quick else "full"

    def job() -> None:
        with stop_on_sigterm():
            run(RECIPES[name], arguments.out, name, arguments.page, arguments.workers)

    return exit_code_of(job)


if __name__ == "__main__":
    sys.exit(main())
