"""Captions: none by default, a few frames to any function, and the chat protocol against a server
in this process.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from artifixer.curation.caption import CAPTION_FRAMES, CaptionConfig, caption_clip, captioner
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
        thread = threading.Thread(target=server.serve_forever)
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
