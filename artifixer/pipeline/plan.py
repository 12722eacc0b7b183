"""``artifixer run --plan``: frames, stages, memory and estimated time of a run.

Nothing is computed or written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from artifixer.pipeline.capture import load_capture
from artifixer.pipeline.run_config import RunConfig, check_config
from artifixer.pipeline.run_stages import RunStage, wanted_stages
from artifixer.pipeline.target_path import (
    default_path,
    heldout_frames,
    render_frames,
    target_frames,
)
from artifixer.runtime.counts import counted
from artifixer.scenes.formats import brings_poses
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.memory_estimate import GIGABYTE, default_plan, memory_estimate, parameter_count


@dataclass(frozen=True)
class Rates:
    """Measured durations in seconds, to an order of magnitude."""

    fit: tuple[float, float]
    """Per iteration, and per iteration and megapixel."""
    render: tuple[float, float]
    """Per frame, and per frame and megapixel."""
    enhance: float
    """Per frame, megapixel, step and billion parameters of the network."""
    write: float = 0.125
    """Per frame, megapixel and variant, for each of dataset, videos, metrics and report."""


#: On two CPU cores, and on one large GPU, in 2026.
RATES = {
    "cpu": Rates(fit=(0.02, 1.0), render=(0.01, 0.5), enhance=400.0),
    "cuda": Rates(fit=(0.01, 0.01), render=(0.01, 0.05), enhance=0.012),
}

#: Detail of the reference photos, on a CPU also with a GPU, per frame and megapixel.
PHOTO_DETAIL_SECONDS = 2.5

#: Relative duration of a fit with the free-space loss.
FREE_SPACE_FACTOR = 1.2

#: Bytes: memory of a process after its start, and of a fit per photo pixel and per Gaussian.
PROCESS_BYTES, BYTES_PER_PIXEL, BYTES_PER_GAUSSIAN = 450_000_000, 16, 2_500


@dataclass(frozen=True)
class PlannedStage:
    """One line of a plan."""

    name: str
    """Name in the progress display."""
    work: str
    """Number of frames, iterations or steps."""
    seconds: float
    """Estimated duration."""


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    facts: tuple[tuple[str, str], ...]
    """(name, value) rows."""
    stages: tuple[PlannedStage, ...]
    """In order; empty if the cameras are not known yet."""
    memory: tuple[tuple[str, float], ...]
    """Estimated bytes on the device by part."""

    @property
    def minutes(self) -> float:
        return sum(stage.seconds for stage in self.stages) / 60


def plan_run(config: RunConfig) -> Plan:
    """The plan of a run. Reads the capture, writes nothing, and raises the same ``InputError`` as
    the run.

    The cameras of photos and videos without poses are only known after structure from motion; their
    plan has no stages.
    """
    files = check_config(config)
    steps = config.steps or files.config.steps_in(config.mode)
    per_block = "adaptive steps" if steps == "adaptive" else counted(steps, "step")
    model = (
        "model",
        f"{files.config.name}, mode {config.mode}, {per_block} on {config.device}",
    )
    if not brings_poses(config.choice.capture):
        unknown = (
            "capture",
            f"{config.choice.capture}: has no poses; after structure from motion --plan shows the "
            "stages",
        )
        return Plan((unknown, model), (), ())
    capture = load_capture(config.choice, work_folder=None)
    frames = target_frames(capture, config.path, config.choice.size, config.orbit_frames)
    width, height = frames[0].camera.width, frames[0].camera.height
    rendered = render_frames(frames[:1])[0].camera
    heldout = len(heldout_frames(frames, capture))
    facts = (
        (
            "capture",
            f"{capture.scene.name} ({capture.scene.format}), "
            f"{counted(len(capture.scene.photos), 'photo')}",
        ),
        (
            "split",
            f"{capture.split.name}: {len(capture.training)} train, {len(capture.heldout)} held out",
        ),
        (
            "path",
            f"{config.path or default_path(capture)}: {counted(len(frames), 'frame')}, {heldout} "
            "of them at held-out photos",
        ),
        (
            "frames",
            f"{width}x{height}, rendered and enhanced at {rendered.width}x{rendered.height}",
        ),
        model,
    )
    megapixels = rendered.width * rendered.height / 1e6
    stages = planned_stages(config, files, len(capture.training), len(frames), megapixels)
    return Plan(
        facts,
        stages,
        tuple(_memory(config, files, len(capture.training), rendered.width, rendered.height)),
    )


def plan_lines(plan: Plan) -> list[str]:
    """The plan as text."""
    lines = [f"{what:<12} {how}" for what, how in plan.facts]
    lines += [
        f"{stage.name:<12} {stage.work:<28} about {_clock(stage.seconds)}" for stage in plan.stages
    ]
    if plan.memory:
        parts = ", ".join(f"{part} {_size(size)}" for part, size in plan.memory)
        lines.append(
            f"{'memory':<12} about {_size(sum(size for _, size in plan.memory))} ({parts})"
        )
    if plan.stages:
        lines.append(
            f"{'in all':<12} about {counted(round(plan.minutes), 'minute')}; stages that were done "
            "before are kept"
        )
    return lines


def planned_stages(
    config: RunConfig, files: ModelFiles, photos: int, frames: int, megapixels: float
) -> tuple[PlannedStage, ...]:
    """All stages of a run with ``photos`` training photos and ``frames`` frames of this size, with
    estimated durations.
    """
    return tuple(
        PlannedStage(stage.name, *_estimate(stage, config, files, photos, frames, megapixels))
        for stage in wanted_stages(config)
    )


def _estimate(
    stage: RunStage,
    config: RunConfig,
    files: ModelFiles,
    photos: int,
    frames: int,
    megapixels: float,
) -> tuple[str, float]:
    """(amount of work, seconds)."""
    rates = RATES["cuda" if config.device.startswith("cuda") else "cpu"]
    per_iteration = rates.fit[0] + rates.fit[1] * megapixels
    match stage.kind:
        case "reconstruct" if config.from_splats is not None:
            return f"none: {config.from_splats.name}", 0
        case "reconstruct" | "reconstruct_input":
            iterations = config.reconstruct.iterations
            is_slow = stage.kind == "reconstruct_input" and config.reconstruct.free_space.weight > 0
            factor = FREE_SPACE_FACTOR if is_slow else 1
            return counted(iterations, "iteration"), iterations * per_iteration * factor
        case "distill":
            iterations = config.distill.reconstruct.iterations
            return counted(iterations, "iteration"), iterations * per_iteration
        case "scale":
            return config.depth_model or "none", 0
        case "adapt":
            return _adaptation_estimate(config, files, photos, megapixels)
        case "render":
            per_frame = rates.render[0] + rates.render[1] * megapixels
            is_median = stage.name == "render_input" and config.has_median_input
            return counted(frames, "frame"), frames * per_frame * (3 if is_median else 1)
        case "enhance":
            steps = config.steps
            if not isinstance(steps, int):
                steps = files.config.in_mode(config.mode).steps
            per_megapixel = steps * rates.enhance * parameter_count(files.config.transformer) / 1e9
            if files.config.finish(config.mode).reads_depth and config.references:
                per_megapixel += PHOTO_DETAIL_SECONDS
            return counted(frames, "frame"), frames * megapixels * per_megapixel
    variants = 2 + len(config.wanted)
    return counted(frames, "frame"), frames * megapixels * rates.write * variants


def _adaptation_estimate(
    config: RunConfig, files: ModelFiles, photos: int, megapixels: float
) -> tuple[str, float]:
    """Leave-one-out fits and training; a training step costs about three network calls per
    frame.
    """
    adaptation = config.adaptation
    assert adaptation is not None, "a stage of runs with --adapt"
    rates = RATES["cuda" if config.device.startswith("cuda") else "cpu"]
    pairs = min(adaptation.pairs, photos)
    iterations = round(config.reconstruct.iterations * adaptation.fit_fraction)
    seconds = pairs * iterations * (rates.fit[0] + rates.fit[1] * megapixels)
    if adaptation.minutes is not None:
        return (
            f"{counted(pairs, 'fit')}, {counted(adaptation.minutes, 'minute')}",
            seconds + 60 * adaptation.minutes,
        )
    billions = parameter_count(files.config.transformer) / 1e9
    frames = files.config.vae.pixel_frames(adaptation.latent_frames) * adaptation.batch
    seconds += 3 * (adaptation.steps or 0) * frames * megapixels * rates.enhance * billions
    return f"{counted(pairs, 'fit')}, {counted(adaptation.steps or 0, 'step')}", seconds


def _memory(
    config: RunConfig, files: ModelFiles, photos: int, width: int, height: int
) -> Iterator[tuple[str, float]]:
    plan = default_plan(
        files.config, width, height, min(config.references, photos), torch.device(config.device)
    )
    estimate = memory_estimate(files.config, plan)
    distill = config.distill
    views = photos + (distill.frames or 400)
    gaussians = max(config.reconstruct.mcmc.max_gaussians, distill.reconstruct.mcmc.max_gaussians)
    yield "process", PROCESS_BYTES
    yield "model", estimate.total
    yield "fits", views * width * height * BYTES_PER_PIXEL + gaussians * BYTES_PER_GAUSSIAN


def _size(size: float) -> str:
    return f"{size / GIGABYTE:.1f} GB"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} minutes"
