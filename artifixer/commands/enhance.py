"""``artifixer enhance``: renders -> clean frames, by the video model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from artifixer.enhance.choices import Drop, Sampler
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.scenes.references import REFERENCE_COUNT
from artifixer.video.choices import Mode

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = ("artifixer.pipeline.enhance",)


@dataclass(frozen=True)
class Command:
    """Turn renders along a camera path into clean, consistent frames.

    RENDERS is a folder as artifixer render writes it: rgb, opacity, cameras.json, reference photos.
    Renders of other splat software work too. The folder OUT receives frames/00000.png and so on as
    they are computed, video.mp4 and timing.json. The same command continues an interrupted run.

    Examples:
      artifixer enhance tour --out clean
      artifixer enhance tour --model 14b --out clean --prompt "a fountain in a park" --device cuda
      artifixer enhance tour --out from_photos_only --drop renders,text
      artifixer enhance tour --model run/teacher/model --out by_the_teacher --sampler teacher
    """

    renders: Annotated[Path, tyro.conf.Positional]
    """Render folder."""
    out: Path
    """Output folder, created or continued."""
    model: str = "tiny"
    """tiny (part of this package), 1.3b, 14b (see artifixer models), a model folder, or a
    checkpoint of the public release.
    """
    prompt: str = ""
    """What the scene shows, for models with a text encoder."""
    references: int = REFERENCE_COUNT
    """Maximum number of the folder's reference photos that are used; 0 for none."""
    mode: Mode = "improve"
    """Start of the flow. improve: as the model was trained, for the best fidelity; generate: from
    noise where the renders are empty, so that each seed invents other content.
    """
    steps: str | None = None
    """Denoising steps (network calls) per block, 1 to 99; adaptive takes fewer for opaque blocks.
    Default: the model's own in this mode; 50 for the teacher.
    """
    sampler: Sampler = "blocks"
    """blocks: the few-step causal generator. teacher: bidirectional weights (artifixer train
    bidirectional), in many steps with guidance, 81 frames at a time.
    """
    guidance: float | None = None
    """Classifier-free guidance scale of the teacher, 0 to 100; 1 turns guidance off. Default: 5."""
    negative_prompt: str | None = None
    """Negative prompt of the teacher's guidance; "" for none. Default: that of Wan 2.1."""
    drop: str = ""
    """Inputs that are withheld from the model, separated by commas. renders: black renders of
    opacity 0, so that everything is generated; references: no reference photos; text: no prompt;
    rays: zeros for the rays of the cameras; opacity: zeros for the opacity that the network reads
    (the start of the flow still uses it).
    """
    seed: int = 0
    """Seed of the noise; the same seed gives the same frames."""
    camera_scale: float | None = None
    """Factor from world units to the model's units: 0.01 x metres per unit for the public release,
    1 / median depth for our own models. Default: estimated from the renders' depth.
    """
    depth_model: str | None = None
    """Metric depth model for video models that work in metres: folder or hub name (Depth Anything
    V2 metric, Depth Pro, ZoeDepth, MoGe-2). Default: MoGe-2 if its package is installed, otherwise
    a median depth of 3 m is assumed, with a warning.
    """
    residual: Literal["auto", "keep", "leave"] = "auto"
    """keep: add back the detail of opaque parts of the renders that the autoencoder loses; leave:
    do not. auto: as the model's config says.
    """
    strength: float = 1.0
    """Blend weight on opaque pixels, 0 to 1: 0 keeps the render, 1 takes the model's output."""
    fps: float = 24.0
    """Frames per second of the video."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto selects a GPU when there is one."""
    offload: bool = False
    """Keep the model's layers in host memory and copy them to the GPU as they are needed: slower,
    for small GPUs.
    """
    overwrite: bool = False
    """Delete the results of another run that OUT holds, and start again."""


def run_command(command: Command) -> None:
    from artifixer.enhance.enhance import EnhanceConfig
    from artifixer.pipeline.enhance import EnhanceJob, enhance_renders

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
