"""Captions of scenes: words about some of their photos, by a vision model; none by default.

The paper captions each scene several times from different subsets of its frames, in 80 to 100 words that say nothing about the camera
(appendix B). The captioner is a model that transformers loads (``AutoModelForImageTextToText``, such as Qwen3-VL of any size), or one that
a server offers by the chat protocol of OpenAI (vLLM, llama.cpp, Ollama and others), or any function from pictures to words. The embedded
model reads no text.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8

from artifixer.imaging.resize import fit_size, resize_photo
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, reason

if TYPE_CHECKING:
    from PIL.Image import Image

#: Photos of a scene, in the order of the capture -> words about the scene.
Captioner = Callable[[Sequence[UInt8[np.ndarray, "height width 3"]]], str]

#: Room for an answer: 100 English words are about 140 tokens, and some models are wordier than asked.
CAPTION_TOKENS = 384

#: The captioner of the paper (appendix B), as servers call it.
PAPER_CAPTIONER = "Qwen/Qwen3-VL-30B-A3B-Instruct"

#: Where the key of a server that wants one is looked for.
KEY_VARIABLE = "OPENAI_API_KEY"

#: What the captioner is asked: in our words, the six requirements of appendix B in their order.
REQUEST = """\
The pictures are frames of one video of a single place, in the order of time. Write the caption from which a video generator could make it.

1. Describe the main subject in detail: what it looks like, what it does, its expression if it has a face, and what surrounds it.
2. Say nothing about the camera: not how it moves, not its angle, distance or lens, and do not mention frames, pictures or a video.
3. Where things move, as people, animals, water, leaves or traffic do, name that movement with simple, direct verbs. Invent none.
4. Be specific about what can be seen: materials, colours, textures, clothing, signs, light, weather, the background.
5. Write one paragraph of 80 to 100 words.
6. Write English, whatever language appears in the frames.

An example of the style: A narrow workshop filled with morning light from a row of tall windows. \
A heavy oak bench stands along the left wall, its top scarred and stained, covered with chisels, \
wood shavings and a half-finished violin in pale spruce. An elderly man in a grey apron planes a \
thin board with calm attention, and curls of wood drop to the tiled floor. Behind him hang clamps, \
saws and patterns cut from brown paper. Dust drifts through the beams of light. The white plaster \
is cracked near the door, where a green bicycle leans.

Answer with the caption alone."""


@dataclass(frozen=True)
class CaptionConfig:
    """Who captions, and what is shown.

    server: address up to ``/v1`` of an OpenAI-compatible server, or None.
    model: the model's name there; without a server a folder or hub name for transformers; None for no captions without a server.
    count: captions per scene, each of another subset of its photos; the pairs of a scene take them in turn.
    frames: photos shown for a caption. longest_side: of these photos in pixels, at most.
    seconds: to wait for a server.
    """

    server: str | None = None
    model: str | None = None
    count: int = 1
    frames: int = 8
    longest_side: int = 768
    seconds: float = 300.0

    @property
    def is_wanted(self) -> bool:
        return self.server is not None or self.model is not None


def captioner(config: CaptionConfig, device: str = "cpu") -> Captioner | None:
    """The captioner of a configuration; None for none. device: of a local model. Raises ``InputError`` as ``local_captioner`` does."""
    if config.server is not None:
        return lambda pictures: ask_server(pictures, config)
    return None if config.model is None else local_captioner(config.model, device)


def photo_subsets(photos: int, config: CaptionConfig, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """``config.count`` subsets of the photos, each from all parts of the capture and in its order; they share no photo where there are
    enough of them."""
    parts = [rng.permutation(part) for part in np.array_split(np.arange(photos), min(config.frames, photos))]
    return [tuple(int(part[number % len(part)]) for part in parts) for number in range(config.count)]


def shown(photo: UInt8[np.ndarray, "height width 3"], longest: int) -> UInt8[np.ndarray, "shown_height shown_width 3"]:
    """The photo as a captioner gets it: its longest side at most ``longest`` pixels."""
    width, height = fit_size(photo.shape[1], photo.shape[0], longest)
    return photo if photo.shape[:2] == (height, width) else resize_photo(photo, width, height)


def caption(pictures: Sequence[UInt8[np.ndarray, "height width 3"]], captioner: Captioner) -> str | None:
    """The captioner's words on one line; None when it says nothing."""
    return " ".join(captioner(pictures).split()) or None


# A model of transformers --------------------------------------------------------------------------


@functools.cache
def local_captioner(name: str, device: str = "cpu") -> Captioner:
    """A vision model of transformers, by folder or hub name; answers greedily, so that the same pictures give the same words.

    bfloat16 on a GPU. Raises ``InputError`` when it cannot be loaded or has no chat template.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    try:
        processor = _picture_processor(name)
        # Weights in safetensors alone, and no code that a folder brings.
        model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except (*PARSER_ERRORS, ImportError, SafetensorError) as error:
        raise InputError(f"captioner {name}: {reason(error)}") from error
    if processor.chat_template is None:
        raise InputError(f"captioner {name}: has no chat template; expected an instruction-tuned vision model")
    model = model.eval().to(device)
    model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=CAPTION_TOKENS)

    def words(pictures: Sequence[UInt8[np.ndarray, "height width 3"]]) -> str:
        content = [*({"type": "image", "image": _pil(picture)} for picture in pictures), {"type": "text", "text": REQUEST}]
        messages = [{"role": "user", "content": content}]
        inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        inputs = inputs.to(device, dtype)
        with torch.no_grad():
            answer = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        text = processor.tokenizer.decode(answer, skip_special_tokens=True)
        return _whole_sentences(text) if len(answer) >= CAPTION_TOKENS else text

    return words


def _picture_processor(name: str) -> Any:
    """The model's processor; without its half for videos where that half cannot be loaded.

    Processors of models that read videos too (Qwen-VL) load a video processor, which needs torchvision. Pictures do not: with the image
    processor that transformers has for Pillow and the tokenizer, the same class makes the same inputs.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        return AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except ImportError:
        whole = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(name, trust_remote_code=False))]

    class PicturesAlone(whole):  # type: ignore[misc,valid-type]
        """What a processor consists of are the parameters of its ``__init__``: here without ``video_processor``."""

        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None) -> None:
            super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    images = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    return PicturesAlone(images, tokenizer, tokenizer.chat_template)


def _whole_sentences(text: str) -> str:
    """A text that was cut off, without its last sentence if that has no end; all of it when it has one sentence only."""
    ends = [match.end() for match in re.finditer(r"[.!?][\"')\]]*(?=\s|$)", text)]
    return text[: ends[-1]] if ends else text


# A server -----------------------------------------------------------------------------------------


def ask_server(pictures: Sequence[UInt8[np.ndarray, "height width 3"]], config: CaptionConfig) -> str:
    """Words of a vision model about the pictures. Raises ``InputError`` naming the server when it gives none."""
    address = f"{str(config.server).rstrip('/')}/chat/completions"
    model = config.model or PAPER_CAPTIONER
    content = [*({"type": "image_url", "image_url": {"url": _png_url(picture)}} for picture in pictures), {"type": "text", "text": REQUEST}]
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
        raise InputError(f"{address}: {error.code} {error.reason}: {said}; expected captions from model {model}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{address}: no caption from model {model}: {type(error).__name__}: {error}") from None


def _png_url(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    buffer = io.BytesIO()
    _pil(picture).save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _pil(picture: UInt8[np.ndarray, "height width 3"]) -> Image:
    from PIL import Image

    return Image.fromarray(picture)
