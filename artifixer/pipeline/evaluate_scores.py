"""Scores of the methods in one scene: figures of every held-out view, pictures for the page, and
consistency between frames.

A method is scored again when its frames, the photos, the masks or the installed metric networks
have changed.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from artifixer.evaluation.benchmarks.masks import read_visibility_mask
from artifixer.evaluation.benchmarks.scene import BenchmarkScene
from artifixer.evaluation.consistency import (
    Sequence3d,
    consistency,
    neighbour_warps,
    revisit_warps,
)
from artifixer.evaluation.files import method_file
from artifixer.evaluation.frames import FrameSource
from artifixer.evaluation.profiles import PROFILES, Networks
from artifixer.evaluation.score_files import write_scores
from artifixer.evaluation.scores import BenchmarkView, SceneScores, score_scene
from artifixer.imaging.resize import at_size
from artifixer.pipeline.evaluate_config import EvaluateConfig, Resize
from artifixer.pipeline.evaluate_methods import Method, SceneRun
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import write_bytes
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.json_io import read_json, write_json
from artifixer.runtime.progress import Progress
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stopping import stop_if_requested
from artifixer.scenes.scene import Photo
from artifixer.splats.render_folder import RenderFolder

#: The row of the photos themselves in tables of consistency.
PHOTOS_ROW = "photos"

#: Incremented when the scores of the same inputs change.
VERSION = 1

#: Pictures for the page: longest side in pixels, and quality on WebP's scale of 0 to 100.
PICTURE_SIDE, PICTURE_QUALITY = 480, 85


@dataclass(frozen=True)
class ScoredScene:
    """Inputs of the scores of a scene."""

    config: EvaluateConfig
    """Settings of the evaluation."""
    scene: BenchmarkScene
    """Split, masks and caveats."""
    photos: Mapping[str, Photo]
    """The held-out photos by name, in the order of their names."""
    run: SceneRun | None
    """None if only frames of other methods are scored."""
    networks: Networks
    """Networks of the perceptual metrics."""
    files: RunFolder
    """The scene's folder."""

    @functools.cached_property
    def photos_key(self) -> str:
        """Fingerprint of the photos' pixels."""
        return fingerprint([(name, photo.read()) for name, photo in self.photos.items()])

    @functools.cached_property
    def opacity_key(self) -> str:
        """Fingerprint of the opacity of the model's input renders."""
        if self.run is None:
            return ""
        return fingerprint(
            [
                self.run.model_input.path / "opacity" / f"{self.run.positions[photo]:05d}.png"
                for photo in self.photos
                if photo in self.run.positions
            ]
        )


# Figures of every view ----------------------------------------------------------------------------


def score_method(job: ScoredScene, method: Method, progress: Progress) -> None:
    """Write the method's scores and pictures, unless they are up to date."""
    config = job.config
    key = {
        "version": VERSION,
        "frames": fingerprint(method.key),
        "photos": job.photos_key,
        "masks": fingerprint([path for _, path in sorted(job.scene.masks.items())]),
        "opacity": job.opacity_key,
        "profiles": {
            name: [figure.name for figure in PROFILES[name].figures]
            for name in config.entry.profiles
        },
        "measures": job.networks.available,
        "antialias": config.antialias,
        "resize": config.resize,
        "own photos": config.own_truth,
        "split": [job.scene.train, job.scene.heldout],
    }
    name = f"scores/{method_file(method.name)}.json"
    stage = f"score-{method_file(method.name).replace('+', '.plus')}"
    if job.files.is_done(stage, key):
        return
    with progress.stage(method.name, len(job.photos)) as shown:
        views = _views(job, method, list(job.photos))
        scores = score_scene(views, config.entry.profiles, job.networks, shown.update)
    write_scores(job.files.root / name, scores)
    pictures = f"pictures/{method_file(method.name)}"
    _write_pictures(job, method, scores, job.files.root / pictures)
    job.files.mark_done(stage, key, [name, pictures])


def _write_pictures(job: ScoredScene, method: Method, scores: SceneScores, folder: Path) -> None:
    """Write the views with the largest and the smallest squared error, each next to its photo."""
    errors = {view.photo: view.squared[0] / view.values[0] for view in scores.views}
    for label, choose in (("worst", max), ("best", min)):
        chosen = choose(errors, key=lambda photo: errors[photo])
        (view,) = _views(job, method, [chosen])
        pair = np.concatenate([view.truth, view.prediction], axis=1)
        write_bytes(folder / f"{label}.webp", _picture(pair))


def _views(job: ScoredScene, method: Method, names: Sequence[str]) -> Iterator[BenchmarkView]:
    """The named held-out views at the photos' size."""
    for name in names:
        photo, source = job.photos[name], method.source
        truth, prediction = photo.read(), method.read(name)
        truth_path = job.config.relative(photo.path) if photo.path is not None else name
        if source is not None and job.config.own_truth:
            truth, truth_path = source.truth(name), f"{source.producer}: its own"
        height, width = truth.shape[:2]
        if source is None:
            prediction = at_size(prediction, width, height)
        elif prediction.shape != truth.shape:
            prediction = _resized(job, prediction, width, height, method, name)
        mask_path = job.scene.masks.get(name)
        yield BenchmarkView(
            photo=name,
            truth=truth,
            prediction=prediction,
            prediction_path=method.path(name),
            truth_path=truth_path,
            mask=None if mask_path is None else read_visibility_mask(mask_path, width, height),
            mask_path="" if mask_path is None else job.config.relative(mask_path),
            opacity=_input_opacity(job.run, name, width, height),
            own_opacity=source.opacity(name) if source else None,
            depth=_depth(source, name, width, height) if source else None,
        )


