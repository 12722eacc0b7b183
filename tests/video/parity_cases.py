"""The public release's stored cases: which ones a set has is read from its manifest, and what is
absent is skipped with a reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from artifixer.video.transformer_config import VideoTransformerConfig


def manifest_of(folder: Path) -> dict[str, Any]:
    """Sizes, architectures, and the tensors of every case."""
    return json.loads((folder / "manifest.json").read_text())


def transformer_config(manifest: dict[str, Any]) -> VideoTransformerConfig:
    """The release's architecture in our words."""
    theirs, vae = manifest["transformer"], manifest["vae"]
    return VideoTransformerConfig(
        width=theirs["num_attention_heads"] * theirs["attention_head_dim"],
        ffn_width=theirs["ffn_dim"],
        heads=theirs["num_attention_heads"],
        layers=theirs["num_layers"],
        latent_channels=theirs["in_channels"],
        text_width=theirs["text_dim"],
        frequency_width=theirs["freq_dim"],
        patch_size=theirs["patch_size"][1],
        spatial_factor=2 ** (len(vae["dim_mult"]) - 1),
        temporal_factor=2 ** sum(vae["temperal_downsample"]),
        eps=theirs["eps"],
    )


def cases_of(folder: Path, kind: str, tensors: Iterable[str] = ()) -> list[str]:
    """Names of all cases of a kind, ``b`` for b2_..., b31_... and so on, that have these tensors
    and a file; skips without any.
    """
    needed, cases = set(tensors), manifest_of(folder)["cases"]
    names = [
        name
        for name in sorted(cases)
        if re.match(rf"{kind}\d*_", name)
        and needed <= set(cases[name]["tensors"])
        and (folder / f"{name}.safetensors").is_file()
    ]
    if not names:
        pytest.skip(f"{folder}: no {kind}* files{f' with {sorted(needed)}' if needed else ''}")
    return names


def read_case(folder: Path, name: str, device: str = "cpu") -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors", device=device)


@contextmanager
def exact_products(device: str) -> Iterator[None]:
    """Products in float32 proper, which a GPU's convolutions otherwise leave out; skips without a
    GPU for ``cuda``.
    """
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield
