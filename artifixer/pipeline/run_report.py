"""The report of a run: which views and figures it shows. The page itself is made by
``evaluation/report``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifixer.evaluation.evaluate import VARIANT_TITLES
from artifixer.evaluation.inpainting import METHODS, inpaint
from artifixer.evaluation.report import MOST_VIEWS, Report, ReportView, write_report
from artifixer.evaluation.variant_table import read_variants
from artifixer.imaging.resize import resize_photo
from artifixer.pipeline.run_work import Job, at_size, variant_frame
from artifixer.pipeline.target_path import heldout_frames
from artifixer.runtime.media import write_png
from artifixer.runtime.progress import ProgressBar
from artifixer.scenes.scale import CameraScale
from artifixer.scenes.scene import Photo
from artifixer.splats.ply import read_splats
from artifixer.splats.render_folder import RenderFolder, read_render_folder


@dataclass(frozen=True)
class RunFacts:
    """What the report tells besides the run's files. variants: name -> folder of pictures, renders
    first. generator_input: the render folder that the model gets. settings: JSON data. model: its
    name and mode."""

    model: str
    scale: CameraScale
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    variants: Mapping[str, str]
    generator_input: str


def write_run_report(job: Job, facts: RunFacts, stage: ProgressBar) -> None:
    """``report.html`` from the finished files of the run."""
    root, capture = job.run.root, job.capture
    quality = read_variants(root / "metrics.json")
    videos = [(VARIANT_TITLES[name], root / "videos" / f"{name}.mp4") for name in facts.variants]
    side_by_side = (
        "Side by side: " + " | ".join(title for title, _ in videos),
        root / "videos" / "side_by_side.mp4",
    )
    files = {
        "3dgut": "splats/initial.ply",
        "input": "splats/input.ply",
        "artifixer3d": "splats/artifixer3d.ply",
    }
    splats = [file for name, file in files.items() if name in facts.variants]
    with tempfile.TemporaryDirectory() as pictures:
        report = Report(
            title=capture.scene.name,
            subtitle=f"{len(capture.training)} training photos, {len(job.frames)} frames of {job.size[0]}x{job.size[1]}",
            facts=_rows(job, facts, splats),
            variants=quality if any(variant.per_view for variant in quality.values()) else {},
            views=_views(job, facts, Path(pictures)),
            videos=[side_by_side, *videos],
            frames=[frame.photo for frame in job.frames],
            splats=splats,
            settings=facts.settings,
            notes=facts.notes,
        )
        write_report(root / "report.html", report)
    stage.update(1)


def _rows(job: Job, facts: RunFacts, splats: list[str]) -> list[tuple[str, str]]:
    capture, (width, height) = job.capture, job.size
    render_width, render_height = job.renders[0].camera.width, job.renders[0].camera.height
    at_photos = len(heldout_frames(job.frames, capture))
    rows = [
        (
            "Capture",
            f"{capture.scene.name} ({capture.scene.format}), {len(capture.scene.photos)} photos",
        ),
        (
            "Split",
            f"{capture.split.name}: {len(capture.training)} photos train, {len(capture.heldout)} "
            "are held out",
        ),
        (
            "Path",
            f"{facts.settings['path'] or 'default'}: {len(job.frames)} frames, {at_photos} at "
            "held-out photos",
        ),
        ("Frames", f"{width}x{height}, rendered and enhanced at {render_width}x{render_height}"),
        ("Model", facts.model),
        ("Reference photos", ", ".join(frame.photo or "" for frame, _ in job.references) or "none"),
        ("Camera scale", f"{facts.scale.value:.6g}, {facts.scale.kind} ({facts.scale.source})"),
    ]
    return rows + [
        (f"Gaussians in {file}", f"{len(read_splats(job.run.root / file)):,}") for file in splats
    ]


def _views(job: Job, facts: RunFacts, folder: Path) -> list[ReportView]:
    """Held-out photos beside all variants; frames spread over the path where nothing is held out."""
    renders = read_render_folder(job.run.root / facts.generator_input)
    chosen: list[tuple[int, Photo | None]] = [*heldout_frames(job.frames, job.capture)]
    if not chosen:
        count = min(MOST_VIEWS, len(job.frames))
        chosen = [(position * len(job.frames) // count, None) for position in range(count)]
    if len(chosen) > MOST_VIEWS:
        chosen = [chosen[position * len(chosen) // MOST_VIEWS] for position in range(MOST_VIEWS)]
    return [
        _view(job, facts, renders, index, photo, folder / f"{index:05d}") for index, photo in chosen
    ]


def _view(
    job: Job, facts: RunFacts, renders: RenderFolder, index: int, photo: Photo | None, folder: Path
) -> ReportView:
    pictures = {"opacity": at_size(renders.opacity(index), *job.size)}
    if photo is not None:
        pictures["photo"] = resize_photo(photo.read(), *job.size)
        for method in METHODS:
            pictures[f"inpainting_{method}"] = at_size(
                inpaint(renders.rgb(index), renders.opacity(index), method), *job.size
            )
    pictures |= {name: variant_frame(job, frames, index) for name, frames in facts.variants.items()}
    for name, pixels in pictures.items():
        write_png(folder / f"{name}.png", pixels)
    title = f"frame {index}" if photo is None else photo.name
    return ReportView(title, {name: folder / f"{name}.png" for name in pictures})
