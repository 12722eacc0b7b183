"""Capture -> splats, held-out renders and their quality, in a run folder that resumes.

``RUN/`` holds ``splats.ply``, ``cameras.json``, ``split.json``, ``metrics.json``, ``timing.json``,
``renders/heldout/`` (a render folder), ``preview.png`` (photo | render | opacity), ``export/``
(other formats of the splats) and ``log.txt``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from artifixer.geometry.camera_file import write_cameras
from artifixer.geometry.local_origin import Origin
from artifixer.imaging.metrics import psnr, ssim
from artifixer.imaging.quality import RenderQuality
from artifixer.pipeline.capture import (
    CACHE,
    CaptureChoice,
    LoadedCapture,
    check_output,
    identify,
    load_capture,
)
from artifixer.runtime.added_settings import without_added
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import reason
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import write_png
from artifixer.runtime.json_io import is_number, read_json, shown, write_json
from artifixer.runtime.progress import Progress, ProgressBar
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.seeds import generator
from artifixer.runtime.stages import StageFiles, Stages
from artifixer.runtime.stopping import stop_if_requested, stop_on_sigterm
from artifixer.scenes.formats import brings_poses
from artifixer.scenes.point_cloud import read_points
from artifixer.scenes.references import REFERENCE_COUNT
from artifixer.scenes.view import View, reference_views, views_of
from artifixer.splats.files import export_splats, placement_note, range_note, read_splat_file
from artifixer.splats.initial import ColoredPoints, add_pixels, scene_extent, seen_points, splats_at
from artifixer.splats.ply import read_splats, write_splats
from artifixer.splats.reconstruct import (
    ReconstructConfig,
    reconstruct,
)
from artifixer.splats.render import Renders, render
from artifixer.splats.render_folder import to_uint8, write_render_folder
from artifixer.splats.splats import Splats
from artifixer.splats.training_view import TrainingView

#: Number of rows of the preview picture.
PREVIEW_VIEWS = 4

#: The stages. A run folder has one set of settings, so their keys are empty.
FIT = StageFiles("reconstruct", ("splats.ply",), ("checkpoint.safetensors",))
EVALUATE = StageFiles(
    "evaluate", ("cameras.json", "split.json", "renders/heldout", "preview.png", "metrics.json")
)

#: Folder of the splats in other formats.
EXPORT = "export"


@dataclass(frozen=True)
class ReconstructionJob:
    """Everything a reconstruction depends on."""

    choice: CaptureChoice
    """Capture, split and size."""
    config: ReconstructConfig
    """Settings of the fit."""
    seed: int = 0
    """Random seed."""
    device: str = "cpu"
    """Torch device."""
    initial_points: Path | None = None
    """A PLY whose points replace the capture's sparse points."""
    warm_start: Path | None = None
    """A splat file with the initial splats."""
    export: tuple[str, ...] = ()
    """Further formats of the splats, names of ``files.EXPORTS``."""


@dataclass(frozen=True)
class ReconstructionResult:
    """A finished reconstruction."""

    splats: Splats
    """The fitted Gaussians."""
    capture: LoadedCapture
    """The loaded capture."""
    train: tuple[RenderQuality, ...]
    """Quality of the training views."""
    heldout: tuple[RenderQuality, ...]
    """Quality of the held-out views."""


def reconstruct_capture(
    job: ReconstructionJob, out: Path, overwrite: bool = False
) -> ReconstructionResult:
    """Reconstruct the capture in the folder ``out``; the same call continues an interrupted job and
    returns at once if it is done.

    Raises ``InputError`` for an unusable capture or a folder that belongs to another job,
    ``Stopped`` after SIGTERM.
    """
    check_output(job.choice.capture, out)
    inputs = {**identify(job.choice.capture), **_input_files(job)}
    capture = None
    if brings_poses(job.choice.capture):  # report its errors before anything is written
        capture = load_capture(job.choice, work_folder=None, cache_folder=out / CACHE)
    with (
        _open_run(job, inputs, out, overwrite) as run,
        stop_on_sigterm(),
        Progress(("reconstruct", "evaluate"), log_file=run.path("log.txt")) as progress,
    ):
        cache = run.path(CACHE)
        with run.discarded_on_bad_input():
            if capture is None:
                capture = load_capture(job.choice, run.path("sfm"), cache, progress.note)
            stages = Stages(run, progress)
            if not stages.is_done(EVALUATE):
                read_photos(capture)
        _fit(stages, run, job, capture, progress)
        splats = read_splats(run.root / "splats.ply", capture.scene.origin)
        _export(run, job, splats, capture.scene.origin, progress)
        total = len(capture.training) + len(capture.heldout)
        stages.complete(
            EVALUATE, {}, total, lambda bar: _evaluate(run, capture, splats, job.device, bar)
        )
        return _result(run, splats, capture)