def _resized(
    job: ScoredScene,
    prediction: UInt8[np.ndarray, "rows columns 3"],
    width: int,
    height: int,
    method: Method,
    photo: str,
) -> UInt8[np.ndarray, "height width 3"]:
    if job.config.resize is None:
        rows, columns = prediction.shape[:2]
        raise other_size(method.path(photo), columns, rows, photo, width, height)
    return resize_frame(prediction, width, height, job.config.resize)


def other_size(
    file: str, width: int, height: int, photo: str, photo_width: int, photo_height: int
) -> InputError:
    """The error for a frame whose size differs from its photo's."""
    return InputError(
        f"{file}: {width}x{height} pixels, the photo {photo} has {photo_width}x{photo_height}; "
        "--resize bicubic, lanczos or area brings frames to the photo's size and records it"
    )


def resize_frame(
    pixels: UInt8[np.ndarray, "rows columns 3"], width: int, height: int, method: Resize
) -> UInt8[np.ndarray, "height width 3"]:
    """Resize a frame of another program. ``bicubic`` is without antialiasing, as in the public
    release; ``lanczos`` and ``area`` (a box filter) are with it.
    """
    from PIL import Image

    if method == "bicubic":
        planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
        resized = torch.nn.functional.interpolate(
            planes, size=(height, width), mode="bicubic", align_corners=False
        )
        return resized[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
    chosen = Image.Resampling.LANCZOS if method == "lanczos" else Image.Resampling.BOX
    return np.array(Image.fromarray(pixels).resize((width, height), chosen))


def _input_opacity(
    run: SceneRun | None, photo: str, width: int, height: int
) -> UInt8[np.ndarray, "height width"] | None:
    """Opacity of the model's input render; None if the path does not contain the photo."""
    if run is None or photo not in run.positions:
        return None
    return at_size(run.model_input.opacity(run.positions[photo]), width, height)


def _depth(
    source: FrameSource, photo: str, width: int, height: int
) -> Float[np.ndarray, "height width"] | None:
    """Depth of the method's render, resized by nearest neighbours."""
    depth = source.depth(photo)
    if depth is None or depth.shape == (height, width):
        return depth
    rows = np.arange(height) * depth.shape[0] // height
    columns = np.arange(width) * depth.shape[1] // width
    chosen: np.ndarray = depth[rows][:, columns]
    return chosen


def _picture(pair: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Photo and frame side by side as WebP."""
    from PIL import Image

    height, width = pair.shape[0], pair.shape[1]
    factor = min(1.0, PICTURE_SIDE / max(height, width // 2))
    image = Image.fromarray(pair).resize(
        (max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.LANCZOS
    )
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=PICTURE_QUALITY, method=4)
    return buffer.getvalue()


# Consistency --------------------------------------------------------------------------------------


def scene_consistency(
    job: ScoredScene, methods: Sequence[Method], progress: Progress
) -> dict[str, Any]:
    """Warp errors of every method over the held-out views in path order, and over the whole path;
    empty without a run. Stored in ``consistency.json``.
    """
    if job.run is None:
        return {}
    renders = job.run.renders
    key = {
        "version": VERSION,
        "methods": {method.name: fingerprint(method.key) for method in methods},
        "photos": job.photos_key,
        "depths": fingerprint(
            [renders.path / "depth" / f"{index:05d}.npy" for index in range(len(renders))]
        ),
        "own photos": job.config.own_truth,
    }
    name = "consistency.json"
    if not job.files.is_done("consistency", key):
        with progress.stage("consistency", 0):
            write_json(job.files.root / name, _warp_errors(job, job.run, methods))
        job.files.mark_done("consistency", key, [name])
    content: dict[str, Any] = read_json(job.files.root / name)
    return content


def _warp_errors(job: ScoredScene, run: SceneRun, methods: Sequence[Method]) -> dict[str, Any]:
    renders, positions = run.renders, run.positions
    order = sorted(job.photos, key=lambda photo: positions[photo])
    at_photos = [positions[photo] for photo in order]
    found: dict[str, Any] = {}
    for label, indices in (("views", at_photos), ("path", list(range(len(renders))))):
        if label == "path" and len(indices) == len(at_photos):
            continue  # the path consists of the held-out views
        views = _sequence(renders, indices)
        near, far = neighbour_warps(views), revisit_warps(views)
        pictures: dict[str, Callable[[int], np.ndarray]] = {}
        for method in methods:
            if label == "views" and not (method.source and job.config.own_truth):
                pictures[method.name] = functools.partial(_nth, method.read, order)
            elif label == "path" and method.sequence is not None:
                pictures[method.name] = method.sequence
        if label == "views":
            pictures[PHOTOS_ROW] = lambda index: job.photos[order[index]].read()
        width, height = renders.frames[0].camera.width, renders.frames[0].camera.height
        for name, picture in pictures.items():
            at_camera = functools.lru_cache(maxsize=16)(
                functools.partial(_resized_frame, picture, width, height)
            )
            found.setdefault(name, {})[label] = consistency(at_camera, near, far)
    return found


def _sequence(renders: RenderFolder, indices: list[int]) -> Sequence3d:
    @functools.lru_cache(maxsize=16)
    def depth(position: int) -> np.ndarray:
        found = renders.depth(indices[position])
        if found is None:
            raise InputError(f"{renders.path}: has no depth of frame {indices[position]}")
        return found

    return Sequence3d([renders.frames[index].camera for index in indices], depth)


def _nth(read: Callable[[str], np.ndarray], order: list[str], index: int) -> np.ndarray:
    return read(order[index])


def _resized_frame(
    picture: Callable[[int], np.ndarray], width: int, height: int, index: int
) -> np.ndarray:
    stop_if_requested("while comparing frames")
    return at_size(picture(index), width, height)
