"""The settings of all stages (``TrainingRecipe``), and of one training (``TrainingJob``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from artifixer.pairs.loader import PairSet
from artifixer.training.autoencoder import AutoencoderTraining
from artifixer.training.choices import StageName as StageName
from artifixer.training.flow_matching import FlowMatchingTraining
from artifixer.training.loop import LoopConfig
from artifixer.training.parallel import ParallelConfig
from artifixer.training.self_forcing import SelfForcingTraining
from artifixer.training.validation import Baseline, ValidationConfig
from artifixer.video.model import ModelConfig


@dataclass(frozen=True)
class TrainingRecipe:
    """All settings of a training besides pairs and initial weights."""

    model: ModelConfig
    """Architecture of the model, and its settings for inference."""

    autoencoder: AutoencoderTraining
    """Stage ``autoencoder``."""

    autoencoder_loop: LoopConfig
    """Loop of this stage."""

    bidirectional: FlowMatchingTraining
    """Stage ``bidirectional``: the teacher."""

    bidirectional_loop: LoopConfig
    """Loop of this stage."""

    diffusion_forcing: FlowMatchingTraining
    """Stage ``diffusion_forcing``: the causal model."""

    diffusion_forcing_loop: LoopConfig
    """Loop of this stage."""

    self_forcing: SelfForcingTraining
    """Stage ``self_forcing``: the few-step generator."""

    self_forcing_loop: LoopConfig
    """Loop of this stage."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Processes and devices, for all stages."""

    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Validation of all stages but the autoencoder's."""

    bidirectional_validation: ValidationConfig | None = None
    """Validation of the bidirectional stage, such as by the teacher's sampler; None for
    ``validation``."""

    def loop(self, stage: StageName) -> LoopConfig:
        """The loop's settings of a stage."""
        found: LoopConfig = getattr(self, f"{stage}_loop")
        return found

    def validation_name(
        self, stage: StageName
    ) -> Literal["validation", "bidirectional_validation"]:
        """Name of the field with the stage's validation settings."""
        is_own = stage == "bidirectional" and self.bidirectional_validation is not None
        return "bidirectional_validation" if is_own else "validation"


@dataclass(frozen=True)
class TrainingJob:
    """One training."""

    stage: StageName
    """Stage to train."""

    recipe: TrainingRecipe
    """Settings."""

    pairs: PairSet
    """Training pairs."""

    init: Path | None = None
    """Model folder or run folder of the initial model; None for random weights."""

    teacher: Path | None = None
    """Model folder or run folder of the bidirectional model, for self forcing."""

    validation_pairs: PairSet | None = None
    """Pairs that are not trained on; None for no validation."""

    device: str = "cpu"
    """Device of the first process, such as ``cuda``."""

    baselines: Mapping[str, Baseline] | None = None
    """Methods that validation measures besides the render, by name."""
