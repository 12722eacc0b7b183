"""Inputs of a run, checked before any heavy work, and the context that its stages share.

In: ``RunConfig``. Out: ``RunContext``: capture, target cameras, reference views. Raises
``InputError`` for an unusable path, photo or splat file, and for too little memory.
"""

from __future__ import annotations

import functools
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
from artifixer.runtime.fingerprint import fingerprint
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
    """Inputs that all stages of a run share."""

    folder: RunFolder
    """The run folder, locked by this process."""
    choice: CaptureChoice
    """Capture, split and size."""
    capture: LoadedCapture
    """The loaded capture."""
    frames: tuple[CameraFrame, ...]
    """Target cameras at the requested size, in the order of the path."""
    renders: tuple[CameraFrame, ...]
    """The same cameras at the size that is rendered and enhanced: sides multiples of 16."""
    references: tuple[View, ...]
    """Training views that the model attends to, in memory."""
    seed: int
    """Random seed."""
    device: str
    """Torch device."""

    @property
    def root(self) -> Path:
        """Path of the run folder."""
        return self.folder.root

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames."""
        return self.frames[0].camera.width, self.frames[0].camera.height

    @property
    def megapixels(self) -> float:
        """Size of a render in megapixels."""
        camera = self.renders[0].camera
        return camera.width * camera.height / 1e6

    @property
    def training(self) -> list[View]:
        """The training views."""
        return views_of(self.capture.scene, self.capture.training)

    @property
    def origin(self) -> Origin:
        """Origin that cameras, points and splats are relative to."""
        return self.capture.scene.origin

    @functools.cached_property
    def photos_key(self) -> str:
        """Fingerprint of the training views."""
        views = self.training
        return fingerprint(
            [view.photo.name for view in views],
            [view.photo.read() for view in views],
            [view.camera for view in views],
        )

    @functools.cached_property
    def points_key(self) -> str:
        """Fingerprint of the sparse points."""
        points = self.capture.scene.points
        return fingerprint(None if points is None else vars(points))

    def splats(self, file: str) -> Splats:
        """Read splats from the run folder to the device."""
        splats = read_splats(self.root / file, self.origin)
        return splats.map(lambda tensor: tensor.to(self.device))

    def stop_if_requested(self) -> None:
        """Raise ``Stopped`` after SIGTERM; files written so far are kept."""
        if stop_requested():
            raise Stopped(f"{self.root}: stopped; run the same command to continue")


@dataclass(frozen=True)
class RunInputs:
    """Checked inputs of a run."""

    capture: LoadedCapture
    """The loaded capture."""
    frames: tuple[CameraFrame, ...]
    """Target cameras at the requested size."""
    offload: bool
    """Whether the model's layers have to be kept in host memory."""


def check_inputs(config: RunConfig, files: ModelFiles, capture: LoadedCapture) -> RunInputs:
    """Check target cameras and memory, without decoding photos or writing files. Raises
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
    """Indices of the photos for leave-one-out fits: at most ``most`` training photos with the lens
    model of the first one, evenly spaced. Raises ``InputError`` if too few photos would remain.
    """
    scene, training = capture.scene, capture.training
    if len(training) <= MIN_TRAINING_VIEWS:
        raise InputError(
            f"--adapt: {counted(len(training), 'training photo')}; expected at least "
            f"{MIN_TRAINING_VIEWS + 1} for leave-one-out fits"
        )
    model = scene.cameras[training[0]].model
    alike = [index for index in training if scene.cameras[index].model == model]
    count = min(most, len(alike))
    return tuple(alike[step * len(alike) // count] for step in range(count))


def check_pixels(config: RunConfig, capture: LoadedCapture) -> None:
    """Decode and resize every photo of the split, so that damaged files are found before the
    reconstruction, and compare the user's splats with the photos. Raises ``InputError``.
    """
    read_photos(capture)
    if config.from_splats is not None:
        splats = read_splat_file(config.from_splats, capture.scene.origin).splats
        check_same_frame(splats, capture, f"--from-splats {config.from_splats}", config.device)


def make_context(config: RunConfig, inputs: RunInputs, folder: RunFolder) -> RunContext:
    """The context of the stages; reads the reference photos."""
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
    """Whether the model's layers have to be kept in host memory. Raises ``InputError`` if the model
    does not fit even then.
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
