"""A folder of ``run`` or ``reconstruct``, finished or in progress, or a splat file ->
``ViewedScene``.

Only files inside the folder and the capture are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artifixer.geometry.camera_file import (
    CameraFrame,
    read_cameras,
    read_origin,
    read_references,
)
from artifixer.geometry.local_origin import WORLD, Origin
from artifixer.geometry.paths import alike, focus_point
from artifixer.pipeline.capture import CaptureChoice, LoadedCapture, load_capture
from artifixer.pipeline.render import open_source, seen_distance, splat_depths
from artifixer.pipeline.target_path import capture_distance
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import LARGEST_TEXT, PARSER_ERRORS, read_whole
from artifixer.runtime.image_files import read_image
from artifixer.runtime.json_io import read_json
from artifixer.runtime.run_folder import is_run_folder
from artifixer.scenes.camera_path_file import path_origin, read_camera_path
from artifixer.scenes.scale import ASSUMED_MEDIAN_DEPTH, metric_scale
from artifixer.scenes.view import View, reference_views, views_of
from artifixer.splats.files import read_splat_file
from artifixer.splats.ply import read_splats
from artifixer.splats.render_folder import stored_view
from artifixer.splats.splats import Splats
from artifixer.viewer.scene import Picture, ViewedScene, up_axis

#: Files of the splats in a folder by title, the best last; and checkpoints of fits in progress.
SPLATS = {
    "Plain splats": ("splats.ply", "splats/initial.ply"),
    "Second fit": ("splats/input.ply",),
    "ArtiFixer 3D": ("splats/artifixer3d.ply",),
}
CHECKPOINTS = {
    "Plain splats": ("checkpoint.safetensors", "splats/initial.checkpoint"),
    "Second fit": ("splats/input.checkpoint",),
    "ArtiFixer 3D": ("splats/artifixer3d.checkpoint",),
}

#: Folders of the images that a job writes; the latest image is shown.
PICTURES = {
    "Latest render": ("renders/rgb", "renders/heldout/rgb", "renders_3d/rgb"),
    "Latest frame": (
        "frames/artifixer",
        "frames/artifixer3d",
        "frames/artifixer3d_plus",
    ),
    "Latest validation": ("validation",),
}

#: Maximum number of reference views.
MAX_REFERENCES = 6

#: Approximate maximum number of points of a curve.
MAX_STEPS = 400

_NUMBER = re.compile(r"(\w+)=(-?[\d.]+(?:e-?\d+)?)(?=\s|$)")
_STEP = re.compile(r"^[\d-]+ [\d:]+ (\w[\w ]*) \(\d+/\d+\) ([\d,]+)/[\d,]+ ")


@dataclass(frozen=True)
class ViewSource:
    """Location of a scene to view."""

    source: Path
    """A folder of ``run`` or ``reconstruct``, or a splat file."""

    capture: str | None = None
    """The capture, for its photos and points; None to view without them."""

    cameras: Path | None = None
    """Camera file of a splat file."""

    is_watched: bool = False
    """Whether a job is running in the folder, so that files may be missing or incomplete."""


def open_view(source: ViewSource, device: str, scale: str = "median_depth") -> ViewedScene:
    """Read the scene from its files. scale: the model's kind of camera scale.

    Raises ``InputError`` if there are no splats, unless the folder is watched.
    """
    path = source.source
    if path.is_file():
        if source.cameras is None and source.capture is not None:
            there = _captured(source)
            alone = read_splat_file(path, there.scene.origin).splats
            return _completed({path.stem: alone}, (), (), (), source, device, scale, there)
        found = open_source(path, source.cameras)
        notes = () if found.all else ("no cameras: a default view; give --cameras or --capture",)
        known = {path.stem: found.splats}
        origin = found.origin
        return _completed(known, found.all, (), notes, source, device, scale, origin=origin)
    if source.is_watched and not path.is_dir():
        return ViewedScene(path.name, {}, notes=("the job has just started",))
    if not path.is_dir():
        raise InputError(
            f"{path}: does not exist, expected a folder of run or reconstruct, or a splat file"
        )
    capture = None if source.capture is None else _captured(source)
    try:
        origin = _origin(path, source.cameras) if capture is None else capture.scene.origin
        frames = _cameras(path, source.cameras, origin)
    except InputError:
        if not source.is_watched:
            raise
        origin, frames = WORLD, ()  # the file is incomplete
    splats = dict(_folder_splats(path, origin))
    if not source.is_watched and (not is_run_folder(path) or not splats):
        raise InputError(
            f"{path}: holds no splats (splats.ply, splats/initial.ply); expected a folder of run "
            "or reconstruct, or a splat file"
        )
    references = _references(path, origin)
    return _completed(splats, frames, references, (), source, device, scale, capture, origin)


def splat_stamp(path: Path) -> tuple[object, ...]:
    """A value that changes with the splats, images and logs in a folder."""
    names = [name for table in (SPLATS, CHECKPOINTS) for group in table.values() for name in group]
    stamps: list[object] = []
    for name in (*names, "log.txt", ".run/log.txt", "metrics.jsonl"):
        file = path / name
        if file.is_file():
            facts = file.stat()
            stamps.append((name, facts.st_mtime_ns, facts.st_size))
    for group in PICTURES.values():
        stamps.extend(str(newest) for name in group if (newest := _newest(path / name)))
    return tuple(stamps)


def _completed(
    splats: Mapping[str, Splats],
    frames: tuple[CameraFrame, ...],
    references: tuple[View, ...],
    notes: tuple[str, ...],
    source: ViewSource,
    device: str,
    scale: str,
    capture: LoadedCapture | None = None,
    origin: Origin = WORLD,
) -> ViewedScene:
    """Assemble the scene: add photos, points, reference views and camera scale."""
    if capture is not None:
        scene, origin = capture.scene, capture.scene.origin
        frames = tuple(view.frame for view in views_of(scene, range(len(scene.photos))))
    photos: dict[str, Callable[[], Picture]] = {
        view.photo.name: view.photo.read for view in references
    }
    if capture is not None:
        photos = {photo.name: photo.read for photo in capture.scene.photos}
    if not references and capture is not None:
        references = tuple(reference_views(scene, capture.training, MAX_REFERENCES))
    attended = [view.in_memory() for view in references]
    on_device = {name: found.map(lambda t: t.to(device)) for name, found in splats.items()}
    best = list(splats.values())[-1] if splats else None
    distance = _distance(best, frames, capture)
    units, where = _units(best, frames, distance, scale)
    points = None if capture is None else capture.scene.points
    watched = source.source if source.is_watched else None
    return ViewedScene(
        name=source.source.resolve().name,
        splats=on_device,
        frames=frames,
        photos=photos,
        points=None if points is None else points.xyz,
        point_colors=None if points is None else points.rgb,
        references=tuple(attended),
        camera_scale=units,
        camera_scale_source=where,
        distance=distance,
        up=up_axis(frames),
        pictures={} if watched is None else dict(_latest(watched)),
        curves={} if watched is None else _curves(watched),
        notes=notes,
        origin=origin,
    )


def _captured(source: ViewSource) -> LoadedCapture:
    """Load the capture without writing files."""
    return load_capture(_choice(source), work_folder=None)


def _origin(path: Path, cameras: Path | None) -> Origin:
    """The origin of a folder's cameras and splats."""
    file = path / "cameras.json"
    if file.is_file():
        return read_origin(file)
    return WORLD if cameras is None else path_origin(cameras)


def _folder_splats(path: Path, origin: Origin) -> Iterator[tuple[str, Splats]]:
    """Finished splats by title, or those in the checkpoint of a fit."""
    for title, names in SPLATS.items():
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is not None:
            yield title, read_splats(found, origin)
            continue
        for name in CHECKPOINTS[title]:
            if (path / name).is_file() and (unfinished := _checkpoint(path / name)) is not None:
                yield title, unfinished


def _checkpoint(path: Path) -> Splats | None:
    """Gaussians in the checkpoint of a fit; None if it is incomplete or holds none."""
    from safetensors import SafetensorError, safe_open

    names = ("means", "quats", "log_scales", "opacity_logits", "sh")
    try:
        with safe_open(str(path), framework="pt") as file:
            if not set(names) <= set(file.keys()):
                return None
            return Splats(**{name: file.get_tensor(name) for name in names})
    except (SafetensorError, AssertionError, OSError, *PARSER_ERRORS):
        return None


def _cameras(path: Path, cameras: Path | None, origin: Origin) -> tuple[CameraFrame, ...]:
    """All cameras of a reconstruction, or the target cameras of a run; of ``cameras`` if given."""
    if cameras is not None:
        return tuple(read_camera_path(cameras, origin))
    file = path / "cameras.json"
    return tuple(read_cameras(file, origin)) if file.is_file() else ()


def _references(path: Path, origin: Origin) -> tuple[View, ...]:
    """The reference views in the render folder of a run or a reconstruction."""
    for name in ("renders", "renders/heldout"):
        file = path / name / "cameras.json"
        if file.is_file():
            return tuple(
                stored_view(frame, file.parent / picture)
                for frame, picture in read_references(file, origin)[:MAX_REFERENCES]
                if (file.parent / picture).is_file()
            )
    return ()


def _choice(source: ViewSource) -> CaptureChoice:
    """The capture with the size and split in the folder's config.json."""
    assert source.capture is not None
    stored = stored_settings(source.source).get("choice")
    known = stored if isinstance(stored, dict) else {}

    def text(key: str) -> Any:
        return value if isinstance(value := known.get(key), str) else None

    def whole(key: str) -> Any:
        value = known.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    return CaptureChoice(
        source.capture,
        split=text("split"),
        views=whole("views"),
        all_views=known.get("all_views") is True,
        size=text("size"),
        faces=whole("faces"),
        sparse_model=whole("sparse_model"),
        ignore_masks=known.get("ignore_masks") is True,
    )


def stored_settings(folder: Path) -> dict[str, Any]:
    """``settings`` in a folder's config.json; empty if there are none."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    content = read_json(path)
    settings = content.get("settings") if isinstance(content, dict) else None
    return settings if isinstance(settings, dict) else {}


def _distance(
    splats: Splats | None, frames: tuple[CameraFrame, ...], capture: LoadedCapture | None
) -> float:
    if capture is not None:
        return capture_distance(capture)
    if frames and splats is not None:
        try:
            return seen_distance(splats, alike([frame.camera for frame in frames]))
        except InputError:
            pass
    if len(frames) > 1:
        views = alike([frame.camera for frame in frames])
        return max(1e-6, float((views.centers - focus_point(views)).norm(dim=1).median()))
    if splats is None:
        return 1.0
    center = splats.means.median(dim=0).values
    radius = (splats.means[:: 1 + len(splats) // 100_000] - center).norm(dim=1).quantile(0.8)
    return 2 * max(1e-6, float(radius))


def _units(
    splats: Splats | None, frames: tuple[CameraFrame, ...], distance: float, scale: str
) -> tuple[float, str]:
    """Factor from world units to the model's units, and its source."""
    median, where = distance, "typical distance"
    if splats is not None and frames:
        seen = splat_depths(splats, alike([frame.camera for frame in frames]))
        if seen:
            median = float(torch.cat([view.depths for view in seen]).median())
            where = "median depth of the splats"
    if scale == "metric":
        return metric_scale(ASSUMED_MEDIAN_DEPTH / median), f"{where} taken as 3 m"
    return 1 / median, where


# Running jobs -------------------------------------------------------------------------------------


def _latest(folder: Path) -> Iterator[tuple[str, Picture]]:
    for title, names in PICTURES.items():
        found = [newest for name in names if (newest := _newest(folder / name)) is not None]
        if not found:
            continue
        try:
            yield title, np.ascontiguousarray(read_image(max(found, key=_changed)))
        except InputError:
            continue  # the file is incomplete


def _newest(folder: Path) -> Path | None:
    files = [path for path in folder.glob("*.png") if path.is_file()]
    return max(files, key=_changed, default=None)


def _changed(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, path.name
    except FileNotFoundError:
        return 0, path.name


def _curves(folder: Path) -> dict[str, tuple[tuple[float, float], ...]]:
    """Curves of loss and PSNR over the steps, from a training's metrics.jsonl and the progress
    lines in the log.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    metrics = folder / "metrics.jsonl"
    if metrics.is_file():
        for line in _lines(metrics):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                for name, value in row.items():
                    if "loss" in name and isinstance(value, (int, float)):
                        curves.setdefault(name, []).append((row["step"], float(value)))
    for log in (folder / "log.txt", folder / ".run" / "log.txt"):
        for line in _lines(log) if log.is_file() else ():
            found = _STEP.match(line)
            if found is None:
                continue
            stage, step = found[1], float(found[2].replace(",", ""))
            for name, value in _NUMBER.findall(line):
                if name in ("loss", "PSNR"):
                    curves.setdefault(f"{stage}: {name}", []).append((step, float(value)))
    return {name: _thinned(points) for name, points in curves.items()}


def _lines(path: Path) -> list[str]:
    return read_whole(path, "a log", LARGEST_TEXT).decode(errors="replace").splitlines()


def _thinned(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Sorted by step without duplicates, with at most about ``MAX_STEPS`` points."""
    ordered = sorted(dict(points).items())
    return tuple(ordered[:: 1 + len(ordered) // MAX_STEPS])
