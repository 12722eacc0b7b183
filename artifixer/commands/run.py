"""``artifixer run``: the main job, from a capture to repaired frames, splats and a report."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from artifixer.runtime.counts import counted
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.video.choices import Mode

if TYPE_CHECKING:
    from artifixer.pipeline.run import Result
    from artifixer.pipeline.run_config import RunConfig
    from artifixer.training.scene_adaptation import AdaptationConfig

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = (
    "artifixer.pipeline.run",
    "artifixer.pipeline.plan",
    "artifixer.pipeline.view",
    "artifixer.recipes.run",
    "artifixer.evaluation.variant_table",
)


@dataclass(frozen=True)
class Command:
    """Repair and extend a capture: fit splats to few photos, clean their renders with the video
    model, and fit splats again to photos and frames.

    CAPTURE is a folder (COLMAP, nerfstudio transforms.json, or photos alone), a video, or
    procedural:SEED (a generated scene). The folder OUT receives splats, renders, frames, videos, a
    dataset for other trainers, metrics.json and report.html. The same command continues an
    interrupted run and ends with the same files; with other options it repeats only the stages that
    depend on them.

    Variants:
      artifixer  frames of the video model
      3d         renders of splats fitted to photos and frames (ArtiFixer 3D)
      3d+        frames of the model from the renders of 3d (ArtiFixer 3D+)

    Examples:
      artifixer run my_photos --out repaired --size 512
      artifixer run my_capture --out repaired --views 6 --plan
      artifixer run my_capture --out repaired --from-splats scene.ply --path orbit
    """

    capture: Annotated[str, tyro.conf.Positional]
    """Folder, video file or procedural:SEED."""
    out: Path
    """Output folder, created or continued."""
    views: int | None = None
    """Number of training photos, chosen far apart (Algorithm 1 in normalised units); the others are
    held out.
    """
    split: str | None = None
    """Named split: one that the capture defines, every_8 (every 8th photo is held out),
    algorithm1_K6 (6 training photos by Algorithm 1) ...
    """
    train_list: Path | None = None
    """Text file with the names of the training photos, one per line, or a JSON split."""
    all_views: bool = False
    """Train on all photos; nothing is held out."""
    faces: int | None = None
    """Number of perspective views that each equirectangular (360 degree) photo or frame is split
    into: 6, 8 or 14. Default: 8 for photos that look equirectangular.
    """
    sparse_model: int | None = None
    """Which COLMAP model to use when a capture has several (sparse/0, sparse/1 ...). Default: the
    one with the most photos.
    """
    ignore_masks: bool = False
    """Ignore the masks and alpha channels of the photos and use all pixels."""
    path: str | None = None
    """Target cameras: heldout, tour, orbit, spline (see artifixer render), or a camera file.
    Default: tour through the held-out cameras; spline if none is held out.
    """
    frames: int = 120
    """Number of frames of an orbit."""
    model: str = "tiny"
    """tiny (part of this package), 1.3b, 14b (see artifixer models), or a path."""
    variants: str = "artifixer,3d,3d+"
    """Variants to compute, separated by commas: artifixer, 3d, 3d+; each needs those before it."""
    size: str | None = None
    """Longest side in pixels, or WxH. Default: 256 for the recipe tiny, otherwise the model's
    default size (256 for the model tiny), otherwise the photos' size.
    """
    prompt: str = ""
    """What the scene shows, for models with a text encoder."""
    references: int = 6
    """Maximum number of training photos that the model attends to; 0 for none."""
    mode: Mode = "improve"
    """Start of the flow. improve: as the model was trained, for the best fidelity; generate: from
    noise where the renders are empty, so that each seed invents other content.
    """
    steps: int | Literal["adaptive"] | None = None
    """Denoising steps (network calls) per block; adaptive takes fewer for opaque blocks. Default:
    the model's own in this mode.
    """
    camera_scale: float | None = None
    """Factor from world units to the model's units: 0.01 x metres per unit for the public release,
    1 / median depth for our own models. Default: estimated, see --depth-model.
    """
    depth_model: str | None = None
    """Metric depth model for video models that work in metres: folder or hub name (Depth Anything
    V2 metric, Depth Pro, ZoeDepth, MoGe-2). Default: MoGe-2 if its package is installed, otherwise
    a median depth of 3 m is assumed, with a warning. Procedural captures know their metres.
    """
    from_splats: Path | None = None
    """Splat file (PLY, compressed PLY, SPZ, SOG, .splat) in the capture's world that replaces the
    first reconstruction.
    """
    iterations: int | None = None
    """Number of iterations of the first fit and of the distillation, for a quick look. Default: the
    recipe's (tiny: 1,500 and 2,000).
    """
    dropout: float | None = None
    """Fraction of the Gaussians that an iteration leaves out at random; rises from 0 to this at the
    end (not in the paper; better from few photos). Above 0, it applies to a second fit, whose
    renders the model gets; 0: those of the plain fit, as in the paper. Default: the recipe's.
    """
    free_space_loss: float | None = None
    """Weight of the free-space loss (not in the paper), which penalises opacity that no training
    view supports. Above 0, it applies to a second fit, whose renders the model gets. Default: the
    recipe's.
    """
    input_fits: int | None = None
    """Number of fits with dropout or a free-space loss, 1 or 2. 2: the model gets the median of the
    renders of three fits (the plain one, and two that differ in their random seeds), which leaves
    out what only one of them shows. Default: the recipe's (tiny: 2).
    """
    frame_weights: Literal["uniform", "lpips", "evidence"] | None = None
    """Weights of the frames' pixels in the distillation. uniform: as photos (the paper); lpips:
    only an LPIPS loss on frames (the public release, needs the extra metrics); evidence: less
    weight where training views observe the surface. Default: the recipe's.
    """
    adapt: float | None = None
    """Minutes for which the video model is fine-tuned on this scene's training photos first (extra
    adapt). The leave-one-out fits take additional time; unadapted frames are kept for comparison.
    """
    adapt_steps: int | None = None
    """The same for a number of training steps, so that the same seed gives the same files."""
    export: str | None = None
    """Further file formats of the final splats, written to OUT/export: ply, spz, sog, usdz,
    separated by commas. Default: none.
    """
    recipe: Literal["auto", "tiny", "paper", "release"] = "auto"
    """tiny: for a CPU; paper: the paper's settings, for a GPU; release: those of the public release
    (needs the extra metrics). auto: paper on a GPU, tiny on a CPU.
    """
    seed: int = 0
    """Random seed; the same seed gives the same files."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto selects a GPU when there is one."""
    plan: bool = False
    """Print frames, stages, memory (GB) and estimated time (minutes), and exit."""
    view: bool = False
    """Serve a web page that shows the progress (extra viewer); its address is printed."""
    overwrite: bool = False
    """Delete the results of another capture that OUT holds, and start again."""


