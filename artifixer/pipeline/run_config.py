"""Settings of a run, their validation before anything is read, and the part of them that results
depend on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from artifixer.enhance.distill import DistillConfig, check_distillation
from artifixer.pipeline.capture import CaptureChoice, check_output
from artifixer.runtime.errors import InputError
from artifixer.scenes.references import REFERENCE_COUNT
from artifixer.scenes.scale import check_scale_options
from artifixer.splats.reconstruct import ReconstructConfig
from artifixer.training.scene_adaptation import AdaptationConfig, check_peft
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.model import Mode
from artifixer.video.model_files import locate_model

#: What ``--variants`` calls them, and their names in files; each needs the ones before it.
VARIANTS = {"artifixer": "artifixer", "3d": "artifixer3d", "3d+": "artifixer3d_plus"}


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on."""

    choice: CaptureChoice
    out: Path
    path: str | None = None
    """heldout, tour, orbit, spline or a file of cameras. None: a tour through the held-out cameras,
    or a spline without any."""
    orbit_frames: int = 120
    """Frames of an orbit."""
    model: str = "tiny"
    """A name or a path."""
    variants: tuple[str, ...] = tuple(VARIANTS.values())
    """Of ``VARIANTS``' values; those before the last are made as well."""
    prompt: str = ""
    mode: Mode = "improve"
    steps: int | Literal["adaptive"] | None = None
    """Network calls per block; None: the model's own in this mode."""
    references: int = REFERENCE_COUNT
    """At most this many photos for the model to attend to; 0 for none."""
    camera_scale: float | None = None
    """World units to the model's units. None: from ``depth_model`` or as ``scenes/scale`` says."""
    depth_model: str | None = None
    """A metric depth model, for video models that want metres."""
    from_splats: Path | None = None
    """A splat file in the capture's world that replaces the reconstruction."""
    export: tuple[str, ...] = ()
    """Names of ``files.EXPORTS``: formats in which the last splats are written as well."""
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    """Of the first fit. With a free-space loss there is a second fit, whose render the model gets.
    """
    distill: DistillConfig = field(default_factory=DistillConfig)
    adaptation: AdaptationConfig | None = None
    """Fine-tune the model on this scene's training photos first; None uses it as it is."""
    fps: float = 24.0
    """Frames per second of the videos."""
    seed: int = 0
    device: str = "cpu"

    @property
    def has_input(self) -> bool:
        """Whether the model gets another render than that of the plain fit: one of a fit with the
        free-space loss.
        """
        return self.from_splats is None and self.reconstruct.free_space.weight > 0

    @property
    def wanted(self) -> tuple[str, ...]:
        """The variants up to the last one asked for."""
        names = tuple(VARIANTS.values())
        return names[: 1 + max(names.index(name) for name in self.variants)]


def check_config(config: RunConfig) -> ModelFiles:
    """Validate the settings without reading the capture; returns where the model is."""
    for name, value, least in (
        ("--references", config.references, 0),
        ("--frames", config.orbit_frames, 1),
    ):
        if value < least:
            raise InputError(f"{name} {value}: expected at least {least}")
    if isinstance(config.steps, int) and config.steps < 1:
        raise InputError(f"--steps {config.steps}: expected at least 1")
    if config.mode not in get_args(Mode):
        raise InputError(f"--mode {config.mode}: expected {' or '.join(get_args(Mode))}")
    unknown = [name for name in config.variants if name not in VARIANTS.values()]
    if unknown or not config.variants:
        raise InputError(
            f"--variants {', '.join(unknown) or 'none'}: expected some of {', '.join(VARIANTS)}"
        )
    files = locate_model(config.model)
    files.check_prompt(config.prompt)
    files.check_weights()
    check_scale_options(
        files.config.camera_scale, config.camera_scale, config.depth_model, files.config.name
    )
    check_distillation(config.distill)
    if config.adaptation is not None:
        check_peft()
    check_output(config.choice.capture, config.out)
    if config.adaptation is not None and config.from_splats is not None:
        raise InputError(
            "--adapt and --from-splats exclude each other: its pairs are made by the run's own "
            "reconstruction, without one photo each"
        )
    if config.from_splats is not None:
        if not config.from_splats.is_file():
            raise InputError(
                f"--from-splats {config.from_splats}: does not exist, expected a splat file"
            )
        if config.from_splats.resolve().is_relative_to(config.out.resolve()):
            raise InputError(
                f"--from-splats {config.from_splats}: is a result of this run; copy it elsewhere "
                "or choose another --out"
            )
    return files


def parse_variants(text: str) -> tuple[str, ...]:
    """``artifixer,3d,3d+`` -> names of variants; raises ``InputError`` for others."""
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in VARIANTS]
    if unknown or not words:
        raise InputError(
            f"--variants {text!r}: expected some of {', '.join(VARIANTS)}, separated by commas"
        )
    return tuple(VARIANTS[word] for word in VARIANTS if word in words)


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every setting that a result depends on; where the folder and the files lie is none of
    them.
    """
    content = asdict(
        replace(
            config,
            choice=replace(config.choice, capture="", train_list=None),
            out=Path(),
            from_splats=None,
        )
    )
    content.pop("out")
    content["choice"].pop("capture")
    content["choice"]["train_list"] = (
        None if config.choice.train_list is None else config.choice.train_list.name
    )
    content["from_splats"] = None if config.from_splats is None else config.from_splats.name
    return content
