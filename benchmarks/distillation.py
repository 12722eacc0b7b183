"""Compares the weights of generated pixels and the initial splats of the distillation.

    python benchmarks/distillation.py procedural:3 procedural:11 --views 4 --model tiny --out
    distillation python benchmarks/distillation.py path/to/buddha --views 4

One run per capture, whose folder is kept: frames are generated once, then every combination is
fitted to them. Prints the held-out quality of the first renders, of the frames, and of the renders
of each fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from artifixer.commands.run import Command, run_config
from artifixer.enhance.distill import FrameWeights
from artifixer.evaluation.evaluate import VariantQuality
from artifixer.pipeline.run import run
from artifixer.runtime.progress import Progress


@dataclass(frozen=True)
class Options:
    """Compare settings of the distillation."""

    captures: Annotated[tuple[str, ...], tyro.conf.Positional]
    out: Path = Path("distillation")
    views: int | None = None
    split: str | None = None
    model: str = "tiny"
    size: str = "160"
    iterations: int | None = None
    weights: tuple[FrameWeights, ...] = ("uniform", "evidence")
    starts: tuple[Literal["fresh", "warm"], ...] = ("fresh", "warm")
    seed: int = 0
    device: str = "auto"


def compare(options: Options, capture: str) -> None:
    out = options.out / "".join(letter if letter.isalnum() else "_" for letter in capture)
    base = run_config(
        Command(
            capture,
            out,
            views=options.views,
            split=options.split,
            model=options.model,
            size=options.size,
            variants="artifixer,3d",
            seed=options.seed,
            device=options.device,
        )
    )
    fit = base.distill.reconstruct
    fit = replace(fit, iterations=options.iterations or fit.iterations)
    rows: dict[str, VariantQuality] = {}
    for weights in options.weights:
        for start in options.starts:
            distill = replace(base.distill, weights=weights, start=start, reconstruct=fit)
            result = run(replace(base, distill=distill), progress=Progress(output=None))
            rows |= {
                name: result.variants[name] for name in ("3dgut", "inpainting_telea", "artifixer")
            }
            rows[f"3d, {weights}, {start} ({result.seconds['distill']:.0f} s)"] = result.variants[
                "artifixer3d"
            ]
            print(".", end="", flush=True)
    print(f"\n{capture}\n{'':36}{'PSNR':>8}{'pooled':>8}{'opaque':>8}{'empty':>8}{'SSIM':>8}")
    for name, quality in rows.items():
        values = (quality.psnr, quality.psnr_pooled, quality.psnr_opaque, quality.psnr_empty)
        print(
            f"{name:36}"
            + "".join(f"{'-' if value is None else f'{value:.2f}':>8}" for value in values)
            + f"{quality.ssim or 0:>8.3f}"
        )


if __name__ == "__main__":
    chosen = tyro.cli(Options)
    for each in chosen.captures:
        compare(chosen, each)
