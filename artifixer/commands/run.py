"""``artifixer run``: the main job, from a capture to repaired frames, splats and a report."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from artifixer.evaluation.variant_table import variant_lines
from artifixer.pipeline.capture import CaptureChoice
from artifixer.pipeline.plan import plan_lines, plan_run
from artifixer.pipeline.run import Result, run
from artifixer.pipeline.run_config import RunConfig, parse_variants
from artifixer.pipeline.view import viewed
from artifixer.recipes.run import RECIPES
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.splats.files import parse_exports
from artifixer.training.scene_adaptation import MOST_STEPS, AdaptationConfig
from artifixer.video.model import Mode
from artifixer.video.model_files import locate_model


@dataclass(frozen=True)
class Command:
    """Repair and extend a capture: splats from few photos, cleaned by the video model, and fitted
    again.

    CAPTURE is a folder (COLMAP, nerfstudio transforms.json, or just photos), a video, or
    procedural:SEED. The folder OUT receives splats, renders, frames, videos, a dataset for other
    trainers, metrics.json and report.html. The same command continues an interrupted run and ends
    with the same files; with another option it redoes what depends on it.

    Variants:
      artifixer  frames straight from the model
      3d         splats fitted to photos and frames (ArtiFixer 3D)
      3d+        the model once more, on renders of those splats

    Examples:
      artifixer run my_photos --out repaired --size 512
      artifixer run my_capture --out repaired --views 6 --plan
      artifixer run my_capture --out repaired --from-splats scene.ply --path orbit
    """

    capture: Annotated[str, tyro.conf.Positional]
    """Folder, video file or procedural:SEED."""
    out: Path
    """Folder to create or continue."""
    views: int | None = None
    """Train on this many photos, chosen far apart (Algorithm 1 in normalised units); the others are
    held out.
    """
    split: str | None = None
    """Named split: one of the capture's own, every_8, algorithm1_K6 ..."""
    train_list: Path | None = None
    """File with the names of the training photos, one per line, or a JSON split."""
    all_views: bool = False
    """Train on every photo; nothing is held out."""
    faces: int | None = None
    """Perspective views of each equirectangular (360 degree) photo or frame: 6, 8 or 14. Default: 8
    where they look like that.
    """
    sparse_model: int | None = None
    """Number of the COLMAP model, where a capture has several (sparse/0, sparse/1 ...). Default:
    the largest.
    """
    ignore_masks: bool = False
    """Use whole photos where masks or alpha channels say which pixels count."""
    path: str | None = None
    """heldout, tour, orbit, spline, or a file of cameras. Default: tour through the held-out
    cameras; spline without any.
    """
    frames: int = 120
    """Frames of an orbit."""
    model: str = "tiny"
    """tiny (part of this package), 1.3b, 14b, or a path."""
    variants: str = "artifixer,3d,3d+"
    """Which variants, separated by commas; each needs the ones before it."""
    size: str | None = None
    """Longest side in pixels, or WxH. Default: 192 for the recipe tiny, else the model's (tiny:
    192), else the photos' size.
    """
    prompt: str = ""
    """What the scene shows, for models with a text encoder."""
    references: int = 6
    """Photos that the model looks at, at most; 0 for none."""
    mode: Mode = "improve"
    """improve starts as the model is best; generate starts from noise where the renders are empty,
    so that each seed invents its own.
    """
    steps: int | Literal["adaptive"] | None = None
    """Denoising steps per block. Default: the model's own in this mode."""
    camera_scale: float | None = None
    """World units to the model's: metres per unit x 0.01 for the public weights. Default: found,
    see --depth-model.
    """
    depth_model: str | None = None
    """For models that want metres: folder or hub name of a metric depth model (Depth Anything V2
    metric, Depth Pro, ZoeDepth, MoGe-2). Default: MoGe-2 where its package is installed; else a
    median depth of 3 m is assumed, with a warning. Procedural captures know their metres.
    """
    from_splats: Path | None = None
    """Splat file of any tool (PLY, compressed PLY, SPZ, SOG, .splat), in the capture's world,
    instead of a reconstruction.
    """
    iterations: int | None = None
    """Of each fit of splats, instead of the recipe's numbers (tiny: 1,500 and 2,000): few for a
    quick look. The row 3dgut has as many.
    """
    free_space_loss: float | None = None
    """Weight of the free-space loss. Above 0 the video model gets the render of a second fit, with
    this loss; 0: that of the plain fit, as in the paper. Default: the recipe's."""
    frame_weights: Literal["uniform", "lpips", "evidence"] | None = None
    """How much generated pixels count in the distillation. Default: the recipe's."""
    adapt: float | None = None
    """Minutes for which the video model is fine-tuned on this scene's training photos first (extra
    adapt); fits without one photo each come on top. Frames of the model as it is stand beside.
    """
    adapt_steps: int | None = None
    """The same for a number of training steps, so that the same seed gives the same files."""
    export: str | None = None
    """Formats in which the last splats are written as well, into OUT/export: ply, spz, sog, usdz,
    separated by commas.
    """
    recipe: Literal["auto", "tiny", "paper", "release"] = "auto"
    """tiny for a CPU, paper for a GPU; auto chooses by device."""
    seed: int = 0
    """The same seed gives the same files."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ... auto takes a GPU when there is one."""
    plan: bool = False
    """Show frames, stages, memory and estimated minutes, and do nothing."""
    view: bool = False
    """Serve a page that shows the work while it goes on (extra viewer); its address is printed."""
    overwrite: bool = False
    """Start anew in a folder that holds another capture."""


