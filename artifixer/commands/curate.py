"""``artifixer curate``: captures or procedural scenes -> training pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from artifixer.curation.caption import CaptionConfig
from artifixer.curation.jobs import CurationConfig, Source, curate, expand_sources
from artifixer.imaging.resize import GRID
from artifixer.recipes.curate import RECIPES
from artifixer.runtime.errors import InputError
from artifixer.scenes.metric_depth import EXPECTED, check_depth_model, default_depth_model
from artifixer.scenes.scale import ScaleKind


@dataclass(frozen=True)
class Command:
    """Make training pairs: clips as photographed, and as a reconstruction from few of the photos shows them.

    SOURCE is a capture (folder or video), or procedural:COUNT or procedural:COUNT:SEED for COUNT drawn scenes.
    The folder PAIRS receives tar shards, index.json and manifest.json (state, time and error of every scene).
    The same command continues an interrupted run and ends with the same shards. A scene that fails is reported and skipped.

    Examples:
      artifixer curate procedural:500 --out pairs --workers 2
      artifixer curate captures/* --out pairs --frames 29..81 --size 192
    """

    sources: Annotated[list[str], tyro.conf.Positional]
    """Capture folders, videos, procedural:COUNT[:SEED]."""
    out: Path
    """Folder to create or continue."""
    recipe: Literal["tiny", "paper"] = "tiny"
    """tiny for the small model, on a CPU; paper for the large ones."""
    workers: int = 1
    """Processes, each with one thread."""
    size: int | None = None
    """Longest side of the largest clips in pixels. Default: the recipe's."""
    frames: str | None = None
    """Length of a clip, or SHORTEST..LONGEST; 4 n + 1 frames. Default: the recipe's."""
    seed: int = 0
    """Of everything drawn besides the procedural scenes themselves."""
    camera_scale: ScaleKind | None = None
    """Unit of camera translations: median_depth (recipe tiny) or metric (recipe paper); training refuses another than its model's."""
    depth_model: str | None = None
    """For metric: folder or hub name of a network that predicts metres. Default: MoGe-2 where installed; drawn scenes need none."""
    caption_server: str | None = None
    """Address up to /v1 of an OpenAI-compatible server with a vision model. Default: no captions. Its key: OPENAI_API_KEY."""
    caption_model: str = CaptionConfig.model
    """The vision model's name there."""
    overwrite: bool = False
    """Start anew in a folder that holds other pairs."""


def run_command(command: Command) -> None:
    if command.workers < 1:
        raise InputError(f"--workers {command.workers}: expected at least 1")
    config = RECIPES[command.recipe]
    if command.size is not None:
        config = _resized(config, command.size)
    if command.frames is not None:
        config = replace(config, frames=_frame_range(command.frames))
    sources = expand_sources(command.sources)
    kind = command.camera_scale or config.camera_scale
    _check_scale(kind, command.depth_model, sources)
    caption = CaptionConfig(command.caption_server, command.caption_model)
    config = replace(config, camera_scale=kind, depth_model=command.depth_model, caption=caption)
    result = curate(sources, config, command.seed, command.out, command.workers, command.overwrite)
    print(f"{result.pairs} pairs of {result.scenes - len(result.failed)} scenes in {command.out}; {len(result.failed)} scenes failed")
    if not result.pairs:
        raise InputError(f"{command.out}: no scene gave a pair; the first error: {result.failed[0].error}")


def _check_scale(kind: ScaleKind, depth_model: str | None, sources: Sequence[Source]) -> None:
    """A depth model where captures need one, none where nothing asks it, and one that can be used."""
    if depth_model is not None:
        if kind != "metric":
            raise InputError(f"--depth-model {depth_model}: camera scale {kind} needs none; expected --camera-scale metric beside it")
        check_depth_model(depth_model)
    captures = [source.name for source in sources if not source.is_procedural]
    if kind == "metric" and captures and depth_model is None and default_depth_model() is None:
        raise InputError(f"--camera-scale metric: nothing says how long a metre is in {captures[0]}; give --depth-model; {EXPECTED}")


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
