"""One scene of a benchmark: write its capture, run the job on it, and score the frames of every
method.

Layout of ``OUT/scenes/SCENE``, a run folder of its own::

    capture/             photos and transforms.json of the scene (for benchmarks with a folder
                         layout of their own)
    split.json           names of the training and held-out photos
    run/                 output of ``artifixer run`` on the scene, unless no variant is requested
    diagnostics/ROW/     frames of the rows of ``--diagnostics``
    scores/METHOD.json   figures of every held-out view, and features for FID and KD
    pictures/METHOD/     its worst and its best view by PSNR, each next to the photo
    consistency.json     warp errors of every method
    scene.json           split, caveats, and consistency

The same call continues an interrupted evaluation.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifixer.evaluation.benchmarks.scene import BenchmarkScene
from artifixer.evaluation.files import method_file, relative_to_any, scene_folder
from artifixer.evaluation.profiles import Networks
from artifixer.evaluation.protocols import find_scenes
from artifixer.pipeline.capture import LoadedCapture, load_capture
from artifixer.pipeline.evaluate_config import (
    EvaluateConfig,
    capture_choice,
    frame_sources,
    options_of,
    scene_run_config,
)
from artifixer.pipeline.evaluate_diagnostics import FOLDER as DIAGNOSTICS_FOLDER
from artifixer.pipeline.evaluate_diagnostics import DiagnosticRows, find_models, make_frames
from artifixer.pipeline.evaluate_methods import Method, SceneRun, other_methods, run_methods
from artifixer.pipeline.evaluate_scores import (
    ScoredScene,
    other_size,
    scene_consistency,
    score_method,
)
from artifixer.pipeline.run import run
from artifixer.pipeline.run_config import check_config
from artifixer.runtime.errors import InputError
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import image_size
from artifixer.runtime.json_io import to_json, write_json
from artifixer.runtime.progress import Progress
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stopping import stop_on_sigterm
from artifixer.scenes.identity import capture_fingerprint

#: Names in the folder of a scene.
SCENE_OUTPUTS = (
    *("capture", "split.json", "run", "cache", "scores", "pictures"),
    *("consistency.json", "scene.json", DIAGNOSTICS_FOLDER),
)


def evaluate_scene(config: EvaluateConfig, name: str, device: str = "") -> dict[str, Any]:
    """Evaluate one scene; returns the content of its ``scene.json``.

    device: overrides the config's. Raises ``InputError``, and ``Stopped`` after SIGTERM; the same
    call then continues.
    """
    config = replace(config, device=device or config.device)
    with _opened(config, name) as (files, scene):
        folder = files.root
        diagnostics: dict[str, Path] = {}
        if config.variants:
            scale = run(scene_run_config(config, scene, folder)).camera_scale.value
            rows = diagnostic_rows(config)
            if rows is not None:
                prompt = config.prompts.get(scene.name, "")
                diagnostics = make_frames(rows, files, scale, prompt, config.seed, config.device)
        capture = load_capture(
            capture_choice(config, scene, folder), work_folder=None, cache_folder=folder / "cache"
        )
        content = _score(config, scene, capture, files, diagnostics)
        write_json(folder / "scene.json", content)
        # as plain JSON data, like a result that is read from the file
        return dict(to_json(content))


def check_scene(config: EvaluateConfig, name: str) -> None:
    """Write the scene's capture and split; check them, the frames of other methods and the settings
    of the run before any heavy work. Raises InputError.
    """
    with _opened(config, name) as (files, scene):
        if config.variants:
            check_config(scene_run_config(config, scene, files.root))
        if config.frames and config.resize is None and not config.own_truth:
            _check_frame_sizes(config, scene, files.root)


def diagnostic_rows(config: EvaluateConfig) -> DiagnosticRows | None:
    """The rows of ``--diagnostics``; None without the option. Raises InputError for models that are
    missing or have another flow source than their role.
    """
    if not config.diagnostics:
        return None
    models = find_models(config.model, config.diagnostic_models)
    steps = config.steps
    return DiagnosticRows(models, config.mode, steps, config.references, bool(config.prompts))


@contextmanager
def _opened(config: EvaluateConfig, name: str) -> Iterator[tuple[RunFolder, BenchmarkScene]]:
    """The scene and its folder, which is locked inside the context."""
    place = find_scenes(config.entry, Path(config.data), (name,))[name]
    identity = {"protocol": config.protocol, "scene": name, "files": _identity(place)}
    settings = {"options": options_of(config.options), "size": config.size}
    with (
        RunFolder.open(
            scene_folder(config.out, name),
            identity,
            settings,
            settings_may_change=True,
            device=config.device,
        ) as files,
        stop_on_sigterm(),
    ):
        for output in SCENE_OUTPUTS:
            files.path(output)
        with files.discarded_on_bad_input():
            scene = _benchmark_scene(config, name, files.root)
        yield files, scene


def _identity(place: Path) -> str:
    if str(place).startswith("procedural:"):
        return str(place)
    return capture_fingerprint(place) if place.is_dir() else fingerprint(place)


def _benchmark_scene(config: EvaluateConfig, name: str, folder: Path) -> BenchmarkScene:
    """Open the scene and write its split, and its capture if the benchmark has a layout of its own.

    Raises InputError for an unusable scene and unusable frames of other methods.
    """
    scene = config.entry.open(Path(config.data), name, config.options, folder / "capture")
    write_json(folder / "split.json", {"train": scene.train, "heldout": scene.heldout})
    for source in frame_sources(config, scene):
        if config.own_truth and not source.has_truth:
            raise InputError(
                f"--own-gt: {config.frames[source.name]} has no photos beside its frames "
                f"({source.producer})"
            )
    return scene


def _check_frame_sizes(config: EvaluateConfig, scene: BenchmarkScene, folder: Path) -> None:
    """Raise InputError for frames of other methods that have another size than their photos."""
    choice = capture_choice(config, scene, folder)
    capture = load_capture(choice, work_folder=None, cache_folder=folder / "cache")
    sizes = {photo.name: (photo.width, photo.height) for photo in capture.scene.photos}
    for source in frame_sources(config, scene):
        for name, path in source.files.items():
            width, height = image_size(path)
            width = width // 2 if source.left_truth else width
            if (width, height) != sizes[name]:
                file = relative_to_any(path, [config.frames[source.name]])
                raise other_size(file, width, height, name, *sizes[name])


def _score(
    config: EvaluateConfig,
    scene: BenchmarkScene,
    capture: LoadedCapture,
    files: RunFolder,
    diagnostics: Mapping[str, Path],
) -> dict[str, Any]:
    """Scores of every method on disk; returns the content of ``scene.json``."""
    heldout = [capture.scene.photos[index] for index in capture.heldout]
    photos = {photo.name: photo for photo in sorted(heldout, key=lambda photo: photo.name)}
    finished = SceneRun.read(files.root / "run") if config.variants else None
    job = ScoredScene(
        config, scene, photos, finished, _networks(config.device, config.antialias), files
    )
    methods: list[Method] = []
    if finished is not None:
        names = list(photos)
        methods += run_methods(finished, names, config.variants, diagnostics, config.relative)
    methods += other_methods(frame_sources(config, scene), list(photos), config.frames)
    _discard_stale(files.root, {method_file(method.name) for method in methods})
    with Progress([method.name for method in methods]) as progress:
        for method in methods:
            score_method(job, method, progress)
        errors = scene_consistency(job, methods, progress)
    sizes = {f"{photo.width}x{photo.height}" for photo in photos.values()}
    return {
        "scene": scene.name,
        "train": scene.train,
        "heldout": scene.heldout,
        "sizes": sorted(sizes),
        "masks": len(scene.masks),
        "caveats": list(scene.caveats),
        "stand_in": scene.is_stand_in,
        "methods": {
            method.name: {
                "producer": method.source.producer if method.source else "artifixer",
                "naming": method.source.naming if method.source else "",
                "own_gt": bool(method.source and config.own_truth),
            }
            for method in methods
        },
        "consistency": errors,
    }


def _discard_stale(folder: Path, kept: set[str]) -> None:
    """Delete scores and pictures of methods that are no longer evaluated."""
    for path in sorted((folder / "scores").glob("*")):
        if path.stem not in kept and path.is_file():
            path.unlink()
    for path in sorted((folder / "pictures").glob("*")):
        if path.name not in kept and path.is_dir():
            shutil.rmtree(path)


@functools.lru_cache(maxsize=1)
def _networks(device: str, antialias: bool) -> Networks:
    return Networks.load(device, antialias=antialias)
