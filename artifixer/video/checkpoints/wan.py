"""Wan 2.1 text-to-video models in diffusers' layout: ``transformer/`` and ``vae/``, each with a
config and one or more safetensors files, and ``text_encoder/`` and ``tokenizer/``.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import as_object, is_whole, read_json, shown
from artifixer.video.checkpoints.files import ModelFiles, text_folder
from artifixer.video.config_json import MAX_DEPTH, MAX_WIDTH, take_fields
from artifixer.video.model import ModelConfig
from artifixer.video.transformer_config import VideoTransformerConfig
from artifixer.video.vae import VaeConfig

#: Head width of all Wan 2.1 models; it does not follow from the shapes in the release's ``.pt``.
WAN_HEAD_WIDTH = 128

#: Maximum values in the configuration of a Wan transformer.
WAN_BOUNDS = {
    "num_attention_heads": 256,
    "attention_head_dim": 1024,
    "num_layers": MAX_DEPTH,
    **dict.fromkeys(("ffn_dim", "in_channels", "text_dim", "freq_dim"), MAX_WIDTH),
}


def wan_transformer(width: int, ffn_width: int, heads: int, layers: int) -> VideoTransformerConfig:
    """The architecture of a Wan 2.1 text-to-video model with the release's added layers."""
    return VideoTransformerConfig(
        width=width,
        ffn_width=ffn_width,
        heads=heads,
        layers=layers,
        latent_channels=16,
        text_width=4096,
        text_tokens=512,
        frequency_width=256,
    )


def wan_files(folder: Path) -> ModelFiles:
    """The parts of a Wan 2.1 folder of diffusers."""
    path = folder / "transformer" / "config.json"
    content = as_object(read_json(path), path)
    for key, expected in (
        ("patch_size", [1, 2, 2]),
        ("image_dim", None),
        ("qk_norm", "rms_norm_across_heads"),
        ("cross_attn_norm", True),
    ):
        if content.get(key, expected) != expected:
            raise InputError(
                f"{path}: {key} = {shown(content[key])}, expected {expected!r}; only Wan 2.1 "
                "text-to-video models are known"
            )
    for key, bound in WAN_BOUNDS.items():
        if key in content and not is_whole(content[key], 1, bound):
            raise InputError(
                f"{path}: {key} = {shown(content[key])}, expected a whole number up to {bound:,}"
            )
    try:
        transformer = replace(
            wan_transformer(
                width=content["num_attention_heads"] * content["attention_head_dim"],
                ffn_width=content["ffn_dim"],
                heads=content["num_attention_heads"],
                layers=content["num_layers"],
            ),
            latent_channels=content["in_channels"],
            text_width=content["text_dim"],
            frequency_width=content["freq_dim"],
        )
    except KeyError as error:
        raise InputError(
            f"{path}: lacks {error}; expected the configuration of a Wan transformer"
        ) from error
    except AssertionError as error:
        raise InputError(f"{path}: {error}") from error
    return with_wan_vae(folder, folder.name, transformer, folder / "transformer", "wan")


def with_wan_vae(
    folder: Path,
    name: str,
    transformer: VideoTransformerConfig,
    weights: Path,
    format_: Literal["release", "wan"],
) -> ModelFiles:
    """The parts of a model with Wan's autoencoder and text encoder from ``folder``."""
    path = folder / "vae" / "config.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: has no vae/; expected Wan 2.1's autoencoder there (vae/ of "
            "Wan-AI/Wan2.1-T2V-14B-Diffusers)"
        )
    content = as_object(read_json(path), path)
    content["temporal_downsample"] = content.pop("temperal_downsample", None)  # diffusers' spelling
    if content.get("attn_scales"):
        raise InputError(f"{path}: attn_scales = {shown(content['attn_scales'])}, expected none")
    known = {
        key: value
        for key, value in content.items()
        if key in {field.name for field in fields(VaeConfig)} and value is not None
    }
    try:
        vae = VaeConfig(**take_fields(path, known, VaeConfig, ""))
        transformer = replace(
            transformer, spatial_factor=vae.spatial_factor, temporal_factor=vae.temporal_factor
        )
        config = ModelConfig(name, transformer, vae)
    except (AssertionError, ArithmeticError) as error:
        raise InputError(f"{path}: {error}") from error
    return ModelFiles(config, weights, folder / "vae", text_folder(folder), format_)
