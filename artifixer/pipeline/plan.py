"""``artifixer run --plan``: what a run would do, with frames, stages, memory and minutes, without
doing or writing anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from artifixer.pipeline.capture import open_capture
from artifixer.pipeline.run_config import RunConfig, check_config
from artifixer.pipeline.target_path import (
    default_path,
    heldout_frames,
    render_frames,
    target_frames,
)
from artifixer.scenes.formats import brings_poses
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.memory_estimate import GIGABYTE, default_plan, memory_estimate, parameter_count


@dataclass(frozen=True)
class Rates:
    """Measured seconds: rough, for a first idea.

    fit: per iteration, and per iteration and megapixel. render: likewise per frame. enhance:
    seconds per frame, megapixel, step and billion parameters of the network. write: per frame and
    megapixel, for everything that is written. sfm: per photo.
    """

    fit: tuple[float, float]
    render: tuple[float, float]
    enhance: float
    write: float = 0.5
    sfm: float = 1.7


#: Two cores of 2026, and one large GPU of its time.
RATES = {
    "cpu": Rates(fit=(0.02, 1.0), render=(0.01, 0.5), enhance=400.0),
    "cuda": Rates(fit=(0.01, 0.01), render=(0.01, 0.05), enhance=0.012),
}

#: A fit with the free-space loss takes about this many times as long.
FREE_SPACE_FACTOR = 1.2

#: What a process holds before it does anything, and what a fit holds per photo pixel and per
#: Gaussian, bytes.
PROCESS_BYTES, BYTES_PER_PIXEL, BYTES_PER_GAUSSIAN = 450_000_000, 16, 2_500


@dataclass(frozen=True)
class PlannedStage:
    """name: as the run shows it. work: how much there is to do. seconds: about."""

    name: str
    work: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    facts: (what, how) rows. stages: in order; empty where the cameras are not known yet. memory:
    bytes by part, of the device.
    """

    facts: tuple[tuple[str, str], ...]
    stages: tuple[PlannedStage, ...]
    memory: tuple[tuple[str, float], ...]

    @property
    def minutes(self) -> float:
        return sum(stage.seconds for stage in self.stages) / 60


def plan_run(config: RunConfig) -> Plan:
    """The plan of a run; raises the same ``InputError`` as the run would. Reads the capture, writes
    nothing.

    The cameras of photos and videos without poses are only known after structure from motion: then
    there is a plan of that stage alone.
    """
    files = check_config(config)
    steps = config.steps or files.config.steps_in(config.mode)
    model = ("model", f"{files.config.name}, mode {config.mode}, {steps} steps on {config.device}")
    if not brings_poses(config.choice.capture):
        unknown = (
            "capture",
            f"{config.choice.capture}: no poses yet; structure from motion comes first, then "
            "--plan tells more",
        )
        return Plan((unknown, model), (), ())
    capture = open_capture(config.choice, work_folder=None)
    frames = target_frames(capture, config.path, config.choice.size, config.orbit_frames)
    width, height = frames[0].camera.width, frames[0].camera.height
    rendered = render_frames(frames[:1])[0].camera
    heldout = len(heldout_frames(frames, capture))
    facts = (
        (
            "capture",
            f"{capture.scene.name} ({capture.scene.format}), {len(capture.scene.photos)} photos",
        ),
        (
            "split",
            f"{capture.split.name}: {len(capture.training)} train, {len(capture.heldout)} held out",
        ),
        (
            "path",
            f"{config.path or default_path(capture)}: {len(frames)} frames, {heldout} of them at "
            "held-out photos",
        ),
        (
            "frames",
            f"{width}x{height}, rendered and enhanced at {rendered.width}x{rendered.height}",
        ),
        model,
    )
    megapixels = rendered.width * rendered.height / 1e6
    stages = planned_stages(config, files, len(frames), megapixels)
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
            f"{'in all':<12} about {plan.minutes:.0f} minutes; stages that were done before are "
            "kept"
        )
    return lines


def planned_stages(
    config: RunConfig, files: ModelFiles, frames: int, megapixels: float
) -> tuple[PlannedStage, ...]:
    """All stages of a run of so many frames of this size, with rough times."""
    return tuple(_stages(config, files, frames, megapixels))


def _stages(
    config: RunConfig, files: ModelFiles, frames: int, megapixels: float
) -> Iterator[PlannedStage]:
    rates = RATES["cuda" if config.device.startswith("cuda") else "cpu"]
    steps = (
        config.steps if isinstance(config.steps, int) else files.config.in_mode(config.mode).steps
    )
    render = frames * (rates.render[0] + rates.render[1] * megapixels)
    enhance = (
        frames
        * megapixels
        * steps
        * rates.enhance
        * parameter_count(files.config.transformer)
        / 1e9
    )
    per_iteration = rates.fit[0] + rates.fit[1] * megapixels
    if config.from_splats is not None:
        yield PlannedStage("reconstruct", f"none: {config.from_splats.name}", 0)
    else:
        yield PlannedStage(
            "reconstruct",
            f"{config.reconstruct.iterations:,} iterations",
            config.reconstruct.iterations * per_iteration,
        )
    if config.has_input:
        seconds = config.reconstruct.iterations * per_iteration * FREE_SPACE_FACTOR
        yield PlannedStage(
            "reconstruct_input", f"{config.reconstruct.iterations:,} iterations", seconds
        )
    yield PlannedStage("render", f"{frames} frames", render)
    if config.has_input:
        yield PlannedStage("render_input", f"{frames} frames", render)
    yield PlannedStage("enhance", f"{frames} frames", enhance)
    if "artifixer3d" in config.wanted:
        iterations = config.distill.reconstruct.iterations
        yield PlannedStage("distill", f"{iterations:,} iterations", iterations * per_iteration)
        yield PlannedStage("render_3d", f"{frames} frames", render)
    if "artifixer3d_plus" in config.wanted:
        yield PlannedStage("enhance_3d", f"{frames} frames", enhance)
    yield PlannedStage(
        "write",
        "videos, dataset, metrics, report",
        frames * megapixels * rates.write * (2 + len(config.wanted)),
    )


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
