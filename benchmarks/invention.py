"""Quality of invented content on held-out clips: every candidate's figures over opaque and empty
pixels, the figures in which a control is best, and the candidates' frames for
``benchmarks/blind.py``.

    OMP_WAIT_POLICY=passive python benchmarks/invention.py CLIPS --out OUT [--model tiny[,OTHER]]
        [--modes improve,generate] [--device cpu]
    python benchmarks/held_out_clips.py ... --out CLIPS        # makes the clips

Candidates: the render, inpainting (Telea, Navier-Stokes), the push-pull fill, every model in every
mode with two seeds, the controls (noise, dots), and the truth; for clips of a second fit also the
plain fit's render and its inpaintings (``plain_...``). ``OUT/`` receives
``frames/CANDIDATE/CLIP/%05d.png``, ``invention.json`` (figures, discarded figures, reasons of
missing ones) and the same as a table. Figures: ``artifixer/evaluation/invention``. Existing frames
are read, not generated again. Exit codes: 0 done; 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from exit_codes import exit_code_of
from jaxtyping import UInt8
from torch import Tensor

from artifixer.enhance.enhance import EnhanceConfig, enhance
from artifixer.enhance.sources import alike_cameras
from artifixer.evaluation.invention import (
    BASELINE_METHODS,
    COLUMNS,
    CONTROLS,
    Frames,
    InventionMeasure,
    InventionNetworks,
    MeasuredClip,
    discarded_figures,
)
from artifixer.imaging.perceptual import ST_LPIPS_SIDE, load_content_features, load_st_lpips
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import read_image, write_png
from artifixer.runtime.json_io import write_json
from artifixer.runtime.npy import read_npy
from artifixer.splats.render_folder import RenderFolder, read_render_folder
from artifixer.training.initial_model import model_folder
from artifixer.video.model import Mode, Model
from artifixer.video.model_files import load_model

#: Seeds of the measured frames and of those that they are compared with.
SEEDS = (0, 1)

#: Side of a token without a model, pixels.
TOKEN = 8

#: Folder of the plain fit's renders in a clip of a second fit.
PLAIN = "plain"

#: Clip and seed -> frames.
Candidate = Callable[[MeasuredClip, RenderFolder, int], Frames]


def read_clip(folder: Path) -> tuple[MeasuredClip, RenderFolder]:
    """A clip of ``benchmarks/held_out_clips.py``; ``InputError`` when it is incomplete."""
    renders = read_render_folder(folder)
    count = len(renders)
    truth = torch.from_numpy(
        np.stack([read_image(folder / "truth" / f"{number:05d}.png") for number in range(count)])
    )
    files = [folder / "true_depth" / f"{number:05d}.npy" for number in range(count)]
    depths = np.stack([read_npy(path) for path in files]) if files[0].is_file() else None
    if min(truth.shape[1:3]) < ST_LPIPS_SIDE:
        raise InputError(
            f"{folder}: frames of {truth.shape[2]}x{truth.shape[1]} pixels; ST-LPIPS needs at "
            f"least {ST_LPIPS_SIDE} along both sides"
        )
    rgb, opacity = pictures(renders)
    cameras = [frame.camera for frame in renders.frames]
    return MeasuredClip(folder.name, truth, rgb, opacity, cameras, depths), renders


def pictures(renders: RenderFolder) -> tuple[Frames, UInt8[Tensor, "frames height width"]]:
    """Colour and opacity of all frames."""
    count = range(len(renders))
    return (
        torch.from_numpy(np.stack([renders.rgb(number) for number in count])),
        torch.from_numpy(np.stack([renders.opacity(number) for number in count])),
    )


def plain_candidates(clip: MeasuredClip, folder: Path) -> dict[str, Candidate]:
    """The plain fit's render and its inpaintings, where the clip is of a second fit."""
    if not (folder / PLAIN).is_dir():
        return {}
    rgb, opacity = pictures(read_render_folder(folder / PLAIN))
    plain = replace(clip, renders=rgb, opacity=opacity)
    found: dict[str, Candidate] = {"plain_render": lambda clip, folder, seed: plain.renders}
    for name, baseline in BASELINE_METHODS.items():
        found[f"plain_{name}"] = lambda clip, folder, seed, fill=baseline: plain.filled(fill)  # type: ignore[misc]
    return found


def model_candidate(model: Model, mode: Mode) -> Candidate:
    """The frames of ``artifixer enhance`` for a clip."""

    def frames(clip: MeasuredClip, folder: RenderFolder, seed: int) -> Frames:
        cameras = alike_cameras(folder.frames, clip.name)
        config = EnhanceConfig(mode=mode, seed=seed)
        blocks = enhance(folder, cameras, folder.references, model, config)
        return torch.from_numpy(np.concatenate([block.frames for block in blocks]))

    return frames


