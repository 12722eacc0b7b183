"""``STAGES``: order, files and dependencies of the stages of a run.

The plan, the progress display, resuming and discarding read this table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from artifixer.pipeline.run_config import VARIANTS, RunConfig
from artifixer.runtime.stages import StageFiles
from artifixer.video.adapter import ADAPTER_FILE

INITIAL, DISTILLED = "splats/initial.ply", "splats/artifixer3d.ply"
INPUT, INPUT_2 = "splats/input.ply", "splats/input_2.ply"
RENDERS, INPUT_RENDERS, RENDERS_3D = "renders", "renders_input", "renders_3d"

#: Variant of a run with scene adaptation: the frames of the model without the adapter.
UNADAPTED = "artifixer_unadapted"
FRAMES = {name: f"frames/{name}" for name in (*VARIANTS.values(), UNADAPTED)}
EXPORT = "export"

#: File with the camera scale that a depth model has estimated.
SCALE = "camera_scale.json"

#: File with a summary of the scene adaptation.
ADAPTATION = "adapter.json"


@dataclass(frozen=True)
class RunStage:
    """One stage of a run; a row of ``STAGES``."""

    files: StageFiles
    """Name, outputs and scratch files."""
    kind: Literal[
        "reconstruct",
        "reconstruct_input",
        "scale",
        "render",
        "adapt",
        "enhance",
        "distill",
        "write",
    ]
    """Selects the estimate of its duration."""
    reads: tuple[str, ...] = ()
    """Stages whose results it may read."""
    is_wanted: Callable[[RunConfig], bool] = lambda config: True
    """Whether a run with this configuration includes the stage."""
    outlives: bool = False
    """Whether its results are kept when a later run does not include the stage and its inputs are
    unchanged."""

    @property
    def name(self) -> str:
        return self.files.name


def _has_input(config: RunConfig) -> bool:
    return config.has_input


def _has_median_input(config: RunConfig) -> bool:
    return config.has_median_input


def _names_depth_model(config: RunConfig) -> bool:
    """Without the option, whether a run uses the default depth model depends on the capture."""
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
        kind="reconstruct_input",
        is_wanted=_has_input,
    ),
    RunStage(
        StageFiles("reconstruct_input_2", (INPUT_2,), ("splats/input_2.checkpoint",)),
        kind="reconstruct_input",
        is_wanted=_has_median_input,
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
        reads=("reconstruct", "reconstruct_input", "reconstruct_input_2"),
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


def outdated_stages(config: RunConfig, completed: Collection[str]) -> Iterator[RunStage]:
    """Stages that a run does not include and whose results from an earlier run are not kept.

    completed: stages that are done.
    """
    for stage in STAGES:
        if not stage.is_wanted(config) and stage.name not in completed and not stage.outlives:
            yield stage


def outlived_stages(config: RunConfig, name: str) -> Iterator[RunStage]:
    """Stages that a run does not include and whose results, which an earlier run left, are outdated
    once the stage ``name`` runs again.
    """
    for stage in STAGES:
        if stage.outlives and not stage.is_wanted(config) and name in _upstream(stage):
            yield stage


def _upstream(stage: RunStage) -> set[str]:
    """Names of all stages that a stage depends on, directly or indirectly."""
    return {name for read in stage.reads for name in (read, *_upstream(_BY_NAME[read]))}
