"""``artifixer view``: serve a folder or a splat file to browsers until Ctrl-C, with live repair and
runs along a path; and ``--view``: a viewer process for the folder of a running job.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from artifixer.pipeline.view_scene import ViewSource, open_view, splat_stamp, stored_settings
from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import to_json
from artifixer.runtime.stopping import stop_requested
from artifixer.runtime.system import is_alive
from artifixer.scenes.formats import brings_poses
from artifixer.splats.reconstruct import ReconstructConfig
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.memory_estimate import check_memory, default_plan
from artifixer.video.model_files import load_model, locate_model
from artifixer.viewer.access import Access
from artifixer.viewer.live_repair import Generator
from artifixer.viewer.page import PageConfig, Viewer
from artifixer.viewer.scene import ViewedScene

#: File for the path of a run that is started from the page.
PATH_FILE = "viewer_path.json"

#: Folder inside a reconstruction for a run along a path.
RUN_FOLDER = "run"

#: Seconds between two checks of a job's files.
WATCH_INTERVAL = 1.0

#: Seconds that a viewer process gets to exit before it is killed.
EXIT_SECONDS = 10

#: Longest side of live repair while the camera moves, as a part of the model's default size (frames
#: come sooner), and its maximum in pixels. At rest it is twice as large.
LIVE_PART, LARGEST_LIVE = 0.75, 640


@dataclass(frozen=True)
class ViewJob:
    """Settings of a viewer."""

    source: ViewSource
    """The scene."""

    access: Access
    """Address and token."""

    model: str = "tiny"
    """Name or path of the model for live repair."""

    device: str = "cpu"
    """Torch device."""

    size: int = 640
    """Longest side in pixels of the view while the camera rests."""

    watched_process: int | None = None
    """Process id of the job whose folder is shown; the viewer ends with it."""


def serve(
    job: ViewJob,
    recipes: dict[str, ReconstructConfig],
    opened: Callable[[Viewer], None] = lambda viewer: None,
) -> None:
    """Serve until Ctrl-C, SIGTERM or the end of the watched process.

    recipes: reconstruction settings of the recipes of ``run``, by name. opened: called when
    browsers can connect. Raises ``InputError`` for a folder without splats, an unusable model or a
    port in use.
    """
    files = locate_model(job.model)
    scene = open_view(job.source, job.device, files.config.camera_scale)
    viewer = Viewer(scene, job.access, _page_config(job, files, recipes))
    viewer.start()
    try:
        opened(viewer)
        _wait(job, files, viewer)
    finally:
        viewer.stop()


def _page_config(
    job: ViewJob, files: ModelFiles, recipes: dict[str, ReconstructConfig]
) -> PageConfig:
    files.check_weights()
    own = files.config.default_size
    size = LARGEST_LIVE if own is None else min(round(LIVE_PART * own / 16) * 16, LARGEST_LIVE)
    plan = default_plan(
        files.config, 2 * size, 2 * size, 6, torch.device(job.device), offload=False
    )
    check_memory(files.config, plan, torch.device(job.device))
    arguments, note = _run_arguments(job, recipes)
    is_folder = job.source.source.is_dir()
    return PageConfig(
        reload=partial(open_view, job.source, job.device, files.config.camera_scale),
        load=partial(_generator, files, job.device),
        run_arguments=arguments,
        path_file=job.source.source / PATH_FILE if is_folder else None,
        run_note=note,
        size=job.size,
        repair_size=size,
        still_size=2 * size,
    )


def _generator(files: ModelFiles, device: str, scene: ViewedScene) -> Generator:
    return Generator(load_model(files, device), scene.references, scene.camera_scale)


def _wait(job: ViewJob, files: ModelFiles, viewer: Viewer) -> None:
    """Wait until the server is to end; reload the scene whenever a watched folder changes."""
    watched, known = job.watched_process, None
    never = threading.Event()
    while not stop_requested():
        never.wait(None if watched is None and sys.platform != "win32" else WATCH_INTERVAL)
        if watched is None:
            continue
        if not is_alive(watched):
            return
        stamp = splat_stamp(job.source.source)
        if stamp != known:
            known = stamp
            # incomplete files are read at the next check
            with contextlib.suppress(InputError, OSError):
                scene = open_view(job.source, job.device, files.config.camera_scale)
                viewer.replace_scene(scene)


# Runs from the page -------------------------------------------------------------------------------


def _run_arguments(
    job: ViewJob, recipes: dict[str, ReconstructConfig]
) -> tuple[Callable[[Path, str], list[str]] | None, str]:
    """Function (path file, last variant) -> arguments of ``artifixer run`` on the viewer's device,
    and what such a run uses; or None and the reason.
    """
    source, folder = job.source, job.source.source
    if source.is_watched:
        return None, "a job is running in this folder; start a run when it has ended"
    if source.capture is None or not folder.is_dir():
        return None, "to run along a path: artifixer view FOLDER --capture CAPTURE"
    settings = stored_settings(folder)
    choice = settings.get("choice")
    if not isinstance(choice, dict):
        return None, f"{folder / 'config.json'}: has no settings of a run"
    if choice.get("train_list") is not None:
        return None, "the folder's photos came from a list; use artifixer run with --train-list"
    common = ["run", source.capture, *_choice_options(choice), "--device", job.device]
    if "variants" not in settings:  # a reconstruction
        splats = folder / "splats.ply"
        seed = ["--seed", str(settings.get("seed", 0)), "--model", job.model]
        out = ["--out", str(folder / RUN_FOLDER), "--from-splats", str(splats)]
        note = f"runs with these splats and the model {Path(job.model).name}"
        return lambda path, last: [*common, *out, *seed, *_along(path, last)], note
    if settings.get("from_splats") is not None:
        return None, "the run's splats came from a file; use artifixer run with --from-splats"
    options = [*common, "--out", str(folder), *_run_options(settings, recipes)]
    return lambda path, last: [*options, *_along(path, last)], _run_note(settings)


def _run_note(settings: dict[str, Any]) -> str:
    """The settings of the folder's run that its frames depend on most."""
    parts = [f"model {Path(str(settings.get('model'))).name}", f"mode {settings.get('mode')}"]
    if isinstance(settings.get("adaptation"), dict):
        parts.append("adapted to the scene")
    if weights := _object(settings, "distill").get("weights"):
        parts.append(f"frame weights {weights}")
    return f"runs with the folder's settings: {', '.join(parts)}"


