"""The public release's checkpoint: the transformer's tensors in one ``.pt`` file or in a sharded
checkpoint of ``torch.distributed.checkpoint``, float32 or bfloat16, with Wan's ``vae/`` beside it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import atomic_path
from artifixer.runtime.json_io import is_whole
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.checkpoints.release_names import release_name
from artifixer.video.checkpoints.tensor_files import open_tensors
from artifixer.video.checkpoints.wan import WAN_HEAD_WIDTH, wan_transformer, with_wan_vae
from artifixer.video.config_json import MAX_DEPTH, MAX_WIDTH
from artifixer.video.transformer import VideoTransformer
from artifixer.video.vae import VaeConfig


def release_files(checkpoint: Path) -> ModelFiles:
    """The release's transformer in a ``.pt`` file or a sharded checkpoint, with Wan's autoencoder
    beside it or in the sharded checkpoint's folder. The architecture follows from the shapes.
    """
    shapes = open_tensors(checkpoint).shapes
    try:
        width, frequency_width = shapes["condition_embedder.time_embedder.linear_1.weight"]
        layers = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
        transformer = replace(
            wan_transformer(
                width,
                shapes["blocks.0.ffn.net.0.proj.weight"][0],
                max(1, width // WAN_HEAD_WIDTH),
                layers,
            ),
            latent_channels=shapes["patch_embedding.weight"][1],
            text_width=shapes["condition_embedder.text_embedder.linear_1.weight"][1],
            frequency_width=frequency_width,
        )
        bounds = (
            transformer.width,
            transformer.ffn_width,
            transformer.text_width,
            transformer.latent_channels,
        )
        if layers > min(MAX_DEPTH, len(shapes)) or not all(
            is_whole(value, 1, MAX_WIDTH) for value in bounds
        ):
            raise ValueError(f"{layers} layers, widths {bounds}")
    except (LookupError, ValueError, AssertionError, TypeError) as error:
        raise InputError(
            f"{checkpoint}: {len(shapes)} tensors, but not those of a transformer of the public "
            f"release ({error})"
        ) from error
    folder = checkpoint if (checkpoint / "vae").is_dir() else checkpoint.parent
    return with_wan_vae(folder, checkpoint.stem, transformer, checkpoint, "release")


def save_release_checkpoint(path: Path, files: ModelFiles, dtype: torch.dtype | None) -> None:
    """Write the transformer in the public release's format. A conversion to another ``dtype`` needs
    memory for all converted weights.
    """
    config, network = files.config, files.config.transformer
    has_their_parts = (
        network.conditioning_place == "before_attention" and not network.noise_free_skip
    )
    is_theirs = has_their_parts and network.head_width == WAN_HEAD_WIDTH
    if not is_theirs or not isinstance(config.vae, VaeConfig):
        raise InputError(
            f"{path}: model {config.name} is not of the public release's architecture; expected a "
            "folder, not a .pt file"
        )
    if path.exists():
        raise InputError(f"{path}: exists; expected a new file")
    with torch.device("meta"):
        transformer: nn.Module = VideoTransformer(network)
    files.fill_transformer(transformer, "cpu", dtype)
    with atomic_path(path) as temporary:
        torch.save(
            {release_name(name): tensor for name, tensor in transformer.state_dict().items()},
            temporary,
        )
