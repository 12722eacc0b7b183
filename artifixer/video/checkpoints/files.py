"""Locations of a model's parts in any format, and the identity of its weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import open_regular
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.seeds import generator
from artifixer.video.checkpoints.loading import check_fit, load_into
from artifixer.video.checkpoints.release_names import our_name
from artifixer.video.checkpoints.tensor_files import StoredTensors, open_tensors
from artifixer.video.config_json import flat_config
from artifixer.video.model import ModelConfig, no_text_encoder
from artifixer.video.transformer import VideoTransformer
from artifixer.video.vae import build_vae

#: Number and size of the pieces of a large file of weights that are hashed for its identity.
HASHED_PIECES, PIECE_BYTES = 64, 1 << 16

#: Parts of a Wan folder that read prompts.
TEXT_PARTS = ("text_encoder", "tokenizer")


@dataclass(frozen=True)
class ModelFiles:
    """Locations of a model's parts, and their format: ours, the release's, or Wan 2.1's."""

    config: ModelConfig
    transformer: Path
    vae: Path
    text_encoder: Path | None
    format: Literal["ours", "release", "wan"] = "ours"

    @property
    def identity(self) -> str:
        """Hash of architecture and weights."""
        return fingerprint(
            flat_config(self.config), weights_key(self.transformer), weights_key(self.vae)
        )

    def check_prompt(self, prompt: str) -> None:
        """Raise ``InputError`` for a prompt to a model without a text encoder."""
        if prompt.strip() and self.text_encoder is None:
            raise InputError(no_text_encoder(self.config))

    def check_weights(self) -> None:
        """Raise ``InputError`` unless the files are complete and the names and shapes of their
        tensors are exactly the model's; reads no tensor.
        """
        stored, vae = self.open_transformer(), open_tensors(self.vae)
        with torch.device("meta"):
            transformer = VideoTransformer(self.config.transformer)
        check_fit(transformer, stored, may_lack_added=self.format == "wan")
        check_fit(build_vae(self.config.vae, "meta").network, vae)

    def open_transformer(self) -> StoredTensors:
        """The transformer's tensors by their names in ``VideoTransformer``. ``InputError`` when
        there are fewer tensors than layers.
        """
        stored = open_tensors(self.transformer)
        if self.config.transformer.layers > len(stored.shapes):
            raise InputError(
                f"{self.transformer}: {len(stored.shapes)} tensors do not fit a model of "
                f"{self.config.transformer.layers} layers"
            )
        return stored if self.format == "ours" else stored.renamed(our_name)

    def fill_transformer(
        self,
        transformer: nn.Module,
        device: torch.device | str,
        dtype: torch.dtype | None,
        seed: int = 0,
    ) -> None:
        """Load the weights into a transformer without values. Layers that Wan 2.1 lacks are
        initialised as in the paper, with random numbers from ``seed``.
        """
        added = generator(seed, "layers added to Wan") if self.format == "wan" else None
        load_into(transformer, self.open_transformer(), device, dtype, added)


def weights_key(path: Path) -> str:
    """Hash of a file of weights, or of all files in a folder; of large files only
    ``HASHED_PIECES`` pieces are read.
    """
    digest = hashlib.sha256()
    files = (
        sorted(filter(Path.is_file, path.iterdir()))
        if path.is_dir()
        else sorted(path.parent.glob(f"{path.stem}*{path.suffix}"))
    )
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with open_regular(file, "weights") as content:
            if size <= HASHED_PIECES * PIECE_BYTES:
                digest.update(content.read())
                continue
            for piece in range(HASHED_PIECES):
                content.seek(piece * (size - PIECE_BYTES) // (HASHED_PIECES - 1))
                digest.update(content.read(PIECE_BYTES))
    return digest.hexdigest()


def text_folder(folder: Path, is_wanted: bool = True) -> Path | None:
    """The folder if it contains all ``TEXT_PARTS`` and they are wanted, else None."""
    return folder if is_wanted and all((folder / part).is_dir() for part in TEXT_PARTS) else None
