"""``artifixer reconstruct``: photos with poses (or without) -> Gaussian splats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from artifixer.pipeline.capture import CaptureChoice
from artifixer.pipeline.reconstruct import ReconstructionJob, reconstruct_capture
from artifixer.pipeline.view import viewed
from artifixer.recipes.reconstruct import RECIPES
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.splats.files import parse_exports


@dataclass(frozen=True)
class Command:
    """Reconstruct a capture as 3D Gaussians.

    CAPTURE is a folder (COLMAP, nerfstudio transforms.json, or just photos), a video, or
    procedural:SEED. The folder RUN receives splats.ply, metrics.json, renders/heldout, preview.png,
    cameras.json and a log. The same command continues an interrupted run and ends with the same
    result.

    Examples:
      artifixer reconstruct my_photos --out run --size 512
      artifixer reconstruct procedural:7 --out run --views 4
    """

    capture: Annotated[str, tyro.conf.Positional]
    """Folder, video file or procedural:SEED."""
    out: Path
    """Run folder to create or continue."""
    split: str | None = None
    """Named split: one of the capture's own, every_8, algorithm1_K6 ..."""
    views: int | None = None
    """Train on this many photos, chosen far apart (Algorithm 1 in normalised units)."""
    train_list: Path | None = None
    """File with the names of the training photos, one per line, or a JSON split."""
    all_views: bool = False
    """Train on every photo; nothing is held out."""
    size: str | None = None
    """Longest side in pixels, or WxH. Default: 256 for the recipe tiny, else the photos' size."""
    faces: int | None = None
    """Perspective views of each equirectangular (360 degree) photo or frame: 6, 8 or 14. Default: 8
    where they look like that.
    """
    sparse_model: Annotated[int | None, tyro.conf.arg(aliases=["--model"])] = None
    """Number of the COLMAP model, where a capture has several (sparse/0, sparse/1 ...). Default:
    the largest.
    """
    ignore_masks: bool = False
    """Use whole photos where masks or alpha channels say which pixels count."""
    recipe: Literal["auto", "tiny", "paper", "release"] = "auto"
    """tiny for a CPU, paper for a GPU; auto chooses by device."""
    iterations: int | None = None
    """Instead of the recipe's number of iterations."""
    max_gaussians: int | None = None
    """Instead of the recipe's largest number of Gaussians."""
    free_space_loss: float = 0.0
    """Weight of the free-space loss, such as 0.3: opacity that no photo supports goes. Not in the
    paper; lowers PSNR.
    """
    seed: int = 0
    """The same seed gives the same splats."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ... auto takes a GPU when there is one."""
    initial_points: Path | None = None
    """PLY of points to start from instead of the capture's sparse points."""
    warm_start: Path | None = None
    """Splat file to continue from."""
    export: str | None = None
    """Formats in which the splats are written as well, into RUN/export: ply, spz, sog, usdz,
    separated by commas.
    """
    view: bool = False
    """Serve a page that shows the work while it goes on (extra viewer); its address is printed."""
    overwrite: bool = False
    """Start anew in a run folder that holds other settings or another capture."""


def run_command(command: Command) -> None:
    device = resolve_device(command.device)
    recipe = (
        command.recipe
        if command.recipe != "auto"
        else ("paper" if device.startswith("cuda") else "tiny")
    )
    config = RECIPES[recipe]
    if command.iterations is not None:
        if command.iterations < 1:
            raise InputError(f"--iterations {command.iterations}: expected at least 1")
        config = replace(config, iterations=command.iterations)
    if command.max_gaussians is not None:
        if command.max_gaussians < 1:
            raise InputError(f"--max-gaussians {command.max_gaussians}: expected at least 1")
        config = replace(config, mcmc=replace(config.mcmc, max_gaussians=command.max_gaussians))
    config = config.with_free_space_loss(command.free_space_loss)
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
        f"{len(result.splats):,} Gaussians in {command.out / 'splats.ply'}; look at "
        f"{command.out / 'preview.png'}"
    )
