"""Splats as scenes that a page shows by itself, without a server: what ``report.html`` embeds.

In: Gaussians and the camera that looks at them first. Out: viser's client as one HTML document with
a place for a scene, and scenes for it. Nothing is opened that another program could connect to, and
the same Gaussians give the same bytes.
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

#: Most Gaussians of a scene; each takes about 36 bytes of the page.
MAX_GAUSSIANS = 80_000

#: Views that decide which Gaussians are shown when there are too many, and their longest side.
RANKING_VIEWS, RANKING_SIZE = 8, 256

#: Stands in the player where the data of a scene belongs.
PLACE = "@SCENE@"

#: What the player may load: nothing but what is in it.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob: data:; "
    "worker-src blob: data:; connect-src blob: data:; img-src blob: data:; font-src data:; "
    "style-src 'unsafe-inline'"
)

#: Goes before viser's own page. Its worker is a module in a blob, which a page opened from a disk
#: or in a sandbox may not start; without the blob's address viser starts it from a data address.
#: Messages (of slow WebGL) would cover a picture this small.
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
    """data: the scene for the player, in base64. shown, count: Gaussians in it, and all there are.
    picture: what the player shows first, rendered here.
    """

    data: str
    shown: int
    count: int
    picture: UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class StaticScenes:
    """player: HTML document that shows the scene whose data replaces ``PLACE`` in it. scenes: by
    title.
    """

    player: str
    scenes: Mapping[str, StaticScene]


def static_scenes(
    splats: Mapping[str, Splats],
    cameras: Sequence[Cameras],
    up: tuple[float, float, float],
    distance: float,
    longest: int,
) -> StaticScenes:
    """Scenes that open at the first camera's place. Raises ``InputError`` without viser, or with
    one whose page is of another form.

    cameras: training cameras, which also decide which Gaussians are most visible. up: unit vector.
    distance: of what the cameras look at, world units. longest: longest side of the pictures in
    pixels.
    """
    player, scenes = "", {}
    start = _start(cameras[0], longest)
    for title, all_of_them in splats.items():
        found = all_of_them.map(lambda tensor: tensor.detach().cpu())
        chosen = most_visible(found, cameras, MAX_GAUSSIANS)
        page = _page(chosen, start, up, distance)
        data = _DATA.search(page)
        if data is None:
            raise InputError("viser: its page has no place for a scene; expected version 1.1")
        player = page[: data.start()] + PLACE + page[data.end() :]
        picture = to_uint8(render(found, start).rgb[0]).numpy()
        scenes[title] = StaticScene(data[0], len(chosen), len(found), picture)
    return StaticScenes(player.replace("<head>", f"<head>{PREAMBLE}", 1), scenes)


def most_visible(splats: Splats, cameras: Sequence[Cameras], most: int) -> Splats:
    """The Gaussians with the largest blending weights over some of the views; all of them, in their
    order, when they are no more than ``most``.
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
    """The first view: the camera's, through an ideal lens."""
    fov = 2 * math.atan(0.5 * camera.height / float(camera.Ks[0, 1, 1]))
    size = fit_size(camera.width, camera.height, longest)
    return window_camera(camera.camera_to_world[0], fov, *size)


def _page(splats: Splats, start: Cameras, up: tuple[float, float, float], distance: float) -> str:
    """viser's page with the scene in it."""
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
    """A viser server that keeps a scene and opens no port: viser has no scene without a server, so
    the call that opens the socket is replaced while it starts.
    """
    try:
        import viser
        import websockets.asyncio.server as sockets
    except ImportError as error:
        raise InputError(f"{MISSING_VISER} ({error})") from None

    @contextlib.asynccontextmanager
    async def serve(*_: Any, **__: Any) -> Any:
        yield SimpleNamespace(server=SimpleNamespace(sockets=()))

    # viser tells the address of the server that is none
    with contextlib.redirect_stdout(io.StringIO()):
        with mock.patch.object(sockets, "serve", serve):
            server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
        try:
            yield server
        finally:
            server.stop()
