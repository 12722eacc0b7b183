"""``artifixer render``: Gaussian splats -> images, opacity, depth and a video along a camera
path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from artifixer.runtime.counts import counted
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = (
    "artifixer.pipeline.render",
    "artifixer.pipeline.render_panoramas",
)


@dataclass(frozen=True)
class Command:
    """Render splats along a camera path.

    SOURCE is a folder of reconstruct or run, or a splat file (PLY, compressed PLY, SPZ, SOG,
    .splat). Of a folder of run the final splats are rendered (splats/artifixer3d.ply, else
    splats/initial.ply), with the run's target cameras.
    OUT becomes a render folder: rgb, opacity, depth, cameras.json, reference photos, video.mp4.

    Paths:
      heldout   exactly the held-out cameras
      tour      a continuous path through all held-out cameras (all cameras if none is held out)
      spline    a smooth path along the captured cameras and slightly beyond them
      orbit     a full circle around the point that the cameras look at
      FILE      a cameras.json or a transforms.json

    Examples:
      artifixer render run --path tour --out tour
      artifixer render scene.ply --cameras transforms.json --path spline --out spline --size 960
      artifixer render run --path spline --out all_round --equirectangular --size 2048
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of reconstruct or run, or splat file."""
    out: Path
    """Output folder, created or continued."""
    path: str = "tour"
    """heldout, tour, orbit, spline, or a camera file."""
    cameras: Path | None = None
    """Cameras of the splats' capture, which the paths are made from: a cameras.json or
    transforms.json. Default: those of the folder.
    """
    size: str | None = None
    """Longest side in pixels, or WxH. Default: the cameras' own size."""
    frames: int = 120
    """Number of frames of an orbit."""
    fps: float = 24.0
    """Frames per second of the video."""
    equirectangular: bool = False
    """Render equirectangular panoramas (twice as wide as high) at every camera of the path, with a
    transforms.json of their poses.
    """
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto selects a GPU when there is one."""
    overwrite: bool = False
    """Delete other renders that OUT holds, and start again."""


def run_command(command: Command) -> None:
    from artifixer.pipeline.render import RenderJob, render_path
    from artifixer.pipeline.render_panoramas import render_panoramas

    if command.frames < 1:
        raise InputError(f"--frames {command.frames}: expected at least 1")
    if not 0 < command.fps <= 1000:
        raise InputError(f"--fps {command.fps:g}: expected more than 0, at most 1000")
    job = RenderJob(
        command.source,
        command.path,
        command.cameras,
        command.size,
        command.frames,
        command.fps,
        resolve_device(command.device),
    )
    count = (render_panoramas if command.equirectangular else render_path)(
        job, command.out, command.overwrite
    )
    print(f"{counted(count, 'frame')} in {command.out}; watch {command.out / 'video.mp4'}")
