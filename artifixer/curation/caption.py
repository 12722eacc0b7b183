"""Captions of clips by a vision model; none by default.

The paper's model is trained with captions of 80 to 100 words that say nothing about camera motion
(appendix B). The embedded model reads no text. For larger models, captions come from a model that
transformers loads (``AutoModelForImageTextToText``, such as Qwen3-VL of any size), from a server
with an OpenAI-compatible chat API (vLLM, llama.cpp, Ollama and others), or from a given function of
the frames.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.runtime.extras import needs_extra
from artifixer.runtime.files import reason
from artifixer.video.checkpoints.loading import is_finite
from artifixer.video.checkpoints.pretrained import check_pretrained, check_settings_files

if TYPE_CHECKING:
    from PIL.Image import Image

#: Frames of a clip -> description of the scene.
Captioner = Callable[[UInt8[Tensor, "frames height width 3"]], str]

#: Maximum number of frames shown to a captioner.
CAPTION_FRAMES = 8

#: Environment variable of the server's API key.
KEY_VARIABLE = "OPENAI_API_KEY"

#: Longest side of the pictures shown, pixels: smaller frames are enlarged to the first, larger ones
#: reduced to the second.
SHOWN_SIZES = (448, 1024)

#: Maximum number of tokens: enough for 100 words, with a margin.
CAPTION_TOKENS = 320

#: Name of the paper's captioner on servers.
PAPER_CAPTIONER = "Qwen/Qwen3-VL-30B-A3B-Instruct"

#: Lengths of texts and base frequencies in a vision model's configuration, which are larger than
#: any side of its weights.
LARGEST_POSITIONS = 1 << 30

#: Prompt with the six rules of the paper's appendix B, in other words.
REQUEST = (
    "These pictures were taken in one place, in this order. Write one paragraph that describes the "
    "place.\n"
    "1. Begin with the main subject and describe closely how it looks, what it does or expresses "
    "if alive, and what is around it.\n"
    "2. Do not mention a camera, its movement, its angle or the kind of shot, nor pictures or "
    "frames.\n"
    "3. If something moves by itself, say how in plain verbs that suit it; add no movement that "
    "the pictures do not show.\n"
    "4. Name what can be seen in detail: objects, clothes, materials, colours, light, background "
    "and style.\n"
    "5. Use 80 to 100 words.\n"
    "6. Write in English, whatever language appears in the pictures.\n"
    "Answer with the description alone."
)


@dataclass(frozen=True)
class CaptionConfig:
    """Settings of captions."""

    server: str | None = None
    """Address up to ``/v1`` of an OpenAI-compatible server; None for no server."""
    model: str | None = None
    """With a server, the model's name there, None for the paper's; otherwise a folder or hub name
    for transformers, None for no captions."""
    seconds: float = 300.0
    """Timeout of a request to the server."""


def captioner(config: CaptionConfig, device: str = "cpu") -> Captioner | None:
    """The captioner of a configuration; None for none. device: of a local model. Raises
    ``InputError`` as ``local_captioner`` does.
    """
    if config.server is not None:
        return lambda frames: ask_server(frames, config)
    return None if config.model is None else local_captioner(config.model, device)


def check_captioner(config: CaptionConfig) -> None:
    """Raise ``InputError`` for a local model that is no captioner according to its settings."""
    if config.server is None and config.model is not None:
        _processor(config.model)


def caption_clip(
    frames: UInt8[Tensor, "frames height width 3"], captioner: Captioner | None, subset: int = 0
) -> str | None:
    """The caption of a clip from a few evenly spaced frames, on one line; None without captioner,
    or if the caption is empty.

    subset: which frames. 0 includes the first and the last one; each further number selects others
    between them, as far as there are any.
    """
    if captioner is None:
        return None
    count = min(CAPTION_FRAMES, len(frames))
    chosen = torch.linspace(0, len(frames) - 1, count).round().long()
    if subset:
        # Multiples of the golden ratio's fraction shift every subset by another part of a step.
        chosen = ((torch.arange(count) + subset * 0.618034 % 1) * len(frames) / count).long()
    return " ".join(captioner(frames[chosen]).split()) or None


# A model of transformers --------------------------------------------------------------------------


@functools.cache
def local_captioner(name: str, device: str = "cpu") -> Captioner:
    """A vision model of transformers, by folder or hub name, with greedy decoding: the same frames
    give the same caption.

    bfloat16 on a GPU. Raises ``InputError`` when it cannot be loaded or has no chat template.
    """
    with needs_extra("wan", f"caption model {name}"):
        from transformers import AutoModelForImageTextToText

    processor = _processor(name)
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    if Path(name).is_dir():
        check_pretrained(Path(name), dict.fromkeys(("position", "theta"), LARGEST_POSITIONS))
    try:
        # Weights in safetensors alone, and no code that a folder brings.
        model: Any = AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # safetensors and transformers raise errors of their own
        raise InputError(f"captioner {name}: {reason(error)}") from error
    broken = next(
        (key for key, tensor in model.state_dict().items() if not is_finite(tensor)), None
    )
    if broken is not None:
        raise InputError(
            f"captioner {name}: {broken} holds values that are not finite, expected numbers"
        )
    model = model.eval().to(device)
    model.generation_config.update(
        do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=CAPTION_TOKENS
    )

    def words(frames: UInt8[Tensor, "frames height width 3"]) -> str:
        pictures = [{"type": "image", "image": _shown(frame)} for frame in frames]
        content = [*pictures, {"type": "text", "text": REQUEST}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        ).to(device, dtype)  # fmt: skip
        with torch.no_grad():
            answer = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        text = processor.tokenizer.decode(answer, skip_special_tokens=True)
        return _whole_sentences(text) if len(answer) >= CAPTION_TOKENS else text

    return words


@functools.cache
def _processor(name: str) -> Any:
    """The model's processor, without its video processor where that cannot be loaded.

    Processors of models that read videos too (Qwen-VL) load a video processor, which needs
    torchvision. Pictures do not need it: with the tokenizer and transformers' image processor for
    Pillow, the same class builds the same inputs. Raises ``InputError`` when it cannot be loaded or
    has no chat template.
    """
    with needs_extra("wan", f"caption model {name}"):
        from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    if Path(name).is_dir():
        check_settings_files(Path(name))
    try:
        try:
            processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        except ImportError:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            whole = PROCESSOR_MAPPING[type(config)]

            class PicturesAlone(whole):  # type: ignore[misc,valid-type]
                """transformers takes the parts of a processor from the parameters of its
                ``__init__``; ``video_processor`` is left out here.
                """

                def __init__(
                    self, image_processor: Any, tokenizer: Any, chat_template: str | None
                ) -> None:
                    super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

            images = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            processor = PicturesAlone(images, tokenizer, tokenizer.chat_template)
    except Exception as error:  # tokenizers and transformers raise errors of their own
        raise InputError(f"captioner {name}: {reason(error)}") from error
    if getattr(processor, "chat_template", None) is None:
        raise InputError(
            f"captioner {name}: has no chat template; expected an instruction-tuned vision model"
        )
    return processor


def _whole_sentences(text: str) -> str:
    """A truncated text without its unfinished last sentence; unchanged if it has one sentence
    only.
    """
    ends = [match.end() for match in re.finditer(r"[.!?][\"')\]]*(?=\s|$)", text)]
    return text[: ends[-1]] if ends else text


# A server -----------------------------------------------------------------------------------------


def ask_server(frames: UInt8[Tensor, "frames height width 3"], config: CaptionConfig) -> str:
    """A vision model's description of the frames. Raises ``InputError`` naming the server when it
    returns none.
    """
    address = f"{str(config.server).rstrip('/')}/chat/completions"
    content = [
        {"type": "text", "text": REQUEST},
        *({"type": "image_url", "image_url": {"url": _png_url(frame)}} for frame in frames),
    ]
    model = config.model or PAPER_CAPTIONER
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "seed": 0,
        "max_tokens": CAPTION_TOKENS,
    }
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY_VARIABLE):
        headers["Authorization"] = f"Bearer {key}"
    try:
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=config.seconds) as answer:
            choice = json.load(answer)["choices"][0]
            text = choice["message"]["content"]
            if not isinstance(text, str):
                raise TypeError(f"content is {type(text).__name__}, expected text")
            return _whole_sentences(text) if choice.get("finish_reason") == "length" else text
    except urllib.error.HTTPError as error:
        said = error.read(300).decode(errors="replace")
        raise InputError(
            f"{address}: {error.code} {error.reason}: {said}; expected captions from model {model}"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{address}: no caption from model {model}: {type(error).__name__}: {error}"
        ) from None


def _png_url(frame: UInt8[Tensor, "height width 3"]) -> str:
    buffer = io.BytesIO()
    _shown(frame).save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _shown(frame: UInt8[Tensor, "height width 3"]) -> Image:
    """The frame as captioners receive it, with its longest side within ``SHOWN_SIZES``."""
    from PIL import Image

    picture = Image.fromarray(frame.numpy())
    longest = max(picture.size)
    factor = min(max(longest, SHOWN_SIZES[0]), SHOWN_SIZES[1]) / longest
    if factor == 1:
        return picture
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)
