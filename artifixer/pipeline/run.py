"""The main job: capture -> splats -> renders -> frames -> distilled splats -> frames again ->
metrics and report, in one folder.

::

    splats/{initial,artifixer3d}.ply    standard 3DGS
    splats/input.ply                    with a free-space loss: the fit whose renders the model gets
    renders/  renders_3d/               render folders along the path, sides multiples of 16
    renders_input/                      likewise, of splats/input.ply
    frames/{artifixer,artifixer3d,artifixer3d_plus}/%05d.png    at the size that was asked for
    videos/*.mp4                        every variant, the renders, and all side by side
    export/                             the last splats in the formats of ``--export``
    dataset/                            training photos and generated frames for other trainers
    cameras.json                        the target cameras, and which photos were taken from there
    metrics.json  timing.json  report.html  config.json

Every stage is done once for what it depends on (``run_stages``): the same call continues where it
was killed and ends with the same bytes; another setting reruns what depends on it. Only
``timing.json``, ``config.json`` and the hidden ``.run`` differ between two runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from artifixer.enhance.enhance import EnhanceConfig
from artifixer.evaluation.evaluate import PerceptualMetrics, VariantQuality
from artifixer.evaluation.variant_table import read_variants
from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.paths import alike
from artifixer.pipeline.capture import identify, open_capture
from artifixer.pipeline.plan import planned_stages
from artifixer.pipeline.render_path import splat_depths
from artifixer.pipeline.run_config import (
    VARIANTS,
    RunConfig,
    check_config,
    settings_of,
)
from artifixer.pipeline.run_inputs import check_inputs, check_pixels, make_job
from artifixer.pipeline.run_report import RunFacts, write_run_report
from artifixer.pipeline.run_stages import Stages
from artifixer.pipeline.run_work import (
    Job,
    copy_splats,
    enhance_along,
    export_last,
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
from artifixer.runtime.run_folder import RunFolder, fingerprint, to_json, write_json
from artifixer.runtime.stopping import stop_on_sigterm
from artifixer.scenes.depth_models import metric_depth_model
from artifixer.scenes.formats import brings_poses
from artifixer.scenes.identity import sampled_fingerprint
from artifixer.scenes.scale import (
    SPARSE_POINTS,
    CameraScale,
    DepthView,
    camera_scale,
    point_depths,
    read_scale,
    scale_depth_model,
)
from artifixer.splats.files import placement_note
from artifixer.splats.reconstruct import ReconstructConfig
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.model import Model
from artifixer.video.model_files import load_model

INITIAL, INPUT, DISTILLED = "splats/initial.ply", "splats/input.ply", "splats/artifixer3d.ply"
RENDERS, INPUT_RENDERS, RENDERS_3D = "renders", "renders_input", "renders_3d"
FRAMES = {name: f"frames/{name}" for name in VARIANTS.values()}

#: What a depth model says about the camera scale.
SCALE = "camera_scale.json"

#: Folder of the splats in other formats.
EXPORT = "export"

#: Folder of resized photos.
CACHE = "cache"

#: Outputs of the stages that only some runs need.
OPTIONAL_OUTPUTS = {
    "reconstruct_input": (INPUT,),
    "render_input": (INPUT_RENDERS,),
    "distill": (DISTILLED,),
    "render_3d": (RENDERS_3D, FRAMES["artifixer3d"]),
    "enhance_3d": (FRAMES["artifixer3d_plus"],),
}


@dataclass(frozen=True)
class Result:
    """A finished run; its files are in ``out``.

    frames: target cameras in path order at the frames' size; ``photo`` names the photo taken from
    exactly there. train, heldout, references: names of photos. variants: quality by the names of
    ``evaluate.VARIANT_TITLES``; values are None where no frame stands at a held-out camera.
    executed: stages that this call ran; the others were done before. seconds: of every stage.
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
    """Run the whole job, or what is left of it. overwrite: start anew in a folder that holds
    another capture.

    Raises ``InputError`` for bad input before any heavy work, and ``Stopped`` after SIGTERM; the
    same call then continues.
    """
    files = check_config(config)
    identity = identify(config.choice.capture)
    inputs = None
    # what is wrong with it shows before anything is written
    if brings_poses(config.choice.capture):
        inputs = check_inputs(
            config,
            files,
            open_capture(config.choice, work_folder=None, cache_folder=config.out / CACHE),
        )
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
        progress
        or Progress(stage_names(config), log_file=folder.root / ".run" / "log.txt") as display,
    ):
        cache = folder.path(CACHE)
        with folder.discarded_on_bad_input():
            if inputs is None:
                inputs = check_inputs(
                    config,
                    files,
                    open_capture(config.choice, folder.path("sfm"), cache, say=display.note),
                )
            check_pixels(config, inputs.capture)
        job = make_job(config, inputs, folder)
        notes = list(inputs.capture.scene.notes)
        for note in notes:
            display.note(note)
        display.note(_summary(job))
        minutes = (
            sum(
                stage.seconds
                for stage in planned_stages(config, files, len(job.frames), job.megapixels)
            )
            / 60
        )
        display.note(
            f"about {max(1, round(minutes))} minutes for all stages; what was done before is kept"
        )
        if inputs.offload:
            display.note(
                f"model {files.config.name} does not fit into the GPU's memory: its layers stay in "
                "the host's, which takes longer"
            )
        return _Run(
            config, files, job, Stages(folder, display), display, notes, inputs.offload
        ).finish()


