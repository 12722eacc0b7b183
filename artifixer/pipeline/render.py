"""Splats -> a render folder and a video along a camera path, frame by frame, resumable.

The splats come from a folder of ``reconstruct`` or ``run`` (which brings cameras and reference
photos) or from a splat file of any tool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.camera_file import CameraFrame, read_origin
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.local_origin import WORLD, Origin, local_origin, points_to_local
from artifixer.geometry.paths import CameraPath, alike, orbit, spline, tour
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.imaging.resize import fit_size
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import read_image
from artifixer.runtime.json_io import read_json, shown
from artifixer.runtime.progress import Progress, ProgressBar
from artifixer.runtime.run_folder import RunFolder, is_run_folder
from artifixer.runtime.stages import StageFiles, Stages
from artifixer.runtime.stopping import stop_on_sigterm, stop_requested
from artifixer.runtime.video_files import VideoWriter
from artifixer.scenes.camera_path_file import path_origin, read_camera_path
from artifixer.scenes.scale import DepthView
from artifixer.scenes.view import View
from artifixer.splats.files import read_splat_file
from artifixer.splats.ply import read_splats
from artifixer.splats.render import render
from artifixer.splats.render_folder import (
    finish_render_folder,
    read_render_folder,
    to_uint8,
    write_frame,
)
from artifixer.splats.splats import Splats

#: Named paths; any other value is a camera file.
PATHS = ("heldout", "tour", "orbit", "spline")

#: Splats in a folder of ``reconstruct`` or ``run``; the first existing file is rendered.
FOLDER_SPLATS = ("splats.ply", "splats/artifixer3d.ply", "splats/initial.ply")

#: The only stage. A folder has one set of settings, so the stage's key is empty.
RENDER = StageFiles("render", ("rgb", "opacity", "depth", "cameras.json", "video.mp4"))

#: Camera for splat files without cameras: size in pixels, vertical field of view in radians.
DEFAULT_SIZE = (640, 480)
DEFAULT_FIELD_OF_VIEW = math.radians(50)

#: Longest side in pixels of the renders from which the scene's distance is estimated.
PROBE_SIZE = 96


@dataclass(frozen=True)
class RenderJob:
    """Everything that renders along a path depend on."""

    source: Path
    """A folder of ``reconstruct`` or ``run``, or a splat file."""
    path: str = "tour"
    """One of ``PATHS`` or a camera file."""
    cameras: Path | None = None
    """Cameras of a splat file's capture."""
    size: str | None = None
    """Longest side in pixels or ``WxH``; None keeps the cameras' size."""
    frames: int = 120
    """Number of frames of an orbit."""
    fps: float = 24.0
    """Frames per second of the video."""
    device: str = "cpu"
    """Torch device."""


@dataclass(frozen=True)
class SplatSource:
    """Splats and their capture's cameras."""

    splats: Splats
    """The Gaussians."""
    targets: tuple[CameraFrame, ...]
    """Held-out cameras; all cameras if none is held out."""
    all: tuple[CameraFrame, ...]
    """The capture's cameras; for a folder of ``run``, its target cameras."""
    references: tuple[View, ...]
    """Views for the video model to attend to."""
    origin: Origin = WORLD
    """Origin that splats and cameras are relative to."""


def render_path(job: RenderJob, out: Path, overwrite: bool = False) -> int:
    """Render the path into the folder ``out`` and return the number of frames; the same call
    continues an interrupted one.

    Writes a render folder and ``video.mp4`` (of the frames with the first frame's size). Raises
    ``InputError`` for unusable splats or cameras or a folder that holds other results, ``Stopped``
    after SIGTERM.
    """
    source = open_source(job.source, job.cameras)
    frames = [_resized(frame, job.size) for frame in path_frames(source, job.path, job.frames)]
    identity = {"splats": fingerprint(*vars(source.splats).values())}
    settings = {"path": job.path, "size": job.size, "fps": job.fps, "cameras": fingerprint(frames)}
    with (
        RunFolder.open(out, identity, settings, overwrite, device=job.device) as run,
        stop_on_sigterm(),
        Progress(("render",)) as progress,
    ):
        run.path("references")  # written if the source has reference views
        splats = source.splats.map(lambda tensor: tensor.to(job.device))

        def work(bar: ProgressBar) -> None:
            for index, frame in enumerate(frames):
                if not (out / "depth" / f"{index:05d}.npy").is_file():  # a frame's last file
                    with torch.no_grad():
                        write_frame(out, index, render(splats, frame.camera.to(job.device)))
                bar.update(index + 1)
                stop_between_frames(out, index + 1, len(frames))
            finish_render_folder(out, frames, source.references, source.origin)
            _write_video(out, frames, job.fps)

        Stages(run, progress, write_timing=False).complete(RENDER, {}, len(frames), work)
    return len(frames)


