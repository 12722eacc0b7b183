"""The stages of ``pipeline/run``, one function each, which read and write files of its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from artifixer.enhance.dataset import DatasetView, points_of_splats, write_dataset
from artifixer.enhance.distill import DistillConfig, DistillViews, distill
from artifixer.enhance.enhance import EnhanceConfig, EnhanceReport, enhance
from artifixer.geometry.camera_file import write_cameras
from artifixer.geometry.cameras import concatenate
from artifixer.imaging.resize import at_size
from artifixer.pipeline.enhance import StoreOnDisk
from artifixer.pipeline.leave_one_out import leave_one_out_pairs
from artifixer.pipeline.reconstruct import ReconstructionJob, initial_splats
from artifixer.pipeline.run_context import RunContext
from artifixer.pipeline.run_stages import ADAPTATION
from artifixer.runtime.files import write_bytes
from artifixer.runtime.image_files import read_image, write_png
from artifixer.runtime.json_io import write_json
from artifixer.runtime.progress import ProgressBar
from artifixer.runtime.video_files import VideoWriter
from artifixer.scenes.scale import CameraScale
from artifixer.scenes.scene import Photo
from artifixer.scenes.view import View
from artifixer.splats.files import export_splats, range_note, read_splat_file
from artifixer.splats.initial import ColoredPoints, seen_points
from artifixer.splats.ply import read_splats, write_splats
from artifixer.splats.reconstruct import IterationReport, ReconstructConfig, reconstruct
from artifixer.splats.render import median_render, render
from artifixer.splats.render_folder import (
    finish_render_folder,
    read_render_folder,
    write_frame,
)
from artifixer.splats.training_view import TrainingView
from artifixer.training.scene_adaptation import AdaptationConfig, adapt
from artifixer.video.adapter import ADAPTER_FILE, save_adapter
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.model import Model
from artifixer.video.model_files import load_model
from artifixer.video.sample import SampleConfig

# Splats -------------------------------------------------------------------------------------------


def fit_initial(
    run: RunContext,
    config: ReconstructConfig,
    seed: int,
    file: str,
    checkpoint: str,
    bar: ProgressBar,
) -> None:
    """Fit splats to the training photos."""
    job = ReconstructionJob(run.choice, config, seed, run.device)
    initial, extent = initial_splats(job, run.capture)
    path = run.root / checkpoint
    views = [TrainingView.of(view) for view in run.training]
    splats = reconstruct(
        views,
        initial,
        extent,
        config,
        seed,
        checkpoint=path,
        device=run.device,
        report=_shown_on(bar),
    )
    write_splats(run.root / file, splats, run.origin)


def copy_splats(run: RunContext, source: Path, file: str, bar: ProgressBar) -> tuple[str, ...]:
    """Copy the user's splats: an intact PLY byte for byte, anything else as a new PLY. Returns
    remarks of the reader.
    """
    found = read_splat_file(source, run.origin)
    if found.format == "ply" and not found.notes:
        write_bytes(run.root / file, source.read_bytes())
    else:
        write_splats(run.root / file, found.splats, run.origin)
    bar.update(1)
    return found.notes


def export_last(
    run: RunContext, splats_file: str, folder: str, formats: Sequence[str], bar: ProgressBar
) -> None:
    """Write the final splats in the requested formats."""
    splats = read_splats(run.root / splats_file, run.origin)
    export_splats(run.root / folder, Path(splats_file).stem, splats, formats, run.origin)
    for note in range_note(formats, splats):
        bar.note(note)
    bar.update(len(formats))


def fit_to_frames(
    run: RunContext,
    config: DistillConfig,
    source: str,
    frames: str,
    file: str,
    checkpoint: str,
    bar: ProgressBar,
) -> None:
    """ArtiFixer 3D: fit splats to photos and generated frames."""
    generated = [_generated_view(run, frames, index) for index in range(len(run.frames))]
    views = DistillViews(run.training, generated)
    splats = distill(
        views,
        read_splats(run.root / source, run.origin),
        sparse_points(run, config.reconstruct),
        config,
        run.seed,
        checkpoint=run.root / checkpoint,
        device=run.device,
        report=_shown_on(bar),
    )
    write_splats(run.root / file, splats, run.origin)


def sparse_points(run: RunContext, config: ReconstructConfig) -> ColoredPoints:
    """The capture's points that training photos observe."""
    points = run.capture.scene.points
    if points is None:
        return ColoredPoints(torch.zeros(0, 3), torch.zeros(0, 3))
    return seen_points(points, run.capture.training, config.initial.observed_by)


def _shown_on(bar: ProgressBar) -> Callable[[IterationReport], None]:
    return lambda report: bar.update(
        report.iteration, loss=report.loss, PSNR=report.psnr, Gaussians=report.gaussians
    )


def _generated_view(run: RunContext, folder: str, index: int) -> View:
    """A generated frame with its target camera."""
    path, camera = run.root / folder / f"{index:05d}.png", run.frames[index].camera
    name = f"{path.parent.name}/{path.name}"
    return View(camera, Photo(name, camera.width, camera.height, lambda: read_image(path), path))


# Scene adaptation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdaptationInput:
    """Inputs of a scene adaptation besides the run's photos."""

    config: AdaptationConfig
    """Settings of the training."""
    fit: ReconstructConfig
    """Settings of the leave-one-out fits."""
    left_out: tuple[int, ...]
    """Indices of the photos that are left out, one per fit."""
    scale: CameraScale
    """Camera scale of the pairs."""
    sampling: SampleConfig
    """Sampling settings of the adapted model."""
    prompt: str
    """Prompt of the run; "" for none."""