def run_command(command: Command) -> None:
    from artifixer.pipeline.plan import plan_lines, plan_run
    from artifixer.pipeline.run import run
    from artifixer.pipeline.view import viewed

    config = run_config(command)
    if command.plan:
        print("\n".join(plan_lines(plan_run(config))))
        return
    with viewed(command.out, command.view, command.capture):
        result = run(config, command.overwrite)
    print("\n".join(result_lines(result)))


def run_config(command: Command) -> RunConfig:
    """The job that the options describe."""
    from artifixer.pipeline.capture import CaptureChoice
    from artifixer.pipeline.run_config import RunConfig, parse_variants
    from artifixer.recipes import recipe_name
    from artifixer.recipes.run import RECIPES
    from artifixer.splats.files import parse_exports
    from artifixer.video.model_files import locate_model

    device = resolve_device(command.device)
    recipe = RECIPES[recipe_name(command.recipe, device)].with_iterations(command.iterations)
    weights = command.frame_weights or recipe.distill.weights
    reconstruct, distill = recipe.reconstruct, replace(recipe.distill, weights=weights)
    if command.free_space_loss is not None:
        reconstruct = reconstruct.with_free_space_loss(command.free_space_loss)
    if command.dropout is not None:
        reconstruct = reconstruct.with_dropout(command.dropout)
    for option, value in (
        ("--free-space-loss", command.free_space_loss),
        ("--dropout", command.dropout),
    ):
        if command.from_splats is not None and value:
            raise InputError(
                f"{option} and --from-splats exclude each other: with the latter nothing is "
                "reconstructed"
            )
    if command.input_fits == 2 and (command.from_splats is not None or reconstruct.is_plain):
        raise InputError(
            "--input-fits 2: expected together with --dropout or --free-space-loss above 0 and "
            "without --from-splats; without them the model gets the renders of the plain splats"
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
        input_fits=recipe.input_fits if command.input_fits is None else command.input_fits,
        distill=distill,
        adaptation=_adaptation(command),
        seed=command.seed,
        device=device,
    )


def _adaptation(command: Command) -> AdaptationConfig | None:
    """The scene adaptation that the options ask for."""
    from artifixer.training.scene_adaptation import MAX_STEPS, AdaptationConfig

    minutes, steps = command.adapt, command.adapt_steps
    if minutes is None and steps is None:
        return None
    if minutes is not None and steps is not None:
        raise InputError("--adapt and --adapt-steps exclude each other: give one of them")
    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"--adapt {minutes:g}: expected a finite number of minutes above 0")
    if steps is not None and not 0 < steps <= MAX_STEPS:
        raise InputError(f"--adapt-steps {steps}: expected 1 to {MAX_STEPS:,}")
    return AdaptationConfig(minutes=minutes, steps=steps)


def result_lines(result: Result) -> list[str]:
    """The summary that is printed at the end: the variants, the frames and the report."""
    from artifixer.evaluation.variant_table import variant_lines

    return [
        *variant_lines(result.variants),
        "",
        f"{counted(len(result.frames), 'frame')} in {result.out / 'frames'}; open {result.report}",
    ]
