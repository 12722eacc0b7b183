"""Does dropout help fits to few photos? PSNR and SSIM of held-out renders, and PSNR of their
push-pull fill, for several dropouts and seeds.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python benchmarks/few_photos.py CAPTURE=SPLIT ...
        [--dropout 0,0.2,0.3,0.4] [--seeds 2] [--size 192] [--recipe tiny]

A capture is a folder or ``procedural:SEED``, a split its name or a number of views. Fits of one
capture differ by more than a decibel between seeds, so compare means. Prints a line per fit, and at
the end a Markdown table of the means over the seeds. Exit codes: 0 done; 2 bad input.
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
from artifixer.pipeline.capture import CaptureChoice, load_capture
from artifixer.pipeline.reconstruct import ReconstructionJob, initial_splats
from artifixer.recipes.reconstruct import RECIPES
from artifixer.scenes.view import views_of
from artifixer.splats.reconstruct import reconstruct
from artifixer.splats.render import render
from artifixer.splats.training_view import TrainingView


@dataclass(frozen=True)
class FitQuality:
    """Figures of one fit over all held-out photos: mean and pooled PSNR in dB of the render and of
    its fill, and the mean SSIM of the render.
    """

    mean: float
    pooled: float
    fill_mean: float
    fill_pooled: float
    ssim: float

    def text(self) -> str:
        return (
            f"{self.mean:.2f} / {self.pooled:.2f}, {self.fill_mean:.2f} / {self.fill_pooled:.2f}, "
            f"{self.ssim:.3f}"
        )


def fit_quality(job: ReconstructionJob) -> FitQuality:
    """Fit, render every held-out view, fill, and compare."""
    capture = load_capture(job.choice, work_folder=None)
    training = [TrainingView.of(view) for view in views_of(capture.scene, capture.training)]
    initial, extent = initial_splats(job, capture)
    splats = reconstruct(training, initial, extent, job.config, job.seed)
    plain: list[float] = []
    filled: list[float] = []
    similarities: list[float] = []
    for view in views_of(capture.scene, capture.heldout):
        with torch.no_grad():
            renders = render(splats, view.camera)
        photo, mask = view.photo.pixels(), view.photo.weights()
        frame, fill = (
            frames[0].clamp(0, 1)
            for frames in (renders.rgb, fill_empty(renders.rgb, renders.opacity))
        )
        plain.append(float(psnr(frame, photo, mask)))
        filled.append(float(psnr(fill, photo, mask)))
        similarities.append(float(ssim(frame, photo, mask)))
    return FitQuality(
        statistics.mean(plain),
        _pooled(plain),
        statistics.mean(filled),
        _pooled(filled),
        statistics.mean(similarities),
    )


def _pooled(values: Sequence[float]) -> float:
    """PSNR over the pixels of frames of equal size, from those of the frames."""
    errors = [10 ** (-value / 10) for value in values]
    return float(-10 * torch.log10(torch.tensor(errors).mean()))


def measure(arguments: argparse.Namespace) -> None:
    """Every fit, and the table."""
    dropouts = [float(word) for word in arguments.dropout.split(",")]
    lines = ["| | " + " | ".join(f"{each:g}" for each in dropouts) + " |"]
    lines.append("|---" * (1 + len(dropouts)) + "|")
    for word in arguments.captures:
        name, _, split = word.rpartition("=")
        views = int(split) if split.isdigit() else None
        choice = CaptureChoice(
            name, None if views else split, views=views, size=str(arguments.size)
        )
        cells = []
        for dropout in dropouts:
            found = []
            for seed in range(arguments.seeds):
                config = RECIPES[arguments.recipe].with_dropout(dropout)
                found.append(fit_quality(ReconstructionJob(choice, config, seed)))
                print(f"{word} dropout {dropout:g} seed {seed}: {found[-1].text()}", flush=True)
            columns = zip(*(astuple(each) for each in found), strict=True)
            cells.append(FitQuality(*map(statistics.mean, columns)).text())
        lines.append(f"| {word} | " + " | ".join(cells) + " |")
    print("\n".join(lines))


def main(words: Sequence[str] | None = None) -> int:
    """Measure, with the exit codes of ``artifixer``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", nargs="+", metavar="CAPTURE=SPLIT")
    parser.add_argument("--dropout", default="0,0.2,0.3,0.4")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="tiny")
    arguments = parser.parse_args(words)
    return exit_code_of(lambda: measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