def adapt_to_scene(
    run: RunContext, files: ModelFiles, given: AdaptationInput, state: str, bar: ProgressBar
) -> None:
    """Train the adapter of the scene and write it with a summary, ``adapter.json``. state: folder
    of the resumable state.
    """
    root, config = run.root, given.config
    folder = root / state / "pairs"
    pairs = list(
        leave_one_out_pairs(
            run, given.fit, given.scale, given.left_out, config.seen, folder, bar.update
        )
    )
    model = load_model(files, run.device)
    if given.prompt.strip():
        caption = model.encode_prompt(given.prompt).embedding[0].float().cpu()
        pairs = [replace(pair, caption_embedding=caption) for pair in pairs]
    fitted, started, total = bar.done, time.monotonic(), bar.total

    def shown(step: int, loss: float) -> None:
        if config.steps is not None:
            bar.total = total + config.steps
        else:
            elapsed = max(time.monotonic() - started, 1e-3)
            steps = step * 60 * (config.minutes or 0) / elapsed
            bar.total = total + max(step + 1, round(steps))
        bar.update(fitted + step, step=step, loss=loss)

    folder = root / state / "training"
    result = adapt(model, pairs, config, given.sampling, run.seed, folder, shown)
    bar.total = bar.done
    save_adapter(root / ADAPTER_FILE, result.factors)
    photos = [run.capture.scene.photos[index].name for index in given.left_out]
    write_json(root / ADAPTATION, {"left out": photos, "rank": config.rank, "steps": result.steps})


# Renders and frames -------------------------------------------------------------------------------


def render_along(
    run: RunContext,
    splats_files: Sequence[str],
    folder: str,
    bar: ProgressBar,
    frames: str | None = None,
) -> None:
    """Render the splats along the path into a render folder, or the median of the renders of an odd
    number of them. frames: folder for the colours at the frames' size; None for none.
    """
    fits, root = [run.splats(file) for file in splats_files], run.root
    for index, frame in enumerate(run.renders):
        # the depth is the last file of a frame: if it exists, the frame is complete
        if not (root / folder / "depth" / f"{index:05d}.npy").is_file():
            camera = frame.camera.to(run.device)
            with torch.no_grad():
                renders = [render(splats, camera) for splats in fits]
                write_frame(root / folder, index, median_render(renders))
        if frames is not None:
            write_png(
                root / frames / f"{index:05d}.png",
                at_size(read_image(root / folder / "rgb" / f"{index:05d}.png"), *run.size),
            )
        bar.update(index + 1)
        run.stop_if_requested()
    finish_render_folder(root / folder, run.renders, run.references, run.origin)


def write_target_cameras(run: RunContext) -> None:
    """Write the target cameras at the frames' size."""
    write_cameras(run.root / "cameras.json", run.frames, origin=run.origin)


def enhance_along(
    run: RunContext,
    model: Model,
    config: EnhanceConfig,
    renders: str,
    folder: str,
    state: str,
    bar: ProgressBar,
) -> list[str]:
    """Generate the model's frames, writing each block as soon as it is decoded; returns warnings.

    state: folder of the state from which an interrupted clip continues.
    """
    root = run.root
    cameras = concatenate([frame.camera for frame in run.renders])
    report = EnhanceReport()
    blocks = enhance(
        read_render_folder(root / renders),
        cameras,
        run.references,
        model,
        config,
        report,
        StoreOnDisk(root / state),
    )
    with closing(blocks):  # type: ignore[type-var]
        for block in blocks:
            for index, frame in enumerate(block.frames, start=block.first_index):
                path = root / folder / f"{index:05d}.png"
                if not path.is_file():
                    write_png(path, at_size(frame, *run.size))
            bar.update(block.first_index + len(block.frames))
            run.stop_if_requested()
    return report.warnings


# Outputs ------------------------------------------------------------------------------------------


def write_videos(
    run: RunContext, pictures: Mapping[str, str], fps: float, bar: ProgressBar
) -> None:
    """Write a video of every variant and one with all of them side by side. pictures: folders of
    images by variant, renders first.
    """
    root, (width, height) = run.root, run.size
    names = list(pictures)
    for position, name in enumerate([*names, "side_by_side"]):
        shown = names if name == "side_by_side" else [name]
        with VideoWriter(root / "videos" / f"{name}.mp4", width * len(shown), height, fps) as video:
            for index in range(len(run.frames)):
                frames = [variant_frame(run, pictures[each], index) for each in shown]
                video.add(np.concatenate(frames, axis=1))
                bar.update(position * len(run.frames) + index + 1)
                run.stop_if_requested()


def variant_frame(run: RunContext, folder: str, index: int) -> UInt8[np.ndarray, "height width 3"]:
    """An image of a folder of renders or frames, at the frames' size."""
    return at_size(read_image(run.root / folder / f"{index:05d}.png"), *run.size)


def write_training_dataset(
    run: RunContext, frames: str, splats_file: str, bar: ProgressBar
) -> None:
    """Write training photos and generated frames for other trainers."""

    def views() -> Iterator[DatasetView]:
        for view in run.training:
            yield DatasetView("photo", view.photo.name, view.camera, view.photo.read)
        for index in range(len(run.frames)):
            bar.update(index + 1)
            view = _generated_view(run, frames, index)
            yield DatasetView("frame", f"{frames}/{index:05d}.png", view.camera, view.photo.read)

    write_dataset(
        run.root / "dataset",
        views(),
        points_of_splats(read_splats(run.root / splats_file)),
    )
