"""The main job: capture -> splats -> renders -> frames -> distilled splats -> frames again ->
metrics and report, in one folder.

::

    splats/{initial,artifixer3d}.ply    standard 3DGS
    splats/{input,input_2}.ply          of further fits (dropout), rendered for the model
    renders/  renders_3d/               render folders along the path, sides multiples of 16
    renders_input/                      the same, of the model's input
    frames/{artifixer,artifixer3d,artifixer3d_plus}/%05d.png    at the requested size
    adapter.safetensors  frames/artifixer_unadapted/    with scene adaptation
    videos/*.mp4                        renders, every variant, and all side by side
    export/                             the final splats in the formats of ``--export``
    dataset/                            training photos and generated frames for other trainers
    cameras.json                        the target cameras, with the names of photos taken there
    metrics.json  timing.json  report.html  config.json

A stage runs once for its inputs and settings (``run_stages.STAGES``, ``runtime/stages``). The same
call continues an interrupted run and ends with the same bytes; other settings repeat only the
stages that depend on them. Only ``timing.json``, ``config.json`` and the hidden ``.run`` differ
between two runs with the same inputs and settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifixer.evaluation.evaluate import VariantQuality
from artifixer.evaluation.variant_table import read_variants
from artifixer.geometry.camera_file import CameraFrame
from artifixer.pipeline.capture import CACHE, identify, load_capture
from artifixer.pipeline.plan import planned_stages
from artifixer.pipeline.run_config import RunConfig, check_config, settings_of
from artifixer.pipeline.run_context import RunContext, check_inputs, check_pixels, make_context
from artifixer.pipeline.run_graph import RunGraph
from artifixer.pipeline.run_stages import wanted_stages
from artifixer.runtime.counts import counted
from artifixer.runtime.progress import Progress
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stages import Stages
from artifixer.runtime.stopping import stop_on_sigterm
from artifixer.scenes.formats import brings_poses
from artifixer.scenes.scale import CameraScale
from artifixer.video.checkpoints.files import ModelFiles


@dataclass(frozen=True)
class Result:
    """A finished run."""

    out: Path
    """The run folder."""
    frames: tuple[CameraFrame, ...]
    """Target cameras at the frames' size, in path order; ``photo`` is the name of the photo taken
    there, if any."""
    train: tuple[str, ...]
    """Names of the training photos."""
    heldout: tuple[str, ...]
    """Names of the held-out photos."""
    references: tuple[str, ...]
    """Names of the photos that the model attends to."""
    variants: Mapping[str, VariantQuality]
    """Quality by the names of ``evaluate.VARIANT_TITLES``; values are None if no target camera is
    that of a held-out photo."""
    camera_scale: CameraScale
    """Factor from world units to the model's units."""
    executed: tuple[str, ...]
    """Stages that this call ran; the others were already done."""
    seconds: Mapping[str, float]
    """Duration of every stage, including those run by earlier calls."""
    notes: tuple[str, ...]
    """Remarks and warnings."""

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.out / "report.html"


def run(config: RunConfig, overwrite: bool = False, progress: Progress | None = None) -> Result:
    """Run all stages that are not done yet.

    overwrite: delete the results of another capture that the folder holds. progress: where to show
    progress; None for standard error and the log of the run. Raises ``InputError`` for bad input
    before any heavy work, and ``Stopped`` after SIGTERM; the same call then continues.
    """
    files = check_config(config)
    identity = identify(config.choice.capture)
    inputs = None
    # report errors in the capture before anything is written
    if brings_poses(config.choice.capture):
        capture = load_capture(config.choice, work_folder=None, cache_folder=config.out / CACHE)
        inputs = check_inputs(config, files, capture)
    names = [stage.name for stage in wanted_stages(config)]
    with (
        RunFolder.open(
            config.out,
            identity,
            settings_of(config),
            overwrite,
            settings_may_change=True,
            device=config.device,
        ) as folder,
        stop_on_sigterm(),
        progress or Progress(names, log_file=folder.root / ".run" / "log.txt") as display,
    ):
        cache = folder.path(CACHE)
        with folder.discarded_on_bad_input():
            if inputs is None:
                capture = load_capture(config.choice, folder.path("sfm"), cache, display.note)
                inputs = check_inputs(config, files, capture)
            check_pixels(config, inputs.capture)
        context = make_context(config, inputs, folder)
        notes = list(inputs.capture.scene.notes)
        for note in [*notes, _summary(context), _duration(config, files, context)]:
            display.note(note)
        if inputs.offload:
            display.note(
                f"model {files.config.name} does not fit into the GPU's memory: its layers are "
                "kept in host memory, which is slower"
            )
        stages = Stages(folder, display)
        graph = RunGraph(config, files, context, stages, display, notes, inputs.offload)
        return _result(context, stages, graph.finish(), graph.notes)


def _summary(context: RunContext) -> str:
    capture, (width, height) = context.capture, context.size
    return (
        f"{counted(len(capture.training), 'training photo')}, {len(capture.heldout)} held out "
        f"({capture.split.name}); "
        f"{counted(len(context.frames), 'target frame')} of {width}x{height}, "
        f"{counted(len(context.references), 'reference photo')}"
    )


def _duration(config: RunConfig, files: ModelFiles, context: RunContext) -> str:
    photos = len(context.capture.training)
    stages = planned_stages(config, files, photos, len(context.frames), context.megapixels)
    minutes = max(1, round(sum(stage.seconds for stage in stages) / 60))
    return f"about {counted(minutes, 'minute')} for all stages; finished stages are kept"


def _result(
    context: RunContext, stages: Stages, scale: CameraScale, notes: Sequence[str]
) -> Result:
    root, scene = context.root, context.capture.scene
    return Result(
        out=root,
        frames=context.frames,
        train=tuple(scene.photos[i].name for i in context.capture.training),
        heldout=tuple(scene.photos[i].name for i in context.capture.heldout),
        references=tuple(view.photo.name for view in context.references),
        variants=read_variants(root / "metrics.json"),
        camera_scale=scale,
        executed=tuple(stages.executed),
        seconds=stages.seconds,
        notes=tuple(notes),
    )
