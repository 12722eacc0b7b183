"""Model files: find, load and convert.

In: a name or a path. Out: ``ModelFiles`` (locations of the parts) or ``Model`` (with weights).
Formats: ``checkpoints/ours``, ``checkpoints/release``, ``checkpoints/wan``; ``convert_model``
writes our folder from any of them, or the release's ``.pt``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import write_json
from artifixer.runtime.seeds import generator
from artifixer.video.adapter import apply_adapter
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.checkpoints.loading import load_into
from artifixer.video.checkpoints.ours import link_text_encoder, our_files
from artifixer.video.checkpoints.release import release_files, save_release_checkpoint
from artifixer.video.checkpoints.tensor_files import open_tensors, save_part
from artifixer.video.checkpoints.torch_distributed import is_distributed_checkpoint
from artifixer.video.checkpoints.wan import wan_files
from artifixer.video.config_json import flat_config
from artifixer.video.model import Model, ModelConfig
from artifixer.video.model_zoo import NAMED_MODELS, missing_model
from artifixer.video.offload import LayerStream
from artifixer.video.text import TextEncoder
from artifixer.video.transformer import VideoTransformer
from artifixer.video.vae import build_vae


def locate_model(name_or_path: str | Path) -> ModelFiles:
    """Find a model's files and read its configuration, but no weights.

    name_or_path: a name in ``NAMED_MODELS``, one of our folders, a Wan 2.1 folder of diffusers, or
    the release's ``.pt`` or sharded checkpoint (or its folder) with Wan's ``vae/`` beside it.
    Raises ``InputError`` when files are missing; for named models it lists the downloads.
    """
    named = NAMED_MODELS.get(str(name_or_path))
    if named is not None:
        if not named.folder.is_dir():
            raise InputError(missing_model(named))
        files = _located(named.folder)
        return (
            replace(files, config=named.config)
            if named.config is not None and files.format == "release"
            else files
        )
    path = Path(name_or_path)
    if not path.exists():
        raise InputError(
            f"--model {name_or_path}: neither a file or folder nor one of {', '.join(NAMED_MODELS)}"
        )
    return _located(path)


def _located(path: Path) -> ModelFiles:
    """The parts of a model at a path that exists."""
    if path.is_file():
        if path.suffix != ".pt":
            raise InputError(
                f"{path}: expected a model folder, or a .pt file of the public release"
            )
        return release_files(path)
    if (path / "config.json").is_file():
        return our_files(path)
    if (path / "transformer" / "config.json").is_file():
        return wan_files(path)
    if is_distributed_checkpoint(path):
        return release_files(path)
    checkpoints = sorted(
        [*path.glob("*.pt"), *(part for part in path.iterdir() if is_distributed_checkpoint(part))]
    )
    if len(checkpoints) == 1:
        return release_files(checkpoints[0])
    raise InputError(
        f"{path}: no model; expected config.json with transformer.safetensors, a Wan 2.1 folder "
        "with transformer/ and vae/, "
        f"or one .pt file or sharded checkpoint of the public release ({len(checkpoints)} here)"
    )


def load_model(
    name_or_path: str | Path | ModelFiles,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    offload: bool = False,
    seed: int = 0,
    adapter: Path | None = None,
) -> Model:
    """A model with its weights on the device, for inference.

    dtype: of the weights; None for ``default_dtype(device)``. offload: keep the transformer's
    layers in host memory and copy each to the device while others compute. seed: of the initial
    values of layers that Wan 2.1 lacks, when its weights are loaded. adapter: a file whose low-rank
    changes are added to the transformer's weights (``adapter.py``). Weights are mapped and
    converted one by one, so that host memory holds the model at most once. Raises ``InputError`` as
    ``locate_model``, ``check_tensors`` and ``apply_adapter`` do.
    """
    files = name_or_path if isinstance(name_or_path, ModelFiles) else locate_model(name_or_path)
    config, device = files.config, torch.device(device)
    dtype = dtype or default_dtype(device)
    with torch.device("meta"):
        transformer = VideoTransformer(config.transformer)
    vae = build_vae(config.vae, "meta")
    files.fill_transformer(transformer, "cpu" if offload else device, dtype, seed)
    if adapter is not None:
        apply_adapter(transformer, adapter)
    load_into(vae.network, open_tensors(files.vae), device, dtype)
    text_encoder = None
    if files.text_encoder is not None:
        # on the CPU: it is large, used once per prompt, and its results are cached
        text_encoder = TextEncoder(files.text_encoder, config.text)
    return _ready(Model(config, transformer, vae, text_encoder), device, offload)


def default_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 on a GPU, as in the release; float32 on a CPU."""
    return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32


