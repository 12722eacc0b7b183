"""Named models: descriptions, downloads, and folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from artifixer.video.checkpoints.wan import wan_transformer
from artifixer.video.model import PROMPT_MODELS, ModelConfig
from artifixer.video.transformer_config import VideoTransformerConfig
from artifixer.video.vae import VaeConfig


@dataclass(frozen=True)
class HubFiles:
    """Files to download from the Hugging Face hub."""

    repository: str
    """Name of the repository."""

    files: tuple[str, ...]
    """File names or patterns."""

    what: str
    """Part of the model."""

    size: float
    """Approximate size, gigabytes."""

    licence: str
    """Licence of the files."""

    is_optional: bool = False
    """Whether the model works without them."""


@dataclass(frozen=True)
class NamedModel:
    """A named model."""

    name: str
    """Value of ``--model``."""

    about: str
    """One-line description."""

    config: ModelConfig | None = None
    """None for an embedded model, whose folder contains it."""

    downloads: tuple[HubFiles, ...] = ()
    """Contents of its folder; empty for an embedded model."""

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return embedded_folder(self.name) if self.config is None else models_folder() / self.name


def _release(
    name: str, about: str, transformer: VideoTransformerConfig, checkpoint_size: float
) -> NamedModel:
    """A model of the public release: its transformer, and Wan's autoencoder and text encoder."""
    wan = f"Wan-AI/Wan2.1-T2V-{name.upper()}-Diffusers"
    downloads = (
        HubFiles(
            "nvidia/ArtiFixer",
            (f"artifixer-{name}.pt",),
            "transformer",
            checkpoint_size,
            "NVIDIA's, read it on the hub's page",
        ),
        HubFiles(wan, ("vae/*",), "autoencoder", 0.5, "Apache-2.0"),
        HubFiles(
            wan,
            ("text_encoder/*", "tokenizer/*"),
            "text encoder, only for prompts",
            22.7,
            "Apache-2.0",
            is_optional=True,
        ),
    )
    return NamedModel(name, about, ModelConfig(name, transformer, VaeConfig()), downloads)


#: Sizes of checkpoints are for float32; bfloat16 files are supported too and have half the size.
NAMED_MODELS: dict[str, NamedModel] = {
    "tiny": NamedModel(
        "tiny",
        "part of this package, runs on a CPU; trained by this project on procedural scenes; "
        "licence Apache-2.0",
    ),
    "1.3b": _release(
        "1.3b",
        "the public release's small model, based on Wan 2.1 1.3B",
        wan_transformer(1536, 8960, 12, 30),
        6.7,
    ),
    "14b": _release(
        "14b",
        "the public release's large model, based on Wan 2.1 14B",
        wan_transformer(5120, 13824, 40, 40),
        67.6,
    ),
}

assert (
    tuple(
        name
        for name, named in NAMED_MODELS.items()
        if named.config is not None and named.config.takes_text
    )
    == PROMPT_MODELS
)


def embedded_folder(name: str) -> Path:
    """The folder of a model in this package."""
    return Path(__file__).parents[1] / "weights" / name


def models_folder() -> Path:
    """The user's folder of downloaded models, below ``$XDG_DATA_HOME`` or ``~/.local/share``."""
    return (
        Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
        / "artifixer"
        / "models"
    )


def missing_model(named: NamedModel) -> str:
    """Error message for missing files: what to download, and where to put it."""
    if not named.downloads:
        return (
            f"--model {named.name}: {named.folder} is missing; this installation is incomplete, "
            "install the package again"
        )
    parts = [
        f"{' '.join(part.files)} of {part.repository} ({part.what}; {part.size:g} GB; licence "
        f"{part.licence})"
        for part in named.downloads
    ]
    return (
        f"--model {named.name}: its weights are not here. Download from the Hugging Face hub "
        f"{'; '.join(parts)}; "
        f"and put them into {named.folder}. --model tiny works now"
    )
