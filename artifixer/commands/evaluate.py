"""``artifixer evaluate``: published benchmarks, held-out photos of any capture, frames of any
method.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.video.choices import Mode

if TYPE_CHECKING:
    from artifixer.pipeline.evaluate_config import EvaluateConfig

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = (
    "artifixer.pipeline.evaluate",
    "artifixer.recipes.run",
)

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
    """Evaluate a benchmark scene by scene: reconstruct, enhance, distill and score; or score the
    frames of any method.

    DATA is the benchmark's folder in its public layout. The folder OUT receives results.json,
    table.md, table.csv, table.tex and report.html. The same command continues an interrupted
    evaluation.

    Protocols:
      mipnerf360-3, -6, -9    Mip-NeRF 360 with ReconFusion's few-view splits
      nerfbusters             Nerfbusters, with --masks for the published figures
      dl3dv-difix             DL3DV with the Difix split: --train-ids and --masks
      novel-content-release   28 DL3DV scenes with the split of the public release
      novel-content-paper     the same scenes, split by Algorithm 1
      heldout                 any capture, or a folder of captures
      gap                     the same, with a contiguous range of photos held out

    Examples:
      artifixer evaluate heldout my_captures --out scores --views 6
      artifixer evaluate mipnerf360-3 360_v2 --out scores --scenes garden stump
      artifixer evaluate heldout my_captures --out scores --path heldout --diagnostics
      artifixer evaluate nerfbusters data --out scores --variants none --frames mine=renders
    """

    protocol: Annotated[str, tyro.conf.Positional]
    """Name of the benchmark protocol, see above."""
    data: Annotated[str, tyro.conf.Positional]
    """Folder of its data; for heldout and gap a capture, a folder of captures, or procedural:SEED.
    """
    out: Path
    """Output folder, created or continued."""
    scenes: tuple[str, ...] = ()
    """Names of the scenes to evaluate. Default: all."""
    variants: str = "artifixer,3d,3d+"
    """Variants to compute and score, separated by commas: artifixer, 3d, 3d+ (see artifixer run);
    none scores only --frames.
    """
    frames: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=FOLDER: also score the frames of another method, in FOLDER/SCENE; repeatable."""
    naming: Literal["auto", "index", "rank", "name"] = "auto"
    """How files of --frames are matched with photos. index: numbered by position in the data set's
    list; rank: numbered by rank among the sorted held-out photos; name: named after the photos;
    auto: by the layout of the folder.
    """
    side_by_side: Literal["auto", "none", "left-gt"] = "auto"
    """left-gt: the left half of each file of --frames is the photo, the right half the frame; none:
    the whole file is the frame; auto: by the layout of the folder.
    """
    resize: Literal["bicubic", "lanczos", "area"] | None = None
    """Filter that resizes frames of another size to the photo's. Default: such frames are refused.
    """
    own_gt: bool = False
    """Score --frames against the photos beside them, for methods that undistort and crop photos;
    the rows are marked.
    """
    split: tuple[str, ...] = ()
    """For heldout: named split of all captures, or SCENE=NAME; several may be given. Default: every
    8th photo is held out, every 4th of captures with fewer than 16 photos.
    """
    views: int | None = None
    """For heldout and novel-content-*: number of training photos, chosen by Algorithm 1. Default: 6
    for novel-content-*.
    """
    half: int = 0
    """For novel-content-release: half of the clip that trains, 0 or 1."""
    gap: float = 0.25
    """For gap: fraction of the photos that is held out, between 0 and 1."""
    masks: Path | None = None
    """For nerfbusters and dl3dv-difix: folder of visibility masks, SCENE/00000.png and so on by
    rank of the held-out photo. Default: no masks.
    """
    train_ids: Path | None = None
    """For dl3dv-difix: folder with SCENE/difix_train_ids.json of its authors. Default: a stand-in
    split.
    """
    size: str | None = None
    """Longest side of the photos in pixels, or WxH; figures are then not comparable with published
    ones. Default: the photos' size; for heldout and gap 256 with the recipe or the model tiny.
    """
    path: str | None = None
    """Target cameras of the run: tour or heldout. Default: the protocol's (heldout for nerfbusters,
    dl3dv-difix and novel-content-*, otherwise tour).
    """
    fid_antialias: bool = True
    """Resize images for FID without antialiasing, as torchmetrics did before 1.8."""
    require_weights: bool = False
    """Fail unless the networks of the benchmark's published table (LPIPS, FID) are installed."""
    model: str = "tiny"
    """tiny (part of this package), 1.3b, 14b (see artifixer models), or a path."""
    mode: Mode = "improve"
    """Start of the flow: improve or generate, see artifixer run."""
    steps: int | Literal["adaptive"] | None = None
    """Denoising steps (network calls) per block; adaptive takes fewer for opaque blocks. Default:
    the model's own in this mode.
    """
    references: int = 6
    """Maximum number of training photos that the model attends to; 0 for none."""
    camera_scale: float | None = None
    """Factor from world units to the model's units. Default: estimated, see artifixer run."""
    depth_model: str | None = None
    """Metric depth model, see artifixer run."""
    recipe: Literal["auto", "tiny", "paper", "release"] = "auto"
    """tiny: for a CPU; paper: the paper's settings, for a GPU; release: those of the public release
    (needs the extra metrics). auto: paper on a GPU, tiny on a CPU.
    """
    iterations: int | None = None
    """Number of iterations of both fits. Default: the recipe's."""
    seed: int = 0
    """Random seed; the same seed gives the same figures."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto selects a GPU when there is one."""
    diagnostics: bool = False
    """Also enhance the renders of every scene with other starts of the flow, with inputs withheld,
    and in 1 to 4 steps: the rows of the paper's Table 4, section 5.4 and appendix A.
    """
    diagnostic_models: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=FOLDER: model that was trained as a variant of Table 4; repeatable. NAME: concatenation,
    direct, no-forcing or mixing. Default: --model for direct and mixing, no row for the others.
    """
    prompts: Path | None = None
    """JSON file {scene: prompt} for models with a text encoder. Default: no prompts."""
    workers: int = 1
    """Number of processes, each with one scene at a time and, with --device cuda, a GPU of its own.
    """
    ray: str | None = None
    """Use a Ray cluster: auto (the one that is found, otherwise a local one) or HOST:PORT. Needs
    the extra cluster. Default: local processes.
    """
    overwrite: bool = False
    """Delete the results of another evaluation that OUT holds, and start again."""


def run_command(command: Command) -> None:
    from artifixer.evaluation.table_files import markdown
    from artifixer.pipeline.evaluate import evaluate

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
    from artifixer.evaluation.benchmarks.scene import Options
    from artifixer.evaluation.protocols import protocol
    from artifixer.pipeline.evaluate_config import EvaluateConfig
    from artifixer.pipeline.evaluate_diagnostics import read_prompts
    from artifixer.pipeline.run_config import parse_variants
    from artifixer.recipes import recipe_name
    from artifixer.recipes.run import RECIPES
    from artifixer.video.model_files import locate_model

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
            raise InputError(f"{option}: does not apply to {entry.name}")
    device = resolve_device(command.device)
    if command.workers > 1:
        device = device.split(":")[0]
    recipe = RECIPES[recipe_name(command.recipe, device)].with_iterations(command.iterations)
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
        reconstruct=recipe.reconstruct,
        input_fits=recipe.input_fits,
        distill=recipe.distill,
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
