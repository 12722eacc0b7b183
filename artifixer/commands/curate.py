"""``artifixer curate``: captures or procedural scenes -> training pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError

if TYPE_CHECKING:
    from artifixer.curation.make_scene import CurationConfig
    from artifixer.curation.sources import Source
    from artifixer.scenes.scale import ScaleKind

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = (
    "artifixer.curation.jobs",
    "artifixer.recipes.curate",
)


@dataclass(frozen=True)
class Command:
    """Make training pairs: photographed clips, and renders of the same views from a reconstruction
    of few of the photos.

    SOURCES are captures (folders or videos), or procedural:COUNT or procedural:COUNT:SEED for COUNT
    generated scenes. The folder OUT receives tar shards, index.json, manifest.json (state, figures
    and error of every scene) and timing.json. The same command continues an interrupted run and
    ends with the same shards. A scene that fails is reported and skipped.

    Examples:
      artifixer curate procedural:500 --out pairs --workers 2
      artifixer curate captures/* --out pairs --frames 29..81 --size 192
    """

    sources: Annotated[list[str], tyro.conf.Positional]
    """Capture folders, videos, procedural:COUNT[:SEED]."""
    out: Path
    """Output folder, created or continued."""
    recipe: Literal["tiny", "paper"] = "tiny"
    """tiny: 45-frame clips around 100 pixels, for the small models, on a CPU; paper: 81-frame clips
    at 1024x576, for the large models, on a GPU.
    """
    workers: int = 1
    """Number of processes, each with one thread and, with --device cuda, a GPU of its own."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device that reconstructs and renders."""
    ray: str | None = None
    """Use a Ray cluster: auto (the one that is found, otherwise local), local (started on this
    machine for this command) or HOST:PORT. Needs the extra cluster. Default: local processes.
    """
    size: int | None = None
    """Longest side of the largest clips in pixels. Default: the recipe's."""
    frames: str | None = None
    """Length of the clips in frames, or SHORTEST..LONGEST; lengths are 4 n + 1, such as 45.
    Default: the recipe's.
    """
    seed: int = 0
    """Random seed of everything but the procedural scenes, which have seeds of their own."""
    windows: int | None = None
    """Number of clips per reconstruction, spread over the capture's path. Default: the recipe's."""
    algorithm1: Literal["normalised", "raw"] | None = None
    """Distance between photos in Algorithm 1, which chooses the training photos. normalised:
    translations divided by the capture's size; raw: translations as they are (the paper's formula
    as printed). Default: the recipe's.
    """
    camera_scale: Literal["median_depth", "metric"] | None = None
    """Unit of the camera translations: median_depth (our models) or metric, metres (the paper's).
    Training refuses pairs with another unit than its model's. Default: the recipe's.
    """
    depth_model: str | None = None
    """Metric depth model for --camera-scale metric: folder or hub name (Depth Anything V2 metric,
    Depth Pro, ZoeDepth, MoGe-2). Default: MoGe-2 if its package is installed. Procedural scenes
    need none.
    """
    caption_model: str | None = None
    """Vision model that captions the clips: folder or hub name for transformers, such as
    Qwen/Qwen3-VL-2B-Instruct, run on --device; with --caption-server, the model's name there.
    Default: no captions; with --caption-server, the paper's model.
    """
    caption_server: str | None = None
    """Address, up to /v1, of an OpenAI-compatible server with a vision model; its key is read from
    the environment variable OPENAI_API_KEY. Default: none.
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
    overwrite: bool = False
    """Delete other pairs that OUT holds, and start again."""


def run_command(command: Command) -> None:
    from artifixer.curation.caption import CaptionConfig, check_captioner
    from artifixer.curation.jobs import curate
    from artifixer.curation.sources import expand_sources
    from artifixer.curation.workers import worker_devices
    from artifixer.recipes.curate import RECIPES
    from artifixer.scenes.panorama_faces import check_faces

    if command.workers < 1:
        raise InputError(f"--workers {command.workers}: expected at least 1")
    if command.ray is None:
        worker_devices(command.device, command.workers)
    config = RECIPES[command.recipe]
    if command.size is not None:
        config = _resized(config, command.size)
    if command.frames is not None:
        config = replace(config, frames=_frame_range(command.frames))
    if command.windows is not None:
        if command.windows < 1:
            raise InputError(f"--windows {command.windows}: expected at least 1")
        config = replace(config, windows=command.windows)
    if command.algorithm1 is not None:
        config = replace(config, normalised_groups=command.algorithm1 == "normalised")
    caption = CaptionConfig(command.caption_server, command.caption_model)
    check_captioner(caption)
    check_faces(command.faces)
    config = replace(
        config,
        faces=command.faces,
        sparse_model=command.sparse_model,
        ignore_masks=command.ignore_masks,
    )
    sources = expand_sources(command.sources)
    kind = command.camera_scale or config.camera_scale
    depth_model = _depth_model(kind, command.depth_model, sources)
    config = replace(config, camera_scale=kind, depth_model=depth_model, caption=caption)
    result = curate(
        sources,
        config,
        command.seed,
        command.out,
        command.workers,
        command.overwrite,
        device=command.device,
        ray=command.ray,
    )
    print(
        f"{counted(result.pairs, 'pair')} of "
        f"{counted(result.scenes - len(result.failed), 'scene')} in {command.out}; "
        f"{counted(len(result.failed), 'scene')} failed"
    )
    if not result.pairs:
        raise InputError(
            f"{command.out}: no scene gave a pair; the first error: {result.failed[0].error}"
        )


def _depth_model(kind: ScaleKind, named: str | None, sources: Sequence[Source]) -> str | None:
    """The depth model for captures; None where none is needed, as for procedural scenes.
    ``InputError`` for a model that is not needed or cannot be used, and where one is missing.
    """
    from artifixer.scenes.depth_models import check_depth_model, default_depth_model

    if named is not None and kind != "metric":
        raise InputError(
            f"--depth-model {named}: camera scale {kind} needs none; expected "
            "--camera-scale metric beside it"
        )
    captures = [source.name for source in sources if not source.is_procedural]
    found = named or (default_depth_model() if kind == "metric" and captures else None)
    if found is not None:
        check_depth_model(found)
    elif kind == "metric" and captures:
        raise InputError(
            f"camera scale metric: {captures[0]} has no known metric scale; give "
            f"--depth-model (MoGe-2, where its package moge is installed, is the default), or "
            "--camera-scale median_depth"
        )
    return found


def _resized(config: CurationConfig, longest: int) -> CurationConfig:
    """All sizes scaled by one factor, rounded to multiples of 16."""
    from artifixer.imaging.resize import GRID

    if longest < 2 * GRID:
        raise InputError(f"--size {longest}: expected at least {2 * GRID}")
    factor = longest / max(max(size) for size in config.sizes)
    sizes = tuple(
        tuple(max(GRID, int(side * factor / GRID + 0.5) * GRID) for side in size)
        for size in config.sizes
    )
    return replace(config, sizes=tuple((width, height) for width, height in sizes))


def _frame_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})(?:\.\.(\d{1,4}))?", text)
    shortest, longest = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 5 <= shortest <= longest or shortest % 4 != 1 or longest % 4 != 1:
        raise InputError(f"--frames {text}: expected N or N..M with lengths of 4 n + 1, at least 5")
    return shortest, longest
