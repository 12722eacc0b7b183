"""``artifixer evaluate``: the published benchmarks, held-out photos of any capture, and any
method's frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from artifixer.evaluation.benchmarks.scene import Options
from artifixer.evaluation.protocols import protocol
from artifixer.evaluation.table_files import markdown
from artifixer.pipeline.evaluate import evaluate
from artifixer.pipeline.evaluate_config import EvaluateConfig
from artifixer.pipeline.evaluate_diagnostics import read_prompts
from artifixer.pipeline.run_config import parse_variants
from artifixer.recipes.run import RECIPES
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.video.model import Mode
from artifixer.video.model_files import locate_model

#: Options that only some protocols take, by the name in ``Options``.
_PROTOCOL_OPTIONS = {
    "split": "--split",
    "views": "--views",
    "half": "--half",
    "gap": "--gap",
    "masks": "--masks",
    "train_ids": "--train-ids",
}


@dataclass(frozen=True)
class Command:
    """Evaluate a benchmark, scene by scene: reconstruct, enhance, distill and score; or score the
    frames of any method.

    PROTOCOL: mipnerf360-3, mipnerf360-6, mipnerf360-9, nerfbusters, dl3dv-difix,
    novel-content-release, novel-content-paper, heldout (any capture, or a folder of captures), gap
    (the same with a contiguous piece held out). DATA: the benchmark's folder in its public layout.
    The folder OUT receives results.json, table.md, table.csv, table.tex and report.html. The same
    command continues an interrupted evaluation.

    Examples:
      artifixer evaluate heldout my_captures --out scores --views 6
      artifixer evaluate mipnerf360-3 360_v2 --out scores --scenes garden stump
      artifixer evaluate heldout my_captures --out scores --path heldout --diagnostics
          --diagnostic-models concatenation=runs/concatenation
      artifixer evaluate nerfbusters data --out scores --masks masks --variants none --frames
          mine=renders
    """

    protocol: Annotated[str, tyro.conf.Positional]
    """Name of the benchmark."""
    data: Annotated[str, tyro.conf.Positional]
    """Its folder; for heldout and gap a capture, a folder of captures, or procedural:SEED."""
    out: Path
    """Folder to create or continue."""
    scenes: tuple[str, ...] = ()
    """Some of the scenes. Default: all."""
    variants: str = "artifixer,3d,3d+"
    """What is made and scored, as for run; none for the frames of --frames alone."""
    frames: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=FOLDER: score frames of another method; may be repeated. FOLDER holds a folder per
    scene.
    """
    naming: Literal["auto", "index", "rank", "name"] = "auto"
    """What numbers of frames mean: position in the data set's list, rank among the held-out photos,
    or frames are named after photos.
    """
    side_by_side: Literal["auto", "none", "left-gt"] = "auto"
    """left-gt: each file shows the photo on the left and the frame on the right."""
    resize: Literal["bicubic", "lanczos", "area"] | None = None
    """Bring frames of another size to the photo's. Default: they are refused."""
    own_gt: bool = False
    """Score against the photos that lie beside a method's frames, where it undistorted and cropped
    them; the rows are marked.
    """
    split: tuple[str, ...] = ()
    """For heldout: a named split for all captures, or SCENE=NAME. Default: every 8th photo is held
    out, of small captures every 4th.
    """
    views: int | None = None
    """For heldout and novel-content: train on this many photos, by Algorithm 1."""
    half: int = 0
    """For novel-content-release: which half trains, 0 or 1."""
    gap: float = 0.25
    """For gap: share of the photos held out."""
    masks: Path | None = None
    """Visibility masks: SCENE/00000.png by the rank of the held-out photo."""
    train_ids: Path | None = None
    """For dl3dv-difix: SCENE/difix_train_ids.json of its authors."""
    size: str | None = None
    """Longest side of the photos, or WxH; figures are then not comparable with published ones.
    Default: as they are; 192 for heldout and gap with the recipe tiny.
    """
    path: str | None = None
    """Cameras of the run: tour or heldout. Default: the benchmark's."""
    fid_antialias: bool = True
    """The other way resizes for FID as torchmetrics did before 1.8."""
    require_weights: bool = False
    """Refuse to work without the networks of the benchmark's table."""
    model: str = "tiny"
    """tiny (part of this package), 1.3b, 14b, or a path."""
    mode: Mode = "improve"
    """improve or generate, see run."""
    steps: int | Literal["adaptive"] | None = None
    """Denoising steps per block. Default: the model's own in this mode."""
    references: int = 6
    """Photos that the model looks at, at most."""
    camera_scale: float | None = None
    """World units to the model's, see run."""
    depth_model: str | None = None
    """Metric depth model, see run."""
    recipe: Literal["auto", "tiny", "paper", "release"] = "auto"
    """tiny for a CPU, paper for a GPU; auto chooses by device."""
    iterations: int | None = None
    """Of both fits, instead of the recipe's."""
    seed: int = 0
    """The same seed gives the same figures."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ... auto takes a GPU when there is one."""
    diagnostics: bool = False
    """Also enhance the renders of every scene's run with other starts of the flow, without some of
    the inputs and in 1 to 4 steps: the rows of the paper's Table 4, section 5.4 and appendix A.
    """
    diagnostic_models: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=FOLDER, may be repeated: a model trained as a variant of Table 4: concatenation, direct,
    no-forcing or mixing. Without one, direct and mixing take --model, and the others are left out.
    """
    prompts: Path | None = None
    """JSON file of scene: text, for models that read prompts."""
    workers: int = 1
    """Scenes at a time, each in a process of its own, and with a GPU of its own for cuda."""
    ray: str | None = None
    """Work on a Ray cluster: auto or HOST:PORT. Needs the extra cluster."""
    overwrite: bool = False
    """Start anew in a folder that holds another evaluation."""


def run_command(command: Command) -> None:
    if command.workers < 1:
        raise InputError(f"--workers {command.workers}: expected at least 1")
    result = evaluate(
        evaluate_config(command),
        workers=command.workers,
        ray=command.ray,
        overwrite=command.overwrite,
        require_weights=command.require_weights,
    )
    print(markdown(result.results))
    print(f"open {result.out / 'report.html'}")


def evaluate_config(command: Command) -> EvaluateConfig:
    """The evaluation that the options describe."""
    entry = protocol(command.protocol)
    options = Options(
        dict(_pair(text) for text in command.split),
        command.views,
        command.half,
        command.gap,
        command.masks,
        command.train_ids,
    )
    for name, option in _PROTOCOL_OPTIONS.items():
        if getattr(options, name) != getattr(Options(), name) and name not in entry.takes:
            raise InputError(f"{option}: has no meaning for {entry.name}")
    device = resolve_device(command.device)
    if command.workers > 1:
        device = device.split(":")[0]
    name = command.recipe
    if name == "auto":
        name = "paper" if device.startswith("cuda") else "tiny"
    recipe = RECIPES[name]
    reconstruct, distill = recipe.reconstruct, recipe.distill
    if command.iterations is not None:
        if command.iterations < 1:
            raise InputError(f"--iterations {command.iterations}: expected at least 1")
        reconstruct = replace(reconstruct, iterations=command.iterations)
        distill = replace(
            distill, reconstruct=replace(distill.reconstruct, iterations=command.iterations)
        )
    size: str | int | None = command.size
    if size is None and not entry.published:
        size = recipe.size or locate_model(command.model).config.default_size
    return EvaluateConfig(
        protocol=command.protocol,
        data=command.data,
        out=command.out,
        scenes=command.scenes,
        options=options,
        variants=() if command.variants == "none" else parse_variants(command.variants),
        frames=dict(_frames(text) for text in command.frames),
        diagnostics=command.diagnostics,
        diagnostic_models=dict(
            _frames(text, "--diagnostic-models") for text in command.diagnostic_models
        ),
        prompts={} if command.prompts is None else read_prompts(command.prompts),
        naming=command.naming,
        side_by_side=command.side_by_side,
        resize=command.resize,
        own_truth=command.own_gt,
        size=None if size is None else str(size),
        path=command.path,
        antialias=command.fid_antialias,
        model=command.model,
        mode=command.mode,
        steps=command.steps,
        references=command.references,
        camera_scale=command.camera_scale,
        depth_model=command.depth_model,
        reconstruct=reconstruct,
        distill=distill,
        seed=command.seed,
        device=device,
    )


def _pair(text: str) -> tuple[str, str]:
    """``SCENE=NAME``, or ``NAME`` for all scenes."""
    scene, sign, name = text.partition("=")
    return (scene, name) if sign else ("", text)


def _frames(text: str, option: str = "--frames") -> tuple[str, Path]:
    name, sign, folder = text.partition("=")
    if not sign or not name or not folder:
        raise InputError(f"{option} {text}: expected NAME=FOLDER")
    return name, Path(folder)
