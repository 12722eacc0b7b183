"""What a run reads, checked before any heavy work, and what all its stages share.

In: ``RunConfig``. Out: ``RunContext``: capture, target cameras, reference views. ``InputError``
for a path, a photo, splats or memory that cannot do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.local_origin import Origin
from artifixer.pipeline.capture import CaptureChoice, LoadedCapture
from artifixer.pipeline.reconstruct import read_photos
from artifixer.pipeline.run_config import RunConfig
from artifixer.pipeline.same_frame import check_same_frame
from artifixer.pipeline.target_path import render_frames, target_frames
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stopping import stop_requested
from artifixer.scenes.splits import MIN_TRAINING_VIEWS
from artifixer.scenes.view import View, reference_views, views_of
from artifixer.splats.files import read_splat_file
from artifixer.splats.ply import read_splats
from artifixer.splats.splats import Splats
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.memory_estimate import check_memory, default_plan


@dataclass(frozen=True)
class RunContext:
    """What all stages of a run share."""

    folder: RunFolder
    choice: CaptureChoice
    capture: LoadedCapture
    frames: tuple[CameraFrame, ...]
    """Target cameras at the requested size, in the order of the path."""
    renders: tuple[CameraFrame, ...]
    """The same cameras at the size that is rendered and enhanced: sides multiples of 16."""
    references: tuple[View, ...]
    """Training views that the model attends to, in memory."""
    seed: int
    device: str

    @property
    def root(self) -> Path:
        """The run folder."""
        return self.folder.root

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
    def training(self) -> list[View]:
        """The training views."""
        return views_of(self.capture.scene, self.capture.training)

    @property
    def origin(self) -> Origin:
        """What cameras, points and splats are relative to."""
        return self.capture.scene.origin

    def splats(self, file: str) -> Splats:
        """Splats of the run folder, on the device."""
        splats = read_splats(self.root / file, self.origin)
        return splats.map(lambda tensor: tensor.to(self.device))

    def stop_if_asked(self) -> None:
        """Raise ``Stopped`` when SIGTERM arrived; what a stage has written so far is good."""
        if stop_requested():
            raise Stopped(f"{self.root}: stopped; run the same command to continue")


@dataclass(frozen=True)
class RunInputs:
    """What ``check_inputs`` found."""

    capture: LoadedCapture
    frames: tuple[CameraFrame, ...]
    """Target cameras at the requested size."""
    offload: bool
    """Whether the model's layers have to stay in host memory."""


def check_inputs(config: RunConfig, files: ModelFiles, capture: LoadedCapture) -> RunInputs:
    """Find what is wrong with path and memory; decodes no photo and writes nothing. Raises
    ``InputError``.
    """
    frames = target_frames(capture, config.path, config.choice.size, config.orbit_frames)
    if config.adaptation is not None:
        left_out(capture, config.adaptation.pairs)
    references = min(config.references, len(capture.training))
    offload = _needs_offload(
        files, render_frames(frames[:1])[0].camera, references, torch.device(config.device)
    )
    if offload and config.adaptation is not None:
        raise InputError(
            f"--adapt: model {files.config.name} does not fit into the memory of {config.device} "
            "with all its layers, which its training needs; expected a larger GPU or no --adapt"
        )
    return RunInputs(capture, tuple(frames), offload)


def left_out(capture: LoadedCapture, most: int) -> tuple[int, ...]:
    """Indices of the photos that are left out in turn: training photos of the first one's lens
    model, at most ``most``, evenly spaced. Raises ``InputError`` where too few photos would remain.
    """
    scene, training = capture.scene, capture.training
    if len(training) <= MIN_TRAINING_VIEWS:
        raise InputError(
            f"--adapt: {counted(len(training), 'training photo')}; expected at least "
            f"{MIN_TRAINING_VIEWS + 1}, of which one is left out in turn"
        )
    model = scene.cameras[training[0]].model
    alike = [index for index in training if scene.cameras[index].model == model]
    count = min(most, len(alike))
    return tuple(alike[step * len(alike) // count] for step in range(count))


def check_pixels(config: RunConfig, capture: LoadedCapture) -> None:
    """Decode and resize every photo of the split once, so that a damaged one is found now and not
    after the reconstruction; and compare the user's splats with them. Raises ``InputError``."""
    read_photos(capture)
    if config.from_splats is not None:
        splats = read_splat_file(config.from_splats, capture.scene.origin).splats
        check_same_frame(splats, capture, f"--from-splats {config.from_splats}", config.device)


def make_context(config: RunConfig, inputs: RunInputs, folder: RunFolder) -> RunContext:
    """What all stages share."""
    return RunContext(
        folder=folder,
        choice=config.choice,
        capture=inputs.capture,
        frames=inputs.frames,
        renders=tuple(render_frames(inputs.frames)),
        references=tuple(
            view.in_memory()
            for view in reference_views(
                inputs.capture.scene, inputs.capture.training, config.references
            )
        ),
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
