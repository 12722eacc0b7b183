"""``artifixer enhance``: renders -> clean frames, by the video model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from artifixer.enhance.enhance import Drop, EnhanceConfig, Sampler
from artifixer.pipeline.enhance import EnhanceJob, enhance_renders
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.scenes.references import REFERENCE_COUNT
from artifixer.video.model import Mode


@dataclass(frozen=True)
class Command:
    """Turn renders along a camera path into clean, consistent frames.

    RENDERS is a folder as artifixer render writes it: rgb, opacity, cameras.json, reference photos.
    Renders of other software will do. DIR receives frames/00000.png and so on as they come,
    video.mp4 and timing.json. The same command continues an interrupted run.

    Examples:
      artifixer enhance tour --out clean
      artifixer enhance tour --model 14b --out clean --prompt "a fountain in a park" --references 3
      --device cuda artifixer enhance tour --out from_photos_only --drop renders,text
      artifixer enhance tour --model run/teacher/model --out by_the_teacher --sampler teacher
      --steps 50 --guidance 5
    """

    renders: Annotated[Path, tyro.conf.Positional]
    """Render folder."""
    out: Path
    """Folder to create or continue."""
    model: str = "tiny"
    """A name that artifixer models lists, a model folder, or a checkpoint of the public release."""
    prompt: str = ""
    """What the scene shows, for models with a text encoder."""
    references: int = REFERENCE_COUNT
    """At most this many of the folder's reference photos."""
    mode: Mode = "improve"
    """improve starts as the model is best; generate starts from noise where the renders are empty,
    so that each seed invents its own.
    """
    steps: str | None = None
    """Network calls per block: 4, 2, 1, or adaptive. Default: the model's own in this mode; 50 of
    the teacher.
    """
    sampler: Sampler = "blocks"
    """blocks is the few-step generator; teacher samples bidirectional weights (train
    bidirectional), 81 frames at once.
    """
    guidance: float | None = None
    """Of the teacher: from the negative prompt's prediction towards and beyond the prompt's.
    Default: 5; 1 is without.
    """
    negative_prompt: str | None = None
    """Of the teacher: what guidance leads away from. Default: Wan 2.1's; "" for no prompt."""
    drop: str = ""
    """What the model does not get to see: renders, references, text, separated by commas."""
    seed: int = 0
    """The same seed gives the same frames."""
    camera_scale: float | None = None
    """World units to the model's: metres per unit x 0.01 for the public release. Default: from the
    renders' depth.
    """
    depth_model: str | None = None
    """For models that want metres: folder or hub name of a metric depth model (Depth Anything V2
    metric, Depth Pro, ZoeDepth, MoGe-2). Default: MoGe-2 where its package is installed; else a
    median depth of 3 m is assumed, with a warning.
    """
    residual: Literal["auto", "keep", "leave"] = "auto"
    """Whether detail that the autoencoder loses comes back where renders are opaque. auto: as the
    model was made for.
    """
    strength: float = 1.0
    """Share of what the model changes where renders are opaque, 0 to 1."""
    fps: float = 24.0
    """Frames per second of the video."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ... auto takes a GPU when there is one."""
    offload: bool = False
    """Keep the model's layers in host memory and copy them to the GPU as they are needed: slower,
    for small GPUs.
    """
    overwrite: bool = False
    """Start anew in a folder that holds other frames."""


def run_command(command: Command) -> None:
    if command.references < 0:
        raise InputError(f"--references {command.references}: expected 0 or more")
    if not 0 < command.fps <= 1000:
        raise InputError(f"--fps {command.fps:g}: expected more than 0, at most 1000")
    if not 0 <= command.strength <= 1:
        raise InputError(f"--strength {command.strength:g}: expected 0 to 1")
    steps = read_steps(command.steps)
    if command.sampler != "teacher":
        for option, value in (
            ("--guidance", command.guidance),
            ("--negative-prompt", command.negative_prompt),
        ):
            if value is not None:
                raise InputError(
                    f"{option} {value}: blocks are made without guidance; expected --sampler "
                    "teacher beside it"
                )
    elif steps == "adaptive":
        raise InputError(
            "--steps adaptive: the teacher takes a number of steps; expected one such as 50"
        )
    if command.guidance is not None and not 0 <= command.guidance <= 100:
        raise InputError(f"--guidance {command.guidance:g}: expected 0 to 100")
    config = EnhanceConfig(
        mode=command.mode,
        steps=steps,
        sampler=command.sampler,
        guidance=command.guidance,
        negative_prompt=command.negative_prompt,
        seed=command.seed,
        prompt=command.prompt,
        drop=read_drop(command.drop),
        keep_residual={"auto": None, "keep": True, "leave": False}[command.residual],
        strength=command.strength,
        camera_scale=command.camera_scale,
        depth_model=command.depth_model,
    )
    device = resolve_device(command.device)
    job = EnhanceJob(
        command.renders,
        command.model,
        config,
        command.references,
        command.fps,
        device,
        command.offload,
    )
    enhance_renders(job, command.out, command.overwrite)
    print(f"frames in {command.out / 'frames'}; watch {command.out / 'video.mp4'}")


def read_steps(text: str | None) -> int | Literal["adaptive"] | None:
    """``--steps``; raises ``InputError`` for anything but a small number or ``adaptive``."""
    if text is None or text == "adaptive":
        return text  # type: ignore[return-value]
    if not re.fullmatch(r"[1-9]\d?", text):
        raise InputError(
            f"--steps {text}: expected a number from 1 to 99, such as 4, 2 or 1, or adaptive"
        )
    return int(text)


def read_drop(text: str) -> tuple[Drop, ...]:
    """``--drop``; raises ``InputError`` for unknown words."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in get_args(Drop)]
    if unknown:
        raise InputError(
            f"--drop {unknown[0]}: expected {', '.join(get_args(Drop))}, separated by commas"
        )
    return tuple(kind for kind in get_args(Drop) if kind in words)
