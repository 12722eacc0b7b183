"""``Viewer``: a viser server that shows one scene to any number of browser tabs.

In: a ``ViewedScene`` and a ``PageConfig``. Out: a running server. Every tab has its own camera,
layers and panel (``panel``, ``path_panel``); pictures come from the render thread and the repair
thread. All requests are checked by ``access``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.runtime.errors import InputError
from artifixer.viewer.access import Access, guarded_server
from artifixer.viewer.layers import thumbnail
from artifixer.viewer.live_repair import Generator
from artifixer.viewer.motion import fitting_fov
from artifixer.viewer.panel import TabPanel
from artifixer.viewer.path_job import PathJob
from artifixer.viewer.render_thread import RenderThread
from artifixer.viewer.repair_thread import RepairThread
from artifixer.viewer.scene import Picture, ViewedScene
from artifixer.viewer.tab import Pose, Tab

#: JPEG quality of pictures, 0 to 100, while the camera moves and at rest.
MOVING_QUALITY, STILL_QUALITY = 70, 93

MISSING_VISER = "the viewer needs the package viser; install artifixer[viewer]"

#: Longest side in pixels of the photos in camera frusta.
THUMBNAIL = 72

#: Aspect ratio (width over height) of a window that has not reported its own yet.
USUAL_ASPECT = 1.5


@dataclass(frozen=True)
class PageConfig:
    """Callbacks and defaults of the page."""

    reload: Callable[[], ViewedScene]
    """Reads the scene from its files again."""

    load: Callable[[ViewedScene], Generator]
    """Loads the model for live repair."""

    run_arguments: Callable[[Path, str], list[str]] | None = None
    """(path file, last variant) -> arguments of ``artifixer run``; None if runs are not possible.
    """

    path_file: Path | None = None
    """File for the path of a run."""

    run_note: str = ""
    """What a run along the path uses, or the reason why runs are not possible."""

    size: int = 640
    """Default of the longest side in pixels of the view at rest."""

    repair_size: int = 192
    """Longest side in pixels of repaired frames while the camera moves."""

    still_size: int = 384
    """Default of the longest side in pixels of the repaired view at rest."""


class Viewer:
    """A server for one scene, opened by ``start`` and closed by ``stop``."""

    def __init__(self, scene: ViewedScene, access: Access, config: PageConfig) -> None:
        self.access, self.config = access, config
        self._scene = scene
        self.condition = threading.Condition()
        self._tabs: dict[int, Tab] = {}
        self._panels: dict[int, TabPanel] = {}
        self._thumbnails: dict[str, Picture] = {}
        self._server: Any = None
        self._renderer = RenderThread(self.condition, self.tabs, self.scene, self._report)
        self._repairer = RepairThread(
            self.condition, self.tabs, self.scene, config.load, self._report
        )
        self.job = PathJob(self._show_job, self._job_is_done)

    def scene(self) -> ViewedScene:
        """The current scene."""
        return self._scene

    def tabs(self) -> list[Tab]:
        """The open tabs."""
        return list(self._tabs.values())

    def thumbnail(self, name: str, read: Callable[[], Picture]) -> Picture:
        """Thumbnail of a photo, read once for all tabs."""
        if name not in self._thumbnails:
            self._thumbnails[name] = thumbnail(read(), THUMBNAIL)
        return self._thumbnails[name]

    def start(self) -> None:
        """Open the port. Raises ``InputError`` if viser is missing, or if the port has come into
        use since it was checked.
        """
        try:
            import viser
            from viser import _messages as messages
        except ImportError as error:
            raise InputError(f"{MISSING_VISER} ({error})") from None
        # no tracebacks for tabs that are closed during a handshake
        logging.getLogger("websockets").setLevel(logging.CRITICAL)
        # viser prints an address without the token
        with guarded_server(self.access), contextlib.redirect_stdout(io.StringIO()):
            self._server = viser.ViserServer(
                host=self.access.host, port=self.access.port, label="ArtiFixer", verbose=False
            )
        if self._server.get_port() != self.access.port:
            self._server.stop()
            raise InputError(f"--port {self.access.port}: in use; expected a free port")
        # otherwise any client could open a public tunnel to the page
        for message in (messages.ShareUrlRequest, messages.ShareUrlDisconnect):
            self._server._websock_server.unregister_handler(message)
        self._server.gui.configure_theme(show_logo=False, show_share_button=False, dark_mode=True)
        self._prepare(self._server)
        self._server.on_client_connect(self._opened)
        self._server.on_client_disconnect(self._closed)
        self._renderer.start()
        self._repairer.start()

    def stop(self) -> None:
        """Close the port, end the threads, and cancel a run that was started from the page."""
        self.job.cancel()
        for thread in (self._renderer, self._repairer):
            if thread.is_alive():
                thread.stop()
        if self._server is not None:
            with contextlib.redirect_stdout(io.StringIO()):
                self._server.stop()
        for thread in (self._renderer, self._repairer):
            if thread.is_alive():
                thread.join(timeout=10)

    def replace_scene(self, scene: ViewedScene) -> None:
        """Replace the scene after its files have changed."""
        with self.condition:
            had_frames, self._scene = bool(self._scene.frames), scene
        if not had_frames:
            self._prepare(self._server)
        for panel in list(self._panels.values()):
            with suppressed_disconnects():
                panel.scene_changed()
        for tab in self.tabs():
            tab.refresh()

    def _prepare(self, server: Any) -> None:
        scene = self._scene
        server.scene.set_up_direction(scene.up)
        if not scene.frames:
            return
        camera = scene.frames[0].camera
        pose = camera.camera_to_world[0].double().numpy()
        server.initial_camera.position = pose[:3, 3]
        server.initial_camera.look_at = pose[:3, 3] + scene.distance * pose[:3, 2]
        server.initial_camera.up = tuple(-pose[:3, 1])
        server.initial_camera.fov = fitting_fov(camera, USUAL_ASPECT)

    def _opened(self, client: Any) -> None:
        """Called when a tab has sent its first camera."""

        def show(picture: Picture, is_still: bool) -> None:
            with suppressed_disconnects():
                client.scene.set_background_image(
                    picture,
                    format="jpeg",
                    jpeg_quality=STILL_QUALITY if is_still else MOVING_QUALITY,
                )

        tab = Tab(client.client_id, self.condition, show)
        panel = TabPanel(self, client, tab)
        with self.condition:
            self._tabs[tab.number], self._panels[tab.number] = tab, panel
        panel.build()
        client.camera.on_update(lambda camera: tab.moved(pose_of(camera)))
        tab.moved(pose_of(client.camera))

    def _closed(self, client: Any) -> None:
        with self.condition:
            tab = self._tabs.pop(client.client_id, None)
            self._panels.pop(client.client_id, None)
        if tab is not None:
            tab.close()

    def _report(self, tab: Tab, status: str) -> None:
        panel = self._panels.get(tab.number)
        if panel is not None:
            with suppressed_disconnects():
                panel.show_status(status)

    def _show_job(self) -> None:
        for panel in list(self._panels.values()):
            with suppressed_disconnects():
                panel.paths.show_job()

    def _job_is_done(self) -> None:
        with contextlib.suppress(InputError):
            self.replace_scene(self.config.reload())


def pose_of(camera: Any) -> Pose:
    """The pose of viser's client camera."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = quaternion_to_matrix(torch.from_numpy(np.array(camera.wxyz, np.float64)))
    pose[:3, 3] = torch.from_numpy(np.array(camera.position, np.float64))
    return Pose(pose, float(camera.fov), int(camera.image_width), int(camera.image_height))


@contextlib.contextmanager
def suppressed_disconnects() -> Iterator[None]:
    """Ignore errors of sending to a tab that has been closed in the meantime."""
    try:
        yield
    except (RuntimeError, AssertionError, KeyError) as error:
        logging.getLogger(__name__).debug("a tab was closed: %s", error)
