"""What the stages of ``pipeline/run`` do, one function each: files of the run folder in, files of
the run folder out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from artifixer.enhance.dataset import DatasetView, points_of_splats, write_dataset
from artifixer.enhance.distill import DistillConfig, DistillViews, distill
from artifixer.enhance.enhance import EnhanceConfig, EnhanceReport, enhance
from artifixer.enhance.sources import ReferencePhoto
from artifixer.evaluation.evaluate import (
    HeldoutView,
    PerceptualMetrics,
    VariantQuality,
    evaluate,
    metrics_content,
)
from artifixer.evaluation.inpainting import METHODS, inpaint
from artifixer.geometry.camera_file import CameraFrame, write_cameras
from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.geometry.local_origin import Origin
from artifixer.imaging.metrics import psnr
from artifixer.imaging.resize import resize_bilinear
from artifixer.pipeline.capture import CaptureChoice, OpenCapture
from artifixer.pipeline.enhance_renders import StoreOnDisk
from artifixer.pipeline.reconstruct_capture import ReconstructionJob, initial_splats
from artifixer.pipeline.target_path import heldout_frames
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.media import VideoWriter, read_image, write_png
from artifixer.runtime.progress import Stage
from artifixer.runtime.run_folder import RunFolder, write_bytes, write_json
from artifixer.runtime.stopping import stop_requested
from artifixer.scenes.scene import Photo
from artifixer.splats.files import export_splats, read_splat_file
from artifixer.splats.initial import ColoredPoints, seen_points
from artifixer.splats.ply import read_splats, write_splats
from artifixer.splats.reconstruct import (
    IterationReport,
    ReconstructConfig,
    TrainingViews,
    reconstruct,
)
from artifixer.splats.render import render
from artifixer.splats.render_folder import (
    RenderFolder,
    finish_render_folder,
    read_render_folder,
    write_frame,
)
from artifixer.splats.splats import Splats
from artifixer.video.model import Model

#: Splats and cameras of one world give at least this PSNR at the training cameras, dB.
LEAST_TRAINING_PSNR = 12.0

#: Most training cameras that are rendered for that check.
MOST_CHECKED_CAMERAS = 16


@dataclass(frozen=True)
class Job:
    """What all stages of a run share.

    frames: target cameras at the size that was asked for; renders: the same at the size that is
    rendered and enhanced. references: training photos that the model looks at, with their cameras.
    """

    run: RunFolder
    choice: CaptureChoice
    capture: OpenCapture
    frames: tuple[CameraFrame, ...]
    renders: tuple[CameraFrame, ...]
    references: tuple[tuple[CameraFrame, UInt8[np.ndarray, "height width 3"]], ...]
    seed: int
    device: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames."""
        return self.frames[0].camera.width, self.frames[0].camera.height

    @property
    def megapixels(self) -> float:
        """Of a render."""
        camera = self.renders[0].camera
        return camera.width * camera.height / 1e6

    @property
    def training(self) -> tuple[list[Photo], list[Cameras]]:
        scene = self.capture.scene
        return [scene.photos[i] for i in self.capture.training], [
            scene.cameras[i] for i in self.capture.training
        ]

    @property
    def origin(self) -> Origin:
        """What cameras, points and splats are relative to."""
        return self.capture.scene.origin

    def splats(self, file: str) -> Splats:
        """Splats of the run folder, on the device."""
        return read_splats(self.run.root / file, self.origin).map(
            lambda tensor: tensor.to(self.device)
        )

    def stop_if_asked(self) -> None:
        """Raise ``Stopped`` when SIGTERM arrived; what a stage has written so far is good."""
        if stop_requested():
            raise Stopped(f"{self.run.root}: stopped; run the same command to continue")


# Splats -------------------------------------------------------------------------------------------