def initial_splats(
    job: ReconstructionJob, capture: LoadedCapture, log: Callable[[str], None] = lambda text: None
) -> tuple[Splats, float]:
    """The initial splats, and the scene's extent in world units. log: receives remarks about points
    that are left out.
    """
    scene, config = capture.scene, job.config
    views = views_of(scene, capture.training)
    if job.initial_points is not None:
        cloud = read_points(job.initial_points, scene.origin)
        for note in cloud.notes:
            log(note)
        points = ColoredPoints.of(cloud.xyz, cloud.rgb)
        if not len(points):
            raise InputError(f"{job.initial_points}: the PLY has no vertices, expected points")
    elif scene.points is not None:
        points = seen_points(scene.points, capture.training, config.initial.observed_by)
    else:
        points = ColoredPoints(torch.zeros(0, 3), torch.zeros(0, 3))
    extent = scene_extent([view.camera for view in views], points)
    if job.warm_start is not None:
        return read_splat_file(job.warm_start, scene.origin).splats, extent
    points = add_pixels(points, views, config.initial, generator(job.seed, "initial points"))
    return splats_at(points, config.sh_degree, extent, config.initial), extent


def view_quality(splats: Splats, views: Sequence[View]) -> Iterator[tuple[RenderQuality, Renders]]:
    """Render every view and compare render and photo, both at 8 bit."""
    for view in views:
        with torch.no_grad():
            renders = render(splats, view.camera.to(splats.means.device))
        prediction = to_uint8(renders.rgb[0]).to(torch.float32) / 255
        target, mask = view.photo.pixels(), view.photo.weights()
        if mask is not None:  # black in both, so that SSIM's windows see no difference there
            prediction, target = prediction * mask[..., None], target * mask[..., None]
        yield (
            RenderQuality(
                view.photo.name,
                float(psnr(prediction, target, mask)),
                float(ssim(prediction, target, mask)),
            ),
            renders,
        )


def _open_run(
    job: ReconstructionJob, inputs: dict[str, str], out: Path, overwrite: bool
) -> RunFolder:
    settings = {
        "choice": without_added(job.choice) | {"capture": None},
        "config": job.config,
        "seed": job.seed,
    }
    return RunFolder.open(out, inputs, settings, overwrite, device=job.device)


def _input_files(job: ReconstructionJob) -> dict[str, str]:
    files = {
        "initial_points": job.initial_points,
        "warm_start": job.warm_start,
        "train_list": job.choice.train_list,
    }
    return {name: fingerprint(path) for name, path in files.items() if path is not None}


def read_photos(capture: LoadedCapture) -> None:
    """Decode and resize every photo of the split with its mask, so that damaged files are found
    before the reconstruction. Raises ``InputError`` also if all training photos are fully masked.
    """
    counts = []
    for index in (*capture.training, *capture.heldout):
        photo = capture.scene.photos[index]
        photo.read()
        mask = photo.mask() if photo.mask is not None else None
        if index in capture.training:
            counts.append(mask is None or bool(mask.any()))
        stop_if_requested("while reading photos")
    if not any(counts):
        raise InputError(
            f"{capture.scene.name}: the masks cover all of the {len(counts)} training photos; "
            "expected masks that are white where photos are used (--ignore-masks uses all pixels)"
        )


def _result(run: RunFolder, splats: Splats, capture: LoadedCapture) -> ReconstructionResult:
    """The result of a finished run, from its files."""
    path = run.root / "metrics.json"
    metrics = read_json(path)
    try:
        halves = [
            tuple(RenderQuality(**view) for view in metrics[half]["per_view"])
            for half in ("train", "heldout")
        ]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the metrics of a reconstruction ({reason(error)}); use --overwrite to "
            "start anew"
        ) from error
    for view in (view for half in halves for view in half):
        if not isinstance(view.photo, str) or not all(
            value is None or is_number(value, 1e12) for value in (view.psnr, view.ssim)
        ):
            raise InputError(
                f"{path}: {shown(view)} is not the quality of a view; use --overwrite to start anew"
            )
    return ReconstructionResult(splats, capture, halves[0], halves[1])


