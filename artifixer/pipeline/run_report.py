"""Metrics and report of a run: writes ``metrics.json`` and chooses the content of ``report.html``.

``evaluation/evaluate`` computes the metrics, ``evaluation/report`` writes the page.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artifixer.evaluation.evaluate import (
    VARIANT_TITLES,
    HeldoutView,
    PerceptualMetrics,
    VariantQuality,
    evaluate,
    metrics_content,
)
from artifixer.evaluation.inpainting import METHODS, inpaint
from artifixer.evaluation.report import MAX_VIEWS, Report, ReportView, write_report
from artifixer.evaluation.report_scenes import ReportScene, ReportScenes
from artifixer.evaluation.variant_table import read_variants
from artifixer.imaging.resize import at_size, resize_photo
from artifixer.pipeline.run_context import RunContext
from artifixer.pipeline.run_stages import ADAPTATION, DISTILLED, INITIAL, INPUT, INPUT_2
from artifixer.pipeline.run_steps import variant_frame
from artifixer.pipeline.target_path import capture_distance, heldout_frames
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import read_image, write_png
from artifixer.runtime.json_io import read_json, write_json
from artifixer.runtime.progress import ProgressBar
from artifixer.scenes.scale import CameraScale
from artifixer.scenes.scene import Photo
from artifixer.splats.ply import read_splats
from artifixer.splats.render_folder import RenderFolder, read_render_folder
from artifixer.viewer.scene import up_axis
from artifixer.viewer.static_scene import PLACE, static_scenes

#: Splats that the report shows as interactive scenes, by the variant that renders them.
INTERACTIVE = {"3dgut": INITIAL, "artifixer3d": DISTILLED}

#: Longest side in pixels of the images shown before a scene is started.
STILL_SIZE = 960


@dataclass(frozen=True)
class RunFacts:
    """Content of the report besides the run's files."""

    model: str
    """Name and mode of the video model."""
    scale: CameraScale
    """Camera scale."""
    settings: Mapping[str, Any]
    """Settings of the run, as JSON data."""
    notes: tuple[str, ...]
    """Remarks and warnings."""
    variants: Mapping[str, str]
    """Folder of images by variant, renders first."""
    generator_input: str
    """Render folder that is the model's input."""
    is_adapted: bool = False
    """Whether the model was adapted to the scene."""


def write_run_report(run: RunContext, facts: RunFacts, bar: ProgressBar) -> None:
    """Write ``report.html`` from the other files of the run."""
    root, capture = run.root, run.capture
    quality = read_variants(root / "metrics.json")
    videos = [(VARIANT_TITLES[name], root / "videos" / f"{name}.mp4") for name in facts.variants]
    side_by_side = (
        "Side by side: " + " | ".join(title for title, _ in videos),
        root / "videos" / "side_by_side.mp4",
    )
    files = {
        "3dgut": (INITIAL,),
        "input": (INPUT, INPUT_2),
        "artifixer3d": (DISTILLED,),
    }
    splats = [
        file
        for name in files
        if name in facts.variants
        for file in files[name]
        if (root / file).is_file()
    ]
    with tempfile.TemporaryDirectory() as pictures:
        report = Report(
            title=capture.scene.name,
            subtitle=f"{counted(len(capture.training), 'training photo')}, "
            f"{counted(len(run.frames), 'frame')} of {run.size[0]}x{run.size[1]}",
            facts=_rows(run, facts, splats),
            variants=quality if any(variant.per_view for variant in quality.values()) else {},
            views=_views(run, facts, Path(pictures)),
            videos=[side_by_side, *videos],
            frames=[frame.photo for frame in run.frames],
            splats=splats,
            settings=facts.settings,
            notes=facts.notes,
            scenes=_scenes(run, [name for name in INTERACTIVE if name in facts.variants]),
        )
        write_report(root / "report.html", report)
    bar.update(1)


def _scenes(run: RunContext, names: Sequence[str]) -> ReportScenes:
    """The splats as scenes that start at the first training camera."""
    splats = {f"Splats of {VARIANT_TITLES[name]}": run.splats(INTERACTIVE[name]) for name in names}
    up, distance = up_axis(run.frames), capture_distance(run.capture)
    try:
        cameras = [view.camera for view in run.training]
        made = static_scenes(splats, cameras, up, distance, min(max(run.size), STILL_SIZE))
    except InputError as error:
        return ReportScenes(missing=f"No scenes to look around in: {error}")
    shown = []
    for title, scene in made.scenes.items():
        some = "" if scene.shown == scene.count else f"the most visible of {scene.count:,}, "
        caption = f"{counted(scene.shown, 'Gaussian')}, {some}in their base colours"
        shown.append(ReportScene(title, caption, scene.data, scene.picture))
    return ReportScenes(made.player, PLACE, tuple(shown))


