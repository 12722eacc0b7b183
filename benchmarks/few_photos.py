"""Does dropout help fits to few photos, and the median of several fits? PSNR and SSIM of held-out
renders and of their push-pull fill, for several dropouts and seeds.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python benchmarks/few_photos.py CAPTURE=SPLIT ...
        [--dropout 0,0.2,0.3,0.4] [--median 0.3] [--seeds 2] [--size 192] [--recipe tiny]

A capture is a folder or ``procedural:SEED``, a split its name or a number of views. Fits of one
capture differ by more than a decibel between seeds, so compare means. ``--median``: also the median
of the renders of three fits, one without dropout and two with this dropout, one of the values of
``--dropout`` (the second has the next seed, after the last the first). Prints a line per fit, and
at the end a Markdown table of the means over the seeds: mean / pooled PSNR of the render, the same
of its fill, SSIM of render and fill. Exit codes: 0 done; 2 bad input.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from exit_codes import exit_code_of

from artifixer.imaging.metrics import psnr, ssim
from artifixer.imaging.push_pull import fill_empty
from artifixer.pipeline.capture import CaptureChoice, LoadedCapture, load_capture
from artifixer.pipeline.reconstruct import ReconstructionJob, initial_splats
from artifixer.recipes.reconstruct import RECIPES
from artifixer.runtime.errors import InputError
from artifixer.scenes.view import views_of
from artifixer.splats.reconstruct import reconstruct
from artifixer.splats.render import median_render, render
from artifixer.splats.splats import Splats
from artifixer.splats.training_view import TrainingView


@dataclass(frozen=True)
class FitQuality:
    """Figures of one fit over all held-out photos: mean and pooled PSNR in dB, and the mean SSIM,
    of the render and of its fill.
    """

    mean: float
    pooled: float
    fill_mean: float
    fill_pooled: float
    ssim: float
    fill_ssim: float

    def text(self) -> str:
        return (
            f"{self.mean:.2f} / {self.pooled:.2f}, {self.fill_mean:.2f} / {self.fill_pooled:.2f}, "
            f"{self.ssim:.3f} {self.fill_ssim:.3f}"
        )


def fitted(capture: LoadedCapture, job: ReconstructionJob) -> Splats:
    """Splats of the training photos."""
    training = [TrainingView.of(view) for view in views_of(capture.scene, capture.training)]
    initial, extent = initial_splats(job, capture)
    return reconstruct(training, initial, extent, job.config, job.seed)


def quality_of(fits: Sequence[Splats], capture: LoadedCapture) -> FitQuality:
    """Render every held-out view, take the median over the fits, fill, and compare."""
    errors: list[tuple[float, float]] = []
    similarities: list[tuple[float, float]] = []
    for view in views_of(capture.scene, capture.heldout):
        with torch.no_grad():
            renders = median_render([render(splats, view.camera) for splats in fits])
        photo, mask = view.photo.pixels(), view.photo.weights()
        frame, fill = (
            frames[0].clamp(0, 1)
            for frames in (renders.rgb, fill_empty(renders.rgb, renders.opacity, renders.depth))
        )
        errors.append((float(psnr(frame, photo, mask)), float(psnr(fill, photo, mask))))
        similarities.append((float(ssim(frame, photo, mask)), float(ssim(fill, photo, mask))))
    plain, filled = zip(*errors, strict=True)
    ssim_plain, ssim_filled = map(statistics.mean, zip(*similarities, strict=True))
    return FitQuality(
        statistics.mean(plain),
        _pooled(plain),
        statistics.mean(filled),
        _pooled(filled),
        ssim_plain,
        ssim_filled,
    )


def _pooled(values: Sequence[float]) -> float:
    """PSNR over the pixels of frames of equal size, from those of the frames."""
    errors = [10 ** (-value / 10) for value in values]
    return float(-10 * torch.log10(torch.tensor(errors).mean()))


def measure(arguments: argparse.Namespace) -> None:
    """Every fit, and the table."""
    dropouts = [float(word) for word in arguments.dropout.split(",")]
    titles = [f"{each:g}" for each in dropouts]
    median = arguments.median
    if median is not None:
        if not {0.0, median} <= set(dropouts) or arguments.seeds < 2:
            raise InputError(
                f"--median {median:g}: expected one of --dropout {arguments.dropout}, with 0 among "
                "them and at least two seeds"
            )
        titles.append(f"median of three, {median:g}")
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (1 + len(titles)) + "|"]
    seeds = range(arguments.seeds)
    for word in arguments.captures:
        name, _, split = word.rpartition("=")
        views = int(split) if split.isdigit() else None
        choice = CaptureChoice(
            name, None if views else split, views=views, size=str(arguments.size)
        )
        capture = load_capture(choice, work_folder=None)
        fits: dict[tuple[float, int], Splats] = {}
        cells = []
        for dropout in dropouts:
            config = RECIPES[arguments.recipe].with_dropout(dropout)
            figures = []
            for seed in seeds:
                fits[dropout, seed] = fitted(capture, ReconstructionJob(choice, config, seed))
                figures.append(quality_of([fits[dropout, seed]], capture))
                print(f"{word} dropout {dropout:g} seed {seed}: {figures[-1].text()}", flush=True)
            cells.append(_mean(figures).text())
        if median is not None:
            figures = []
            for seed in seeds:
                other = (seed + 1) % arguments.seeds
                three = [fits[0.0, seed], fits[median, seed], fits[median, other]]
                figures.append(quality_of(three, capture))
                print(f"{word} {titles[-1]} seed {seed}: {figures[-1].text()}", flush=True)
            cells.append(_mean(figures).text())
        lines.append(f"| {word} | " + " | ".join(cells) + " |")
    print("\n".join(lines))


def _mean(figures: Sequence[FitQuality]) -> FitQuality:
    columns = zip(*(astuple(each) for each in figures), strict=True)
    return FitQuality(*map(statistics.mean, columns))


def main(words: Sequence[str] | None = None) -> int:
    """Measure, with the exit codes of ``artifixer``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", nargs="+", metavar="CAPTURE=SPLIT")
    parser.add_argument("--dropout", default="0,0.2,0.3,0.4")
    parser.add_argument("--median", type=float, default=None)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="tiny")
    arguments = parser.parse_args(words)
    return exit_code_of(lambda: measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