def _fit(
    stages: Stages,
    run: RunFolder,
    job: ReconstructionJob,
    capture: LoadedCapture,
    progress: Progress,
) -> None:
    """Fit the splats unless that is done; an interrupted fit continues from its checkpoint."""

    def work(bar: ProgressBar) -> None:
        with run.discarded_on_bad_input():
            initial, extent = initial_splats(job, capture, progress.note)
        views = views_of(capture.scene, capture.training)
        first = views[0].photo
        for note in capture.scene.notes:
            progress.note(note)
        progress.note(
            f"{counted(len(views), 'training photo')}, {len(capture.heldout)} held out "
            f"({capture.split.name}), {first.width}x{first.height}, "
            f"{len(initial):,} initial Gaussians, extent {extent:.3g}"
        )
        splats = reconstruct(
            [TrainingView.of(view) for view in views],
            initial,
            extent,
            job.config,
            job.seed,
            checkpoint=run.path("checkpoint.safetensors"),
            device=job.device,
            report=lambda report: bar.update(
                report.iteration, loss=report.loss, PSNR=report.psnr, Gaussians=report.gaussians
            ),
        )
        write_splats(run.path("splats.ply"), splats, capture.scene.origin)

    stages.complete(FIT, {}, job.config.iterations, work)


def _export(
    run: RunFolder, job: ReconstructionJob, splats: Splats, origin: Origin, progress: Progress
) -> None:
    """Write the splats in the requested formats. Files of earlier calls are kept: they hold the
    same splats.
    """
    if job.export and not run.is_done("export", list(job.export)):
        files = export_splats(run.path(EXPORT), "splats", splats, job.export, origin)
        for note in (*placement_note(job.export, origin), *range_note(job.export, splats)):
            progress.note(note)
        run.mark_done("export", list(job.export), files)


def _evaluate(
    run: RunFolder, capture: LoadedCapture, splats: Splats, device: str, bar: ProgressBar
) -> None:
    """Write the quality of training and held-out views, held-out renders, preview and cameras."""
    scene = capture.scene
    splats = splats.map(lambda tensor: tensor.to(device))
    quality: dict[str, list[RenderQuality]] = {"train": [], "heldout": []}
    rendered: list[tuple[View, Renders]] = []
    for half, indices in (("train", capture.training), ("heldout", capture.heldout)):
        views = views_of(scene, indices)
        for view, (result, renders) in zip(views, view_quality(splats, views), strict=True):
            quality[half].append(result)
            if half == "heldout" or not capture.heldout:
                on_cpu = Renders(renders.rgb.cpu(), renders.opacity.cpu(), renders.depth.cpu())
                rendered.append((view, on_cpu))
            bar.advance(PSNR=result.psnr)
            stop_if_requested("while measuring quality")
    used = views_of(scene, sorted({*capture.training, *capture.heldout}))
    write_cameras(run.path("cameras.json"), [view.frame for view in used], origin=scene.origin)
    write_json(
        run.path("split.json"),
        {
            "name": capture.split.name,
            "train": capture.split.train,
            "heldout": capture.split.heldout,
        },
    )
    write_render_folder(
        run.path("renders", "heldout"),
        [(view.frame, renders) for view, renders in rendered],
        reference_views(scene, capture.training, REFERENCE_COUNT),
        scene.origin,
    )
    _write_preview(run.path("preview.png"), rendered)
    write_json(
        run.path("metrics.json"),
        {half: _summary(results) for half, results in quality.items()} | {"gaussians": len(splats)},
    )
    for half, results in quality.items():
        if results:
            summary = _summary(results)
            bar.note(
                f"{half}: PSNR {summary['psnr']:.2f} dB, SSIM {summary['ssim']:.3f} over "
                f"{counted(len(results), 'photo')}"
            )


def _summary(results: Sequence[RenderQuality]) -> dict[str, Any]:
    if not results:
        return {"psnr": None, "ssim": None, "per_view": []}
    valid = [result for result in results if not math.isnan(result.psnr)]  # NaN: fully masked
    mean_psnr = sum(result.psnr for result in valid) / max(len(valid), 1)
    mean_ssim = sum(result.ssim for result in valid) / max(len(valid), 1)
    if not valid:
        mean_psnr = mean_ssim = math.nan
    return {
        "psnr": mean_psnr,
        "ssim": mean_ssim,
        "per_view": [asdict(result) for result in results],
    }


def _write_preview(path: Path, views: Sequence[tuple[View, Renders]]) -> None:
    """Rows of photo | render | opacity for a few evenly spaced views of the first view's size."""
    photos = [view.photo for view, _ in views]
    size = (photos[0].height, photos[0].width)
    same = [i for i, photo in enumerate(photos) if (photo.height, photo.width) == size]
    chosen = sorted(
        {same[k * (len(same) - 1) // max(1, PREVIEW_VIEWS - 1)] for k in range(PREVIEW_VIEWS)}
    )
    rows = []
    for view, renders in (views[i] for i in chosen):
        opacity = to_uint8(renders.opacity[0])[..., None].expand(-1, -1, 3)
        rows.append(
            torch.cat(
                [torch.from_numpy(view.photo.read()), to_uint8(renders.rgb[0]), opacity], dim=1
            )
        )
    write_png(path, torch.cat(rows, dim=0).numpy())
