"""Text embeddings of prompts, with a cache on disk.

In: a prompt. Out: an embedding ``[1 tokens width]``: UMT5's last hidden states of the prompt's
tokens, then zeros (paper section 4.1). The encoder is larger than most video models, so it is
loaded only for prompts that are not in the cache, whose keys are hashes of the prompt and the
encoder's weights. No prompt is represented by zeros, not by the embedding of an empty text.
"""

from __future__ import annotations

import html
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.extras import needs_extra
from artifixer.runtime.files import PARSER_ERRORS, atomic_path, reason
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.json_io import as_object, is_whole, read_json, shown
from artifixer.video.checkpoints.loading import is_finite
from artifixer.video.checkpoints.pretrained import check_pretrained, check_settings_files
from artifixer.video.checkpoints.tensor_files import open_tensors

#: Part of the cache's key: increase it when the embeddings change for the same prompt and weights.
CACHE_VERSION = 1


#: The standard negative prompt of Wan 2.1.
WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"  # noqa: RUF001
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"  # noqa: RUF001
)


@dataclass(frozen=True)
class TextConfig:
    """Shape of the text embeddings."""

    tokens: int = 512
    """Number of tokens; longer prompts are truncated."""

    width: int = 4096
    """Width of a token's embedding, a property of the encoder."""


@dataclass(frozen=True)
class EncodedPrompt:
    """The embedding of a prompt."""

    embedding: Float[Tensor, "1 text_tokens text_width"]
    """Zeros after the prompt's own tokens."""

    cut_tokens: int = 0
    """Number of the prompt's tokens that were truncated."""

    @property
    def warning(self) -> str | None:
        """A message for the user if the prompt was truncated, else None."""
        if not self.cut_tokens:
            return None
        were = "was" if self.cut_tokens == 1 else "were"
        return (
            f"prompt too long: the last {counted(self.cut_tokens, 'token')} {were} cut, the model "
            f"reads {self.embedding.shape[1]}"
        )