def _rows(run: RunContext, facts: RunFacts, splats: list[str]) -> list[tuple[str, str]]:
    capture, (width, height) = run.capture, run.size
    render_width, render_height = run.renders[0].camera.width, run.renders[0].camera.height
    at_photos = len(heldout_frames(run.frames, capture))
    rows = [
        (
            "Capture",
            f"{capture.scene.name} ({capture.scene.format}), "
            f"{counted(len(capture.scene.photos), 'photo')}",
        ),
        (
            "Split",
            f"{capture.split.name}: {len(capture.training)} photos train, {len(capture.heldout)} "
            "are held out",
        ),
        (
            "Path",
            f"{facts.settings['path'] or 'default'}: {counted(len(run.frames), 'frame')}, "
            f"{at_photos} at held-out photos",
        ),
        ("Frames", f"{width}x{height}, rendered and enhanced at {render_width}x{render_height}"),
        ("Model", facts.model),
        ("Reference photos", ", ".join(view.photo.name for view in run.references) or "none"),
        ("Camera scale", f"{facts.scale.value:.6g}, {facts.scale.kind} ({facts.scale.source})"),
    ]
    if facts.is_adapted:
        done = read_json(run.root / ADAPTATION)
        what = (
            f"{counted(done['steps'], 'step')} of rank {done['rank']} on "
            f"{counted(len(done['left out']), 'training photo')}, each with the render of a fit "
            "without it; the tables also have the variant without adaptation"
        )
        rows.append(("Scene adaptation", what))
    return rows + [
        (f"Gaussians in {file}", f"{len(read_splats(run.root / file)):,}") for file in splats
    ]


def _views(run: RunContext, facts: RunFacts, folder: Path) -> list[ReportView]:
    """Held-out photos with the images of all variants; evenly spaced frames if no target camera is
    that of a held-out photo.
    """
    renders = read_render_folder(run.root / facts.generator_input)
    chosen: list[tuple[int, Photo | None]] = [*heldout_frames(run.frames, run.capture)]
    if not chosen:
        count = min(MAX_VIEWS, len(run.frames))
        chosen = [(position * len(run.frames) // count, None) for position in range(count)]
    if len(chosen) > MAX_VIEWS:
        chosen = [chosen[position * len(chosen) // MAX_VIEWS] for position in range(MAX_VIEWS)]
    return [
        _view(run, facts, renders, index, photo, folder / f"{index:05d}") for index, photo in chosen
    ]


def _view(
    run: RunContext,
    facts: RunFacts,
    renders: RenderFolder,
    index: int,
    photo: Photo | None,
    folder: Path,
) -> ReportView:
    pictures = {"opacity": at_size(renders.opacity(index), *run.size)}
    if photo is not None:
        pictures["photo"] = resize_photo(photo.read(), *run.size)
        for method in METHODS:
            pictures[f"inpainting_{method}"] = at_size(
                inpaint(renders.rgb(index), renders.opacity(index), method), *run.size
            )
    pictures |= {name: variant_frame(run, frames, index) for name, frames in facts.variants.items()}
    for name, pixels in pictures.items():
        write_png(folder / f"{name}.png", pixels)
    title = f"frame {index}" if photo is None else photo.name
    return ReportView(title, {name: folder / f"{name}.png" for name in pictures})


# Metrics ------------------------------------------------------------------------------------------


def write_metrics(
    run: RunContext,
    pictures: Mapping[str, str],
    generator_input: str,
    perceptual: PerceptualMetrics,
    bar: ProgressBar,
) -> None:
    """Write ``metrics.json``: quality of every variant and of the inpainting baselines at the
    held-out photos on the path.

    pictures: folders of images by variant. generator_input: render folder that is the model's
    input; it is inpainted by the baselines, and its opacity defines opaque and empty pixels.
    """
    folder = read_render_folder(run.root / generator_input)
    chosen = heldout_frames(run.frames, run.capture)
    makers: dict[str, Callable[[int], np.ndarray]] = {
        name: _stored(run.root / place) for name, place in pictures.items()
    }
    makers |= {f"inpainting_{method}": _inpainted(folder, method) for method in METHODS}
    quality: dict[str, VariantQuality] = {}
    for position, (name, picture) in enumerate(makers.items()):
        quality[name] = evaluate(_heldout_views(chosen, picture, folder), perceptual, run.device)
        bar.update(position + 1)
    scene = run.capture.scene
    names = [
        [scene.photos[i].name for i in half] for half in (run.capture.training, run.capture.heldout)
    ]
    write_json(run.root / "metrics.json", metrics_content(quality, *names))


def _inpainted(folder: RenderFolder, method: str) -> Callable[[int], np.ndarray]:
    chosen = next(known for known in METHODS if known == method)
    return lambda index: inpaint(folder.rgb(index), folder.opacity(index), chosen)


def _stored(folder: Path) -> Callable[[int], np.ndarray]:
    return lambda index: read_image(folder / f"{index:05d}.png")


def _heldout_views(
    chosen: Sequence[tuple[int, Photo]], picture: Callable[[int], np.ndarray], folder: RenderFolder
) -> Iterator[HeldoutView]:
    for index, photo in chosen:
        prediction, opacity = (
            at_size(image, photo.width, photo.height)
            for image in (picture(index), folder.opacity(index))
        )
        mask = None if photo.mask is None else photo.mask()
        yield HeldoutView(photo.name, photo.read(), prediction, opacity, mask)
