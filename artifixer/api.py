"""The public API: the functions behind ``import artifixer as af``.

In: a capture on disk or a ``Scene``. Out: results in memory (``Scene``, ``Splats``, ``Renders``,
``FrameBlock``), or, from ``repair``, a folder with a report. Each function is a thin layer over the
room that does the work and uses the defaults of the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from artifixer.commands import run as run_verb
from artifixer.enhance.enhance import EnhanceConfig, FrameBlock
from artifixer.enhance.enhance import enhance as enhance_renders
from artifixer.evaluation.evaluate import HeldoutView, VariantQuality
from artifixer.evaluation.evaluate import evaluate as evaluate_views
from artifixer.geometry.cameras import Cameras
from artifixer.pipeline.run import Result
from artifixer.pipeline.run import run as run_job
from artifixer.recipes import recipe_name
from artifixer.recipes.reconstruct import RECIPES
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.runtime.seeds import generator
from artifixer.scenes import formats
from artifixer.scenes.file_names import KnownNames
from artifixer.scenes.resize_scene import resize_scene
from artifixer.scenes.scene import Scene
from artifixer.scenes.view import View, reference_views, views_of
from artifixer.splats.initial import ColoredPoints, add_pixels, scene_extent, seen_points, splats_at
from artifixer.splats.reconstruct import IterationReport
from artifixer.splats.reconstruct import reconstruct as fit
from artifixer.splats.render import Renders, render
from artifixer.splats.splats import Splats
from artifixer.splats.training_view import TrainingView
from artifixer.video import model_files
from artifixer.video.model import Model

__all__ = [
    "Cameras",
    "EnhanceConfig",
    "FrameBlock",
    "InputError",
    "Renders",
    "Result",
    "Scene",
    "Splats",
    "View",
    "choose_references",
    "enhance_renders",
    "evaluate",
    "load_model",
    "load_scene",
    "reconstruct",
    "render",
    "repair",
]


def repair(capture: str | Path, out: str | Path, **options: Any) -> Result:
    """Repair a capture: splats, clean frames, splats fitted to them, and a report, in one folder.

    options: those of ``artifixer run`` by name, with underscores: ``views=6, size=192,
    model="14b", path="orbit"``. The same call continues an interrupted run.

    Raises ``InputError`` for bad input, ``TypeError`` for an option that does not exist.
    """
    overwrite = bool(options.pop("overwrite", False))
    if options.get("size") is not None:
        options["size"] = str(options["size"])
    command = run_verb.Command(str(capture), Path(out), **options)
    return run_job(run_verb.run_config(command), overwrite)


def load_scene(capture: str | Path, *, size: int | str | None = None) -> Scene:
    """Load a capture: photos (read when asked for), cameras, sparse points, splits.

    capture: a folder in a known format, a transforms file, a video, or ``procedural:SEED``.
    size: longest side in pixels, or ``WxH``; None keeps the photos' own.

    Raises ``InputError`` when the capture is missing, of no known format, or damaged.
    """
    return resize_scene(formats.load_scene(capture), None if size is None else str(size), None)


def reconstruct(
    scene: Scene,
    train: Sequence[str] | None = None,
    *,
    recipe: str = "auto",
    iterations: int | None = None,
    seed: int = 0,
    device: str = "auto",
    report: Callable[[IterationReport], None] = lambda _: None,
) -> Splats:
    """Fit 3D Gaussians to photos (3DGUT rendering, MCMC densification; paper section 3).

    train: names of the photos to fit, in any order; None for all. recipe: ``tiny`` for a CPU,
    ``paper`` or ``release`` for a GPU; ``auto`` chooses by device. iterations: instead of the
    recipe's. report: is called after every iteration.

    Returns splats in the scene's world, on the CPU. Raises ``InputError`` for an unknown photo or
    recipe.
    """
    device = resolve_device(device)
    name = recipe_name(recipe, device)
    if name not in RECIPES:
        raise InputError(
            f"recipe {recipe!r}: unknown; expected auto or one of {', '.join(RECIPES)}"
        )
    config = RECIPES[name]
    if iterations is not None:
        config = config.with_iteration_count(iterations)
    chosen = range(len(scene.photos)) if train is None else sorted(_indices(scene, train))
    views = views_of(scene, chosen)
    points = ColoredPoints(torch.zeros(0, 3), torch.zeros(0, 3))
    if scene.points is not None:
        points = seen_points(scene.points, chosen, config.initial.observed_by)
    extent = scene_extent([view.camera for view in views], points)
    random = generator(seed, "initial points")
    points = add_pixels(points, views, config.initial, random)
    initial = splats_at(points, config.sh_degree, extent, config.initial)
    training = [TrainingView.of(view) for view in views]
    return fit(training, initial, extent, config, seed, device=device, report=report)


def load_model(name: str | Path = "tiny", *, device: str = "auto") -> Model:
    """Load a video model: ``tiny`` (part of the package), ``1.3b``, ``14b``, or a path.

    Nothing is downloaded; ``InputError`` says which files are missing and where they belong.
    """
    return model_files.load_model(model_files.locate_model(name), resolve_device(device))


def choose_references(scene: Scene, train: Sequence[str], count: int = 6) -> list[View]:
    """At most ``count`` of the training views for the model to attend to, evenly spaced in the
    order of the photos' names.
    """
    return reference_views(scene, _indices(scene, train), count)


def evaluate(
    photos: Sequence[UInt8[np.ndarray, "height width 3"]],
    frames: Sequence[UInt8[np.ndarray, "height width 3"]],
    opacity: Sequence[UInt8[np.ndarray, "height width"]] | None = None,
) -> VariantQuality:
    """Compare frames with the photos taken from the same cameras: PSNR (dB) and SSIM.

    opacity: of the renders that the frames were made from, 255 where opaque; with it, PSNR is also
    given over opaque and over empty pixels. All sequences have one entry per view.
    """
    shown = opacity or [np.full(photo.shape[:2], 255, np.uint8) for photo in photos]
    views = zip(photos, frames, shown, strict=True)
    return evaluate_views(
        HeldoutView(f"view {index}", photo, frame, alpha)
        for index, (photo, frame, alpha) in enumerate(views)
    )


def _indices(scene: Scene, names: Sequence[str]) -> list[int]:
    places = {photo.name: index for index, photo in enumerate(scene.photos)}
    known = KnownNames(places)
    found = [known.find(name) for name in names]
    unknown = [name for name, photos in zip(names, found, strict=True) if len(photos) != 1]
    if unknown:
        raise InputError(
            f"photo {unknown[0]!r}: not in scene {scene.name}; expected names such as "
            f"{scene.photos[0].name!r}"
        )
    return [places[name] for (name,) in found]