def _object(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """An object of the settings; empty where there is none."""
    value = settings.get(name)
    return value if isinstance(value, dict) else {}


def _along(path: Path, last: str) -> list[str]:
    return ["--path", str(path), "--variants", last]


def _choice_options(choice: dict[str, Any]) -> list[str]:
    options: list[str] = []
    for name in ("split", "views", "size", "faces", "sparse_model"):
        if choice.get(name) is not None:
            options += [f"--{name.replace('_', '-')}", str(choice[name])]
    flags = [name for name in ("all_views", "ignore_masks") if choice.get(name)]
    return [*options, *(f"--{name.replace('_', '-')}" for name in flags)]


def _run_options(settings: dict[str, Any], recipes: dict[str, ReconstructConfig]) -> list[str]:
    """Options for the same settings, so that finished stages are kept."""
    options: list[str] = []
    for name in ("model", "prompt", "mode", "steps", "references", "camera_scale", "depth_model"):
        value = settings.get(name)
        if value not in (None, ""):
            options += [f"--{name.replace('_', '-')}", str(value)]
    options += ["--seed", str(settings.get("seed", 0))]
    if isinstance(formats := settings.get("export"), list) and formats:
        options += ["--export", ",".join(map(str, formats))]
    adaptation, distill = _object(settings, "adaptation"), _object(settings, "distill")
    for option, value in (
        ("--adapt", adaptation.get("minutes")),
        ("--adapt-steps", adaptation.get("steps")),
        ("--frame-weights", distill.get("weights")),
    ):
        options += [] if value is None else [option, str(value)]
    fit = _object(settings, "reconstruct")
    weight, dropout = _object(fit, "free_space").get("weight", 0.0), fit.get("dropout", 0.0)
    options += ["--free-space-loss", str(weight), "--dropout", str(dropout)]
    if weight or dropout:  # a plain fit is refused with more than one
        options += ["--input-fits", str(settings.get("input_fits", 1))]
    iterations = fit.get("iterations")
    # --iterations gives both fits the same number; the recipes that give them one agree with it
    if iterations and _object(distill, "reconstruct").get("iterations") == iterations:
        options += ["--iterations", str(iterations)]
    return [*options, *_recipe_option(fit, recipes)]


def _recipe_option(fit: dict[str, Any], recipes: dict[str, ReconstructConfig]) -> list[str]:
    """The recipe of a fit's settings, which may have another number of iterations."""

    def others(settings: dict[str, Any]) -> dict[str, Any]:
        own = ("iterations", "dropout", "free_space")
        return {key: value for key, value in settings.items() if key not in own}

    alike = [
        name for name, recipe in recipes.items() if others(to_json(asdict(recipe))) == others(fit)
    ]
    # settings of earlier versions may lack some
    iterations = fit.get("iterations")
    alike += [name for name, recipe in recipes.items() if recipe.iterations == iterations]
    return ["--recipe", alike[0]] if alike else []


# Viewer of a running job --------------------------------------------------------------------------


@contextlib.contextmanager
def viewed(out: Path, is_wanted: bool, capture: str | None = None) -> Iterator[None]:
    """Run a viewer of the folder ``out`` in a separate process inside the context. It reads the
    job's files and the capture and writes nothing, so that the job's results stay the same bytes.

    capture: for cameras and photos; ignored if it has no poses. Raises ``InputError`` if viser is
    missing.
    """
    if not is_wanted:
        yield
        return
    try:
        import viser  # noqa: F401
    except ImportError as error:
        from artifixer.viewer.page import MISSING_VISER

        raise InputError(f"--view: {MISSING_VISER} ({error})") from None
    # on the CPU, to leave the GPU to the job
    command = ["view", str(out), "--watched-process", str(os.getpid()), "--device", "cpu"]
    command += ["--port", "0"]
    if capture is not None and brings_poses(capture):
        command += ["--capture", capture]
    process = subprocess.Popen(
        [sys.executable, "-m", "artifixer", *command],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=sys.platform != "win32",
    )
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
