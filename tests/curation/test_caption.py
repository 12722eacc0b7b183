"""Captions: none by default, subsets of a scene's photos at a size that shows something, a local vision model, and a chat server."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vision_model import IMAGE_TOKEN, save_vision_model

from artifixer.curation.caption import (
    CAPTION_TOKENS,
    PAPER_CAPTIONER,
    REQUEST,
    CaptionConfig,
    caption,
    captioner,
    local_captioner,
    photo_subsets,
    shown,
)
from artifixer.runtime.errors import InputError

PICTURES = list(np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8))


class Server(HTTPServer):
    """Answers with ``answer`` and keeps what it was asked."""

    answer: tuple[int, object] = (200, {"choices": [{"message": {"content": "A room.\n  It is  blue."}}]})
    asked: list[tuple[str, str | None, dict]]  # type: ignore[type-arg]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        code, answer = self.server.answer
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asking(server: Server) -> CaptionConfig:
    return CaptionConfig(server.address, "eye")


def test_there_is_no_caption_by_default() -> None:
    assert captioner(CaptionConfig()) is None
    assert not CaptionConfig().is_wanted


# What is shown ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("photos", "count", "frames"), [(100, 4, 8), (33, 4, 8), (32, 4, 8), (9, 3, 8), (5, 2, 8), (1, 2, 8)])
def test_captions_see_different_photos_from_the_whole_capture(photos: int, count: int, frames: int) -> None:
    subsets = photo_subsets(photos, CaptionConfig(count=count, frames=frames), np.random.default_rng(3))
    assert len(subsets) == count
    for subset in subsets:
        assert len(subset) == min(frames, photos) and list(subset) == sorted(set(subset))
        assert set(subset) <= set(range(photos))
        assert subset[0] < -(-photos // len(subset)) and subset[-1] >= photos - -(-photos // len(subset)), "from its first to its last part"
    if photos >= count * frames:
        assert len({photo for subset in subsets for photo in subset}) == count * frames, "no photo twice"


def test_photos_are_shrunk_to_what_captioners_see_and_never_enlarged() -> None:
    assert shown(np.zeros((1080, 1920, 3), np.uint8), 768).shape == (432, 768, 3)
    assert shown(PICTURES[0], 768) is PICTURES[0]


# What is asked ------------------------------------------------------------------------------------


def test_the_request_meets_the_six_requirements_of_the_paper_and_its_example_keeps_them() -> None:
    for words in (
        "main subject in detail",
        "nothing about the camera",
        "simple, direct verbs",
        "clothing",
        "80 to 100 words",
        "Write English",
    ):
        assert words in REQUEST
    example = re.search(r"An example of the style: (.*)\n\nAnswer", REQUEST, re.DOTALL)
    assert example is not None
    assert 80 <= len(example[1].split()) <= 100
    assert not re.search(r"camera|shot|close-up|angle|zoom|frame|video", example[1])


# A model of transformers --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vision_model(tmp_path_factory.mktemp("captioner") / "qwen3-vl")


def test_a_local_qwen3_vl_answers_the_same_to_the_same_pictures(vision_model: Path) -> None:
    model = local_captioner(str(vision_model))
    first = caption(PICTURES, model)
    assert first, "random weights say something"
    assert caption(PICTURES, model) == first
    assert caption([255 - picture for picture in PICTURES], model) != first, "it depends on the pictures"


def test_a_local_model_is_given_every_picture_and_the_request(vision_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many image tokens as the image processor says: patches of 16 pixels, merged two by two, of pictures that it may enlarge."""
    from transformers import AutoImageProcessor, AutoTokenizer, Qwen3VLForConditionalGeneration

    given: list[dict] = []  # type: ignore[type-arg]
    whole = Qwen3VLForConditionalGeneration.generate

    def watched(model: Qwen3VLForConditionalGeneration, **inputs: object) -> object:
        given.append(inputs)
        # Room for 100 English words of about 1.4 tokens, twice over.
        assert model.generation_config.max_new_tokens == CAPTION_TOKENS > 280
        return whole(model, **inputs)

    monkeypatch.setattr(Qwen3VLForConditionalGeneration, "generate", watched)
    local_captioner(str(vision_model))(PICTURES)
    (inputs,) = given
    expected = AutoImageProcessor.from_pretrained(vision_model)(
        images=[Image.fromarray(picture) for picture in PICTURES], return_tensors="pt"
    )
    assert (inputs["pixel_values"] == expected["pixel_values"]).all()
    assert (inputs["image_grid_thw"] == expected["image_grid_thw"]).all() and len(inputs["image_grid_thw"]) == len(PICTURES)
    tokenizer = AutoTokenizer.from_pretrained(vision_model)
    tokens = inputs["input_ids"][0].tolist()
    assert tokens.count(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)) == int(expected["image_grid_thw"].prod(dim=1).sum()) // 4
    assert REQUEST in tokenizer.decode(tokens)


