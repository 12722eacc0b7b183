"""Held-out clips of few-view fits, with photos and exact depth where the capture has it: what
``benchmarks/validation.py --clips`` measures on and ``benchmarks/blind.py`` takes pictures from.

    OMP_WAIT_POLICY=passive python benchmarks/held_out_clips.py SOURCE... --out CLIPS [--views 4]
        [--size 128] [--frames 9] [--recipe tiny] [--iterations N] [--dropout R] [--input-fits 2]
        [--empty 0.35] [--seed 0]

A source is a capture folder or ``procedural:SEED``. Each is fitted to ``--views`` photos as
``artifixer run`` does it with this recipe: a plain fit and, with dropout, one or two more; the
clip is the model's input. It is the run of ``--frames`` consecutive held-out views whose mean empty
fraction in renders of the plain fit is closest to ``--empty``. ``CLIPS/NAME/`` is a render folder
as ``artifixer render`` writes it, with the training photos as references, and in it

    plain/               with dropout: the plain fit's renders of the same views
    truth/%05d.png       the held-out photos
    true_depth/%05d.npy  float32 camera z in world units, infinite for sky, NaN where unknown; of
                         procedural scenes and of captures with ``depth_file_path``

Complete clips are skipped. Exit codes: 0 done; 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from exit_codes import exit_code_of
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.camera_file import CameraFrame
from artifixer.imaging.quality import is_empty
from artifixer.imaging.resize import fit_size
from artifixer.pipeline.capture import CaptureChoice, LoadedCapture, load_capture
from artifixer.pipeline.reconstruct import ReconstructionJob, initial_splats
from artifixer.recipes.run import RECIPES
from artifixer.runtime.files import path_inside
from artifixer.runtime.image_files import write_png
from artifixer.runtime.json_io import read_json
from artifixer.runtime.npy import write_npy
from artifixer.scenes.procedural import render_world, world_of
from artifixer.scenes.view import views_of
from artifixer.splats.reconstruct import reconstruct
from artifixer.splats.render import Renders, median_render, render
from artifixer.splats.render_folder import finish_render_folder, to_uint8, write_frame
from artifixer.splats.training_view import TrainingView


def chosen_window(empty: Float[Tensor, " views"], frames: int, wanted: float) -> range:
    """The ``frames`` consecutive views, or all if there are fewer, whose mean of ``empty`` is
    closest to ``wanted``; the first of equally close ones.
    """
    frames = min(frames, len(empty))
    means = empty.unfold(0, frames, 1).mean(dim=1)
    first = int((means - wanted).abs().argmin())
    return range(first, first + frames)


def depth_files(capture: Path) -> dict[str, tuple[Path, float]]:
    """Depth map and world units per value by name of the photo, for a nerfstudio capture that lists
    them; else none.
    """
    listing = capture / "transforms.json"
    if not listing.is_file():
        return {}
    content = read_json(listing)
    unit = float(content.get("depth_unit_scale_factor", 1e-3))
    return {
        Path(frame["file_path"]).name: (
            path_inside(capture, frame["depth_file_path"], listing),
            unit,
        )
        for frame in content["frames"]
        if "depth_file_path" in frame
    }


def resized_depth(
    depth: UInt8[np.ndarray, "h w"] | np.ndarray, unit: float, height: int, width: int
) -> Float[np.ndarray, "height width"]:
    """Camera z of the pixels that hold the centres of the resized picture's: means across edges
    would be depths of no surface. 0 is sky.
    """
    rows = ((np.arange(height) + 0.5) * depth.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * depth.shape[1] / width).astype(int)
    values = depth[rows][:, columns].astype(np.float32) * unit
    return np.where(values > 0, values, np.inf).astype(np.float32)


def true_depth(
    capture: LoadedCapture, source: str, index: int
) -> Float[np.ndarray, "height width"] | None:
    """Exact camera z of a view, where it is known."""
    camera = capture.scene.cameras[index]
    if capture.scene.format == "procedural":
        return render_world(world_of(source), camera, samples=1).depth[0].numpy()
    found = depth_files(Path(source)).get(Path(capture.scene.photos[index].name).name)
    if found is None:
        return None
    from PIL import Image

    path, unit = found
    with Image.open(path) as image:
        return resized_depth(np.asarray(image), unit, camera.height, camera.width)


def held_out_renders(capture: LoadedCapture, job: ReconstructionJob) -> list[Renders]:
    """Fit splats, and render every held-out view."""
    training = [TrainingView.of(view) for view in views_of(capture.scene, capture.training)]
    initial, extent = initial_splats(job, capture)
    splats = reconstruct(training, initial, extent, job.config, job.seed)
    with torch.no_grad():
        return [render(splats, capture.scene.cameras[index]) for index in capture.heldout]


def make_clip(source: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Fit, render the held-out views, and write the chosen ones."""
    choice = CaptureChoice(source, views=arguments.views, size=_size(source, arguments.size))
    config = RECIPES[arguments.recipe].reconstruct
    if arguments.iterations is not None:
        config = replace(config, iterations=arguments.iterations)
    if arguments.dropout is not None:
        config = config.with_dropout(arguments.dropout)
    capture = load_capture(choice, work_folder=None)
    scene = capture.scene
    plain = held_out_renders(capture, ReconstructionJob(choice, config.plain(), arguments.seed))
    renders = plain
    if not config.is_plain:
        count = arguments.input_fits or RECIPES[arguments.recipe].input_fits
        fits = [
            held_out_renders(capture, ReconstructionJob(choice, config, arguments.seed + number))
            for number in range(count)
        ]
        renders = fits[0] if count == 1 else [*map(median_render, zip(plain, *fits, strict=True))]
    empty = torch.stack([is_empty(to_uint8(each.opacity[0])).float().mean() for each in plain])
    window = chosen_window(empty, arguments.frames, arguments.empty)
    for kind in ("truth", "true_depth"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number, position in enumerate(window):
        index = capture.heldout[position]
        write_frame(folder, number, renders[position])
        if not config.is_plain:
            write_frame(folder / "plain", number, plain[position])
        write_png(folder / "truth" / f"{number:05d}.png", scene.photos[index].read())
        depth = true_depth(capture, source, index)
        if depth is not None:
            write_npy(folder / "true_depth" / f"{number:05d}.npy", depth)
    listed = [capture.heldout[position] for position in window]
    frames = [CameraFrame(scene.cameras[i], scene.photos[i].name) for i in listed]
    if not config.is_plain:
        finish_render_folder(folder / "plain", frames, (), scene.origin)
    finish_render_folder(folder, frames, views_of(scene, capture.training), scene.origin)


def clip_name(source: str) -> str:
    """Folder name of a source's clip: its last part without characters that file systems reject."""
    return source.replace(":", "-") if source.startswith("procedural:") else Path(source).name


def _size(source: str, longest: int) -> str:
    """``WxH`` with sides that are multiples of 16, so that frames are not resized for the model."""
    scene = load_capture(CaptureChoice(source, all_views=True), work_folder=None).scene
    width, height = fit_size(scene.photos[0].width, scene.photos[0].height, str(longest))
    return f"{max(16, round(width / 16) * 16)}x{max(16, round(height / 16) * 16)}"


def main(words: Sequence[str] | None = None) -> int:
    """Write the missing clips."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=128, help="longest side")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="tiny")
    parser.add_argument("--iterations", type=int, help="instead of the recipe's")
    parser.add_argument("--dropout", type=float, help="instead of the recipe's")
    parser.add_argument(
        "--input-fits", type=int, choices=(1, 2), help="instead of the recipe's, with dropout"
    )
    parser.add_argument("--empty", type=float, default=0.35)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    return exit_code_of(lambda: make_clips(arguments))


def make_clips(arguments: argparse.Namespace) -> None:
    """Write the clips that do not exist yet."""
    for source in arguments.sources:
        folder = arguments.out / clip_name(source)
        if (folder / "cameras.json").is_file():
            continue
        started = time.monotonic()
        make_clip(source, folder, arguments)
        print(f"{folder}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
