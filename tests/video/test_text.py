"""Prompts: against transformers' own call, and the cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from artifixer.runtime.errors import InputError
from artifixer.video.text import TextConfig, TextEncoder, cleaned, no_prompt
from tests.video.made_models import save_text_encoder

CONFIG = TextConfig(tokens=8, width=16)

#: The padded call sums attention over masked zeros too: another order of rounding.
PADDING_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    save_text_encoder(folder, CONFIG.width)
    return folder


def encoder(folder: Path, cache: Path, config: TextConfig = CONFIG) -> TextEncoder:
    return TextEncoder(folder, config, cache, dtype=torch.float32)


def test_equals_the_masked_padded_call_with_zeros_behind(wan_folder: Path, tmp_path: Path):
    from transformers import AutoTokenizer, UMT5EncoderModel

    embedding = encoder(wan_folder, tmp_path).encode("a red house").embedding
    tokenizer = AutoTokenizer.from_pretrained(wan_folder / "tokenizer")
    network = UMT5EncoderModel.from_pretrained(wan_folder / "text_encoder")
    inputs = tokenizer("a red house", padding="max_length", max_length=8, return_tensors="pt")
    with torch.no_grad():
        hidden = network(inputs.input_ids, inputs.attention_mask).last_hidden_state
    assert inputs.attention_mask.sum() == 4
    torch.testing.assert_close(embedding[:, :4], hidden[:, :4], rtol=0, atol=PADDING_TOLERANCE)
    assert embedding.shape == (1, 8, 16)
    assert (embedding[:, 4:] == 0).all()
    assert (embedding[:, :4].abs().sum(-1) > 0).all()


def test_a_known_prompt_needs_no_encoder(wan_folder: Path, tmp_path: Path):
    first = encoder(wan_folder, tmp_path).encode("the sea")
    again = encoder(wan_folder, tmp_path)
    assert torch.equal(again.encode("  the \n sea ").embedding, first.embedding)
    assert again._loaded is None
    assert len(list(tmp_path.iterdir())) == 1
    again.encode("a house")
    assert again._loaded is not None
    assert len(list(tmp_path.iterdir())) == 2


def test_the_cache_tells_models_apart(wan_folder: Path, tmp_path: Path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(wan_folder, other)
    keys = {
        encoder(wan_folder, tmp_path).key("sea"),
        encoder(other, tmp_path).key("sea"),
        encoder(wan_folder, tmp_path, TextConfig(tokens=9, width=16)).key("sea"),
        TextEncoder(wan_folder, CONFIG, tmp_path).key("sea"),
        encoder(wan_folder, tmp_path).key("house"),
    }
    (other / "text_encoder" / "model.safetensors").write_bytes(b"other weights")
    keys.add(encoder(other, tmp_path).key("sea"))
    assert len(keys) >= 5  # a copy that keeps its times is the same model


def test_long_prompts_are_cut_and_say_by_how_much(wan_folder: Path, tmp_path: Path):
    short = encoder(wan_folder, tmp_path).encode("a red house")
    assert short.warning is None
    for _ in range(2):  # computed, then from the cache
        long = encoder(wan_folder, tmp_path).encode(
            "a red house beside the red sea the sea the sea"
        )
        assert long.cut_tokens == 4
        assert long.warning is not None
        assert "the last 4 tokens were cut" in long.warning
        assert (long.embedding.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_no_prompt_is_zeros(wan_folder: Path, tmp_path: Path, prompt: str):
    encoded = encoder(wan_folder, tmp_path).encode(prompt)
    assert torch.equal(encoded.embedding, no_prompt(CONFIG).embedding)
    assert not encoded.embedding.any()


def test_prompts_are_cleaned():
    assert cleaned("  a&amp;amp;b\u00a0 \t caf\u00c3\u00a9 ") == "a&b café"


def test_unusable_folders_are_named(wan_folder: Path, tmp_path: Path):
    import shutil

    with pytest.raises(InputError, match=r"text_encoder/config\.json: does not exist"):
        TextEncoder(tmp_path, CONFIG)
    with pytest.raises(InputError, match="embeddings of width 16; the video model expects 32"):
        encoder(wan_folder, tmp_path, TextConfig(tokens=8, width=32)).encode("sea")
    broken = tmp_path / "broken"
    shutil.copytree(wan_folder, broken)
    weights = broken / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="text encoder cannot be loaded"):
        encoder(broken, tmp_path).encode("sea")


def test_a_damaged_cache_file_is_named(wan_folder: Path, tmp_path: Path):
    encoder(wan_folder, tmp_path).encode("sea")
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"not tensors")
    with pytest.raises(InputError, match="delete the file"):
        encoder(wan_folder, tmp_path).encode("sea")
