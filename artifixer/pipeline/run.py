"""The main job: capture -> splats -> renders -> frames -> distilled splats -> frames again -> metrics and report, in one folder.

::

    splats/{initial,artifixer3d}.ply    standard 3DGS
    renders/  renders_3d/               render folders along the path, sides multiples of 16
    frames/{artifixer,artifixer3d,artifixer3d_plus}/%05d.png    at the size that was asked for
    frames/artifixer.plain/             for models with detail: the same frames without it; splats are fitted to these
    videos/*.mp4                        every variant, the first renders, and all side by side
    dataset/                            training photos and generated frames for other trainers
    cameras.json                        the target cameras, and which photos were taken from there
    metrics.json  timing.json  report.html  config.json

Every stage is done once for what it depends on (``run_stages``): the same call continues where it was killed and ends with the same
bytes; another setting reruns what depends on it. Only ``timing.json``, ``config.json`` and the hidden ``.run`` differ between two runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from artifixer.enhance.enhance import EnhanceConfig
from artifixer.evaluation.evaluate import PerceptualMetrics, VariantQuality
from artifixer.evaluation.variant_table import read_variants
from artifixer.geometry.camera_file import CameraFrame
from artifixer.pipeline.capture import identify, open_capture
from artifixer.pipeline.model_scale import find_camera_scale
from artifixer.pipeline.plan import planned_stages
from artifixer.pipeline.run_config import VARIANTS, RunConfig, check_config, ignored_masks, settings_of
from artifixer.pipeline.run_inputs import check_inputs, check_pixels, make_job
from artifixer.pipeline.run_report import RunFacts, write_run_report
from artifixer.pipeline.run_stages import Stages
from artifixer.pipeline.run_work import (
    Job,
    copy_splats,
    enhance_along,
    fit_initial,
    fit_to_frames,
    render_along,
    write_metrics,
    write_target_cameras,
    write_training_dataset,
    write_videos,
)
from artifixer.pipeline.target_path import heldout_frames
from artifixer.runtime.progress import Progress, Stage
from artifixer.runtime.run_folder import RunFolder, fingerprint, read_json, write_json
from artifixer.runtime.stopping import stop_on_sigterm
from artifixer.scenes.formats import brings_poses
from artifixer.scenes.scale import CameraScale, depth_model_for
from artifixer.video.models import Model, ModelFiles, load_model

INITIAL, DISTILLED = "splats/initial.ply", "splats/artifixer3d.ply"
FRAMES = {name: f"frames/{name}" for name in VARIANTS.values()}

#: ArtiFixer's frames without the detail that photos lent, where the model has it.
PLAIN = f"{FRAMES['artifixer']}.plain"

#: Folder of resized photos.
CACHE = "cache"

#: What a depth network says about the camera scale.
SCALE = "camera_scale.json"

#: Outputs of the stages that only some variants need.
OPTIONAL_OUTPUTS = {
    "distill": (DISTILLED,),
    "render_3d": ("renders_3d", FRAMES["artifixer3d"]),
    "enhance_3d": (FRAMES["artifixer3d_plus"],),
}


@dataclass(frozen=True)
class Result:
    """A finished run; its files are in ``out``.

    frames: target cameras in path order at the frames' size; ``photo`` names the photo taken from exactly there.
    train, heldout, references: names of photos. variants: quality by the names of ``evaluate.VARIANT_TITLES``; values are None where no
    frame stands at a held-out camera. executed: stages that this call ran; the others were done before. seconds: of every stage.
    notes: remarks and warnings.
    """

    out: Path
    frames: tuple[CameraFrame, ...]
    train: tuple[str, ...]
    heldout: tuple[str, ...]
    references: tuple[str, ...]
    variants: Mapping[str, VariantQuality]
    camera_scale: CameraScale
    executed: tuple[str, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def report(self) -> Path:
        return self.out / "report.html"


def run(config: RunConfig, overwrite: bool = False, progress: Progress | None = None) -> Result:
    """Run the whole job, or what is left of it. overwrite: start anew in a folder that holds another capture.

    Raises ``InputError`` for bad input before any heavy work, and ``Stopped`` after SIGTERM; the same call then continues.
    """
    files = check_config(config)
    identity = identify(config.choice.capture)
    inputs = None
    if brings_poses(config.choice.capture):  # what is wrong with it shows before anything is written
        inputs = check_inputs(config, files, open_capture(config.choice, work_folder=None, cache_folder=config.out / CACHE))
    with (
        RunFolder.open(config.out, identity, settings_of(config), overwrite, settings_may_change=True, device=config.device) as folder,
        stop_on_sigterm(),
        progress or Progress(stage_names(config), log_file=folder.root / ".run" / "log.txt") as display,
    ):
        cache = folder.path(CACHE)
        with folder.discarded_on_bad_input():
            if inputs is None:
                inputs = check_inputs(config, files, open_capture(config.choice, folder.path("sfm"), cache, say=display.note))
            check_pixels(config, inputs.capture)
        job = make_job(config, inputs, folder)
        notes = [*inputs.capture.scene.notes, *ignored_masks(config.choice.capture)]
        for note in notes:
            display.note(note)
        display.note(_summary(job))
        minutes = sum(stage.seconds for stage in planned_stages(config, files, len(job.frames), job.megapixels)) / 60
        display.note(f"about {max(1, round(minutes))} minutes for all stages; what was done before is kept")
        if inputs.offload:
            display.note(f"model {files.config.name} does not fit into the GPU's memory: its layers stay in the host's, which takes longer")
        return _Run(config, files, job, Stages(folder, display), display, notes, inputs.offload).finish()


# The graph ----------------------------------------------------------------------------------------------------------------------------


class _Run:
    """The stages of one run and what depends on what. Keys chain: a stage depends on the fingerprints of those it reads from."""

    def __init__(
        self, config: RunConfig, files: ModelFiles, job: Job, stages: Stages, display: Progress, notes: list[str], offload: bool
    ) -> None:
        self.config, self.files, self.job = config, files, job
        self.stages, self.display, self.notes = stages, display, notes
        self._model: Model | None = None
        self._offload = offload

    def finish(self) -> Result:
        self._initial()
        scale = self._scale()
        if scale.warning is not None:
            self._warn(f"camera scale: {scale.warning}")
        renders = self._rendered("render", INITIAL, "renders", ["cameras.json"])
        keys = {"artifixer": self._enhanced("enhance", renders, scale, "renders", "artifixer")}
        if "artifixer3d" in self.config.wanted:
            self._distilled(keys["artifixer"])
            keys["artifixer3d"] = self._rendered("render_3d", DISTILLED, "renders_3d", [FRAMES["artifixer3d"]])
        if "artifixer3d_plus" in self.config.wanted:
            keys["artifixer3d_plus"] = self._enhanced("enhance_3d", keys["artifixer3d"], scale, "renders_3d", "artifixer3d_plus")
        self._discard_outdated()
        self._model = None
        frames = {name: FRAMES[name] for name in keys}
        videos = self._written(keys, frames)
        metrics = self._metrics(renders, keys, frames)
        self._report(scale, frames, videos, metrics)
        return self._result(scale)

    def _initial(self) -> None:
        config, job = self.config, self.job
        if config.from_splats is not None:
            data = config.from_splats.read_bytes()
            key: dict[str, object] = {"splats": fingerprint(data)}
            self.stages.complete("reconstruct", key, [INITIAL], 1, lambda stage: copy_splats(job, data, INITIAL, stage))
            return
        scene = job.capture.scene
        key = {
            "photos": self._photos_key,
            "sparse points": fingerprint(vars(scene.points) if scene.points is not None else None),
            "recipe": asdict(config.reconstruct),
            "seed": config.seed,
        }
        checkpoint = "splats/initial.checkpoint"
        self.stages.complete(
            "reconstruct",
            key,
            [INITIAL],
            config.reconstruct.iterations,
            lambda stage: fit_initial(job, config.reconstruct, INITIAL, checkpoint, stage),
            scratch=[checkpoint],
        )

    def _scale(self) -> CameraScale:
        """The model's camera scale. What a depth network says is kept in a file, so that a continued run does not ask it again."""
        config, job, kind = self.config, self.job, self.files.config.camera_scale

        def find() -> CameraScale:
            return find_camera_scale(kind, job.capture, job.splats(INITIAL), config.camera_scale, config.depth_model)

        scene = job.capture.scene
        asked = depth_model_for(kind, scene.metres_per_unit, config.camera_scale, config.depth_model)
        if asked is None:
            self.stages.discard("scale", [SCALE])
            return find()
        key = {
            "depth model": asked,
            "photos": self._photos_key,
            "sparse points": fingerprint(vars(scene.points) if scene.points is not None else None),
            "splats": fingerprint(job.run.root / INITIAL),
        }
        path = job.run.root / SCALE
        self.stages.complete("scale", key, [SCALE], 1, lambda stage: write_json(path, asdict(find())))
        return CameraScale(**read_json(path))

    def _rendered(self, name: str, splats: str, folder: str, more_outputs: list[str]) -> str:
        job = self.job
        frames = FRAMES["artifixer3d"] if folder == "renders_3d" else None
        key = {
            "splats": fingerprint(job.run.root / splats),
            "path": fingerprint(job.frames),
            "references": fingerprint([frame for frame, _ in job.references]),
        }

        def work(stage: Stage) -> None:
            render_along(job, splats, folder, stage, frames)
            if frames is None:
                write_target_cameras(job)

        return self.stages.complete(name, key, [folder, *more_outputs], len(job.frames), work)

    def _enhanced(self, name: str, renders: str, scale: CameraScale, folder: str, variant: str) -> str:
        config, job, is_first = self.config, self.job, name == "enhance"
        strength = 1.0 if is_first else self.files.config.second_strength
        settings = EnhanceConfig(
            config.mode, config.steps, config.seed, config.prompt, strength=strength, detail=is_first, camera_scale=scale.value
        )
        own = self.files.config.in_mode(config.mode)  # a mode that changes nothing for this model redoes nothing
        key = {
            "renders": renders,
            "model": self.files.identity,
            "prompt": config.prompt,
            "source": own.source,
            "steps": config.steps or self.files.config.steps_in(config.mode),
            "references": fingerprint(list(job.references)),
            "camera scale": scale.value,
            "seed": config.seed,
            "strength": strength,
        }

        state, folders = f"frames/{variant}.state", (FRAMES[variant], PLAIN)

        def work(stage: Stage) -> None:
            for warning in enhance_along(job, self._loaded_model(), settings, folder, folders, state, stage):
                self.display.note(warning)  # not in the report: a run that finds this stage done doesn't see it

        outputs = folders if is_first and self._has_detail else folders[:1]
        return self.stages.complete(name, key, outputs, len(job.frames), work, scratch=[state])

    def _distilled(self, frames: str) -> None:
        config, job = self.config, self.job
        key = {
            "frames": frames,
            "splats": fingerprint(job.run.root / INITIAL),
            "photos": self._photos_key,
            "recipe": asdict(config.distill),
            "seed": config.seed,
        }
        checkpoint = "splats/artifixer3d.checkpoint"
        fitted = PLAIN if self._has_detail else FRAMES["artifixer"]
        self.stages.complete(
            "distill",
            key,
            [DISTILLED],
            config.distill.reconstruct.iterations,
            lambda stage: fit_to_frames(job, config.distill, INITIAL, fitted, DISTILLED, checkpoint, stage),
            scratch=[checkpoint],
        )

    def _written(self, keys: Mapping[str, str], frames: Mapping[str, str]) -> str:
        """Dataset and videos; returns the videos' key."""
        job, config = self.job, self.config
        splats = DISTILLED if "artifixer3d" in keys else INITIAL
        dataset = {"frames": keys["artifixer"], "photos": self._photos_key, "splats": fingerprint(job.run.root / splats)}
        total = len(job.frames)
        self.stages.complete(
            "dataset", dataset, ["dataset"], total, lambda stage: write_training_dataset(job, FRAMES["artifixer"], splats, stage)
        )
        return self.stages.complete(
            "videos",
            {"frames": dict(keys), "frames per second": config.fps},
            ["videos"],
            total * (len(keys) + 2),
            lambda stage: write_videos(job, frames, config.fps, stage),
        )

    def _metrics(self, renders: str, keys: Mapping[str, str], frames: Mapping[str, str]) -> str:
        job = self.job
        perceptual = PerceptualMetrics.load(job.device)
        self.notes.extend(perceptual.notes)
        scene = job.capture.scene
        if not heldout_frames(job.frames, job.capture):
            self._warn("no target camera is that of a held-out photo: metrics.json has no figures")
        key = {
            "renders": renders,
            "frames": dict(keys),
            "held-out photos": [scene.photos[i].name for i in job.capture.heldout],
            "LPIPS": [perceptual.vgg01 is not None, perceptual.alex is not None],
        }
        return self.stages.complete(
            "metrics", key, ["metrics.json"], 3 + len(keys), lambda stage: write_metrics(job, frames, perceptual, stage)
        )

    def _report(self, scale: CameraScale, frames: Mapping[str, str], videos: str, metrics: str) -> None:
        facts = RunFacts(
            model=f"{self.files.config.name}, mode {self.config.mode}",
            scale=scale,
            settings=settings_of(self.config),
            notes=tuple(self.notes),
            variants=frames,
        )
        key = {"videos": videos, "metrics": metrics, "settings": fingerprint(facts)}
        self.stages.complete("report", key, ["report.html"], 1, lambda stage: write_run_report(self.job, facts, stage))

    def _discard_outdated(self) -> None:
        """Results of variants that this run does not have go, unless they still belong to its frames."""
        if not {"reconstruct", "render", "enhance"} & set(self.stages.executed):
            return
        kept = {"artifixer3d": ("distill", "render_3d"), "artifixer3d_plus": ("enhance_3d",)}
        for variant, names in kept.items():
            if variant not in self.config.wanted:
                for name in names:
                    self.stages.discard(name, OPTIONAL_OUTPUTS[name])

    def _result(self, scale: CameraScale) -> Result:
        job, scene = self.job, self.job.capture.scene
        return Result(
            out=job.run.root,
            frames=job.frames,
            train=tuple(scene.photos[i].name for i in job.capture.training),
            heldout=tuple(scene.photos[i].name for i in job.capture.heldout),
            references=tuple(frame.photo or "" for frame, _ in job.references),
            variants=read_variants(job.run.root / "metrics.json"),
            camera_scale=scale,
            executed=tuple(self.stages.executed),
            seconds=self.stages.seconds,
            notes=tuple(self.notes),
        )

    @property
    def _has_detail(self) -> bool:
        """Whether the model's frames have detail that was lent."""
        return self.files.config.detail and bool(self.job.references)

    @cached_property
    def _photos_key(self) -> str:
        photos, cameras = self.job.training
        return fingerprint([photo.name for photo in photos], [photo.read() for photo in photos], cameras)

    def _loaded_model(self) -> Model:
        if self._model is None:
            self._model = load_model(self.files, self.config.device, offload=self._offload)
        return self._model

    def _warn(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            self.display.note(note)


# Helpers ------------------------------------------------------------------------------------------------------------------------------


def stage_names(config: RunConfig) -> tuple[str, ...]:
    """The stages of a run in order, for the progress display."""
    last = {"artifixer": (), "artifixer3d": ("distill", "render_3d"), "artifixer3d_plus": ("distill", "render_3d", "enhance_3d")}
    return ("reconstruct", "render", "enhance", *last[config.wanted[-1]], "dataset", "videos", "metrics", "report")


def _summary(job: Job) -> str:
    capture, (width, height) = job.capture, job.size
    return (
        f"{len(capture.training)} training photos, {len(capture.heldout)} held out ({capture.split.name}); "
        f"{len(job.frames)} target frames of {width}x{height}, {len(job.references)} reference photos"
    )
