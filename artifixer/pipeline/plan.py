"""The table of the stages of a run, and ``artifixer run --plan``: frames, stages, memory and
estimated time of a run, without running or writing anything.

``STAGES`` defines the order of the stages, their files, and their dependencies. The plan, the
progress display, resuming and discarding read it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from artifixer.pipeline.capture import load_capture
from artifixer.pipeline.run_config import VARIANTS, RunConfig, check_config
from artifixer.pipeline.target_path import (
    default_path,
    heldout_frames,
    render_frames,
    target_frames,
)
from artifixer.runtime.counts import counted
from artifixer.runtime.stages import StageFiles
from artifixer.scenes.formats import brings_poses
from artifixer.video.adapter import ADAPTER_FILE
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.memory_estimate import GIGABYTE, default_plan, memory_estimate, parameter_count

INITIAL, INPUT, DISTILLED = "splats/initial.ply", "splats/input.ply", "splats/artifixer3d.ply"
RENDERS, INPUT_RENDERS, RENDERS_3D = "renders", "renders_input", "renders_3d"

#: The frames of the model as it is, beside those of the model adapted to the scene.
UNADAPTED = "artifixer_unadapted"
FRAMES = {name: f"frames/{name}" for name in (*VARIANTS.values(), UNADAPTED)}
EXPORT = "export"

#: File of the camera scale that a depth model gave.
SCALE = "camera_scale.json"

#: What the scene adaptation did.
ADAPTATION = "adapter.json"


# The stages of a run ------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunStage:
    """One stage of a run; a row of ``STAGES``."""

    files: StageFiles
    kind: Literal[
        "reconstruct", "free_space", "scale", "render", "adapt", "enhance", "distill", "write"
    ]
    """How its time is estimated."""
    reads: tuple[str, ...] = ()
    """Stages whose results it reads, in any configuration."""
    is_wanted: Callable[[RunConfig], bool] = lambda config: True
    """Whether a run of this configuration has it."""
    outlives: bool = False
    """Whether its results stay when a later run does not ask for them, as long as nothing that it
    reads has changed."""

    @property
    def name(self) -> str:
        return self.files.name


def _has_input(config: RunConfig) -> bool:
    return config.has_input


def _names_depth_model(config: RunConfig) -> bool:
    """A run may also use the default depth model, which depends on the capture."""
    return config.depth_model is not None


def _is_adapted(config: RunConfig) -> bool:
    return config.adaptation is not None


def _has_3d(config: RunConfig) -> bool:
    return "artifixer3d" in config.wanted


def _has_3d_plus(config: RunConfig) -> bool:
    return "artifixer3d_plus" in config.wanted


def _has_export(config: RunConfig) -> bool:
    return bool(config.export)


#: In the order of execution.
STAGES = (
    RunStage(
        StageFiles("reconstruct", (INITIAL,), ("splats/initial.checkpoint",)),
        kind="reconstruct",
    ),
    RunStage(
        StageFiles("reconstruct_input", (INPUT,), ("splats/input.checkpoint",)),
        kind="free_space",
        is_wanted=_has_input,
    ),
    RunStage(
        StageFiles("camera_scale", (SCALE,)),
        kind="scale",
        reads=("reconstruct",),
        is_wanted=_names_depth_model,
    ),
    RunStage(
        StageFiles("render", (RENDERS, "cameras.json")),
        kind="render",
        reads=("reconstruct",),
    ),
    RunStage(
        StageFiles("render_input", (INPUT_RENDERS,)),
        kind="render",
        reads=("reconstruct_input",),
        is_wanted=_has_input,
    ),
    RunStage(
        StageFiles("adapt", (ADAPTER_FILE, ADAPTATION), ("adapter.state",)),
        kind="adapt",
        reads=("camera_scale",),
        is_wanted=_is_adapted,
    ),
    RunStage(
        StageFiles("enhance_unadapted", (FRAMES[UNADAPTED],), (f"{FRAMES[UNADAPTED]}.state",)),
        kind="enhance",
        reads=("render", "render_input", "camera_scale"),
        is_wanted=_is_adapted,
    ),
    RunStage(
        StageFiles("enhance", (FRAMES["artifixer"],), (f"{FRAMES['artifixer']}.state",)),
        kind="enhance",
        reads=("render", "render_input", "camera_scale", "adapt"),
    ),
    RunStage(
        StageFiles("distill", (DISTILLED,), ("splats/artifixer3d.checkpoint",)),
        kind="distill",
        reads=("reconstruct", "reconstruct_input", "enhance"),
        is_wanted=_has_3d,
        outlives=True,
    ),
    RunStage(
        StageFiles("render_3d", (RENDERS_3D, FRAMES["artifixer3d"])),
        kind="render",
        reads=("distill",),
        is_wanted=_has_3d,
        outlives=True,
    ),
    RunStage(
        StageFiles(
            "enhance_3d",
            (FRAMES["artifixer3d_plus"],),
            (f"{FRAMES['artifixer3d_plus']}.state",),
        ),
        kind="enhance",
        reads=("render_3d",),
        is_wanted=_has_3d_plus,
        outlives=True,
    ),
    RunStage(
        StageFiles("export", (EXPORT,)),
        kind="write",
        reads=("reconstruct", "distill"),
        is_wanted=_has_export,
        outlives=True,
    ),
    RunStage(StageFiles("dataset", ("dataset",)), kind="write", reads=("enhance", "distill")),
    RunStage(
        StageFiles("videos", ("videos",)),
        kind="write",
        reads=("enhance_unadapted", "enhance", "render_3d", "enhance_3d"),
    ),
    RunStage(
        StageFiles("metrics", ("metrics.json",)),
        kind="write",
        reads=("enhance_unadapted", "enhance", "render_3d", "enhance_3d"),
    ),
    RunStage(StageFiles("report", ("report.html",)), kind="write", reads=("videos", "metrics")),
)

_BY_NAME = {stage.name: stage for stage in STAGES}


def stage_files(name: str) -> StageFiles:
    """The files of the stage of this name."""
    return _BY_NAME[name].files


def wanted_stages(config: RunConfig) -> tuple[RunStage, ...]:
    """The stages of a run, in order."""
    return tuple(stage for stage in STAGES if stage.is_wanted(config))


def outdated_stages(
    config: RunConfig, completed: Collection[str], executed: Collection[str]
) -> Iterator[RunStage]:
    """Stages that a run does not have and whose results of an earlier run must go, after it has
    ``completed`` stages, ``executed`` of them by itself.
    """
    for stage in STAGES:
        is_kept = stage.outlives and _upstream(stage).isdisjoint(executed)
        if not stage.is_wanted(config) and stage.name not in completed and not is_kept:
            yield stage


def _upstream(stage: RunStage) -> set[str]:
    """Names of all stages that a stage depends on, directly or not."""
    return {name for read in stage.reads for name in (read, *_upstream(_BY_NAME[read]))}


# The plan -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """Measured seconds, to an order of magnitude."""

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

#: Relative duration of a fit with the free-space loss.
FREE_SPACE_FACTOR = 1.2

#: Memory of a process after its start, and of a fit per photo pixel and per Gaussian, bytes.
PROCESS_BYTES, BYTES_PER_PIXEL, BYTES_PER_GAUSSIAN = 450_000_000, 16, 2_500


@dataclass(frozen=True)
class PlannedStage:
    """One line of a plan."""

    name: str
    """As the progress display shows it."""
    work: str
    """How much there is to do."""
    seconds: float
    """Estimate."""


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    facts: tuple[tuple[str, str], ...]
    """(name, value) rows."""
    stages: tuple[PlannedStage, ...]
    """In order; empty where the cameras are not known yet."""
    memory: tuple[tuple[str, float], ...]
    """Bytes of the device by part."""

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
    """All stages of a run of ``photos`` training photos and ``frames`` frames of this size, with
    rough times.
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
    """(how much there is to do, seconds)."""
    rates = RATES["cuda" if config.device.startswith("cuda") else "cpu"]
    per_iteration = rates.fit[0] + rates.fit[1] * megapixels
    match stage.kind:
        case "reconstruct" if config.from_splats is not None:
            return f"none: {config.from_splats.name}", 0
        case "reconstruct" | "free_space":
            iterations = config.reconstruct.iterations
            factor = FREE_SPACE_FACTOR if stage.kind == "free_space" else 1
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
            return counted(frames, "frame"), frames * per_frame
        case "enhance":
            steps = config.steps
            if not isinstance(steps, int):
                steps = files.config.in_mode(config.mode).steps
            billions = parameter_count(files.config.transformer) / 1e9
            return (
                counted(frames, "frame"),
                frames * megapixels * steps * rates.enhance * billions,
            )
    variants = 2 + len(config.wanted)
    return counted(frames, "frame"), frames * megapixels * rates.write * variants


def _adaptation_estimate(
    config: RunConfig, files: ModelFiles, photos: int, megapixels: float
) -> tuple[str, float]:
    """The fits without a photo, then the training: a step takes about three calls per frame."""
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
