"""Folders of pretrained networks whose settings describe more than the memory holds: refused before
anything is built.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from artifixer.runtime.errors import InputError
from artifixer.video.checkpoints.tensor_files import save_tensors
from artifixer.video.text import TextConfig, TextEncoder
from tests.video.made_models import save_text_encoder

CONFIG = TextConfig(8, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_text_encoder(tmp_path, CONFIG.width)
    return tmp_path


def encode(folder: Path) -> torch.Tensor:
    return (
        TextEncoder(folder, CONFIG, folder / "cache", dtype=torch.float32)
        .encode("a red house")
        .embedding
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 10**6},
        {"d_ff": 10**7},
        {"vocab_size": 10**9},
        {"d_kv": 10**6},
        {"d_model": "wide"},
        {"num_heads": 10**400},
        {"d_ff": [8]},
    ],
)
def test_an_encoder_larger_than_its_weights_is_refused(
    folder: Path, changes: dict[str, object]
) -> None:
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match="text encoder cannot be loaded") as caught:
        encode(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer/tokenizer_config.json", "text_encoder/config.json"])
def test_settings_that_are_all_hole_are_not_read(folder: Path, name: str) -> None:
    with (folder / name).open("wb") as file:
        file.truncate(5 * 1024**3)
    with pytest.raises(InputError, match=r"text encoder cannot be loaded: .*5,368,709,120 bytes"):
        encode(folder)


def test_a_cached_prompt_that_is_none_is_named(folder: Path) -> None:
    encode(folder)
    (cached,) = (folder / "cache").iterdir()
    good = torch.zeros(1, 3, 8)
    for tensors in (
        {"hidden": good},
        {"hidden": good[0], "cut_tokens": torch.tensor(0)},
        {"hidden": torch.full((1, 3, 8), torch.nan), "cut_tokens": torch.tensor(0)},
        {"hidden": torch.zeros(1, 9, 8), "cut_tokens": torch.tensor(0)},
        {"hidden": good, "cut_tokens": torch.zeros(2, dtype=torch.int64)},
    ):
        save_tensors(cached, tensors)
        with pytest.raises(
            InputError, match=r"safetensors: .*delete the file to have it made again"
        ):
            encode(folder)
    cached.write_bytes(b"torn")
    with pytest.raises(InputError, match="delete the file to have it made again"):
        encode(folder)
    cached.unlink()
    assert encode(folder).shape == (1, 8, 8)