def stop_between_frames(out: Path, done: int, total: int) -> None:
    """Raise ``Stopped`` after SIGTERM; the same command then continues with the next frame."""
    if stop_requested():
        raise Stopped(
            f"{out}: stopped after frame {done} of {total}; run the same command to continue"
        )


def open_source(path: Path, cameras: Path | None = None) -> SplatSource:
    """Read splats from a folder of ``reconstruct`` or ``run`` (the last ones made there), or from a
    splat file. cameras: camera file that replaces the folder's cameras or comes with the splat
    file. Raises ``InputError``.
    """
    if path.is_file():
        found = read_splat_file(path)
        splats, origin = found.splats, found.origin
        if origin == WORLD and cameras is not None:
            found = read_splat_file(path, path_origin(cameras))
            splats, origin = found.splats, found.origin
        elif origin == WORLD:
            origin = local_origin(splats.means.to(torch.float64).numpy())
            splats = replace(splats, means=points_to_local(splats.means, origin))
        known = tuple(read_camera_path(cameras, origin)) if cameras is not None else ()
        return SplatSource(splats, known, known, (), origin)
    if not path.exists():
        raise InputError(
            f"{path}: does not exist, expected a folder of reconstruct or run, or a splat file"
        )
    stored = next((path / name for name in FOLDER_SPLATS if (path / name).is_file()), None)
    if not is_run_folder(path) or stored is None or not (path / "cameras.json").is_file():
        raise InputError(
            f"{path}: holds no finished reconstruction ({' or '.join(FOLDER_SPLATS)}, and "
            "cameras.json); run artifixer reconstruct or artifixer run first"
        )
    origin = read_origin(path / "cameras.json")
    everything = tuple(read_camera_path(cameras or path / "cameras.json", origin))
    is_run = stored.parent != path
    heldout = set()
    if cameras is None:
        heldout = _run_heldout(path / "metrics.json") if is_run else _heldout(path / "split.json")
    targets = tuple(frame for frame in everything if frame.photo in heldout) or everything
    folder = path / "renders" if is_run else path / "renders" / "heldout"
    references = (
        read_render_folder(folder, origin).references if (folder / "cameras.json").is_file() else ()
    )
    return SplatSource(read_splats(stored, origin), targets, everything, references, origin)


def _run_heldout(path: Path) -> set[str]:
    """Names of the held-out photos in a run's ``metrics.json``; empty before it is written."""
    return _heldout(path, "views") if path.is_file() else set()


def _heldout(path: Path, key: str | None = None) -> set[str]:
    """Names of the held-out photos in a JSON file, such as a reconstruction's ``split.json``; in
    its object ``key`` unless that is None.
    """
    content = read_json(path)
    if key is not None and isinstance(content, dict):
        content = content.get(key)
    names = content.get("heldout") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f'{path}: "heldout" is {shown(names)}, expected a list of photos')
    return set(names)


