"""A render folder -> clean frames and a video in a folder, block by block, resumable.

``OUT/`` holds ``frames/%05d.png``, written block by block, ``video.mp4``, ``timing.json`` and
``log.txt``. The same command continues an interrupted run and ends with the same frames: until the
end, ``state/`` holds the input of the network's last call of each block. A resumed run repeats
these calls to refill the key-value cache; no other call is repeated, and no frame is written twice.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from artifixer.enhance.enhance import EnhanceConfig, EnhanceReport, enhance
from artifixer.enhance.sources import alike_cameras, check_finite
from artifixer.pipeline.render import stop_between_frames
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import read_image, write_png
from artifixer.runtime.json_io import write_json
from artifixer.runtime.progress import Progress, ProgressBar
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stages import StageFiles, Stages
from artifixer.runtime.stopping import stop_at_once, stop_on_sigterm
from artifixer.runtime.video_files import VideoWriter
from artifixer.scenes.references import REFERENCE_COUNT, select_references
from artifixer.scenes.scale import check_scale_options
from artifixer.scenes.view import View
from artifixer.splats.render_folder import RenderFolder, read_render_folder, reference_files
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.checkpoints.loading import is_finite
from artifixer.video.checkpoints.tensor_files import open_tensors, save_tensors
from artifixer.video.memory_estimate import check_memory, default_plan
from artifixer.video.model_files import default_dtype, load_model, locate_model
from artifixer.video.teacher import TEACHER_FRAMES

#: The only stage. A folder has one set of settings, so the stage's key is empty.
ENHANCE = StageFiles("enhance", ("frames", "video.mp4", "timing.json"), ("state",))


@dataclass(frozen=True)
class EnhanceJob:
    """Everything that enhanced frames depend on."""

    renders: Path
    """The render folder."""
    model: str
    """Name or path of the video model."""
    config: EnhanceConfig
    """Settings of the frames."""
    references: int = REFERENCE_COUNT
    """Maximum number of the folder's reference views."""
    fps: float = 24.0
    """Frames per second of the video."""
    device: str = "cpu"
    """Torch device."""
    offload: bool = False
    """Whether the model's layers are kept in host memory and copied to the GPU when needed."""


def enhance_renders(job: EnhanceJob, out: Path, overwrite: bool = False) -> EnhanceReport:
    """Enhance the renders into the folder ``out``; the same call continues an interrupted one, or
    returns at once if it is done.

    Inputs are checked before weights are loaded. Raises ``InputError`` for unusable renders, a
    model that is missing or does not fit the device, a prompt for a model without text input, or a
    folder that holds other results; ``Stopped`` after SIGTERM.
    """
    folder = read_render_folder(job.renders)
    cameras = alike_cameras(folder.frames, str(job.renders))
    check_finite(cameras, "target camera")
    chosen = [] if "references" in job.config.drop else chosen_references(folder, job.references)
    device = torch.device(job.device)
    files = locate_model(job.model)
    files.check_prompt("" if "text" in job.config.drop else job.config.prompt)
    files.check_prompt(job.config.negative_prompt or "")
    check_scale_options(
        files.config.camera_scale,
        job.config.camera_scale,
        job.config.depth_model,
        files.config.name,
    )
    plan = default_plan(
        files.config, cameras.width, cameras.height, len(chosen), device, job.offload
    )
    if job.config.sampler == "teacher":
        plan = replace(plan, clip_frames=min(TEACHER_FRAMES, len(cameras)))
    check_memory(files.config, plan, device)
    files.check_weights()
    with (
        RunFolder.open(
            out, _identity(folder, chosen, files), _settings(job), overwrite, device=job.device
        ) as run,
        stop_on_sigterm(),
        Progress(("enhance",), log_file=run.path("log.txt")) as progress,
    ):
        frames, report = out / "frames", EnhanceReport()

        def work(bar: ProgressBar) -> None:
            references = [view.in_memory() for view in chosen]
            before = len(list(frames.glob("*.png")))
            with stop_at_once():
                model = load_model(files, device, default_dtype(device), job.offload)
            state = StoreOnDisk(run.path("state"))
            blocks = enhance(folder, cameras, references, model, job.config, report, state)
            for warning in report.warnings:
                progress.note(f"warning: {warning}")
            progress.note(
                f"{report.width}x{report.height}, camera scale {report.camera_scale:.4g} "
                f"({report.camera_scale_source})"
            )
            with closing(blocks):  # type: ignore[type-var]
                for block in blocks:
                    for number, frame in enumerate(block.frames, start=block.first_index):
                        path = frames / f"{number:05d}.png"
                        if not path.is_file():
                            write_png(path, frame)
                    done = block.first_index + len(block.frames)
                    bar.update(done)
                    if done < len(cameras):
                        stop_between_frames(out, done, len(cameras))
            write_video(out / "video.mp4", frames, len(cameras), job.fps)
            times = timing(report, len(cameras)) | {"frames_from_before": before}
            write_json(out / "timing.json", times)

        finish = files.config.finish(job.config.mode)
        key = {**finish.key, **({"depth": depth_key(folder)} if finish.reads_depth else {})}
        # this stage writes timing.json itself, with the timings of the network
        Stages(run, progress, write_timing=False).complete(ENHANCE, key, len(cameras), work)
    return report


