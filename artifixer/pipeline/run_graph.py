"""``RunGraph``: runs the stages of ``run_stages.STAGES`` with their dependencies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from artifixer.enhance.enhance import EnhanceConfig
from artifixer.evaluation.evaluate import PerceptualMetrics
from artifixer.evaluation.inpainting import METHODS
from artifixer.pipeline.run_config import RunConfig, settings_of
from artifixer.pipeline.run_context import RunContext, left_out
from artifixer.pipeline.run_report import RunFacts, write_metrics, write_run_report
from artifixer.pipeline.run_scale import find_scale
from artifixer.pipeline.run_stages import (
    DISTILLED,
    EXPORT,
    FRAMES,
    INITIAL,
    INPUT,
    INPUT_2,
    INPUT_RENDERS,
    RENDERS,
    RENDERS_3D,
    SCALE,
    UNADAPTED,
    outdated_stages,
    outlived_stages,
    stage_files,
)
from artifixer.pipeline.run_steps import (
    AdaptationInput,
    adapt_to_scene,
    copy_splats,
    enhance_along,
    export_last,
    fit_initial,
    fit_to_frames,
    render_along,
    write_target_cameras,
    write_training_dataset,
    write_videos,
)
from artifixer.pipeline.target_path import heldout_frames
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.json_io import to_json, write_json
from artifixer.runtime.progress import Progress, ProgressBar
from artifixer.runtime.stages import Stages
from artifixer.scenes.identity import sampled_fingerprint
from artifixer.scenes.scale import CameraScale, read_scale, scale_depth_model
from artifixer.splats.files import placement_note
from artifixer.splats.reconstruct import ReconstructConfig
from artifixer.splats.render import MEDIAN_VERSION
from artifixer.training.scene_adaptation import AdaptationConfig, adaptation_note
from artifixer.video.adapter import ADAPTER_FILE
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.model import Model
from artifixer.video.model_files import load_model


class RunGraph:
    """One execution of the stages of a run.

    A stage's key contains the keys or content hashes of its inputs, so that it is repeated when one
    of them changes.
    """

    def __init__(
        self,
        config: RunConfig,
        files: ModelFiles,
        context: RunContext,
        stages: Stages,
        display: Progress,
        notes: list[str],
        offload: bool,
    ) -> None:
        self.config, self.files, self.context = config, files, context
        self.stages, self.display, self.notes = stages, display, notes
        self._models: dict[Path | None, Model] = {}
        self._offload = offload

    def finish(self) -> CameraScale:
        """Run every stage that is not done; returns the camera scale."""
        config = self.config
        self._reconstruct()
        scale = self._camera_scale()
        if scale.is_guess:
            self._warn(scale.advice)
        pictures, keys = {"3dgut": f"{RENDERS}/rgb"}, {}
        keys["3dgut"] = generator_key = self._render("render", (INITIAL,), RENDERS)
        generator_input = RENDERS
        if config.has_input:
            pictures["input"], generator_input = f"{INPUT_RENDERS}/rgb", INPUT_RENDERS
            fits = (INITIAL, INPUT, INPUT_2) if config.has_median_input else (INPUT,)
            keys["input"] = generator_key = self._render("render_input", fits, INPUT_RENDERS)
        if config.adaptation is not None:
            if note := adaptation_note(self.files.config, config.mode):
                self._warn(note)
            self._adapt(scale, config.adaptation)
            keys[UNADAPTED] = self._enhance(
                "enhance_unadapted", generator_key, scale, generator_input, UNADAPTED
            )
        keys["artifixer"] = self._enhance(
            "enhance", generator_key, scale, generator_input, "artifixer"
        )
        last_splats = INITIAL
        if "artifixer3d" in config.wanted:
            last_splats = DISTILLED
            self._distill(keys["artifixer"])
            keys["artifixer3d"] = self._render("render_3d", (DISTILLED,), RENDERS_3D)
        if "artifixer3d_plus" in config.wanted:
            keys["artifixer3d_plus"] = self._enhance(
                "enhance_3d", keys["artifixer3d"], scale, RENDERS_3D, "artifixer3d_plus"
            )
        for stage in outdated_stages(config, self.stages.completed):
            self.stages.discard(stage.files)
        self._models.clear()
        pictures |= {name: FRAMES[name] for name in keys if name in FRAMES}
        self._export(last_splats)
        self._write_dataset(keys["artifixer"], last_splats)
        videos = self._write_videos(keys, pictures)
        metrics = self._write_metrics(keys, pictures, generator_input)
        self._write_report(scale, pictures, generator_input, videos, metrics)
        return scale

    def _complete(
        self,
        name: str,
        depends_on: Mapping[str, object],
        total: int,
        work: Callable[[ProgressBar], None],
    ) -> str:
        files = stage_files(name)
        if not self.stages.is_done(files, depends_on):
            # before the stage: a call that continues after a kill finds it done
            for stage in outlived_stages(self.config, name):
                self.stages.discard(stage.files)
        return self.stages.complete(files, depends_on, total, work)

    def _reconstruct(self) -> None:
        """The plain fit or the user's splats; with dropout or a free-space loss also the fits that
        provide the model's input.
        """
        config, context = self.config, self.context
        if config.from_splats is not None:
            source = config.from_splats

            def copy(bar: ProgressBar) -> None:
                for note in copy_splats(context, source, INITIAL, bar):
                    # not in the report, which must not depend on which call ran the stage
                    self.display.note(note)

            self._complete("reconstruct", {"splats": fingerprint(source)}, 1, copy)
            return
        self._fit("reconstruct", config.reconstruct.plain(), INITIAL, config.seed)
        if config.has_input:
            self._fit("reconstruct_input", config.reconstruct, INPUT, config.seed)
        if config.has_median_input:
            self._fit("reconstruct_input_2", config.reconstruct, INPUT_2, config.seed + 1)

    def _fit(self, name: str, settings: ReconstructConfig, splats: str, seed: int) -> None:
        key = {
            "photos": self.context.photos_key,
            "sparse points": self.context.points_key,
            "recipe": settings,
            "seed": seed,
        }
        (checkpoint,) = stage_files(name).scratch
        self._complete(
            name,
            key,
            settings.iterations,
            lambda bar: fit_initial(self.context, settings, seed, splats, checkpoint, bar),
        )

    def _render(self, name: str, splats: Sequence[str], folder: str) -> str:
        context = self.context
        frames = FRAMES["artifixer3d"] if folder == RENDERS_3D else None
        files = [fingerprint(context.root / file) for file in splats]
        key = {
            "splats": files[0] if len(files) == 1 else [*files, MEDIAN_VERSION],
            "path": fingerprint(context.frames),
            "references": fingerprint([view.frame for view in context.references]),
        }

        def work(bar: ProgressBar) -> None:
            render_along(context, splats, folder, bar, frames)
            if folder == RENDERS:
                write_target_cameras(context)

        return self._complete(name, key, len(context.frames), work)

    def _camera_scale(self) -> CameraScale:
        """The video model's scale. The estimate of a depth model is a stage of its own, so that a
        resumed run does not repeat it.
        """
        config, context, kind = self.config, self.context, self.files.config.camera_scale
        model = scale_depth_model(
            kind, config.camera_scale, context.capture.scene.metres_per_unit, config.depth_model
        )
        if model is None:
            return find_scale(context, config, kind, None)
        key = {
            "depth model": [model, *sampled_fingerprint(Path(model))[:1]]
            if Path(model).exists()
            else [model],
            "photos": self.context.photos_key,
            "sparse points": self.context.points_key,
            "splats": fingerprint(context.root / INITIAL),
        }
        path = context.root / SCALE
        self._complete(
            "camera_scale",
            key,
            1,
            lambda bar: write_json(path, to_json(find_scale(context, config, kind, model))),
        )
        return read_scale(path, kind)

    def _adapt(self, scale: CameraScale, adaptation: AdaptationConfig) -> None:
        """Train the adapter of this scene on leave-one-out pairs of its training photos."""
        config, context, model = self.config, self.context, self.files.config
        iterations = round(config.reconstruct.iterations * adaptation.fit_fraction)
        fit = config.reconstruct.with_iterations(max(1, iterations))
        chosen = left_out(context.capture, adaptation.pairs)
        sampling = replace(
            model.sampling(config.mode), steps=config.steps or model.steps_in(config.mode)
        )
        key = {
            "photos": self.context.photos_key,
            "sparse points": self.context.points_key,
            "recipe": fit,
            "adaptation": adaptation,
            "model": self.files.identity,
            "prompt": config.prompt,
            "sampling": sampling,
            "references": len(context.references),
            "render size": [context.renders[0].camera.width, context.renders[0].camera.height],
            "camera scale": scale.value,
            "seed": config.seed,
        }
        (state,) = stage_files("adapt").scratch
        given = AdaptationInput(adaptation, fit, chosen, scale, sampling, config.prompt)
        self._complete(
            "adapt",
            key,
            len(chosen) * fit.iterations,
            lambda bar: adapt_to_scene(context, self.files, given, state, bar),
        )

    @property
    def _adapter(self) -> Path | None:
        return None if self.config.adaptation is None else self.context.root / ADAPTER_FILE

    def _loaded(self, adapter: Path | None) -> Model:
        """The model with this adapter; only the last one is kept in memory."""
        if adapter not in self._models:
            self._models.clear()
            self._models[adapter] = load_model(
                self.files, self.config.device, offload=self._offload, adapter=adapter
            )
        return self._models[adapter]

    def _enhance(
        self, name: str, renders_key: str, scale: CameraScale, renders: str, variant: str
    ) -> str:
        config, context = self.config, self.context
        model = self.files.config
        strength = model.second_strength if name == "enhance_3d" else 1.0
        adapter = None if name == "enhance_unadapted" else self._adapter
        settings = EnhanceConfig(
            config.mode,
            config.steps,
            config.seed,
            config.prompt,
            strength=strength,
            camera_scale=scale.value,
        )
        key = {
            "renders": renders_key,
            "model": self.files.identity,
            "prompt": config.prompt,
            # not the mode: for some models both modes are the same
            "source": model.in_mode(config.mode).source,
            "steps": config.steps or model.steps_in(config.mode),
            "references": fingerprint(
                [
                    (view.frame, view.photo.read(), *([mask()] if mask else []))
                    for view in context.references
                    for mask in [view.photo.mask]
                ]
            ),
            "camera scale": scale.value,
            "seed": config.seed,
            "strength": strength,
            **model.finish(config.mode).key,
        }
        if adapter is not None:
            key["adapter"] = fingerprint(adapter)
        (state,) = stage_files(name).scratch

        def work(bar: ProgressBar) -> None:
            for warning in enhance_along(
                context, self._loaded(adapter), settings, renders, FRAMES[variant], state, bar
            ):
                # not in the report, which must not depend on which call ran the stage
                self.display.note(warning)

        return self._complete(name, key, len(context.frames), work)

    def _distill(self, frames_key: str) -> None:
        config, context = self.config, self.context
        source = INPUT if config.has_input else INITIAL
        key = {
            "frames": frames_key,
            "splats": fingerprint(context.root / source),
            "photos": self.context.photos_key,
            "recipe": config.distill,
            "seed": config.seed,
        }
        (checkpoint,) = stage_files("distill").scratch

        def work(bar: ProgressBar) -> None:
            fit_to_frames(
                context, config.distill, source, FRAMES["artifixer"], DISTILLED, checkpoint, bar
            )

        self._complete("distill", key, config.distill.reconstruct.iterations, work)

    def _export(self, splats: str) -> None:
        context, formats = self.context, self.config.export
        for note in placement_note(formats, context.origin):
            self._warn(note)
        if formats:
            self._complete(
                "export",
                {"splats": fingerprint(context.root / splats), "formats": list(formats)},
                len(formats),
                lambda bar: export_last(context, splats, EXPORT, formats, bar),
            )

    def _write_dataset(self, frames_key: str, splats: str) -> None:
        context = self.context
        self._complete(
            "dataset",
            {
                "frames": frames_key,
                "photos": self.context.photos_key,
                "splats": fingerprint(context.root / splats),
            },
            len(context.frames),
            lambda bar: write_training_dataset(context, FRAMES["artifixer"], splats, bar),
        )

    def _write_videos(self, keys: Mapping[str, str], pictures: Mapping[str, str]) -> str:
        """keys: of renders and frames by variant. pictures: their folders by variant."""
        context, fps = self.context, self.config.fps
        return self._complete(
            "videos",
            {"frames": dict(keys), "frames per second": fps},
            len(context.frames) * (len(keys) + 1),
            lambda bar: write_videos(context, pictures, fps, bar),
        )

    def _write_metrics(
        self, keys: Mapping[str, str], pictures: Mapping[str, str], generator_input: str
    ) -> str:
        context = self.context
        perceptual = PerceptualMetrics.load(context.device)
        self.notes.extend(perceptual.notes)
        scene = context.capture.scene
        if not heldout_frames(context.frames, context.capture):
            self._warn("no target camera is that of a held-out photo: metrics.json has no figures")
        return self._complete(
            "metrics",
            {
                "frames": dict(keys),
                "held-out photos": [scene.photos[i].name for i in context.capture.heldout],
                "inpaintings": list(METHODS),
                "LPIPS": [perceptual.vgg01 is not None, perceptual.alex is not None],
            },
            len(METHODS) + len(keys),
            lambda bar: write_metrics(context, pictures, generator_input, perceptual, bar),
        )

    def _write_report(
        self,
        scale: CameraScale,
        pictures: Mapping[str, str],
        generator_input: str,
        videos_key: str,
        metrics_key: str,
    ) -> None:
        facts = RunFacts(
            model=f"{self.files.config.name}, mode {self.config.mode}",
            scale=scale,
            settings=settings_of(self.config),
            notes=tuple(self.notes),
            variants=pictures,
            generator_input=generator_input,
            is_adapted=self.config.adaptation is not None,
        )
        self._complete(
            "report",
            {"videos": videos_key, "metrics": metrics_key, "settings": fingerprint(facts)},
            1,
            lambda bar: write_run_report(self.context, facts, bar),
        )

    def _warn(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            self.display.note(note)