def path_frames(source: SplatSource, path: str, orbit_frames: int) -> list[CameraFrame]:
    """The frames of a path; a frame at the camera of a photo has the photo's name."""
    if path not in PATHS:
        if not Path(path).exists():
            raise InputError(
                f"--path {path}: neither one of {', '.join(PATHS)} nor a file of cameras"
            )
        known = source.all[0].camera if source.all else None
        size = None if known is None else (known.width, known.height)
        return read_camera_path(Path(path), source.origin, size)
    if not source.all:
        if path != "orbit":
            raise InputError(
                f"--path {path}: a PLY file alone has no cameras; give --cameras FILE, or --path "
                "orbit"
            )
        return _frames(orbit(_around(source.splats), orbit_frames), ())
    if path == "heldout":
        return list(source.targets)
    if path == "orbit":
        return _frames(orbit(alike([frame.camera for frame in source.all]), orbit_frames), ())
    chosen = source.targets if path == "tour" else source.all
    views = alike([frame.camera for frame in chosen])
    distance = seen_distance(source.splats, views)
    return _frames(tour(views, distance) if path == "tour" else spline(views, distance), chosen)


def seen_distance(splats: Splats, views: Cameras) -> float:
    """Median camera z of the splats in up to 16 of the views, world units. Raises ``InputError`` if
    no splats are visible.
    """
    seen = splat_depths(splats, views)
    if not seen:
        raise InputError(
            "the cameras see none of the splats: PLY and cameras are not in the same frame"
        )
    return float(torch.cat([view.depths for view in seen]).median())


def splat_depths(splats: Splats, views: Cameras) -> list[DepthView]:
    """Depths of pixels with opacity above one half in small renders of up to 16 views; views
    without such pixels are left out.
    """
    probes = views.resized(*fit_size(views.width, views.height, PROBE_SIZE))
    probes = probes[torch.linspace(0, len(views) - 1, min(16, len(views))).round().long()]
    with torch.no_grad():
        renders = render(splats, probes)
    seen = []
    for index in range(len(probes)):
        rows, columns = (renders.opacity[index] > 0.5).nonzero(as_tuple=True)
        if len(rows):
            picture = partial(_as_bytes, renders.rgb[index])
            pixels = torch.stack([columns, rows], dim=-1).cpu() + 0.5
            seen.append(
                DepthView(probes[index], picture, pixels, renders.depth[index, rows, columns].cpu())
            )
    return seen


def _as_bytes(rgb: Float[Tensor, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    return to_uint8(rgb).cpu().numpy()


def _frames(path: CameraPath, stops: Sequence[CameraFrame]) -> list[CameraFrame]:
    return [
        CameraFrame(path.cameras[index], None if stop is None else stops[stop].photo)
        for index, stop in enumerate(path.stops)
    ]


def _around(splats: Splats) -> Cameras:
    """Two cameras that look at the centre of the splats, for files without cameras. Up is -y, as in
    most captures.
    """
    center = splats.means.median(dim=0).values
    # quantile accepts at most 16 million values
    radius = (splats.means[:: 1 + len(splats) // 1_000_000] - center).norm(dim=1).quantile(0.8)
    width, height = DEFAULT_SIZE
    focal = 0.5 * height / math.tan(DEFAULT_FIELD_OF_VIEW / 2)
    eye = center + torch.tensor([0.0, -0.5, -2.0]) * radius
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    # a second view, so that the optical axes intersect at the centre
    beside = center + torch.tensor([2.0, -0.5, 0.0]) * radius
    eyes = torch.stack([eye, beside])
    viewmats = invert_rigid(look_at(eyes, center.expand_as(eyes), torch.tensor([0.0, -1.0, 0.0])))
    return Cameras.pinhole(viewmats, K.expand(2, 3, 3), width, height)


def _resized(frame: CameraFrame, size: str | None) -> CameraFrame:
    return CameraFrame(
        frame.camera.resized(
            *fit_size(frame.camera.width, frame.camera.height, size, enlarge=True)
        ),
        frame.photo,
    )


def _write_video(folder: Path, frames: Sequence[CameraFrame], fps: float) -> None:
    first = frames[0].camera
    with VideoWriter(folder / "video.mp4", first.width, first.height, fps) as video:
        for index, frame in enumerate(frames):
            if (frame.camera.width, frame.camera.height) == (first.width, first.height):
                video.add(read_image(folder / "rgb" / f"{index:05d}.png"))
