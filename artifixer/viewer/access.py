"""Access control of the viewer: host, origin, token and path of every request and connection.

In: the headers of an HTTP request or a WebSocket handshake. Out: a ``Decision``. The page and its
WebSocket are served by viser, which does not check any of these; ``guarded_server`` checks both.
``Host`` must be an address of this server (another name that resolves to it is DNS rebinding),
``Origin`` of a WebSocket must be this page, and the token, if there is one, must be in the address
or in the cookie that the first page load sets.
"""

from __future__ import annotations

import hmac
import http
import ipaddress
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

from artifixer.runtime.errors import InputError

#: Addresses that only this machine can reach.
LOOPBACK = ("127.0.0.1", "localhost", "::1")

#: Minimum length of a token, long enough against guessing.
MIN_TOKEN = 8

#: Paths of the page's own files, without drive letters, backslashes and percent signs.
_PATH = re.compile(r"/[A-Za-z0-9_./-]*")
_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")


@dataclass(frozen=True)
class Decision:
    """Whether a request is served."""

    status: http.HTTPStatus | None = None
    """Status of the refusal; None to serve the request."""

    reason: str = ""
    """Text of the refusal."""

    cookie: str | None = None
    """Cookie to set in the response."""


@dataclass(frozen=True)
class Access:
    """The access rules of a server."""

    host: str
    """Address that the server listens on."""

    port: int
    """Port that the server listens on."""

    token: str | None = None
    """Secret that browsers have to send; None to require none, if only this machine can connect."""

    @property
    def address(self) -> str:
        """Address for a browser, with the token."""
        name = "localhost" if self.host in LOOPBACK else self.host
        name = socket.gethostname() if name in ("0.0.0.0", "::") else name
        name = f"[{name}]" if ":" in name else name
        query = "" if self.token is None else f"?token={self.token}"
        return f"http://{name}:{self.port}/{query}"

    @property
    def cookie_name(self) -> str:
        """Name of the token's cookie, with the port, because cookies are shared between ports."""
        return f"artifixer_{self.port}"

    def decide(self, path: str, headers: Mapping[str, str]) -> Decision:
        """Whether to serve a request. path: with the query. headers: with lower-case names."""
        address = urlsplit(path)
        if not _PATH.fullmatch(address.path) or ".." in address.path.split("/"):
            return Decision(http.HTTPStatus.NOT_FOUND, "no such page")
        host = headers.get("host", "")
        if not self._is_own_host(host):
            return Decision(http.HTTPStatus.FORBIDDEN, "unknown host")
        origin = headers.get("origin")
        is_websocket = headers.get("upgrade", "").lower() == "websocket"
        if (origin is not None or is_websocket) and origin != f"http://{host}":
            return Decision(http.HTTPStatus.FORBIDDEN, "another origin")
        if self.token is None:
            return Decision()
        if self._is_token(_cookie(headers.get("cookie", ""), self.cookie_name)):
            return Decision()
        given = parse_qs(address.query).get("token", [""])[0]
        if is_websocket or not self._is_token(given):
            return Decision(http.HTTPStatus.FORBIDDEN, "the token is missing or wrong")
        return Decision(cookie=f"{self.cookie_name}={given}; HttpOnly; SameSite=Strict; Path=/")

    def _is_token(self, given: str) -> bool:
        assert self.token is not None
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _is_own_host(self, header: str) -> bool:
        try:
            parts = urlsplit(f"//{header}")
            name, port = (parts.hostname or "").rstrip("."), parts.port or 80
        except ValueError:
            return False
        if port != self.port:
            return False
        if self.host in LOOPBACK:
            return name in LOOPBACK
        # DNS rebinding is impossible with numeric addresses and with this machine's own names
        own = (self.host, "localhost", socket.gethostname().lower(), socket.getfqdn().lower())
        return name in own or _is_number(name)


def check_access(host: str, port: int, token: str | None) -> Access:
    """The rules for ``--host``, ``--port`` and ``--token``. Raises ``InputError`` for a host that
    others can reach without a token, for an invalid token, and for a port in use.
    """
    if not 0 <= port <= 65_535:
        raise InputError(f"--port {port}: expected 0 to 65535")
    if host not in LOOPBACK and token is None:
        raise InputError(
            f"--host {host}: others can reach it; expected a --token of at least {MIN_TOKEN} "
            "characters with it"
        )
    if token is not None and (len(token) < MIN_TOKEN or not _TOKEN.fullmatch(token)):
        raise InputError(
            f"--token: expected at least {MIN_TOKEN} letters, digits and . _ ~ - (it is part of "
            "an address)"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            free = probe.getsockname()[1]
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--host {host} --port {port}: cannot be opened ({error}); expected a free port of "
            "this machine, such as --port 0 for any"
        ) from None
    return Access(host, free, token)


@contextmanager
def guarded_server(access: Access) -> Iterator[None]:
    """Servers of the package websockets that are started inside this context serve only what
    ``access`` allows.

    viser passes its own request handler to websockets without a hook for another one, so the
    function that opens the socket is replaced while viser starts.
    """
    import websockets.asyncio.server as server
    from websockets.http11 import Response

    plain = server.serve

    def serve(handler: Any, host: str, port: int, **options: Any) -> Any:
        inner: Callable[[Any, Any], Any] = options.pop("process_request")

        def checked(connection: Any, request: Any) -> Any:
            headers = {name.lower(): value for name, value in request.headers.raw_items()}
            decision = access.decide(request.path, headers)
            if decision.status is not None:
                return connection.respond(decision.status, f"{decision.reason}\n")
            answer = inner(connection, request)
            if isinstance(answer, Response):
                for name, value in _HEADERS.items():
                    answer.headers[name] = value
                if decision.cookie is not None:
                    answer.headers["Set-Cookie"] = decision.cookie
            return answer

        return plain(handler, host, port, process_request=checked, **options)

    with mock.patch.object(server, "serve", serve):
        yield


#: Forbid frames in other pages, and do not send the address, which contains the token, to others.
_HEADERS = {
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
