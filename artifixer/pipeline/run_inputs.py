"""Everything that a run reads, looked at before any heavy work: capture, target cameras, photos,
memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.pipeline.capture import OpenCapture
from artifixer.pipeline.reconstruct_capture import read_photos
from artifixer.pipeline.run_config import RunConfig
from artifixer.pipeline.run_work import Job, check_splats
from artifixer.pipeline.target_path import render_frames, target_frames
from artifixer.runtime.errors import InputError
from artifixer.runtime.run_folder import RunFolder
from artifixer.scenes.references import select_references
from artifixer.splats.files import read_splat_file
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.memory_estimate import check_memory, default_plan


@dataclass(frozen=True)
class RunInputs:
    """capture, and the target cameras at the size asked for. offload: the model's layers have to
    stay in host memory.
    """

    capture: OpenCapture
    frames: tuple[CameraFrame, ...]
    offload: bool


def check_inputs(config: RunConfig, files: ModelFiles, capture: OpenCapture) -> RunInputs:
    """Find what is wrong with path and memory; decodes no photo and writes nothing. Raises
    ``InputError``.
    """
    frames = target_frames(capture, config.path, config.choice.size, config.orbit_frames)
    references = min(config.references, len(capture.training))
    offload = _needs_offload(
        files, render_frames(frames[:1])[0].camera, references, torch.device(config.device)
    )
    return RunInputs(capture, tuple(frames), offload)


def check_pixels(config: RunConfig, capture: OpenCapture) -> None:
    """Decode and resize every photo of the split once, so that a damaged one is found now and not
    after the reconstruction; and compare the user's splats with them. Raises ``InputError``."""
    read_photos(capture)
    if config.from_splats is not None:
        splats = read_splat_file(config.from_splats, capture.scene.origin).splats
        check_splats(splats, capture, f"--from-splats {config.from_splats}", config.device)


def make_job(config: RunConfig, inputs: RunInputs, folder: RunFolder) -> Job:
    """What all stages share."""
    return Job(
        run=folder,
        choice=config.choice,
        capture=inputs.capture,
        frames=inputs.frames,
        renders=tuple(render_frames(inputs.frames)),
        references=tuple(_references(inputs.capture, config.references)),
        seed=config.seed,
        device=config.device,
    )


def _needs_offload(
    files: ModelFiles, camera: Cameras, references: int, device: torch.device
) -> bool:
    """Whether the model's layers have to stay in host memory; ``InputError`` when it does not fit
    even then.
    """
    whole, streamed = (
        default_plan(files.config, camera.width, camera.height, references, device, offload)
        for offload in (False, True)
    )
    try:
        check_memory(files.config, whole, device)
        return False
    except InputError:
        if device.type != "cuda":
            raise
        check_memory(files.config, streamed, device)
        return True


def _references(
    capture: OpenCapture, count: int
) -> list[tuple[CameraFrame, UInt8[np.ndarray, "height width 3"]]]:
    """Training photos of one lens model, evenly spread."""
    scene = capture.scene
    index = {scene.photos[i].name: i for i in capture.training}
    model = scene.cameras[capture.training[0]].model
    names = [name for name, i in index.items() if scene.cameras[i].model == model]
    chosen = select_references(names, count) if count else ()
    return [
        (CameraFrame(scene.cameras[index[name]], name), scene.photos[index[name]].read())
        for name in chosen
    ]
