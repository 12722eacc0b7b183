"""Our model folder: a flat ``config.json``, ``transformer.safetensors`` and ``vae.safetensors``
(each possibly in several parts), and ``text_encoder/`` and ``tokenizer/`` where the model takes
prompts.
"""

from __future__ import annotations

from pathlib import Path

import torch

from artifixer.runtime.json_io import write_json
from artifixer.runtime.system import link_or_copy, remove_link_or_copy
from artifixer.video.checkpoints.files import TEXT_PARTS, ModelFiles, text_folder
from artifixer.video.checkpoints.tensor_files import save_part
from artifixer.video.config_json import flat_config, read_config
from artifixer.video.model import Model


def our_files(folder: Path) -> ModelFiles:
    """The parts of our model folder, which has a ``config.json``."""
    config = read_config(folder / "config.json")
    return ModelFiles(
        config,
        folder / "transformer.safetensors",
        folder / "vae.safetensors",
        text_folder(folder, config.takes_text),
    )


def save_model(
    folder: Path, model: Model, dtype: torch.dtype | None = None, part_bytes: int | None = None
) -> None:
    """Write our model folder. dtype: of the weights on disk; None keeps theirs. part_bytes: maximum
    size of a file, unless a single tensor is larger; None for one file per part.
    """
    save_part(folder, "transformer", model.transformer.state_dict(), dtype, part_bytes)
    save_part(folder, "vae", model.vae.network.state_dict(), dtype, part_bytes)
    write_json(folder / "config.json", flat_config(model.config))


def link_text_encoder(folder: Path, source: Path) -> None:
    """Link the text encoder of the folder ``source`` into a model folder: it is large and never
    trained.
    """
    for part in TEXT_PARTS:
        link = folder / part
        remove_link_or_copy(link)
        link_or_copy(source / part, link)
