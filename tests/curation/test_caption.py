"""Captions: none by default, a few frames to any function, a local vision model, and the chat
protocol against a server in this process.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from short_fits import CONFIG
from vision_model import IMAGE_TOKEN, save_vision_model

from artifixer.cli import main
from artifixer.curation.caption import (
    CAPTION_FRAMES,
    CAPTION_TOKENS,
    PAPER_CAPTIONER,
    REQUEST,
    SHOWN_SIZES,
    CaptionConfig,
    _shown,
    caption_clip,
    captioner,
    local_captioner,
)
from artifixer.curation.make_scene import make_scene
from artifixer.curation.sources import expand_sources
from artifixer.pairs.loader import open_pairs
from artifixer.pairs.sample_file import decode_sample
from artifixer.runtime.errors import InputError

FRAMES = torch.randint(
    0, 256, (29, 8, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


class Server(HTTPServer):
    """Answers with ``answer`` and keeps what it was asked."""

    answer: tuple[int, object] = (
        200,
        {"choices": [{"message": {"content": "A room.\n  It is  blue."}}]},
    )
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
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_there_is_no_caption_by_default() -> None:
    assert captioner(CaptionConfig()) is None
    assert caption_clip(FRAMES, None) is None


def test_a_captioner_sees_a_few_frames_from_first_to_last() -> None:
    seen: list[torch.Tensor] = []

    def captioner(frames: torch.Tensor) -> str:
        seen.append(frames)
        return " "

    assert caption_clip(FRAMES, captioner) is None, "nothing said is no caption"
    assert len(seen[0]) == CAPTION_FRAMES
    assert torch.equal(seen[0][0], FRAMES[0])
    assert torch.equal(seen[0][-1], FRAMES[-1])


def test_subsets_of_a_clip_have_different_frames() -> None:
    seen: list[torch.Tensor] = []

    def captioner(frames: torch.Tensor) -> str:
        seen.append(frames)
        return "words"

    for subset in range(3):
        caption_clip(FRAMES, captioner, subset)
    assert all(len(frames) == CAPTION_FRAMES for frames in seen)
    assert len(torch.unique(torch.stack(seen), dim=0)) == 3


def test_the_request_meets_the_six_requirements_of_the_paper() -> None:
    """Appendix B, in its order: the main subject, no camera, plain words for movement, details,
    80 to 100 words, English.
    """
    for number, words in enumerate(
        (
            "Begin with the main subject and describe closely how it looks, "
            "what it does or expresses",
            "Do not mention a camera, its movement, its angle",
            "If something moves by itself, say how in plain verbs",
            "Name what can be seen in detail",
            "Use 80 to 100 words",
            "Write in English, whatever language appears",
        ),
        start=1,
    ):
        (rule,) = [line for line in REQUEST.splitlines() if line.startswith(f"{number}. ")]
        assert words in rule


# A model of transformers --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vision_model(tmp_path_factory.mktemp("captioner") / "qwen3-vl")


def test_a_local_qwen3_vl_answers_the_same_to_the_same_pictures(vision_model: Path) -> None:
    model = local_captioner(str(vision_model))
    first = caption_clip(FRAMES[:2], model)
    assert first, "random weights say something"
    assert caption_clip(FRAMES[:2], model) == first
    assert caption_clip(255 - FRAMES[:2], model) != first, "it depends on the pictures"


def test_a_local_model_is_given_every_picture_and_the_request(
    vision_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many image tokens as the image processor says: patches of 16 pixels, merged two by two."""
    from transformers import AutoImageProcessor, AutoTokenizer, Qwen3VLForConditionalGeneration

    given: list[dict] = []  # type: ignore[type-arg]
    whole = Qwen3VLForConditionalGeneration.generate

    def watched(model: Qwen3VLForConditionalGeneration, **inputs: object) -> object:
        given.append(inputs)
        # Room for 100 English words of about 1.4 tokens, twice over.
        assert model.generation_config.max_new_tokens == CAPTION_TOKENS > 280
        return whole(model, **inputs)

    monkeypatch.setattr(Qwen3VLForConditionalGeneration, "generate", watched)
    local_captioner(str(vision_model))(FRAMES[:3])
    (inputs,) = given
    pictures = [_shown(frame) for frame in FRAMES[:3]]
    assert {max(picture.size) for picture in pictures} == {SHOWN_SIZES[0]}, "enlarged"
    expected = AutoImageProcessor.from_pretrained(vision_model)(
        images=pictures, return_tensors="pt"
    )
    assert (inputs["pixel_values"] == expected["pixel_values"]).all()
    grid = expected["image_grid_thw"]
    assert (inputs["image_grid_thw"] == grid).all()
    assert len(grid) == 3
    tokenizer = AutoTokenizer.from_pretrained(vision_model)
    tokens = inputs["input_ids"][0].tolist()
    image_tokens = tokens.count(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    assert image_tokens == int(grid.prod(dim=1).sum()) // 4
    assert REQUEST in tokenizer.decode(tokens)


def test_a_local_model_needs_no_torchvision(vision_model: Path) -> None:
    """In a process where it cannot be imported, as on machines where its compiled part does not
    fit.
    """
    program = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import torch\nfrom artifixer.curation.caption import local_captioner\n"
        "assert local_captioner(sys.argv[1])(torch.zeros((1, 32, 32, 3), dtype=torch.uint8))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(vision_model)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_models_that_cannot_caption_are_refused_in_one_line(
    vision_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"captioner .*absent"):
        local_captioner(str(tmp_path / "absent"))
    shutil.copytree(vision_model, tmp_path / "untuned")
    (tmp_path / "untuned" / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="has no chat template"):
        local_captioner(str(tmp_path / "untuned"))
    shutil.copytree(vision_model, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(InputError, match=r"broken"):
        local_captioner(str(tmp_path / "broken"))
    shutil.copytree(vision_model, tmp_path / "infinite")
    weights = load_file(tmp_path / "infinite" / "model.safetensors")
    name = next(iter(weights))
    weights[name] = torch.full_like(weights[name], torch.inf)
    save_file(weights, tmp_path / "infinite" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"infinite: {name} holds values that are not finite"):
        local_captioner(str(tmp_path / "infinite"))
    deep = json.loads((vision_model / "config.json").read_text())
    deep["text_config"]["num_hidden_layers"] = 1_000_000
    shutil.copytree(vision_model, tmp_path / "deep")
    (tmp_path / "deep" / "config.json").write_text(json.dumps(deep))
    with pytest.raises(InputError, match="num_hidden_layers"):
        local_captioner(str(tmp_path / "deep"))


def test_pairs_of_a_scene_are_described_by_a_local_model_from_different_frames(
    vision_model: Path,
) -> None:
    (source,) = expand_sources(["procedural:1:5"])
    config = replace(
        CONFIG, groups=2, frames=(13, 13), caption=CaptionConfig(model=str(vision_model))
    )
    scene = make_scene(0, source, config, seed=1)
    assert scene.error is None, scene.error
    first, second = (decode_sample(data).caption for _, data in scene.samples)
    assert first
    assert second
    assert first != second


def test_curate_with_a_local_captioner(
    vision_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["curate", "procedural:1:9", "--size", "32", "--frames", "5", "--out"]
    assert main([*words, str(tmp_path / "pairs"), "--caption-model", str(vision_model)]) == 0
    assert open_pairs(tmp_path / "pairs")[0].read().caption
    assert main([*words, str(tmp_path / "none"), "--caption-model", str(tmp_path / "absent")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"captioner {tmp_path / 'absent'}: " in error
    assert not (tmp_path / "none").exists()


# A server -----------------------------------------------------------------------------------------


def test_a_server_without_a_name_is_asked_for_the_captioner_of_the_paper(server: Server) -> None:
    caption_clip(FRAMES[:1], captioner(CaptionConfig(server.address)))
    assert server.asked[0][2]["model"] == PAPER_CAPTIONER


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("A room. It is blue. On the", "A room. It is blue."),
        ('He says "stop." Then', 'He says "stop."'),
        ("no end of a", "no end of a"),
    ],
)
def test_a_caption_that_was_cut_off_loses_its_last_sentence(
    server: Server, said: str, expected: str
) -> None:
    choice = {"message": {"content": said}, "finish_reason": "length"}
    server.answer = (200, {"choices": [choice]})
    assert caption_clip(FRAMES[:1], captioner(CaptionConfig(server.address))) == expected


def test_a_server_is_sent_the_pictures_and_its_words_come_on_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert (
        caption_clip(FRAMES[:3], captioner(CaptionConfig(server.address, "eye")))
        == "A room. It is blue."
    )
    ((path, key, body),) = server.asked
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "eye")
    pictures = [
        part["image_url"]["url"]
        for part in body["messages"][0]["content"]
        if part["type"] == "image_url"
    ]
    shown = [
        np.array(
            Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
        )
        for url in pictures
    ]
    assert {picture.shape for picture in shown} == {(299, 448, 3)}, (
        "enlarged: small frames show a vision model nothing"
    )
    for picture, frame in zip(shown, FRAMES, strict=False):
        assert np.abs(picture.mean(axis=(0, 1)) - frame.numpy().mean(axis=(0, 1))).max() < 6
    assert body["max_tokens"] >= 200, "room for 100 words"
    assert "80 to 100 words" in body["messages"][0]["content"][0]["text"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, {"error": "no model eye"}), "404.*no model eye.*expected captions from model eye"),
        ((200, {"choices": []}), "no caption from model eye"),
        ((200, "words"), "no caption from model eye"),
        ((200, {"choices": [{"message": {"content": None}}]}), "no caption .*expected text"),
    ],
)
def test_a_server_that_gives_no_caption_is_named(
    server: Server, answer: tuple[int, object], message: str
) -> None:
    server.answer = answer
    with pytest.raises(InputError, match=f"{server.address}.*{message}"):
        caption_clip(FRAMES[:1], captioner(CaptionConfig(server.address, "eye")))


def test_an_absent_server_is_named(server: Server) -> None:
    address = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match=f"{address}.*no caption"):
        caption_clip(FRAMES[:1], captioner(CaptionConfig(address)))