# The graph ----------------------------------------------------------------------------------------


class _Run:
    """The stages of one run and what depends on what. Keys chain: a stage depends on the
    fingerprints of those it reads from.
    """

    def __init__(
        self,
        config: RunConfig,
        files: ModelFiles,
        job: Job,
        stages: Stages,
        display: Progress,
        notes: list[str],
        offload: bool,
    ) -> None:
        self.config, self.files, self.job = config, files, job
        self.stages, self.display, self.notes = stages, display, notes
        self._model: Model | None = None
        self._offload = offload

    def finish(self) -> Result:
        self._reconstructed()
        scale = self._camera_scale()
        if scale.is_guess:
            self._warn(scale.advice)
        renders = {"3dgut": self._rendered("render", INITIAL, RENDERS, ["cameras.json"])}
        if self.config.has_input:
            renders["input"] = self._rendered("render_input", INPUT, INPUT_RENDERS)
        source, generator_input = (
            list(renders.values())[-1],
            INPUT_RENDERS if self.config.has_input else RENDERS,
        )
        keys = {"artifixer": self._enhanced("enhance", source, scale, generator_input, "artifixer")}
        if "artifixer3d" in self.config.wanted:
            self._distilled(keys["artifixer"])
            keys["artifixer3d"] = self._rendered(
                "render_3d", DISTILLED, RENDERS_3D, [FRAMES["artifixer3d"]]
            )
        if "artifixer3d_plus" in self.config.wanted:
            keys["artifixer3d_plus"] = self._enhanced(
                "enhance_3d", keys["artifixer3d"], scale, RENDERS_3D, "artifixer3d_plus"
            )
        self._discard_outdated()
        self._model = None
        folders = {"3dgut": RENDERS, "input": INPUT_RENDERS}
        pictures = {name: f"{folders[name]}/rgb" for name in renders} | {
            name: FRAMES[name] for name in keys
        }
        self._exported(DISTILLED if "artifixer3d" in keys else INITIAL)
        videos = self._written(renders | keys, pictures)
        metrics = self._metrics(renders | keys, pictures, generator_input)
        self._report(scale, pictures, generator_input, videos, metrics)
        return self._result(scale)

    def _reconstructed(self) -> None:
        """The plain fit, or the user's splats; with a free-space loss a second fit, whose renders
        the model gets.
        """
        config, job = self.config, self.job
        if config.from_splats is not None:
            source = config.from_splats
            key: dict[str, object] = {"splats": fingerprint(source)}

            def copy(stage: Stage) -> None:
                for note in copy_splats(job, source, INITIAL, stage):
                    # not in the report: a run that finds this stage done doesn't see it
                    self.display.note(note)

            self.stages.complete("reconstruct", key, [INITIAL], 1, copy)
            return
        self._fitted("reconstruct", config.reconstruct.without_free_space_loss(), INITIAL)
        if config.has_input:
            self._fitted("reconstruct_input", config.reconstruct, INPUT)

    def _fitted(self, name: str, settings: ReconstructConfig, splats: str) -> None:
        job, points = self.job, self.job.capture.scene.points
        key = {
            "photos": self._photos_key,
            "sparse points": fingerprint(vars(points) if points is not None else None),
            "recipe": asdict(settings),
            "seed": self.config.seed,
        }
        checkpoint = str(Path(splats).with_suffix(".checkpoint").as_posix())
        self.stages.complete(
            name,
            key,
            [splats],
            settings.iterations,
            lambda stage: fit_initial(job, settings, splats, checkpoint, stage),
            scratch=[checkpoint],
        )

    def _rendered(
        self, name: str, splats: str, folder: str, more_outputs: Sequence[str] = ()
    ) -> str:
        job = self.job
        frames = FRAMES["artifixer3d"] if folder == RENDERS_3D else None
        key = {
            "splats": fingerprint(job.run.root / splats),
            "path": fingerprint(job.frames),
            "references": fingerprint([frame for frame, _ in job.references]),
        }

        def work(stage: Stage) -> None:
            render_along(job, splats, folder, stage, frames)
            if folder == RENDERS:
                write_target_cameras(job)

        return self.stages.complete(name, key, [folder, *more_outputs], len(job.frames), work)

    def _camera_scale(self) -> CameraScale:
        """The video model's scale. What a depth model says is kept in a file, so that a continued
        run does not ask it again.
        """
        config, kind, scene = self.config, self.files.config.camera_scale, self.job.capture.scene
        asked = scale_depth_model(
            kind, config.camera_scale, scene.metres_per_unit, config.depth_model
        )
        if asked is None:
            self.stages.discard("camera_scale", [SCALE])
            return self._found_scale(None)
        key = {
            "depth model": [asked, *sampled_fingerprint(Path(asked))[:1]]
            if Path(asked).exists()
            else [asked],
            "photos": self._photos_key,
            "sparse points": fingerprint(vars(scene.points) if scene.points is not None else None),
            "splats": fingerprint(self.job.run.root / INITIAL),
        }
        path = self.job.run.root / SCALE

        def find(stage: Stage) -> None:
            write_json(path, to_json(self._found_scale(asked)))

        self.stages.complete("camera_scale", key, [SCALE], 1, find)
        return read_scale(path, kind)

    def _found_scale(self, depth_model: str | None) -> CameraScale:
        """Of what the training views see: of the sparse points, or of the splats where there are
        none.
        """
        config, kind, capture = self.config, self.files.config.camera_scale, self.job.capture
        views, where = point_depths(capture.scene, capture.training), SPARSE_POINTS
        if not any(len(view.depths) for view in views) and config.camera_scale is None:
            views, where = self._splat_depths(), "the training views' renders"
        network = None if depth_model is None else metric_depth_model(depth_model, self.job.device)
        metric_depth_model.cache_clear()  # the video model needs the memory
        return camera_scale(
            kind, views, where, network, config.camera_scale, capture.scene.metres_per_unit
        )

    def _splat_depths(self) -> list[DepthView]:
        capture, splats = self.job.capture, self.job.splats(INITIAL)
        views = alike([capture.scene.cameras[i] for i in capture.training])
        return splat_depths(splats, views.to(splats.means.device))

    def _enhanced(
        self, name: str, renders: str, scale: CameraScale, folder: str, variant: str
    ) -> str:
        config, job, is_first = self.config, self.job, name == "enhance"
        strength = 1.0 if is_first else self.files.config.second_strength
        settings = EnhanceConfig(
            config.mode,
            config.steps,
            config.seed,
            config.prompt,
            strength=strength,
            camera_scale=scale.value,
        )
        # a mode that changes nothing for this model redoes nothing
        own = self.files.config.in_mode(config.mode)
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

        state = f"frames/{variant}.state"

        def work(stage: Stage) -> None:
            for warning in enhance_along(
                job, self._loaded_model(), settings, folder, FRAMES[variant], state, stage
            ):
                # not in the report: a run that finds this stage done doesn't see it
                self.display.note(warning)

        return self.stages.complete(
            name, key, [FRAMES[variant]], len(job.frames), work, scratch=[state]
        )

    def _distilled(self, frames: str) -> None:
        config, job = self.config, self.job
        source = INPUT if config.has_input else INITIAL
        key = {
            "frames": frames,
            "splats": fingerprint(job.run.root / source),
            "photos": self._photos_key,
            "recipe": asdict(config.distill),
            "seed": config.seed,
        }
        checkpoint = "splats/artifixer3d.checkpoint"
        self.stages.complete(
            "distill",
            key,
            [DISTILLED],
            config.distill.reconstruct.iterations,
            lambda stage: fit_to_frames(
                job, config.distill, source, FRAMES["artifixer"], DISTILLED, checkpoint, stage
            ),
            scratch=[checkpoint],
        )

    def _exported(self, splats: str) -> None:
        job, formats = self.job, self.config.export
        for note in placement_note(formats, job.origin):
            self._warn(note)
        if formats:
            key = {"splats": fingerprint(job.run.root / splats), "formats": list(formats)}
            self.stages.complete(
                "export",
                key,
                [EXPORT],
                len(formats),
                lambda stage: export_last(job, splats, EXPORT, formats, stage),
            )
        elif {"reconstruct", "distill"} & set(self.stages.executed):
            self.stages.discard("export", [EXPORT])

    def _written(self, keys: Mapping[str, str], pictures: Mapping[str, str]) -> str:
        """Dataset and videos; returns the videos' key. keys: of renders and frames; pictures: their
        folders.
        """
        job, config = self.job, self.config
        splats = DISTILLED if "artifixer3d" in keys else INITIAL
        dataset = {
            "frames": keys["artifixer"],
            "photos": self._photos_key,
            "splats": fingerprint(job.run.root / splats),
        }
        total = len(job.frames)
        self.stages.complete(
            "dataset",
            dataset,
            ["dataset"],
            total,
            lambda stage: write_training_dataset(job, FRAMES["artifixer"], splats, stage),
        )
        return self.stages.complete(
            "videos",
            {"frames": dict(keys), "frames per second": config.fps},
            ["videos"],
            total * (len(keys) + 1),
            lambda stage: write_videos(job, pictures, config.fps, stage),
        )

    def _metrics(
        self, keys: Mapping[str, str], pictures: Mapping[str, str], generator_input: str
    ) -> str:
        job = self.job
        perceptual = PerceptualMetrics.load(job.device)
        self.notes.extend(perceptual.notes)
        scene = job.capture.scene
        if not heldout_frames(job.frames, job.capture):
            self._warn("no target camera is that of a held-out photo: metrics.json has no figures")
        key = {
            "frames": dict(keys),
            "held-out photos": [scene.photos[i].name for i in job.capture.heldout],
            "LPIPS": [perceptual.vgg01 is not None, perceptual.alex is not None],
        }
        return self.stages.complete(
            "metrics",
            key,
            ["metrics.json"],
            2 + len(keys),
            lambda stage: write_metrics(job, pictures, generator_input, perceptual, stage),
        )

    def _report(
        self,
        scale: CameraScale,
        pictures: Mapping[str, str],
        generator_input: str,
        videos: str,
        metrics: str,
    ) -> None:
        facts = RunFacts(
            model=f"{self.files.config.name}, mode {self.config.mode}",
            scale=scale,
            settings=settings_of(self.config),
            notes=tuple(self.notes),
            variants=pictures,
            generator_input=generator_input,
        )
        key = {"videos": videos, "metrics": metrics, "settings": fingerprint(facts)}
        self.stages.complete(
            "report",
            key,
            ["report.html"],
            1,
            lambda stage: write_run_report(self.job, facts, stage),
        )

    def _discard_outdated(self) -> None:
        """Results that this run does not have go; those of further variants stay while they still
        belong to its frames.
        """
        if not self.config.has_input:
            for name in ("reconstruct_input", "render_input"):
                self.stages.discard(name, OPTIONAL_OUTPUTS[name])
        if not {"reconstruct", "reconstruct_input", "render", "render_input", "enhance"} & set(
            self.stages.executed
        ):
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

    @cached_property
    def _photos_key(self) -> str:
        photos, cameras = self.job.training
        return fingerprint(
            [photo.name for photo in photos], [photo.read() for photo in photos], cameras
        )

    def _loaded_model(self) -> Model:
        if self._model is None:
            self._model = load_model(self.files, self.config.device, offload=self._offload)
        return self._model

    def _warn(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            self.display.note(note)


# Helpers ------------------------------------------------------------------------------------------


def stage_names(config: RunConfig) -> tuple[str, ...]:
    """The stages of a run in order, for the progress display."""
    last = {
        "artifixer": (),
        "artifixer3d": ("distill", "render_3d"),
        "artifixer3d_plus": ("distill", "render_3d", "enhance_3d"),
    }
    scale = ("camera_scale",) if config.depth_model is not None else ()
    first = (
        ("reconstruct", "reconstruct_input", *scale, "render", "render_input")
        if config.has_input
        else ("reconstruct", *scale, "render")
    )
    exports = ("export",) if config.export else ()
    return (
        *first,
        "enhance",
        *last[config.wanted[-1]],
        *exports,
        "dataset",
        "videos",
        "metrics",
        "report",
    )


def _summary(job: Job) -> str:
    capture, (width, height) = job.capture, job.size
    return (
        f"{len(capture.training)} training photos, {len(capture.heldout)} held out "
        f"({capture.split.name}); "
        f"{len(job.frames)} target frames of {width}x{height}, {len(job.references)} reference "
        "photos"
    )