def random_model(
    config: ModelConfig,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    offload: bool = False,
) -> Model:
    """A model with random weights, generated on their device: for tests and for measurements of
    speed and memory.
    """
    device = torch.device(device)
    dtype = dtype or default_dtype(device)
    with torch.device("meta"):
        transformer = VideoTransformer(config.transformer)
    vae = build_vae(config.vae, "meta")
    for purpose, module, place in (
        ("transformer", transformer, torch.device("cpu") if offload else device),
        ("vae", vae.network, device),
    ):
        random = generator(seed, f"random {purpose}", device=place)
        values = {
            name: _random_tensor(name, tensor, random, dtype)
            for name, tensor in module.state_dict().items()
        }
        module.load_state_dict(values, assign=True)
    return _ready(Model(config, transformer, vae), device, offload)


def convert_model(
    source: str | Path,
    folder: Path,
    dtype: torch.dtype | None = None,
    part_bytes: int | None = None,
) -> ModelConfig:
    """Convert any model to our folder format; the text encoder is linked. dtype: of the weights;
    None keeps theirs. part_bytes: as in ``save_model``.

    A ``folder`` with the suffix .pt becomes a checkpoint in the public release's format, with the
    transformer alone. Tensors are copied one by one: the model may exceed the memory.
    """
    files = locate_model(source)
    if folder.suffix == ".pt":
        save_release_checkpoint(folder, files, dtype)
        return files.config
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; expected a new folder")
    with torch.device("meta"):
        transformer: nn.Module = VideoTransformer(files.config.transformer)
    files.fill_transformer(transformer, "cpu", None)
    vae = build_vae(files.config.vae, "meta").network
    load_into(vae, open_tensors(files.vae))
    save_part(folder, "transformer", transformer.state_dict(), dtype, part_bytes)
    save_part(folder, "vae", vae.state_dict(), dtype, part_bytes)
    if files.text_encoder is not None:
        link_text_encoder(folder, files.text_encoder)
    write_json(folder / "config.json", flat_config(files.config))
    return files.config


def _ready(model: Model, device: torch.device, offload: bool) -> Model:
    """The model in inference mode; with ``offload`` its layers are streamed, and all other weights
    are on the device.
    """
    model.transformer.eval().requires_grad_(False)
    model.vae.network.eval().requires_grad_(False)
    if not offload:
        return model
    layers = model.transformer.layers
    inside = {id(tensor) for tensor in _tensors(layers)}
    for tensor in _tensors(model.transformer):
        if id(tensor) not in inside:
            tensor.data = tensor.data.to(device)
    stream = LayerStream(list(layers), device)
    model.transformer.streamed_layers = stream.in_turn
    return replace(model, stream=stream)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _random_tensor(name: str, like: Tensor, random: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Norms are ones, biases small, matrices preserve the variance of their input."""
    values = torch.empty(like.shape, dtype=dtype, device=random.device)
    if "norm" in name and not name.endswith("bias"):
        return values.fill_(1)
    inputs = like.shape[1:].numel() if like.ndim > 1 else 100
    return values.normal_(generator=random).mul_(inputs**-0.5)
