"""What a training is: its stage, settings, pairs and initial weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from artifixer.pairs.loader import PairSet
from artifixer.training.autoencoder import AutoencoderTraining
from artifixer.training.flow_matching import (
    FlowMatchingTraining,
)
from artifixer.training.loop import LoopConfig
from artifixer.training.parallel import ParallelConfig
from artifixer.training.self_forcing import SelfForcingTraining
from artifixer.training.validation import Baseline, ValidationConfig
from artifixer.video.model import ModelConfig

StageName = Literal["autoencoder", "bidirectional", "diffusion_forcing", "self_forcing"]


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything a training depends on besides pairs and initial weights.

    model: what is trained, and how it will be used. bidirectional_validation: of the bidirectional
    stage where it differs, for one that samples the teacher.
    """

    model: ModelConfig
    autoencoder: AutoencoderTraining
    autoencoder_loop: LoopConfig
    bidirectional: FlowMatchingTraining
    bidirectional_loop: LoopConfig
    diffusion_forcing: FlowMatchingTraining
    diffusion_forcing_loop: LoopConfig
    self_forcing: SelfForcingTraining
    self_forcing_loop: LoopConfig
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    bidirectional_validation: ValidationConfig | None = None

    def loop(self, stage: StageName) -> LoopConfig:
        """The loop's settings of a stage."""
        found: LoopConfig = getattr(self, f"{stage}_loop")
        return found

    def validation_name(
        self, stage: StageName
    ) -> Literal["validation", "bidirectional_validation"]:
        """Which of the two a stage has."""
        is_own = stage == "bidirectional" and self.bidirectional_validation is not None
        return "bidirectional_validation" if is_own else "validation"


@dataclass(frozen=True)
class TrainingJob:
    """What to train. init: model folder or run folder to start from; teacher: the same, of the
    bidirectional model, for self forcing. validation_pairs: never trained on; None for no
    validation. baselines: what frames are compared with besides the render."""

    stage: StageName
    recipe: TrainingRecipe
    pairs: PairSet
    init: Path | None = None
    teacher: Path | None = None
    validation_pairs: PairSet | None = None
    device: str = "cpu"
    baselines: Mapping[str, Baseline] | None = None