def no_prompt(
    config: TextConfig, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> EncodedPrompt:
    """The embedding of no prompt, and the only one of a model without a text encoder."""
    return EncodedPrompt(torch.zeros(1, config.tokens, config.width, device=device, dtype=dtype))


class TextEncoder:
    """A UMT5 encoder in a folder of a Wan 2.1 model (``text_encoder/`` and ``tokenizer/``), loaded
    on first use.
    """

    def __init__(
        self,
        folder: Path,
        config: TextConfig,
        cache: Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """cache: folder of the cached embeddings; ``default_cache()`` when None. device, dtype: of
        the encoder.
        """
        self.folder, self.config = folder, config
        self._cache, self._device, self._dtype = cache, device, dtype
        self._loaded: tuple[Any, Any] | None = None
        for part in ("text_encoder/config.json", "tokenizer"):
            if not (folder / part).exists():
                raise InputError(
                    f"{folder / part}: does not exist; expected a Wan 2.1 folder with "
                    "text_encoder/ and tokenizer/"
                )

    def encode(self, prompt: str) -> EncodedPrompt:
        """The prompt's embedding in float32 on the CPU, from the cache if possible. An empty prompt
        is no prompt.

        Raises ``InputError`` when the encoder cannot be loaded or has another width than the model
        expects.
        """
        prompt = cleaned(prompt)
        if not prompt:
            return no_prompt(self.config)
        path = (self._cache or default_cache()) / f"{self.key(prompt)}.safetensors"
        if not path.is_file():
            _write(path, self._encode(prompt))
        return self._read(path)

    def unload(self) -> None:
        """Free the encoder's memory; it is loaded again for the next uncached prompt."""
        self._loaded = None

    def key(self, prompt: str) -> str:
        """Cache key of a prompt: hash of prompt, settings, dtype and identity of the weights."""
        weights = [
            # files of the hub's cache are links to files named by a hash of their content
            (part, path.name, path.resolve().name, path.stat().st_size)
            for part in ("text_encoder", "tokenizer")
            for path in sorted((self.folder / part).iterdir())
            if path.is_file()
        ]
        changed = [
            path.stat().st_mtime_ns
            for path in sorted((self.folder / "text_encoder").iterdir())
            if path.exists()
        ]
        return fingerprint(CACHE_VERSION, prompt, self.config, str(self._dtype), weights, changed)

    def _encode(self, prompt: str) -> EncodedPrompt:
        tokenizer, network = self._load()
        limited: dict[str, Any] = {"truncation": True, "max_length": self.config.tokens}
        try:
            ids = tokenizer(
                prompt, add_special_tokens=True, truncation=False, return_tensors="pt"
            ).input_ids
            kept = tokenizer(
                prompt, add_special_tokens=True, return_tensors="pt", **limited
            ).input_ids
            # Padding to full length under a mask would give the same values for these tokens but
            # take longer.
            with torch.no_grad():
                hidden = network(kept.to(self._device)).last_hidden_state.to("cpu", torch.float32)
        except PARSER_ERRORS as error:
            # the library detects some inconsistent settings only here
            raise InputError(
                f"{self.folder}: the text encoder cannot read a prompt: {reason(error)}"
            ) from error
        if not is_finite(hidden):
            raise InputError(
                f"{self.folder}: the text encoder gives values that are not finite for a prompt"
            )
        encoded = no_prompt(self.config)
        encoded.embedding[:, : hidden.shape[1]] = hidden
        return EncodedPrompt(encoded.embedding, ids.shape[1] - kept.shape[1])

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            with needs_extra("wan", "Wan's text encoder"):
                from transformers import AutoTokenizer, UMT5EncoderModel

            try:
                self._check_weights()
                # Only local safetensors files, and no code from the folder.
                safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
                tokenizer = AutoTokenizer.from_pretrained(self.folder / "tokenizer", **safe)
                network = UMT5EncoderModel.from_pretrained(
                    self.folder / "text_encoder",
                    dtype=self._dtype,
                    use_safetensors=True,
                    local_files_only=True,
                )
            except Exception as error:  # the tokenizers library raises bare Exception
                raise InputError(
                    f"{self.folder}: text encoder cannot be loaded: {reason(error)}"
                ) from error
            broken = next(
                (name for name, tensor in network.state_dict().items() if not is_finite(tensor)),
                None,
            )
            if broken is not None:
                raise InputError(
                    f"{self.folder / 'text_encoder'}: {broken} holds values that are not finite, "
                    "expected numbers"
                )
            if network.config.d_model != self.config.width:
                expected = f"the video model expects {self.config.width}"
                raise InputError(
                    f"{self.folder / 'text_encoder'}: embeddings of width "
                    f"{network.config.d_model}; {expected}"
                )
            self._loaded = tokenizer, network.eval().requires_grad_(False).to(self._device)
        return self._loaded

    def _check_weights(self) -> None:
        """Raise ``InputError`` when the encoder's config describes a larger network than its
        weights.
        """
        folder = self.folder / "text_encoder"
        check_pretrained(folder)
        check_settings_files(self.folder / "tokenizer")
        config = as_object(read_json(folder / "config.json"), folder / "config.json")
        shapes = open_tensors(folder).shapes
        values = sum(math.prod(shape) for shape in shapes.values())
        for name in (
            "vocab_size",
            "d_model",
            "d_kv",
            "d_ff",
            "num_layers",
            "num_heads",
            "num_decoder_layers",
            "relative_attention_num_buckets",
        ):
            value = config.get(name, 1)
            if value is not None and not is_whole(value, 1, values):
                raise InputError(
                    f'{folder / "config.json"}: "{name}" is {shown(value)}; the weights beside it '
                    f"have {values:,} values"
                )
        layers, width = config.get("num_layers", 1), config.get("d_model", 1)
        if (
            layers > len(shapes)
            or config.get("vocab_size", 1) * width > values
            or layers * width * config.get("d_ff", 1) > values
        ):
            raise InputError(
                f"{folder / 'config.json'}: an encoder of {layers} layers, width {width}; the "
                f"weights have {values:,} values"
            )

    def _read(self, path: Path) -> EncodedPrompt:
        try:
            stored = open_tensors(path)
            hidden, cut = stored.read("hidden"), stored.read("cut_tokens")
        except (InputError, *PARSER_ERRORS) as error:
            raise InputError(
                f"{path}: cached prompt cannot be read: {reason(error)}; delete the file to have "
                "it made again"
            ) from error
        encoded = no_prompt(self.config)
        is_ours = (
            hidden.ndim == 3
            and hidden.dtype == torch.float32
            and hidden.shape[::2] == encoded.embedding.shape[::2]
        )
        if (
            not is_ours
            or hidden.shape[1] > self.config.tokens
            or cut.numel() != 1
            or not is_finite(hidden)
        ):
            raise InputError(
                f"{path}: holds no cached prompt of this encoder; delete the file to have it made "
                "again"
            )
        encoded.embedding[:, : hidden.shape[1]] = hidden
        return EncodedPrompt(encoded.embedding, int(cut))


def cleaned(prompt: str) -> str:
    """The prompt normalised as in the encoder's training: broken Unicode repaired, HTML entities
    resolved, whitespace collapsed.
    """
    with needs_extra("wan", "a prompt for Wan's text encoder"):
        import ftfy

    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


def default_cache() -> Path:
    """The user's cache folder for prompts: below ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "artifixer" / "prompts"
    )


def _write(path: Path, encoded: EncodedPrompt) -> None:
    # not save_file, whose temporary file would remain when the process is killed
    from safetensors.torch import save

    # trailing zeros are not stored
    tokens = int(encoded.embedding.abs().sum(dim=-1).count_nonzero())
    with atomic_path(path) as temporary:
        tensors = {
            "hidden": encoded.embedding[:, :tokens].contiguous(),
            "cut_tokens": torch.tensor(encoded.cut_tokens),
        }
        temporary.write_bytes(save(tensors))
