"""``artifixer models``: the video models, their requirements, and conversion of their formats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from artifixer.runtime.counts import counted
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError
from artifixer.scenes.references import REFERENCE_COUNT

if TYPE_CHECKING:
    import torch

    from artifixer.video.model import ModelConfig
    from artifixer.video.model_zoo import NamedModel

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = (
    "artifixer.imaging.resize",
    "artifixer.video.model_files",
    "artifixer.video.memory_estimate",
)

#: Largest file of a converted model, bytes.
PART_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Command:
    """List the video models: location of their files, licence, camera scale, and memory by part.

    With --convert, convert a model to our format, a folder of safetensors and config.json: from the
    public release's .pt or sharded checkpoint beside Wan's vae/, or from a Wan 2.1 folder of
    diffusers. With --out FILE.pt, convert to a checkpoint in the format of the public release.

    Examples:
      artifixer models
      artifixer models 14b --size 832x480 --references 3 --device cuda
      artifixer models --convert downloads/artifixer-14b.pt --out models/14b --dtype bfloat16
    """

    model: Annotated[str | None, tyro.conf.Positional] = None
    """Name (tiny, 1.3b, 14b) or path. Default: all named models."""
    size: str = "1024x576"
    """Frame size, WxH in pixels, that memory is estimated for."""
    references: int = REFERENCE_COUNT
    """Number of reference photos that memory is estimated for."""
    device: str = "auto"
    """Device whose free memory is shown: cpu, cuda, cuda:1 ...; auto selects a GPU when there is
    one.
    """
    convert: str | None = None
    """Name or path of a model to convert."""
    out: Path | None = None
    """With --convert: new folder for the model, or new .pt file for its transformer."""
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    """With --convert: data type of the converted weights; keep leaves it as it is."""


def run_command(command: Command) -> None:
    import torch

    from artifixer.imaging.resize import fit_size
    from artifixer.video.model_files import locate_model
    from artifixer.video.model_zoo import NAMED_MODELS

    if command.convert is not None:
        _convert(command, command.convert)
        return
    if command.references < 0:
        raise InputError(f"--references {command.references}: expected 0 or more")
    device = torch.device(resolve_device(command.device))
    width, height = fit_size(1, 1, command.size, enlarge=True)
    if command.model is not None and command.model not in NAMED_MODELS:
        config = locate_model(command.model).config
        print(
            "\n".join(
                [
                    f"{config.name} ({command.model})",
                    *_config_lines(config, width, height, command.references, device),
                ]
            )
        )
        return
    chosen = (
        [NAMED_MODELS[command.model]] if command.model is not None else list(NAMED_MODELS.values())
    )
    print(
        "\n\n".join(
            "\n".join(_lines(named, width, height, command.references, device)) for named in chosen
        )
    )


def _convert(command: Command, source: str) -> None:
    import torch

    from artifixer.video.memory_estimate import parameter_count
    from artifixer.video.model_files import convert_model

    if command.out is None:
        raise InputError("--convert: expected --out FOLDER beside it")
    dtype = None if command.dtype == "keep" else getattr(torch, command.dtype)
    config = convert_model(source, command.out, dtype, PART_BYTES)
    use = f"; use it with --model {command.out}"
    use += ", Wan's vae/ beside it" if command.out.suffix == ".pt" else ""
    print(
        f"{config.name}: {parameter_count(config.transformer):,} parameters in {command.out}{use}"
    )


def _lines(
    named: NamedModel, width: int, height: int, references: int, device: torch.device
) -> Iterator[str]:
    """The description of a named model."""
    from artifixer.video.model_files import locate_model

    yield f"{named.name}: {named.about}"
    try:
        config: ModelConfig | None = locate_model(named.name).config
        yield _row("files", f"{named.folder}")
    except InputError as error:
        config = named.config
        yield _row(
            "files", f"missing; to be put into {named.folder}" if named.downloads else str(error)
        )
    for part in named.downloads:
        optional = " (optional)" if part.is_optional else ""
        yield _row(
            "",
            f"{part.what}{optional}: {' '.join(part.files)} of {part.repository}, {part.size:g} "
            f"GB, licence {part.licence}",
        )
    if config is not None:
        yield from _config_lines(config, width, height, references, device)


def _config_lines(
    config: ModelConfig, width: int, height: int, references: int, device: torch.device
) -> Iterator[str]:
    from artifixer.video.memory_estimate import (
        GIGABYTE,
        free_memory,
        parameter_count,
        vae_parameter_count,
    )

    network = config.transformer
    takes = [
        name
        for name, taken in (
            ("prompts", config.takes_text),
            ("reference photos", config.takes_references),
        )
        if taken
    ]
    scale = {"metric": "metres x 0.01", "median_depth": "median depth 1"}[config.camera_scale]
    yield _row(
        "network",
        f"{parameter_count(network):,} parameters, {counted(network.layers, 'layer')} of width "
        f"{network.width}",
    )
    yield _row(
        "autoencoder",
        f"{vae_parameter_count(config.vae):,} parameters, {config.vae.spatial_factor}x in space",
    )
    yield _row("takes", ", ".join(takes) or "renders only")
    yield _row("camera scale", f"{config.camera_scale} ({scale})")
    references = references if config.takes_references else 0
    width, height = config.model_size(width, height)
    yield _row("memory", f"at {width}x{height} with {counted(references, 'reference')}, GB:")
    yield from _memory_lines(config, width, height, references)
    yield _row("", f"{device} has {free_memory(device) / GIGABYTE:.1f} GB free")


def _memory_lines(config: ModelConfig, width: int, height: int, references: int) -> Iterator[str]:
    """Table of memory in GB: parts by device and precision."""
    import torch

    from artifixer.video.memory_estimate import GIGABYTE, MemoryPlan, memory_estimate, part_rows

    kinds = {
        "GPU, bfloat16": MemoryPlan(width, height, references, torch.bfloat16),
        "with --offload": MemoryPlan(width, height, references, torch.bfloat16, offload=True),
        "CPU, float32": MemoryPlan(width, height, references, torch.float32),
    }
    yield f"    {'':<16}" + "".join(f"{kind:>16}" for kind in kinds)
    estimates = [memory_estimate(config, plan) for plan in kinds.values()]
    for rows in zip(*(part_rows(estimate) for estimate in estimates), strict=True):
        yield f"    {rows[0][0]:<16}" + "".join(f"{value / GIGABYTE:16.2f}" for _, value in rows)
    yield f"    {'together':<16}" + "".join(
        f"{estimate.total / GIGABYTE:16.2f}" for estimate in estimates
    )


def _row(label: str, text: str) -> str:
    return f"  {label:<13} {text}"
