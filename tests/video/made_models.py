"""Small models with random weights, for tests of what surrounds the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from artifixer.video.model import Model, ModelConfig
from artifixer.video.model_files import random_model
from artifixer.video.small_autoencoder import SmallAutoencoderConfig
from artifixer.video.transformer_config import VideoTransformerConfig
from artifixer.video.vae import VaeConfig

#: Two layers on a small autoencoder.
SMALL = ModelConfig(
    name="small",
    transformer=VideoTransformerConfig(
        width=48,
        ffn_width=64,
        heads=2,
        layers=2,
        latent_channels=6,
        text_width=8,
        text_tokens=4,
        frequency_width=16,
        spatial_factor=4,
    ),
    vae=SmallAutoencoderConfig(width=12, depth=2, encoder_width=12, encoder_depth=2, z_dim=6),
    camera_scale="median_depth",
    takes_text=False,
    steps=2,
    block_frames=2,
    window_frames=6,
    sink_frames=2,
)

#: The same network on a small relative of Wan's autoencoder.
WAN_LIKE = replace(
    SMALL,
    name="wan-like",
    transformer=replace(SMALL.transformer, latent_channels=16, spatial_factor=8),
    vae=VaeConfig(base_dim=4, num_res_blocks=1),
    camera_scale="metric",
    takes_text=True,
)


def made_model(config: ModelConfig = SMALL, seed: int = 0, **options: Any) -> Model:
    """Random weights in every layer."""
    return random_model(config, seed, **options)


def save_text_encoder(folder: Path, width: int) -> None:
    """``text_encoder/`` and ``tokenizer/``: a tiny random UMT5 with embeddings of this width, and a
    tokenizer that knows a few words.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    words = ["<pad>", "</s>", "<unk>", "a", "red", "house", "beside", "the", "sea"]
    tokenizer = Tokenizer(
        WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = UMT5Config(
            vocab_size=len(words), d_model=width, d_kv=4, d_ff=32, num_layers=2, num_heads=2
        )
        UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
