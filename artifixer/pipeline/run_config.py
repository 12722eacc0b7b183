"""``RunConfig``: settings of a run, their validation before the capture is read, and the part of
them that results depend on.
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

#: Variants by their names in ``--variants``, with their names in files; each needs the ones before
#: it.
VARIANTS = {"artifixer": "artifixer", "3d": "artifixer3d", "3d+": "artifixer3d_plus"}


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on."""

    choice: CaptureChoice
    """Capture, split and size."""
    out: Path
    """Run folder."""
    path: str | None = None
    """Target cameras: heldout, tour, orbit, spline or a camera file. None: a tour through the
    held-out cameras, or a spline if none is held out."""
    orbit_frames: int = 120
    """Number of frames of an orbit."""
    model: str = "tiny"
    """Name or path of the video model."""
    variants: tuple[str, ...] = tuple(VARIANTS.values())
    """Values of ``VARIANTS``; those that they need are computed too."""
    prompt: str = ""
    """Description of the scene, for models with a text encoder."""
    mode: Mode = "improve"
    """Start of the flow."""
    steps: int | Literal["adaptive"] | None = None
    """Network calls per block; None for the model's own number in this mode."""
    references: int = REFERENCE_COUNT
    """Maximum number of photos that the model attends to; 0 for none."""
    camera_scale: float | None = None
    """Factor from world units to the model's units; None for an estimate (``scenes/scale``)."""
    depth_model: str | None = None
    """Metric depth model, for video models that expect metres."""
    from_splats: Path | None = None
    """A splat file in the capture's world that replaces the reconstruction."""
    export: tuple[str, ...] = ()
    """Further file formats of the final splats, names of ``files.EXPORTS``."""
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    """Settings of the first fit. With dropout or a free-space loss, the first fit is the plain one
    without them, and a second fit with them provides the model's input."""
    input_fits: int = 1
    """Number of fits with dropout or a free-space loss, 1 or 2. With 2, which differ in their
    random seeds, the model's input is the median of their renders and the plain fit's."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """Settings of the 3D distillation."""
    adaptation: AdaptationConfig | None = None
    """Settings of the scene adaptation; None for none."""
    fps: float = 24.0
    """Frames per second of the videos."""
    seed: int = 0
    """Random seed."""
    device: str = "cpu"
    """Torch device."""

    @property
    def has_input(self) -> bool:
        """Whether a second fit, which is not the plain one, provides the model's input."""
        return self.from_splats is None and not self.reconstruct.is_plain

    @property
    def has_median_input(self) -> bool:
        """Whether the model's input is the median of three fits."""
        return self.has_input and self.input_fits == 2

    @property
    def wanted(self) -> tuple[str, ...]:
        """The requested variants and those that they need."""
        names = tuple(VARIANTS.values())
        return names[: 1 + max(names.index(name) for name in self.variants)]


def check_config(config: RunConfig) -> ModelFiles:
    """Validate the settings without reading the capture; returns the files of the model. Raises
    ``InputError``.
    """
    for name, value, least in (
        ("--references", config.references, 0),
        ("--frames", config.orbit_frames, 1),
    ):
        if value < least:
            raise InputError(f"{name} {value}: expected at least {least}")
    if config.input_fits not in (1, 2):
        raise InputError(f"--input-fits {config.input_fits}: expected 1 or 2")
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
            "--adapt and --from-splats exclude each other: the adaptation needs reconstructions "
            "of its own, each without one of the photos"
        )
    if config.from_splats is not None:
        if not config.from_splats.is_file():
            raise InputError(
                f"--from-splats {config.from_splats}: does not exist, expected a splat file"
            )
        if config.from_splats.resolve().is_relative_to(config.out.resolve()):
            raise InputError(
                f"--from-splats {config.from_splats}: lies inside --out; expected a file outside "
                "of it"
            )
    return files


def parse_variants(text: str) -> tuple[str, ...]:
    """``artifixer,3d,3d+`` -> names of the variants in files. Raises ``InputError`` for unknown
    ones.
    """
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in VARIANTS]
    if unknown or not words:
        raise InputError(
            f"--variants {text!r}: expected some of {', '.join(VARIANTS)}, separated by commas"
        )
    return tuple(VARIANTS[word] for word in VARIANTS if word in words)


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every setting that results depend on; of files and folders only the names."""
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