def candidates(models: Mapping[str, Model], modes: Sequence[Mode]) -> dict[str, Candidate]:
    """All of them, in the order of the table."""
    found: dict[str, Candidate] = {"render": lambda clip, folder, seed: clip.renders}
    for name, baseline in BASELINE_METHODS.items():
        found[name] = lambda clip, folder, seed, fill=baseline: clip.filled(fill)  # type: ignore[misc]
    for label, model in models.items():
        for mode in modes:
            found[f"{label}-{mode}"] = model_candidate(model, mode)
    for name, control in CONTROLS.items():
        found[name] = lambda clip, folder, seed, draw=control: draw(clip, seed)  # type: ignore[misc]
    found["truth"] = lambda clip, folder, seed: clip.truth
    return found


def kept_frames(folder: Path, make: Callable[[], Frames], count: int) -> Frames:
    """The frames of a folder, generated and written unless all exist."""
    paths = [folder / f"{number:05d}.png" for number in range(count)]
    if not all(path.is_file() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        for path, frame in zip(paths, make(), strict=True):
            write_png(path, frame.numpy())
    return torch.from_numpy(np.stack([read_image(path) for path in paths]))


def load_networks(device: str) -> InventionNetworks:
    """The networks of learned metrics, and why one is absent."""
    distance, no_distance = load_st_lpips(device)
    features, no_features = load_content_features(device)
    notes = tuple(note for note in (no_distance, no_features) if note)
    return InventionNetworks(distance, features, notes)


def measure(arguments: argparse.Namespace) -> None:
    """Measure all candidates and write the files."""
    folders = sorted(path.parent for path in arguments.clips.glob("*/cameras.json"))
    if not folders:
        raise InputError(
            f"{arguments.clips}: holds no clips; expected folders with cameras.json and truth/, as "
            "benchmarks/held_out_clips.py makes them"
        )
    models = {
        Path(name).name: load_model(str(model_folder(Path(name))), arguments.device, torch.float32)
        for name in arguments.model.split(",")
        if name
    }
    modes = arguments.modes.split(",")
    unknown = [mode for mode in modes if mode not in get_args(Mode)]
    if unknown:
        raise InputError(f"--modes {unknown[0]}: expected {', '.join(get_args(Mode))}")
    tokens = {model.config.transformer.token_pixels for model in models.values()} or {TOKEN}
    if len(tokens) > 1:
        raise InputError(
            f"--model {arguments.model}: tokens of {sorted(tokens)} pixels; expected one"
        )
    everyone = candidates(models, modes)
    totals = InventionMeasure(tokens.pop(), load_networks(arguments.device))
    frames_folder = arguments.out / "frames"
    for folder in folders:
        clip, renders = read_clip(folder)
        totals.begin(clip)
        for name, candidate in (everyone | plain_candidates(clip, folder)).items():
            made = [
                kept_frames(
                    frames_folder
                    / (name if seed == SEEDS[0] else f"{name}-seed{seed}")
                    / clip.name,
                    partial(candidate, clip, renders, seed),
                    len(clip.truth),
                )
                for seed in (SEEDS if is_random(name, models) else SEEDS[:1])
            ]
            totals.add(name, made[0], made[1] if len(made) > 1 else None)
        print(f"{clip.name}: {len(clip.truth)} frames", file=sys.stderr, flush=True)
    rows = totals.rows()
    judged = {name: figures for name, figures in rows.items() if name != "truth"}
    out = discarded_figures(judged)
    content = {
        "clips": [folder.name for folder in folders],
        "figures": rows,
        "discarded": out,
        "notes": totals.notes(),
    }
    write_json(arguments.out / "invention.json", content)
    print(table(rows, out))
    for note in totals.notes():
        print(note)


def is_random(name: str, models: Mapping[str, Model]) -> bool:
    """Whether a candidate depends on its seed."""
    return name in CONTROLS or any(name.startswith(f"{label}-") for label in models)


def table(rows: Mapping[str, Mapping[str, float | None]], out: Sequence[str]) -> str:
    """Markdown, a column per candidate; discarded figures are marked."""
    lines = [
        "| | " + " | ".join(rows) + " |",
        "|---" * (len(rows) + 1) + "|",
    ]
    for column in COLUMNS:
        label = f"{column} (discarded)" if column in out else column
        digits = 2 if column.startswith(("psnr", "kd")) else 3
        values = [
            "-" if (value := figures[column]) is None else f"{value:.{digits}f}"
            for figures in rows.values()
        ]
        lines.append(f"| {label} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, with the exit codes of ``artifixer``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="tiny", help="names or folders with commas; '' for none")
    parser.add_argument("--modes", default=",".join(get_args(Mode)))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args(words)
    return exit_code_of(lambda: measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
