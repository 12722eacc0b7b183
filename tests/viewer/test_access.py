"""Who may talk to the viewer: rules one by one, and a real server asked by real clients."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from artifixer.runtime.errors import InputError
from artifixer.splats.splats import Splats
from artifixer.viewer.access import Access, check_access
from artifixer.viewer.page import PageConfig, Viewer
from artifixer.viewer.scene import ViewedScene
from tests.viewer.browser import no_model

HERE = Access("127.0.0.1", 8080)
AWAY = Access("0.0.0.0", 8080, "a-long-secret")


@pytest.mark.parametrize("name", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080"])
def test_this_machine_may_load_the_page(name: str) -> None:
    assert HERE.decide("/", {"host": name}).status is None


@pytest.mark.parametrize(
    "name", ["evil.example:8080", "127.0.0.1.evil.example:8080", "127.0.0.1:9", "", "[", "a:b:c"]
)
def test_a_foreign_name_for_this_machine_is_refused(name: str) -> None:
    assert HERE.decide("/", {"host": name}).status == 403


@pytest.mark.parametrize(
    "path", ["/../x", "/a/../x", "/%2e%2e/x", "/c:/x", "/a\\b", "x", "/\0", "/a b"]
)
def test_paths_are_plain(path: str) -> None:
    assert HERE.decide(path, {"host": "localhost:8080"}).status == 404


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:8081", None])
def test_a_socket_from_another_page_is_refused(origin: str | None) -> None:
    headers = {"host": "localhost:8080", "upgrade": "websocket"}
    if origin is not None:
        headers["origin"] = origin
    assert HERE.decide("/", headers).status == 403


def test_a_socket_of_the_page_is_served() -> None:
    headers = {"host": "localhost:8080", "upgrade": "websocket", "origin": "http://localhost:8080"}
    assert HERE.decide("/", headers).status is None


def test_the_token_is_asked_for_on_every_connection() -> None:
    host = {"host": "192.168.0.7:8080"}
    assert AWAY.decide("/", host).status == 403
    assert AWAY.decide("/?token=wrong", host).status == 403
    first = AWAY.decide("/?token=a-long-secret", host)
    assert first.status is None
    assert first.cookie is not None
    cookie = {"cookie": first.cookie.split(";")[0]}
    assert AWAY.decide("/", host | cookie).status is None
    socket_headers = host | {"upgrade": "websocket", "origin": "http://192.168.0.7:8080"}
    assert AWAY.decide("/", socket_headers).status == 403
    assert AWAY.decide("/?token=a-long-secret", socket_headers).status == 403
    assert AWAY.decide("/", socket_headers | cookie).status is None


@pytest.mark.parametrize(
    ("host", "token"), [("0.0.0.0", None), ("0.0.0.0", "short"), ("127.0.0.1", "with space 12")]
)
def test_others_need_a_token_that_is_one(host: str, token: str | None) -> None:
    with pytest.raises(InputError, match="token"):
        check_access(host, 0, token)


def test_a_port_in_use_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}"):
            check_access("127.0.0.1", port, None)


def one_splat() -> Splats:
    return Splats(
        torch.tensor([[0.0, 0.0, 2.0]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.full((1, 3), -1.0),
        torch.tensor([5.0]),
        torch.ones(1, 1, 3),
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Access]:
    access = check_access("127.0.0.1", 0, "a-long-secret")
    scene = ViewedScene("one", {"Plain splats": one_splat()})
    viewer = Viewer(scene, access, PageConfig(reload=lambda: scene, load=no_model))
    viewer.start()
    yield access
    viewer.stop()


def answer(access: Access, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", access.port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in ({"host": f"localhost:{access.port}"} | headers).items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    found = connection.getresponse()
    return found.status, found.read(), dict(found.getheaders())


def test_the_server_serves_its_page_and_nothing_else(server: Access, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    token = f"token={server.token}"
    status, page, headers = answer(server, f"/?{token}")
    assert status == 200
    assert b"<html" in page.lower()
    assert headers["X-Frame-Options"] == "DENY"
    assert answer(server, "/")[0] == 403
    assert answer(server, f"/?{token}", host=f"evil.example:{server.port}")[0] == 403
    up = "/.." * 12
    for path in (f"{up}{tmp_path}/secret", f"/%2e%2e{tmp_path}/secret", f"/{tmp_path}/secret"):
        status, content, _ = answer(server, f"{path}?{token}")
        assert status == 404
        assert b"secret" not in content


def test_a_socket_without_the_token_or_from_elsewhere_is_refused(server: Access) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    viser = pytest.importorskip("viser")
    address, own = f"ws://localhost:{server.port}/", f"http://localhost:{server.port}"
    cookie = {"Cookie": f"{server.cookie_name}={server.token}"}
    protocol = [Subprotocol(f"viser-v{viser.__version__}")]
    for origin, headers in ((own, {}), ("http://evil.example", cookie), (None, cookie)):
        with pytest.raises(InvalidStatus):
            connect(address, origin=origin, additional_headers=headers, subprotocols=protocol)
    with connect(address, origin=own, additional_headers=cookie, subprotocols=protocol) as socket_:
        assert socket_.recv(timeout=20)


def test_nobody_can_ask_for_a_tunnel_to_the_internet() -> None:
    from viser import _messages as messages

    access = check_access("127.0.0.1", 0, None)
    scene = ViewedScene("one", {"Plain splats": one_splat()})
    viewer = Viewer(scene, access, PageConfig(reload=lambda: scene, load=no_model))
    viewer.start()
    try:
        handlers = viewer._server._websock_server._incoming_handlers
        assert not handlers.get(messages.ShareUrlRequest)
    finally:
        viewer.stop()
