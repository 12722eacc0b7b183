"""The settings of an evaluation, and the run of each scene that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from artifixer.enhance.distill import DistillConfig
from artifixer.evaluation.benchmarks.scene import BenchmarkScene, Options
from artifixer.evaluation.files import relative_to_any
from artifixer.evaluation.frames import FrameSource, Naming, SideBySide, find_frames
from artifixer.evaluation.protocols import Protocol, protocol
from artifixer.pipeline.capture import CaptureChoice
from artifixer.pipeline.run_config import RunConfig
from artifixer.runtime.json_io import to_json
from artifixer.scenes.references import REFERENCE_COUNT
from artifixer.splats.reconstruct import ReconstructConfig
from artifixer.video.model import Mode

Resize = Literal["bicubic", "lanczos", "area"]


@dataclass(frozen=True)
class EvaluateConfig:
    """Everything an evaluation depends on."""

    protocol: str
    """A name of ``protocols()``."""

    data: str
    """Folder of the benchmark's data, or a capture."""

    out: Path
    """Folder of the evaluation."""

    scenes: tuple[str, ...] = ()
    """Names; empty for all scenes."""

    options: Options = field(default_factory=Options)
    """Options of the protocol."""

    variants: tuple[str, ...] = ()
    """Variants of the run, by their names in files; empty for no run."""

    frames: Mapping[str, Path] = field(default_factory=dict)
    """Folders of other methods' frames by the name of the method."""

    naming: Naming = "auto"
    """How these frames are matched with photos, see ``evaluation/frames``."""

    side_by_side: SideBySide = "auto"
    """Whether the files of these frames also contain the photo, see ``evaluation/frames``."""

    resize: Resize | None = None
    """Filter that resizes frames of another size to the photo's; None to refuse them."""

    own_truth: bool = False
    """Score frames against the photos that their method has written beside them."""

    size: str | None = None
    """Size of the photos, as for ``--size``; None keeps it."""

    path: str | None = None
    """Target cameras of the run; None for the protocol's."""

    antialias: bool = True
    """Whether FID's resizing to 299 pixels is antialiased."""

    model: str = "tiny"
    """Name or path of the video model."""

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

    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    """Settings of the first fit."""

    input_fits: int = 1
    """Number of fits with dropout or a free-space loss, as in a run."""

    distill: DistillConfig = field(default_factory=DistillConfig)
    """Settings of the 3D distillation."""

    seed: int = 0
    """Random seed."""

    device: str = "cpu"
    """Torch device."""

    diagnostics: bool = False
    """Whether to compute the rows of ``evaluation/diagnostics`` as well."""

    diagnostic_models: Mapping[str, Path] = field(default_factory=dict)
    """Model folders by role in the diagnostics."""

    prompts: Mapping[str, str] = field(default_factory=dict)
    """Prompts by scene."""

    @property
    def entry(self) -> Protocol:
        """The protocol."""
        return protocol(self.protocol)

    def relative(self, path: Path) -> str:
        """A path as recorded: relative to the output, the data or the masks."""
        roots = (self.out, Path(self.data), self.options.masks)
        return relative_to_any(path, [root for root in roots if root is not None])


def evaluation_settings(config: EvaluateConfig) -> dict[str, Any]:
    """Every setting that results depend on; of files and folders only the names."""
    content = asdict(config)
    for name in ("out", "data"):
        content.pop(name)
    for name in ("frames", "diagnostic_models"):
        content[name] = sorted(content[name])
    for name in ("model", "depth_model", "path"):
        value = content[name]
        if value is not None and Path(value).exists():
            content[name] = Path(value).resolve().name
    content["options"] = options_of(config.options)
    found = to_json(content)
    assert isinstance(found, dict)
    return found


def options_of(options: Options) -> dict[str, Any]:
    """The options; folders are replaced by whether they are given."""
    return asdict(options) | {
        name: getattr(options, name) is not None for name in ("masks", "train_ids")
    }


def capture_choice(config: EvaluateConfig, scene: BenchmarkScene, folder: Path) -> CaptureChoice:
    """The scene's capture with the split in ``folder/split.json``."""
    return CaptureChoice(scene.capture, train_list=folder / "split.json", size=config.size)


def scene_run_config(config: EvaluateConfig, scene: BenchmarkScene, folder: Path) -> RunConfig:
    """Settings of the run of a scene whose split has been written to ``folder``."""
    return RunConfig(
        choice=capture_choice(config, scene, folder),
        out=folder / "run",
        path=config.path or config.entry.path,
        model=config.model,
        variants=config.variants,
        prompt=config.prompts.get(scene.name, ""),
        mode=config.mode,
        steps=config.steps,
        references=config.references,
        camera_scale=config.camera_scale,
        depth_model=config.depth_model,
        reconstruct=config.reconstruct,
        input_fits=config.input_fits,
        distill=config.distill,
        seed=config.seed,
        device=config.device,
    )


def frame_sources(config: EvaluateConfig, scene: BenchmarkScene) -> list[FrameSource]:
    """Find the frames of other methods in a scene. Raises InputError for missing or surplus
    frames.
    """
    return [
        find_frames(
            method,
            folder,
            scene.name,
            scene.photos,
            scene.heldout,
            config.naming,
            config.side_by_side,
        )
        for method, folder in config.frames.items()
    ]
