"""``artifixer reconstruct``: photos with poses (or without) -> Gaussian splats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from artifixer.runtime.counts import counted
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = (
    "artifixer.pipeline.reconstruct",
    "artifixer.pipeline.view",
    "artifixer.recipes.reconstruct",
)


@dataclass(frozen=True)
class Command:
    """Reconstruct a capture as 3D Gaussians.

    CAPTURE is a folder (COLMAP, nerfstudio transforms.json, or photos alone), a video, or
    procedural:SEED (a generated scene). The folder OUT receives splats.ply, metrics.json,
    renders/heldout, preview.png, cameras.json and a log. The same command continues an interrupted
    run and ends with the same result.

    Examples:
      artifixer reconstruct my_photos --out run --size 512
      artifixer reconstruct procedural:7 --out run --views 4
    """

    capture: Annotated[str, tyro.conf.Positional]
    """Folder, video file or procedural:SEED."""
    out: Path
    """Output folder, created or continued."""
    split: str | None = None
    """Named split: one that the capture defines, every_8 (every 8th photo is held out),
    algorithm1_K6 (6 training photos by Algorithm 1) ...
    """
    views: int | None = None
    """Number of training photos, chosen far apart (Algorithm 1 in normalised units); the others are
    held out.
    """
    train_list: Path | None = None
    """Text file with the names of the training photos, one per line, or a JSON split."""
    all_views: bool = False
    """Train on all photos; nothing is held out."""
    size: str | None = None
    """Longest side in pixels, or WxH. Default: 256 for the recipe tiny, otherwise the photos' size.
    """
    faces: int | None = None
    """Number of perspective views that each equirectangular (360 degree) photo or frame is split
    into: 6, 8 or 14. Default: 8 for photos that look equirectangular.
    """
    sparse_model: Annotated[
        int | None, tyro.conf.arg(aliases=["--model"], help_behavior_hint="")
    ] = None
    """Which COLMAP model to use when a capture has several (sparse/0, sparse/1 ...). Default: the
    one with the most photos.
    """
    ignore_masks: bool = False
    """Ignore the masks and alpha channels of the photos and use all pixels."""
    recipe: Literal["auto", "tiny", "paper", "release"] = "auto"
    """tiny: for a CPU; paper: the paper's settings, for a GPU; release: those of the public
    release. auto: paper on a GPU, tiny on a CPU.
    """
    iterations: int | None = None
    """Number of iterations. Default: the recipe's."""
    max_gaussians: int | None = None
    """Number of Gaussians up to which the fit grows; initial ones beyond it (the capture's points,
    or --warm-start) are kept. Default: the recipe's.
    """
    free_space_loss: float = 0.0
    """Weight of the free-space loss, such as 0.3, which penalises opacity that no training view
    supports; 0 turns it off. Not in the paper; lowers PSNR.
    """
    dropout: float = 0.0
    """Fraction of the Gaussians that an iteration leaves out at random; rises from 0 to this, such
    as 0.3, at the end. Not in the paper; better from few photos.
    """
    seed: int = 0
    """Random seed; the same seed gives the same splats."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto selects a GPU when there is one."""
    initial_points: Path | None = None
    """PLY file of points for the initial splats. Default: the capture's sparse points."""
    warm_start: Path | None = None
    """Splat file (PLY, compressed PLY, SPZ, SOG, .splat) for the initial splats."""
    export: str | None = None
    """Further file formats of the splats, written to OUT/export: ply, spz, sog, usdz, separated by
    commas. Default: none.
    """
    view: bool = False
    """Serve a web page that shows the progress (extra viewer); its address is printed."""
    overwrite: bool = False
    """Delete the results of other settings or of another capture that OUT holds, and start again.
    """


def run_command(command: Command) -> None:
    from artifixer.pipeline.capture import CaptureChoice
    from artifixer.pipeline.reconstruct import ReconstructionJob, reconstruct_capture
    from artifixer.pipeline.view import viewed
    from artifixer.recipes import recipe_name
    from artifixer.recipes.reconstruct import RECIPES
    from artifixer.splats.files import parse_exports

    device = resolve_device(command.device)
    recipe = recipe_name(command.recipe, device)
    config = RECIPES[recipe]
    if command.iterations is not None:
        config = config.with_iteration_count(command.iterations)
    if command.max_gaussians is not None:
        if command.max_gaussians < 1:
            raise InputError(f"--max-gaussians {command.max_gaussians}: expected at least 1")
        config = replace(config, mcmc=replace(config.mcmc, max_gaussians=command.max_gaussians))
    config = config.with_free_space_loss(command.free_space_loss).with_dropout(command.dropout)
    size = command.size if command.size is not None else ("256" if recipe == "tiny" else None)
    choice = CaptureChoice(
        command.capture,
        command.split,
        command.views,
        command.train_list,
        command.all_views,
        size,
        command.faces,
        command.sparse_model,
        command.ignore_masks,
    )
    export = () if command.export is None else parse_exports(command.export)
    job = ReconstructionJob(
        choice, config, command.seed, device, command.initial_points, command.warm_start, export
    )
    with viewed(command.out, command.view, command.capture):
        result = reconstruct_capture(job, command.out, command.overwrite)
    print(
        f"{counted(len(result.splats), 'Gaussian')} in {command.out / 'splats.ply'}; see "
        f"{command.out / 'preview.png'}"
    )