def run_command(command: Command) -> None:
    config = run_config(command)
    if command.plan:
        print("\n".join(plan_lines(plan_run(config))))
        return
    with viewed(command.out, command.view, command.capture):
        result = run(config, command.overwrite)
    print("\n".join(result_lines(result)))


def run_config(command: Command) -> RunConfig:
    """The job that the options describe."""
    device = resolve_device(command.device)
    name = (
        command.recipe
        if command.recipe != "auto"
        else ("paper" if device.startswith("cuda") else "tiny")
    )
    recipe = RECIPES[name]
    weights = command.frame_weights or recipe.distill.weights
    reconstruct, distill = recipe.reconstruct, replace(recipe.distill, weights=weights)
    if command.iterations is not None:
        if command.iterations < 1:
            raise InputError(f"--iterations {command.iterations}: expected at least 1")
        reconstruct = replace(reconstruct, iterations=command.iterations)
        fit = replace(distill.reconstruct, iterations=command.iterations)
        distill = replace(distill, reconstruct=fit)
    if command.free_space_loss is not None:
        reconstruct = reconstruct.with_free_space_loss(command.free_space_loss)
        if command.from_splats is not None and command.free_space_loss > 0:
            raise InputError(
                "--free-space-loss and --from-splats exclude each other: with the latter nothing "
                "is reconstructed"
            )
    size = command.size or recipe.size or locate_model(command.model).config.default_size
    size = None if size is None else str(size)
    return RunConfig(
        choice=CaptureChoice(
            command.capture,
            command.split,
            command.views,
            command.train_list,
            command.all_views,
            size,
            command.faces,
            command.sparse_model,
            command.ignore_masks,
        ),
        out=command.out,
        path=command.path,
        orbit_frames=command.frames,
        model=command.model,
        variants=parse_variants(command.variants),
        prompt=command.prompt,
        mode=command.mode,
        steps=command.steps,
        references=command.references,
        camera_scale=command.camera_scale,
        depth_model=command.depth_model,
        from_splats=command.from_splats,
        export=() if command.export is None else parse_exports(command.export),
        reconstruct=reconstruct,
        distill=distill,
        adaptation=_adaptation(command),
        seed=command.seed,
        device=device,
    )


def _adaptation(command: Command) -> AdaptationConfig | None:
    """The scene adaptation that the options ask for."""
    minutes, steps = command.adapt, command.adapt_steps
    if minutes is None and steps is None:
        return None
    if minutes is not None and steps is not None:
        raise InputError("--adapt and --adapt-steps exclude each other: give one of them")
    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"--adapt {minutes:g}: expected a finite number of minutes above 0")
    if steps is not None and not 0 < steps <= MOST_STEPS:
        raise InputError(f"--adapt-steps {steps}: expected 1 to {MOST_STEPS:,}")
    return AdaptationConfig(minutes=minutes, steps=steps)


def result_lines(result: Result) -> list[str]:
    """What the user sees at the end: the variants and where to look."""
    return [
        *variant_lines(result.variants),
        "",
        f"{len(result.frames)} frames in {result.out / 'frames'}; open {result.report}",
    ]
