"""``artifixer view``: fly through a scene in a browser, and repair the current view."""

from __future__ import annotations

import os
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from artifixer.commands.demo import has_screen
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.runtime.stopping import stop_at_once

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = (
    "artifixer.pipeline.view",
    "artifixer.recipes.run",
    "artifixer.viewer.page",
)


@dataclass(frozen=True)
class Command:
    """Fly through a scene in a browser while the video model repairs the current view.

    SOURCE is a folder of run or reconstruct, or a splat file (PLY, compressed PLY, SPZ, SOG,
    .splat). The page shows splats, opacity, depth and photos, optionally side by side; "Repair
    what I see" repairs the view of the camera as it moves; "Path" edits a camera path and starts
    artifixer run along it. Ctrl-C ends the server.

    Examples:
      artifixer view repaired --capture my_photos
      artifixer view scene.ply --cameras transforms.json
      artifixer view repaired --host 0.0.0.0 --token a-long-secret
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of run or reconstruct, or a splat file."""
    capture: str | None = None
    """Folder of the capture, for its photos, sparse points and reference views, and for runs along
    a path. Default: what SOURCE holds.
    """
    cameras: Path | None = None
    """Cameras of a splat file: a cameras.json or transforms.json. Default: none."""
    model: str = "tiny"
    """Model of the live repair: tiny (part of this package), 1.3b, 14b (see artifixer models), or a
    path.
    """
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto selects a GPU when there is one."""
    size: int = 640
    """Longest side in pixels of the view while the camera rests, 64 to 4096."""
    host: str = "127.0.0.1"
    """Address to serve on; any address that other machines can reach needs --token."""
    port: int = 8080
    """Port to serve on; 0 selects a free one."""
    token: str | None = None
    """Secret of at least 8 characters that the browser has to send. Default: the environment
    variable ARTIFIXER_VIEW_TOKEN, otherwise none.
    """
    no_browser: bool = False
    """Do not open the page in a browser."""
    watched_process: Annotated[int | None, tyro.conf.arg(help="For --view of other verbs.")] = None
    """Process whose output folder is shown while it grows; the viewer ends with it."""


def run_command(command: Command) -> None:
    from artifixer.pipeline.view import ViewJob, serve
    from artifixer.pipeline.view_scene import ViewSource
    from artifixer.recipes.run import RECIPES
    from artifixer.viewer.access import check_access
    from artifixer.viewer.page import Viewer

    if not 64 <= command.size <= 4096:
        raise InputError(f"--size {command.size}: expected 64 to 4096 pixels")
    token = command.token or os.environ.get("ARTIFIXER_VIEW_TOKEN") or None
    access = check_access(command.host, command.port, token)
    source = ViewSource(
        command.source, command.capture, command.cameras, command.watched_process is not None
    )
    job = ViewJob(
        source,
        access,
        command.model,
        resolve_device(command.device),
        command.size,
        command.watched_process,
    )

    def opened(viewer: Viewer) -> None:
        for note in viewer.scene().notes:
            print(note, flush=True)
        print(f"{command.source}: open {access.address} (Ctrl-C ends it)", flush=True)
        if not command.no_browser and has_screen():
            webbrowser.open(access.address)

    with stop_at_once():
        serve(job, {name: recipe.reconstruct for name, recipe in RECIPES.items()}, opened)