def test_a_local_model_needs_no_torchvision(vision_model: Path) -> None:
    """In a process where it cannot be imported, as on machines where its compiled part does not fit."""
    program = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import numpy as np\nfrom artifixer.curation.caption import local_captioner\n"
        "assert local_captioner(sys.argv[1])([np.zeros((32, 32, 3), np.uint8)])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(vision_model)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_models_that_cannot_caption_are_refused_in_one_line(vision_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"captioner .*absent"):
        local_captioner(str(tmp_path / "absent"))
    shutil.copytree(vision_model, tmp_path / "untuned")
    (tmp_path / "untuned" / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="has no chat template"):
        local_captioner(str(tmp_path / "untuned"))
    shutil.copytree(vision_model, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(InputError, match=r"captioner .*broken"):
        local_captioner(str(tmp_path / "broken"))


# A server -----------------------------------------------------------------------------------------


def test_a_server_is_sent_the_pictures_and_its_words_come_on_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    model = captioner(asking(server))
    assert model is not None and caption(PICTURES, model) == "A room. It is blue."
    ((path, key, body),) = server.asked
    assert (path, key, body["model"], body["max_tokens"]) == ("/v1/chat/completions", "Bearer secret", "eye", CAPTION_TOKENS)
    content = body["messages"][0]["content"]
    assert [part["text"] for part in content if part["type"] == "text"] == [REQUEST]
    pictures = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    seen = [np.array(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))) for url in pictures]
    assert np.array_equal(np.stack(seen), np.stack(PICTURES))


def test_a_server_without_a_name_is_asked_for_the_captioner_of_the_paper(server: Server) -> None:
    model = captioner(CaptionConfig(server.address))
    assert model is not None
    model(PICTURES)
    assert server.asked[0][2]["model"] == PAPER_CAPTIONER


@pytest.mark.parametrize(
    ("said", "expected"),
    [("A room. It is blue. On the", "A room. It is blue."), ('He says "stop." Then', 'He says "stop."'), ("no end of a", "no end of a")],
)
def test_a_caption_that_was_cut_off_loses_its_last_sentence(server: Server, said: str, expected: str) -> None:
    server.answer = (200, {"choices": [{"message": {"content": said}, "finish_reason": "length"}]})
    model = captioner(asking(server))
    assert model is not None and caption(PICTURES, model) == expected


def test_a_server_that_says_nothing_gives_no_caption(server: Server) -> None:
    server.answer = (200, {"choices": [{"message": {"content": " \n"}}]})
    model = captioner(asking(server))
    assert model is not None and caption(PICTURES, model) is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, {"error": "no model eye"}), "404.*no model eye.*expected captions from model eye"),
        ((200, {"choices": []}), "no caption from model eye"),
        ((200, {"choices": [{"message": {"content": None}}]}), "no caption from model eye: .*expected text"),
        ((200, "words"), "no caption from model eye"),
    ],
)
def test_a_server_that_gives_no_caption_is_named(server: Server, answer: tuple[int, object], message: str) -> None:
    server.answer = answer
    model = captioner(asking(server))
    assert model is not None
    with pytest.raises(InputError, match=f"{server.address}.*{message}"):
        model(PICTURES)


def test_an_absent_server_is_named(server: Server) -> None:
    address = server.address
    server.shutdown()
    server.server_close()
    model = captioner(CaptionConfig(address))
    assert model is not None
    with pytest.raises(InputError, match=f"{address}.*no caption"):
        model(PICTURES)