@dataclass(frozen=True)
class StoreOnDisk:
    """A ``RolloutStore`` of one file per block."""

    folder: Path

    def load(self, block: int) -> Tensor | None:
        path = self._path(block)
        if not path.exists():
            return None
        stored = open_tensors(path)
        latents = stored.read("noisy_latents") if "noisy_latents" in stored.shapes else None
        if latents is None or not latents.is_floating_point() or not is_finite(latents):
            raise InputError(
                f"{path}: holds no finite noisy_latents; delete it to compute them again"
            )
        return latents

    def save(self, block: int, noisy_latents: Tensor) -> None:
        save_tensors(self._path(block), {"noisy_latents": noisy_latents})

    def _path(self, block: int) -> Path:
        return self.folder / f"{block:05d}.safetensors"


def chosen_references(folder: RenderFolder, count: int) -> list[View]:
    """At most ``count`` of a render folder's reference views, evenly spaced in the order of their
    names.
    """
    named = {view.photo.name: view for view in folder.references}
    return (
        [named[name] for name in select_references(list(named), count)] if named and count else []
    )


def timing(report: EnhanceReport, frames: int) -> dict[str, object]:
    """The content of timing.json."""
    return {
        "frames": frames,
        "model_size": f"{report.width}x{report.height}",
        "seconds": report.seconds,
        "frames_per_second": frames / report.seconds if report.seconds else None,
        "network_seconds": report.network_seconds,
        "network_frames_per_second": frames / report.network_seconds
        if report.network_seconds
        else None,
        "network_calls": report.network_calls,
        "blocks": report.blocks,
        "first_frame_seconds": report.first_frame_seconds,
        "peak_memory_mb": report.peak_memory / 1e6,
        "camera_scale": report.camera_scale,
        "camera_scale_source": report.camera_scale_source,
        "warnings": report.warnings,
    }


def write_video(path: Path, frames: Path, count: int, fps: float) -> None:
    """``count`` numbered images of one size as an MP4."""
    first = read_image(frames / "00000.png")
    with VideoWriter(path, first.shape[1], first.shape[0], fps) as video:
        for index in range(count):
            video.add(read_image(frames / f"{index:05d}.png"))


def _identity(folder: RenderFolder, chosen: list[View], files: ModelFiles) -> dict[str, object]:
    """The identity of the inputs: renders, cameras, references and weights."""
    images = [
        folder.path / kind / f"{index:05d}.png"
        for kind in ("rgb", "opacity")
        for index in range(len(folder))
    ]
    return {
        "renders": fingerprint(folder.path / "cameras.json", *images),
        "references": fingerprint(*reference_files(chosen)),
        "model": files.identity,
    }


def depth_key(folder: RenderFolder) -> str:
    """A fingerprint of the depth of all frames; None for frames without it."""
    paths = [folder.depth_path(index) for index in range(len(folder))]
    return fingerprint([path if is_regular(path) else None for path in paths])


def _settings(job: EnhanceJob) -> dict[str, object]:
    """The settings that frames and video depend on."""
    return {
        "config": replace(job.config, overlap=None),
        "references": job.references,
        "fps": job.fps,
        "dtype": str(default_dtype(job.device)),
    }