def check_splats(splats: Splats, capture: OpenCapture, name: str, device: str) -> float:
    """Mean PSNR of the training photos against renders of their cameras, dB; ``InputError`` when
    they show different places.
    """
    count = min(MOST_CHECKED_CAMERAS, len(capture.training))
    chosen = [capture.training[k * len(capture.training) // count] for k in range(count)]
    splats = splats.map(lambda tensor: tensor.to(device))
    values = []
    for index in chosen:
        with torch.no_grad():
            image = render(splats, capture.scene.cameras[index].to(device)).rgb[0].clamp(0, 1).cpu()
        photo = capture.scene.photos[index]
        values.append(float(psnr(image, photo.pixels(), photo.weights())))
    mean = math.fsum(values) / count
    if mean < LEAST_TRAINING_PSNR:
        raise InputError(
            f"{name}: PLY and cameras are not in the same frame: {count} training photos match its "
            f"renders with {mean:.1f} dB, "
            f"expected at least {LEAST_TRAINING_PSNR:g} dB"
        )
    return mean


def fit_initial(
    job: Job, config: ReconstructConfig, file: str, checkpoint: str, stage: Stage
) -> None:
    """The first reconstruction, from the training photos."""
    reconstruction = ReconstructionJob(job.choice, config, job.seed, job.device)
    initial, extent = initial_splats(reconstruction, job.capture)
    path = job.run.root / checkpoint
    views = TrainingViews.of_photos(*job.training)
    splats = reconstruct(
        views,
        initial,
        extent,
        config,
        job.seed,
        checkpoint=path,
        device=job.device,
        report=_shown_on(stage),
    )
    write_splats(job.run.root / file, splats, job.origin)


def copy_splats(job: Job, source: Path, file: str, stage: Stage) -> tuple[str, ...]:
    """Splats of another tool: a PLY byte for byte, other formats and damaged files as the PLY of
    what was read; returns remarks.
    """
    found = read_splat_file(source, job.origin)
    if found.format == "ply" and not found.notes:
        write_bytes(job.run.root / file, source.read_bytes())
    else:
        write_splats(job.run.root / file, found.splats, job.origin)
    stage.update(1)
    return found.notes


def export_last(
    job: Job, splats_file: str, folder: str, formats: Sequence[str], stage: Stage
) -> None:
    """The splats in the formats that the user asked for."""
    splats = read_splats(job.run.root / splats_file, job.origin)
    export_splats(job.run.root / folder, Path(splats_file).stem, splats, formats, job.origin)
    stage.update(len(formats))


def fit_to_frames(
    job: Job,
    config: DistillConfig,
    source: str,
    frames: str,
    file: str,
    checkpoint: str,
    stage: Stage,
) -> None:
    """ArtiFixer 3D: a reconstruction on photos and generated frames."""
    photos, cameras = job.training
    generated = [
        _frame_photo(job.run.root / frames, index, frame.camera)
        for index, frame in enumerate(job.frames)
    ]
    views = DistillViews(photos, cameras, generated, [frame.camera for frame in job.frames])
    splats = distill(
        views,
        read_splats(job.run.root / source, job.origin),
        sparse_points(job, config.reconstruct),
        config,
        job.seed,
        checkpoint=job.run.root / checkpoint,
        device=job.device,
        report=_shown_on(stage),
    )
    write_splats(job.run.root / file, splats, job.origin)


def sparse_points(job: Job, config: ReconstructConfig) -> ColoredPoints:
    """The capture's points that the training photos saw."""
    points = job.capture.scene.points
    if points is None:
        return ColoredPoints(torch.zeros(0, 3), torch.zeros(0, 3))
    return seen_points(points, job.capture.training, config.initial.observed_by)


def _shown_on(stage: Stage) -> Callable[[IterationReport], None]:
    return lambda report: stage.update(
        report.iteration, loss=report.loss, PSNR=report.psnr, Gaussians=report.gaussians
    )


def _frame_photo(folder: Path, index: int, camera: Cameras) -> Photo:
    path = folder / f"{index:05d}.png"
    return Photo(
        f"{folder.name}/{path.name}", camera.width, camera.height, lambda: read_image(path), path
    )


# Renders and frames -------------------------------------------------------------------------------


def render_along(
    job: Job, splats_file: str, folder: str, stage: Stage, frames: str | None = None
) -> None:
    """A render folder along the path; ``frames``: a folder for the colours at the frames' size."""
    splats, root = job.splats(splats_file), job.run.root
    for index, frame in enumerate(job.renders):
        # A frame's depth is written last; with it, an earlier process has finished the frame.
        if not (root / folder / "depth" / f"{index:05d}.npy").is_file():
            with torch.no_grad():
                write_frame(root / folder, index, render(splats, frame.camera.to(job.device)))
        if frames is not None:
            write_png(
                root / frames / f"{index:05d}.png",
                at_size(read_image(root / folder / "rgb" / f"{index:05d}.png"), *job.size),
            )
        stage.update(index + 1)
        job.stop_if_asked()
    finish_render_folder(root / folder, job.renders, job.references, job.origin)


def write_target_cameras(job: Job) -> None:
    """The target cameras at the frames' size."""
    write_cameras(job.run.root / "cameras.json", job.frames, origin=job.origin)


def enhance_along(
    job: Job,
    model: Model,
    config: EnhanceConfig,
    renders: str,
    folder: str,
    state: str,
    stage: Stage,
) -> list[str]:
    """The model's frames, on disk as they come; returns warnings. state: a folder for continuing
    inside the clip.
    """
    root = job.run.root
    cameras = concatenate([frame.camera for frame in job.renders])
    references = [ReferencePhoto(frame.camera, photo) for frame, photo in job.references]
    report = EnhanceReport()
    blocks = enhance(
        read_render_folder(root / renders),
        cameras,
        references,
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
                    write_png(path, at_size(frame, *job.size))
            stage.update(block.first_index + len(block.frames))
            job.stop_if_asked()
    return report.warnings


def at_size(
    pixels: UInt8[np.ndarray, "h w *channels"], width: int, height: int
) -> UInt8[np.ndarray, "height width *channels"]:
    """8-bit pixels at another size, bilinear: renders and frames go from the model's size to the
    user's this way, once.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    planes = (
        torch.from_numpy(np.ascontiguousarray(pixels))
        .to(torch.float32)
        .reshape(*pixels.shape[:2], -1)
    )
    return (
        resize_bilinear(planes, width, height)
        .round()
        .to(torch.uint8)
        .numpy()
        .reshape(height, width, *pixels.shape[2:])
    )


# What the user takes away -------------------------------------------------------------------------


def write_videos(job: Job, pictures: Mapping[str, str], fps: float, stage: Stage) -> None:
    """One video per variant (name -> folder of pictures, renders first) and all of them side by
    side.
    """
    root, (width, height) = job.run.root, job.size
    names = list(pictures)
    for position, name in enumerate([*names, "side_by_side"]):
        shown = names if name == "side_by_side" else [name]
        with VideoWriter(root / "videos" / f"{name}.mp4", width * len(shown), height, fps) as video:
            for index in range(len(job.frames)):
                frames = [variant_frame(job, pictures[each], index) for each in shown]
                video.add(np.concatenate(frames, axis=1))
                stage.update(position * len(job.frames) + index + 1)
                job.stop_if_asked()


def variant_frame(job: Job, folder: str, index: int) -> UInt8[np.ndarray, "height width 3"]:
    """One picture of a folder of renders or frames, at the frames' size."""
    return at_size(read_image(job.run.root / folder / f"{index:05d}.png"), *job.size)


def write_training_dataset(job: Job, frames: str, splats_file: str, stage: Stage) -> None:
    """Training photos and generated frames for other trainers."""

    def views() -> Iterator[DatasetView]:
        photos, cameras = job.training
        for photo, camera in zip(photos, cameras, strict=True):
            yield DatasetView("photo", photo.name, camera, photo.read)
        for index, frame in enumerate(job.frames):
            stage.update(index + 1)
            yield DatasetView(
                "frame",
                f"{frames}/{index:05d}.png",
                frame.camera,
                _frame_photo(job.run.root / frames, index, frame.camera).read,
            )

    points = points_of_splats(read_splats(job.run.root / splats_file, job.origin))
    write_dataset(job.run.root / "dataset", views(), points, job.origin)


def write_metrics(
    job: Job,
    pictures: Mapping[str, str],
    generator_input: str,
    perceptual: PerceptualMetrics,
    stage: Stage,
) -> None:
    """``metrics.json``: every variant (name -> folder of pictures), and inpaintings, at the
    held-out photos that the path passes.

    generator_input: the render folder that the model gets. It is what is inpainted, and its opacity
    says what is opaque and empty.
    """
    folder = read_render_folder(job.run.root / generator_input)
    chosen = heldout_frames(job.frames, job.capture)
    makers: dict[str, Callable[[int], np.ndarray]] = {
        name: _stored(job.run.root / place) for name, place in pictures.items()
    }
    makers |= {f"inpainting_{method}": _inpainted(folder, method) for method in METHODS}
    quality: dict[str, VariantQuality] = {}
    for position, (name, picture) in enumerate(makers.items()):
        quality[name] = evaluate(_heldout_views(chosen, picture, folder), perceptual, job.device)
        stage.update(position + 1)
    scene = job.capture.scene
    names = [
        [scene.photos[i].name for i in half] for half in (job.capture.training, job.capture.heldout)
    ]
    write_json(job.run.root / "metrics.json", metrics_content(quality, *names))


def _inpainted(folder: RenderFolder, method: str) -> Callable[[int], np.ndarray]:
    chosen = next(known for known in METHODS if known == method)
    return lambda index: inpaint(folder.rgb(index), folder.opacity(index), chosen)


def _stored(folder: Path) -> Callable[[int], np.ndarray]:
    return lambda index: read_image(folder / f"{index:05d}.png")


def _heldout_views(
    chosen: Sequence[tuple[int, Photo]], picture: Callable[[int], np.ndarray], folder: RenderFolder
) -> Iterator[HeldoutView]:
    for index, photo in chosen:
        prediction, opacity = (
            at_size(image, photo.width, photo.height)
            for image in (picture(index), folder.opacity(index))
        )
        mask = None if photo.mask is None else photo.mask()
        yield HeldoutView(photo.name, photo.read(), prediction, opacity, mask)
