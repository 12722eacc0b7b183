"""Words about a clip: an interface, nothing by default, and one captioner.

The paper's model is trained with captions of 80 to 100 words that say nothing about camera motion.
The embedded model reads no text; whoever trains a larger one names a server that speaks the chat
protocol of OpenAI (vLLM, llama.cpp, Ollama and others serve vision models so), or passes a function
of their own from frames to words.
"""

from __future__ import annotations

import base64
import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from artifixer.runtime.errors import InputError

#: Frames of a clip -> words about the scene.
Captioner = Callable[[UInt8[Tensor, "frames height width 3"]], str]

#: Frames shown to a captioner at most; more say nothing new.
CAPTION_FRAMES = 8

#: Where the key of a server that wants one is looked for.
KEY_VARIABLE = "OPENAI_API_KEY"

#: Longest side of the pictures shown, pixels: smaller frames are enlarged to the first, larger ones
#: reduced to the second.
SHOWN_SIZES = (448, 1024)

#: Room for 100 words, with some for a model that counts badly.
CAPTION_TOKENS = 320

#: In our words, what the six rules of the paper's appendix B ask for.
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
    """server: address up to ``/v1`` of an OpenAI-compatible server; None for no captions. model:
    its name there. seconds: to wait.
    """

    server: str | None = None
    model: str = "Qwen/Qwen3-VL-30B-A3B-Instruct"
    seconds: float = 300.0


def captioner(config: CaptionConfig) -> Captioner | None:
    """The captioner of a configuration; None for none."""
    if config.server is None:
        return None
    return lambda frames: ask_server(frames, config)


def caption_clip(
    frames: UInt8[Tensor, "frames height width 3"], captioner: Captioner | None, subset: int = 0
) -> str | None:
    """The caption of a clip from a few evenly spaced frames, on one line; None without captioner,
    or when it says nothing.

    subset: which frames; 0 has the first and the last, every further number has others between
    them, as far as there are any.
    """
    if captioner is None:
        return None
    count = min(CAPTION_FRAMES, len(frames))
    chosen = torch.linspace(0, len(frames) - 1, count).round().long()
    if subset:
        # Multiples of the golden ratio's fraction never come back to the same place within a step.
        chosen = ((torch.arange(count) + subset * 0.618034 % 1) * len(frames) / count).long()
    return " ".join(captioner(frames[chosen]).split()) or None


def ask_server(frames: UInt8[Tensor, "frames height width 3"], config: CaptionConfig) -> str:
    """Words of a vision model about the frames. Raises ``InputError`` naming the server when it
    gives none.
    """
    address = f"{str(config.server).rstrip('/')}/chat/completions"
    content = [
        {"type": "text", "text": REQUEST},
        *({"type": "image_url", "image_url": {"url": _png_url(frame)}} for frame in frames),
    ]
    body = {
        "model": config.model,
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
            return str(json.load(answer)["choices"][0]["message"]["content"])
    except urllib.error.HTTPError as error:
        said = error.read(300).decode(errors="replace")
        raise InputError(
            f"{address}: {error.code} {error.reason}: {said}; expected captions from model "
            f"{config.model}"
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{address}: no caption from model {config.model}: {type(error).__name__}: {error}"
        ) from None


def _png_url(frame: UInt8[Tensor, "height width 3"]) -> str:
    from PIL import Image

    buffer, picture = io.BytesIO(), Image.fromarray(frame.numpy())
    longest = max(picture.size)
    factor = min(max(longest, SHOWN_SIZES[0]), SHOWN_SIZES[1]) / longest
    if factor != 1:
        picture = picture.resize(
            (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))),
            Image.Resampling.BICUBIC,
        )
    picture.save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
