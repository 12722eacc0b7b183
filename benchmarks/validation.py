"""How good is a model on pairs that it never saw, beside the raw renders and inpainting?

    python benchmarks/validation.py PAIRS [--model tiny] [--steps 1,2,4] [--pairs 32] [--picture grid.png]

Prints mean and pooled PSNR, PSNR of hard frames (render below 20 dB), of opaque and of empty pixels, SSIM, and the gradient energy in
empty pixels relative to the truth's. Frames are made block by block, as ``artifixer enhance`` makes them.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from artifixer.evaluation.inpainting import METHODS, inpaint
from artifixer.pairs.loader import open_pairs
from artifixer.training.validation import ValidationConfig, validate
from artifixer.video.models import load_model

COLUMNS = ("psnr_mean", "psnr_pooled", "psnr_hard", "psnr_opaque", "psnr_empty", "ssim", "edges_empty")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", default="1")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    pairs = [stored.read() for stored in open_pairs(arguments.folder).pairs[: arguments.pairs]]
    config = ValidationConfig(pairs=len(pairs), steps=tuple(int(count) for count in arguments.steps.split(",")), grid_pairs=10)
    rivals = {method: partial(inpaint, method=method) for method in METHODS}
    figures = validate(load_model(arguments.model), pairs, config, rivals=rivals, picture=arguments.picture)
    print(f"{len(pairs)} clips, model {arguments.model}")
    print(f"{'':10}" + "".join(f"{column:>13}" for column in COLUMNS))
    for name in dict.fromkeys(key.split("/")[0] for key in figures):
        print(f"{name:10}" + "".join(f"{figures.get(f'{name}/{column}', float('nan')):13.3f}" for column in COLUMNS))


if __name__ == "__main__":
    main()
