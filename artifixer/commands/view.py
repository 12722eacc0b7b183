"""``artifixer view``: look around in a scene with a browser, and repair what is seen."""

from __future__ import annotations

import os
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from artifixer.commands.demo import has_screen
from artifixer.pipeline.view import ViewJob, serve
from artifixer.pipeline.view_scene import ViewSource
from artifixer.recipes.run import RECIPES
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.runtime.stopping import stop_at_once
from artifixer.viewer.access import check_access
from artifixer.viewer.page import Viewer


@dataclass(frozen=True)
class Command:
    """Fly through a scene in a browser while the video model repairs what you look at.

    SOURCE is a folder of run or reconstruct, or a splat file (PLY, compressed PLY, SPZ, SOG,
    .splat). The page shows splats, opacity, depth and photos, side by side if you like; "Repair
    what I see" lets the model follow your camera; "Path" makes a camera path for run --path and
    runs along it. Ctrl-C ends it.

    Examples:
      artifixer view repaired --capture my_photos
      artifixer view scene.ply --cameras transforms.json
      artifixer view repaired --host 0.0.0.0 --token a-long-secret
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of run or reconstruct, or a splat file."""
    capture: str | None = None
    """The capture's folder: photos beside the cameras, sparse points, references, and runs."""
    cameras: Path | None = None
    """Cameras that go with a splat file: a cameras.json or transforms.json."""
    model: str = "tiny"
    """Model of the live repair: tiny (part of this package), 1.3b, 14b, or a path."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ... auto takes a GPU when there is one."""
    size: int = 640
    """Longest side in pixels of the view at rest."""
    host: str = "127.0.0.1"
    """Address to serve on. Another than this machine's own needs a token."""
    port: int = 8080
    """Port to serve on; 0 takes any."""
    token: str | None = None
    """Secret of at least 8 characters that a browser has to know. ARTIFIXER_VIEW_TOKEN in the
    environment does the same.
    """
    no_browser: bool = False
    """Do not open the page."""
    watched_process: Annotated[int | None, tyro.conf.arg(help="For --view of other verbs.")] = None
    """The viewer shows the folder of this process as it grows, and ends with it."""


def run_command(command: Command) -> None:
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
