"""Splats as interactive scenes that need no server, for ``report.html``.

In: Gaussians and the initial camera. Out: viser's client as one HTML document with a placeholder
for a scene, and data of scenes for it. No port is opened, and the same Gaussians give the same
bytes.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from jaxtyping import UInt8

from artifixer.geometry.cameras import Cameras
from artifixer.imaging.resize import fit_size
from artifixer.runtime.errors import InputError
from artifixer.splats.render import contributions, render
from artifixer.splats.render_folder import to_uint8
from artifixer.splats.splats import Splats
from artifixer.viewer.client_splats import add_client_splats
from artifixer.viewer.motion import window_camera
from artifixer.viewer.page import MISSING_VISER

#: Maximum number of Gaussians of a scene; each takes about 36 bytes of the page.
MAX_GAUSSIANS = 80_000

#: Number of views that rank the Gaussians by visibility if there are too many, and their longest
#: side in pixels.
RANKING_VIEWS, RANKING_SIZE = 8, 256

#: Placeholder in the player for the data of a scene.
PLACE = "@SCENE@"

#: Content security policy: the player may load nothing from outside.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob: data:; "
    "worker-src blob: data:; connect-src blob: data:; img-src blob: data:; font-src data:; "
    "style-src 'unsafe-inline'"
)

#: Inserted at the start of viser's page. viser's worker is a module in a blob URL, which is not
#: allowed for pages from a disk or in a sandbox; without a blob URL viser uses a data URL.
#: Notifications (of slow WebGL) are hidden because they would cover a small scene.
PREAMBLE = f"""
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<style>.mantine-Notifications-root {{ display: none }}</style>
<script>
const address = URL.createObjectURL.bind(URL);
URL.createObjectURL = (source) =>
  /javascript/.test(source.type) ? "" : address(source);
</script>
"""

#: The scene in viser's page.
_DATA = re.compile(r'(?<=__VISER_EMBED_DATA__=")[A-Za-z0-9+/=]*(?=")')


@dataclass(frozen=True)
class StaticScene:
    """A scene for the player."""

    data: str
    """The scene in base64."""

    shown: int
    """Number of Gaussians in it."""

    count: int
    """Number of Gaussians before the selection of the most visible ones."""

    picture: UInt8[np.ndarray, "height width 3"]
    """Render of the initial view."""


@dataclass(frozen=True)
class StaticScenes:
    """A player and the scenes for it."""

    player: str
    """HTML document that shows the scene whose data replaces ``PLACE`` in it."""

    scenes: Mapping[str, StaticScene]
    """Scenes by title."""


def static_scenes(
    splats: Mapping[str, Splats],
    cameras: Sequence[Cameras],
    up: tuple[float, float, float],
    distance: float,
    longest: int,
) -> StaticScenes:
    """Scenes that start at the first camera.

    cameras: training cameras, which also rank the Gaussians by visibility. up: unit vector.
    distance: typical distance of the content, world units. longest: longest side of the pictures in
    pixels. Raises ``InputError`` if viser is missing or its page has an unknown form.
    """
    player, scenes = "", {}
    start = _start(cameras[0], longest)
    for title, all_of_them in splats.items():
        found = all_of_them.map(lambda tensor: tensor.detach().cpu())
        chosen = most_visible(found, cameras, MAX_GAUSSIANS)
        page = _page(chosen, start, up, distance)
        data = _DATA.search(page)
        if data is None:
            raise InputError("viser: its page has no scene data; expected version 1.1")
        player = page[: data.start()] + PLACE + page[data.end() :]
        picture = to_uint8(render(found, start).rgb[0]).numpy()
        scenes[title] = StaticScene(data[0], len(chosen), len(found), picture)
    return StaticScenes(player.replace("<head>", f"<head>{PREAMBLE}", 1), scenes)


def most_visible(splats: Splats, cameras: Sequence[Cameras], most: int) -> Splats:
    """At most ``most`` Gaussians, those with the largest sums of blending weights over some of the
    views, in their original order.
    """
    if len(splats) <= most:
        return splats
    count = min(RANKING_VIEWS, len(cameras))
    total = torch.zeros(len(splats))
    for position in range(count):
        camera = cameras[position * len(cameras) // count]
        total += contributions(
            splats, camera.resized(*fit_size(camera.width, camera.height, RANKING_SIZE))
        )
    kept = total.argsort(descending=True, stable=True)[:most].sort().values
    return splats.map(lambda tensor: tensor[kept])


def _start(camera: Cameras, longest: int) -> Cameras:
    """The initial view: that of the camera, with an ideal lens."""
    fov = 2 * math.atan(0.5 * camera.height / float(camera.Ks[0, 1, 1]))
    size = fit_size(camera.width, camera.height, longest)
    return window_camera(camera.camera_to_world[0], fov, *size)


def _page(splats: Splats, start: Cameras, up: tuple[float, float, float], distance: float) -> str:
    """viser's page with the scene."""
    pose = start.camera_to_world[0].double().numpy()
    with _unconnected_server() as server:
        server.scene.set_up_direction(up)
        camera = server.initial_camera
        camera.position, camera.up = pose[:3, 3], tuple(-pose[:3, 1])
        camera.look_at = pose[:3, 3] + distance * pose[:3, 2]
        camera.fov = 2 * math.atan(0.5 * start.height / float(start.Ks[0, 1, 1]))
        camera.near, camera.far = 0.01 * distance, 1000 * distance
        add_client_splats(server.scene, splats, distance)
        return str(server.scene.as_html(dark_mode=True))


@contextlib.contextmanager
def _unconnected_server() -> Iterator[Any]:
    """A viser server that opens no port. viser has no scene without a server, so the function that
    opens the socket is replaced while it starts.
    """
    try:
        import viser
        import websockets.asyncio.server as sockets
    except ImportError as error:
        raise InputError(f"{MISSING_VISER} ({error})") from None

    @contextlib.asynccontextmanager
    async def serve(*_: Any, **__: Any) -> Any:
        yield SimpleNamespace(server=SimpleNamespace(sockets=()))

    # viser prints the address of its server
    with contextlib.redirect_stdout(io.StringIO()):
        with mock.patch.object(sockets, "serve", serve):
            server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
        try:
            yield server
        finally:
            server.stop()
