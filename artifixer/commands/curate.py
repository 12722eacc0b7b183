"""``artifixer curate``: captures or procedural scenes -> training pairs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from artifixer.curation.jobs import CurationConfig, curate, expand_sources
from artifixer.curation.workers import WorkerConfig, check_workers
from artifixer.imaging.resize import GRID
from artifixer.recipes.curate import RECIPES
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError


@dataclass(frozen=True)
class Command:
    """Make training pairs: clips as photographed, and as a reconstruction from few of the photos shows them.

    SOURCE is a capture (folder or video), or procedural:COUNT or procedural:COUNT:SEED for COUNT drawn scenes.
    The folder PAIRS receives tar shards, index.json, manifest.json (state and error of every scene) and timing.json.
    The same command continues an interrupted run and ends with the same shards. A scene that fails is reported and skipped.
    Work goes to processes of this machine (--workers), or to a Ray cluster whose nodes have this package and the captures at the same
    paths (--ray, extra cluster); the shards are the same.

    Examples:
      artifixer curate procedural:500 --out pairs --workers 2
      artifixer curate captures/* --out pairs --frames 29..81 --size 192
      artifixer curate captures/* --out pairs --recipe paper --device cuda --depth-model FOLDER --caption-model FOLDER
      artifixer curate captures/* --out pairs --ray HEAD:6379 --workers 64
    """

    sources: Annotated[list[str], tyro.conf.Positional]
    """Capture folders, videos, procedural:COUNT[:SEED]."""
    out: Path
    """Folder to create or continue."""
    recipe: Literal["tiny", "paper"] = "tiny"
    """tiny for the small model, on a CPU; paper for the large ones."""
    workers: int | None = None
    """Scenes at a time, each by a process with one thread. Default: 1; with --device cuda one per GPU; with --ray what the cluster has."""
    device: str = "cpu"
    """cpu, cuda (a worker for each GPU), cuda:N or auto: where scenes are reconstructed and rendered."""
    ray: str | None = None
    """Work on a Ray cluster: auto (the one that runs here, or else one for this work) or HOST:PORT. Default: processes."""
    size: int | None = None
    """Longest side of the largest clips in pixels. Default: the recipe's."""
    frames: str | None = None
    """Length of a clip, or SHORTEST..LONGEST; 4 n + 1 frames. Default: the recipe's."""
    seed: int = 0
    """Of everything drawn besides the procedural scenes themselves."""
    windows: int | None = None
    """Clips per reconstruction at most, spread along the whole path of the capture. Default: the recipe's."""
    algorithm1: Literal["normalised", "raw"] | None = None
    """Distances of Algorithm 1: on raw translations in metres by --depth-model (the paper's), or normalised ones. Default: the recipe's."""
    camera_scale: Literal["median_depth", "metric"] | None = None
    """Unit of camera translations: the median depth (our models), or metres by a depth model (the paper's). Default: the recipe's."""
    depth_model: str | None = None
    """Folder or hub name of a metric depth model (Depth Anything V2 metric, Depth Pro, ZoeDepth, MoGe-2), for metres."""
    caption_model: str | None = None
    """Captions by this vision model of transformers (folder or hub name, such as Qwen3-VL), or by the server's model of this name."""
    caption_server: str | None = None
    """Captions by an OpenAI-compatible server: its address up to /v1. Its key: OPENAI_API_KEY."""
    captions: int | None = None
    """Captions per scene, of different photos; its pairs take them in turn. Default: the recipe's."""
    overwrite: bool = False
    """Start anew in a folder that holds other pairs."""


def run_command(command: Command) -> None:
    device = command.device if command.device != "auto" else resolve_device("auto")
    workers = WorkerConfig(command.workers, device, command.ray)
    check_workers(workers)
    config = RECIPES[command.recipe]
    if command.size is not None:
        config = _resized(config, command.size)
    if command.frames is not None:
        config = replace(config, frames=_frame_range(command.frames))
    for option, value in (("windows", command.windows), ("captions", command.captions)):
        if value is not None and value < 1:
            raise InputError(f"--{option} {value}: expected at least 1")
    kind = command.camera_scale or config.camera_scale
    distances = {None: config.group_distances, "raw": "metric", "normalised": "normalised"}[command.algorithm1]
    if (kind == "metric") != (command.depth_model is not None):
        raise InputError(f"camera scale {kind}: --depth-model goes with --camera-scale metric; give --depth-model for it, or neither")
    if distances == "metric" and command.depth_model is None:
        raise InputError("--algorithm1 raw: needs metres; give --camera-scale metric and --depth-model, or --algorithm1 normalised")
    count = command.captions or config.caption.count
    config = replace(
        config,
        windows=command.windows or config.windows,
        group_distances=distances,
        camera_scale=kind,
        depth_model=command.depth_model,
        caption=replace(config.caption, server=command.caption_server, model=command.caption_model, count=count),
    )
    result = curate(expand_sources(command.sources), config, command.seed, command.out, workers, command.overwrite)
    print(f"{result.pairs} pairs of {result.scenes - len(result.failed)} scenes in {command.out}; {len(result.failed)} scenes failed")
    if not result.pairs:
        raise InputError(f"{command.out}: no scene gave a pair; the first error: {result.failed[0].error}")


def _resized(config: CurationConfig, longest: int) -> CurationConfig:
    """All sizes scaled alike, to multiples of 16."""
    if longest < 2 * GRID:
        raise InputError(f"--size {longest}: expected at least {2 * GRID}")
    factor = longest / max(max(size) for size in config.sizes)
    sizes = tuple(tuple(max(GRID, int(side * factor / GRID + 0.5) * GRID) for side in size) for size in config.sizes)
    return replace(config, sizes=tuple((width, height) for width, height in sizes))


def _frame_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})(?:\.\.(\d{1,4}))?", text)
    shortest, longest = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 5 <= shortest <= longest or shortest % 4 != 1 or longest % 4 != 1:
        raise InputError(f"--frames {text}: expected N or N..M with lengths of 4 n + 1, at least 5")
    return shortest, longest
