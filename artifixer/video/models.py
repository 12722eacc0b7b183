"""The video models: what belongs together, the models known by name, and their files.

In: a name or a path. Out: ``Model``: network, autoencoder and text encoder with the settings they
were trained for. A model folder holds a flat ``config.json``, ``transformer.safetensors`` and
``vae.safetensors`` (each possibly in several parts), and ``text_encoder/`` and ``tokenizer/`` where
the model takes prompts. The public release's ``.pt`` or sharded checkpoint beside Wan's ``vae/``,
and Wan 2.1 folders of diffusers load as well; ``convert_model`` makes our folder of any of them, or
the release's ``.pt``.
"""

from __future__ import annotations

import hashlib
import os
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import atomic_path, open_regular
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.json_io import as_object, is_number, is_whole, read_json, shown, write_json
from artifixer.runtime.seeds import generator
from artifixer.runtime.system import link_or_copy, remove_link_or_copy
from artifixer.video.checkpoints.torch_distributed import is_distributed_checkpoint
from artifixer.video.finish import FinishConfig
from artifixer.video.flow import FlowSchedule, SourceKind
from artifixer.video.offload import LayerStream
from artifixer.video.sample import SampleConfig
from artifixer.video.small_autoencoder import SmallAutoencoderConfig
from artifixer.video.text import EncodedPrompt, TextConfig, TextEncoder, no_prompt
from artifixer.video.transformer import VideoTransformer, VideoTransformerConfig
from artifixer.video.vae import AutoencoderConfig, Vae, VaeConfig, build_vae
from artifixer.video.weights import (
    StoredTensors,
    check_fit,
    load_into,
    open_tensors,
    our_name,
    read_flat_json,
    release_name,
    save_tensors,
)

FORMAT = "artifixer-model"
VERSION = 1

#: Heads of all Wan 2.1 models have this width; the release's ``.pt`` does not say.
WAN_HEAD_WIDTH = 128

#: Of a large file of weights so many pieces of this size tell whether it is the same file.
HASHED_PIECES, PIECE_BYTES = 64, 1 << 16

#: Parts of a Wan folder that read prompts.
TEXT_PARTS = ("text_encoder", "tokenizer")

#: Largest values of a configuration's whole numbers: several times those of any model known, and
#: small enough that no product of them overflows and that a network without weights is built in a
#: second. Whether a model fits the memory is another question (``memory.py``).
LARGEST_WIDTH, LARGEST_DEPTH, LARGEST_FACTOR = 1 << 17, 512, 64
_DEPTHS = ("layers", "depth", "encoder_depth", "steps", "generate_steps")
_FACTORS = ("patch_size", "spatial_factor", "temporal_factor", "dim_mult", "num_res_blocks")
_SIDES = (
    "width",
    "ffn_width",
    "heads",
    "latent_channels",
    "text_width",
    "text_tokens",
    "encoder_width",
    "z_dim",
    "base_dim",
)

#: Entries of a list in a configuration, resolutions of an autoencoder, and size of any other
#: number.
LONGEST_LIST, MOST_RESOLUTIONS, LARGEST_NUMBER = 4096, 8, 1e6

CameraScaleRule = Literal["metric", "median_depth"]

#: Fields of ``config.json`` that earlier versions wrote and that mean nothing any more: such models
#: load, and the fields are ignored.
RETIRED_FIELDS = ("detail",)

#: What a model is asked for. ``improve``: as it is best, the default. ``generate``: opacity mixing,
#: so that what nobody photographed is invented from noise and another seed invents something else.
Mode = Literal["improve", "generate"]

#: Largest values in the configuration of a Wan transformer.
_WAN_BOUNDS = {
    "num_attention_heads": 256,
    "attention_head_dim": 1024,
    "num_layers": LARGEST_DEPTH,
    **dict.fromkeys(("ffn_dim", "in_channels", "text_dim", "freq_dim"), LARGEST_WIDTH),
}

#: ``vae_kind`` in config.json.
AUTOENCODERS: dict[str, type[AutoencoderConfig]] = {
    "wan": VaeConfig,
    "small": SmallAutoencoderConfig,
}


@dataclass(frozen=True)
class ModelConfig:
    """A model's architecture and what it was trained for.

    camera_scale: which unit of length the weights know, see ``scenes/scale.py``. takes_text,
    takes_references: whether they were trained with prompts and with reference photos. source:
    where the flow starts. keep_residual: give back the detail that the autoencoder takes from
    opaque parts of the render. steps: denoising steps per block. generate_steps: those of the mode
    ``generate``; adapts_steps: there fewer are enough for blocks that the render shows
    (``AdaptiveSteps``). block_frames, window_frames, sink_frames: latent frames generated together,
    attended to in all, and always kept. shift: of the noise levels.
    smooth_cells: in the mode ``improve``, smooth what is empty down to cells of so many pixels
    (``FinishConfig``); 0 for not at all. default_size: longest side in pixels of frames where none
    is asked for; None for that of the photos. second_strength: share of its changes that ArtiFixer
    3D+ takes, whose renders already have those of the first pass.
    """

    name: str
    transformer: VideoTransformerConfig
    vae: AutoencoderConfig
    camera_scale: CameraScaleRule = "metric"
    takes_text: bool = True
    takes_references: bool = True
    source: SourceKind = "mixing"
    keep_residual: bool = False
    steps: int = 4
    generate_steps: int = 4
    adapts_steps: bool = False
    block_frames: int = 7
    window_frames: int = 21
    sink_frames: int = 7
    shift: float = 5.0
    second_strength: float = 1.0
    smooth_cells: int = 0
    default_size: int | None = None

    def __post_init__(self) -> None:
        for name, ours, theirs in (
            ("latent channels", self.transformer.latent_channels, self.vae.z_dim),
            ("spatial factor", self.transformer.spatial_factor, self.vae.spatial_factor),
            ("temporal factor", self.transformer.temporal_factor, self.vae.temporal_factor),
        ):
            assert ours == theirs, (
                f"{name} of the transformer is {ours}, of the autoencoder {theirs}"
            )
        for steps in (self.steps, self.generate_steps):
            assert steps >= 1, f"{steps} steps"
        assert self.default_size is None or self.default_size >= 1, (
            f"default size {self.default_size}, expected at least 1"
        )
        assert self.shift > 0, f"shift {self.shift}, expected more than 0"
        assert self.sink_frames >= 0, f"{self.sink_frames} sink frames"
        assert 0 <= self.second_strength <= 1, f"strength {self.second_strength}, expected 0 to 1"
        assert self.smooth_cells >= 0, f"cells of {self.smooth_cells} pixels, expected at least 0"
        assert 1 <= self.block_frames <= self.window_frames, (
            f"blocks of {self.block_frames} frames in windows of {self.window_frames}"
        )
        assert self.sink_frames + self.block_frames <= self.window_frames, (
            f"{self.sink_frames} sink frames leave no place for a block"
        )

    def in_mode(self, mode: Mode) -> ModelConfig:
        """The same model with the source and the number of steps of a mode."""
        return (
            self if mode == "improve" else replace(self, source="mixing", steps=self.generate_steps)
        )

    def steps_in(self, mode: Mode) -> int | Literal["adaptive"]:
        """Denoising steps per block in a mode."""
        return "adaptive" if mode == "generate" and self.adapts_steps else self.in_mode(mode).steps

    def sampling(self, mode: Mode = "improve") -> SampleConfig:
        """How the model's roll-outs run in a mode, unless something else is asked for."""
        return SampleConfig(
            steps=self.steps_in(mode),
            block_frames=self.block_frames,
            window_frames=self.window_frames,
            sink_frames=self.sink_frames,
            source=self.in_mode(mode).source,
            schedule=FlowSchedule(shift=self.shift),
        )

    def finish(self, mode: Mode = "improve") -> FinishConfig:
        """The last step of the model's frames in a mode. What ``generate`` invents is left as it
        is.
        """
        return FinishConfig(
            self.keep_residual, smooth_cells=self.smooth_cells if mode == "improve" else 0
        )

    @property
    def text(self) -> TextConfig:
        """Shape of the text embedding."""
        return TextConfig(self.transformer.text_tokens, self.transformer.text_width)

    @property
    def grid(self) -> int:
        """Sides of the model's frames are multiples of this many pixels."""
        return self.vae.spatial_factor * self.transformer.patch_size

    def model_size(self, width: int, height: int) -> tuple[int, int]:
        """The nearest size that the model takes; halves go to the even multiple, as in the release."""
        return max(self.grid, round(width / self.grid) * self.grid), max(
            self.grid, round(height / self.grid) * self.grid
        )


@dataclass(frozen=True)
class Model:
    """A model with its weights. ``stream``: moves the transformer's layers to the device when they
    are needed, see ``load_model``.
    """

    config: ModelConfig
    transformer: VideoTransformer
    vae: Vae
    text_encoder: TextEncoder | None = None
    stream: LayerStream | None = None

    @property
    def device(self) -> torch.device:
        return self.vae.device

    @property
    def dtype(self) -> torch.dtype:
        return self.vae.dtype

    def encode_prompt(self, prompt: str) -> EncodedPrompt:
        """The prompt's embedding on the model's device; zeros for an empty one. ``InputError`` for
        a model that takes no prompts.
        """
        if not prompt.strip():
            return no_prompt(self.config.text, self.device, self.dtype)
        if self.text_encoder is None:
            raise InputError(_no_text_encoder(self.config))
        encoded = self.text_encoder.encode(prompt)
        self.text_encoder.unload()
        return replace(encoded, embedding=encoded.embedding.to(self.device, self.dtype))


@dataclass(frozen=True)
class HubFiles:
    """Files to download. what: which part of the model. size: about, gigabytes."""

    repository: str
    files: tuple[str, ...]
    what: str
    size: float
    licence: str
    is_optional: bool = False


@dataclass(frozen=True)
class NamedModel:
    """A model known by name. config: None for an embedded one, whose folder has it. downloads: what
    its folder is filled with.
    """

    name: str
    about: str
    config: ModelConfig | None = None
    downloads: tuple[HubFiles, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its files are expected."""
        return embedded_folder(self.name) if self.config is None else models_folder() / self.name


@dataclass(frozen=True)
class ModelFiles:
    """Where the parts of a model are, and in which format: our own, the public release's, or Wan
    2.1 itself.
    """

    config: ModelConfig
    transformer: Path
    vae: Path
    text_encoder: Path | None
    format: Literal["ours", "release", "wan"] = "ours"

    @property
    def identity(self) -> str:
        """What tells one model from another: architecture and weights."""
        return fingerprint(
            flat_config(self.config), weights_key(self.transformer), weights_key(self.vae)
        )

    def check_prompt(self, prompt: str) -> None:
        """Raise ``InputError`` for a prompt that the model cannot take."""
        if prompt.strip() and self.text_encoder is None:
            raise InputError(_no_text_encoder(self.config))

    def check_weights(self) -> None:
        """Raise ``InputError`` unless the files are whole and their tensors are exactly the
        model's; reads no tensor.
        """
        stored, vae = self.open_transformer(), open_tensors(self.vae)
        with torch.device("meta"):
            transformer = VideoTransformer(self.config.transformer)
        check_fit(transformer, stored, may_lack_added=self.format == "wan")
        check_fit(build_vae(self.config.vae, "meta").network, vae)

    def open_transformer(self) -> StoredTensors:
        """The transformer's tensors under the names that ``VideoTransformer`` has. ``InputError``
        when there are too few for its layers.
        """
        stored = open_tensors(self.transformer)
        if self.config.transformer.layers > len(stored.shapes):
            raise InputError(
                f"{self.transformer}: {len(stored.shapes)} tensors do not fit a model of "
                f"{self.config.transformer.layers} layers"
            )
        return stored if self.format == "ours" else stored.renamed(our_name)

    def fill_transformer(
        self,
        transformer: nn.Module,
        device: torch.device | str,
        dtype: torch.dtype | None,
        seed: int = 0,
    ) -> None:
        """Give a transformer without values its weights. Layers that Wan 2.1 does not have are
        drawn from ``seed``, as in the paper.
        """
        added = generator(seed, "layers added to Wan") if self.format == "wan" else None
        load_into(transformer, self.open_transformer(), device, dtype, added)


def wan_transformer(width: int, ffn_width: int, heads: int, layers: int) -> VideoTransformerConfig:
    """The architecture of a Wan 2.1 text-to-video model with the release's added layers."""
    return VideoTransformerConfig(
        width=width,
        ffn_width=ffn_width,
        heads=heads,
        layers=layers,
        latent_channels=16,
        text_width=4096,
        text_tokens=512,
        frequency_width=256,
    )


def _release(
    name: str, about: str, transformer: VideoTransformerConfig, checkpoint_size: float
) -> NamedModel:
    """A model of the public release: its transformer, and Wan's autoencoder and text encoder."""
    wan = f"Wan-AI/Wan2.1-T2V-{name.upper()}-Diffusers"
    downloads = (
        HubFiles(
            "nvidia/ArtiFixer",
            (f"artifixer-{name}.pt",),
            "transformer",
            checkpoint_size,
            "NVIDIA's, read it on the hub's page",
        ),
        HubFiles(wan, ("vae/*",), "autoencoder", 0.5, "Apache-2.0"),
        HubFiles(
            wan,
            ("text_encoder/*", "tokenizer/*"),
            "text encoder, only for prompts",
            22.7,
            "Apache-2.0",
            is_optional=True,
        ),
    )
    return NamedModel(name, about, ModelConfig(name, transformer, VaeConfig()), downloads)


#: Sizes of the checkpoints are those of float32; bfloat16 files load too and take half.
NAMED_MODELS: dict[str, NamedModel] = {
    "tiny": NamedModel(
        "tiny",
        "part of this package, runs on a CPU; trained by this project on procedural scenes; "
        "licence Apache-2.0",
    ),
    "1.3b": _release(
        "1.3b",
        "the public release's small model, based on Wan 2.1 1.3B",
        wan_transformer(1536, 8960, 12, 30),
        6.7,
    ),
    "14b": _release(
        "14b",
        "the public release's large model, based on Wan 2.1 14B",
        wan_transformer(5120, 13824, 40, 40),
        67.6,
    ),
}


def embedded_folder(name: str) -> Path:
    """The folder of a model that is part of this package."""
    return Path(__file__).parents[1] / "weights" / name


def models_folder() -> Path:
    """The user's folder of downloaded models, one folder each: below ``$XDG_DATA_HOME``, or
    ``~/.local/share``.
    """
    return (
        Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
        / "artifixer"
        / "models"
    )


def locate_model(name_or_path: str | Path) -> ModelFiles:
    """Find a model's files and read its configuration, no weights.

    name_or_path: a name in ``NAMED_MODELS``, one of our folders, a Wan 2.1 folder of diffusers, or
    the release's ``.pt`` or sharded checkpoint (or its folder) with Wan's ``vae/`` beside it.
    Raises ``InputError`` when files are missing, for named models with what to download and where
    to.
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


def missing_model(named: NamedModel) -> str:
    """One line: what is missing, what to download, where to, and what works without."""
    if not named.downloads:
        return f"--model {named.name}: {named.folder} is missing; this installation is incomplete, install the package again"
    parts = [
        f"{' '.join(part.files)} of {part.repository} ({part.what}; {part.size:g} GB; licence "
        f"{part.licence})"
        for part in named.downloads
    ]
    return (
        f"--model {named.name}: its weights are not here. Download from the Hugging Face hub "
        f"{'; '.join(parts)}; "
        f"and put them into {named.folder}. --model tiny works now"
    )


def load_model(
    name_or_path: str | Path | ModelFiles,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    offload: bool = False,
    seed: int = 0,
) -> Model:
    """A model with its weights on the device, for inference.

    dtype: of the weights; None for ``default_dtype(device)``. offload: the transformer's layers
    stay in host memory and are copied to the device one by one while others compute. seed: of
    layers that Wan 2.1 does not have, when its own weights are loaded. Weights are mapped and
    converted one by one, so that the model is in host memory no more than once. Raises
    ``InputError`` as ``locate_model`` and ``check_tensors`` do.
    """
    files = name_or_path if isinstance(name_or_path, ModelFiles) else locate_model(name_or_path)
    config, device = files.config, torch.device(device)
    dtype = dtype or default_dtype(device)
    with torch.device("meta"):
        transformer = VideoTransformer(config.transformer)
    vae = build_vae(config.vae, "meta")
    files.fill_transformer(transformer, "cpu" if offload else device, dtype, seed)
    load_into(vae.network, open_tensors(files.vae), device, dtype)
    text_encoder = None
    if files.text_encoder is not None:
        # on the CPU: it is large, needed once, and its results are kept
        text_encoder = TextEncoder(files.text_encoder, config.text)
    return _ready(Model(config, transformer, vae, text_encoder), device, offload)


def default_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 on a GPU, as the release computes; float32 on a CPU."""
    return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32


def random_model(
    config: ModelConfig,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    offload: bool = False,
) -> Model:
    """A model with random weights in all its layers, made where they are needed: for tests and for
    measurements of speed and memory.
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


def save_model(
    folder: Path, model: Model, dtype: torch.dtype | None = None, part_bytes: int | None = None
) -> None:
    """Write our folder. dtype: of the weights on disk; None keeps theirs. part_bytes: largest file,
    for tensors no larger than that.
    """
    _save_part(folder, "transformer", model.transformer.state_dict(), dtype, part_bytes)
    _save_part(folder, "vae", model.vae.network.state_dict(), dtype, part_bytes)
    write_json(folder / "config.json", flat_config(model.config))


def convert_model(
    source: str | Path,
    folder: Path,
    dtype: torch.dtype | None = None,
    part_bytes: int | None = None,
) -> ModelConfig:
    """Make our folder of any model that loads. Weights keep their type unless ``dtype`` says
    another; the text encoder is linked to.

    A ``folder`` that ends in .pt becomes a checkpoint as the public release has it, of the
    transformer alone. Tensors go from file to file one by one: a model larger than the memory
    converts too.
    """
    files = locate_model(source)
    if folder.suffix == ".pt":
        _save_release_checkpoint(folder, files, dtype)
        return files.config
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; expected a new folder")
    with torch.device("meta"):
        transformer: nn.Module = VideoTransformer(files.config.transformer)
    files.fill_transformer(transformer, "cpu", None)
    vae = build_vae(files.config.vae, "meta").network
    load_into(vae, open_tensors(files.vae))
    _save_part(folder, "transformer", transformer.state_dict(), dtype, part_bytes)
    _save_part(folder, "vae", vae.state_dict(), dtype, part_bytes)
    if files.text_encoder is not None:
        link_text_encoder(folder, files.text_encoder)
    write_json(folder / "config.json", flat_config(files.config))
    return files.config


def link_text_encoder(folder: Path, source: Path) -> None:
    """Let a model folder read prompts with the text encoder of another, by links; it is large and
    never trained.
    """
    for part in TEXT_PARTS:
        link = folder / part
        remove_link_or_copy(link)
        link_or_copy(source / part, link)


def weights_key(path: Path) -> str:
    """Hash of a file of weights, or of all in a folder: of the whole of small files, of many pieces
    of large ones.
    """
    digest = hashlib.sha256()
    files = (
        sorted(filter(Path.is_file, path.iterdir()))
        if path.is_dir()
        else sorted(path.parent.glob(f"{path.stem}*{path.suffix}"))
    )
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with open_regular(file, "weights") as content:
            if size <= HASHED_PIECES * PIECE_BYTES:
                digest.update(content.read())
                continue
            for piece in range(HASHED_PIECES):
                content.seek(piece * (size - PIECE_BYTES) // (HASHED_PIECES - 1))
                digest.update(content.read(PIECE_BYTES))
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------
# flat configuration


def flat_config(config: ModelConfig) -> dict[str, Any]:
    """The configuration as one JSON object of plain values and lists."""
    flat: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    for field in fields(config):
        if field.name not in ("transformer", "vae"):
            value = getattr(config, field.name)
            flat[field.name] = list(value) if isinstance(value, tuple) else value
    flat["vae_kind"] = next(
        kind for kind, type_ in AUTOENCODERS.items() if isinstance(config.vae, type_)
    )
    for prefix, part in (("transformer", config.transformer), ("vae", config.vae)):
        for field in fields(part):
            value = getattr(part, field.name)
            flat[f"{prefix}_{field.name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def read_config(path: Path) -> ModelConfig:
    """A ``config.json``; raises ``InputError`` that names what is missing, unknown or of another
    kind. ``RETIRED_FIELDS`` are ignored.
    """
    flat = read_flat_json(path)
    if flat.get("format") != FORMAT:
        raise InputError(f'{path}: not a model; expected "format": "{FORMAT}"')
    if flat.get("version") != VERSION:
        raise InputError(
            f"{path}: version {shown(flat.get('version'))}; this program reads version {VERSION}"
        )
    kind = flat.get("vae_kind")
    if not isinstance(kind, str) or kind not in AUTOENCODERS:
        raise InputError(
            f'{path}: "vae_kind" is {shown(kind)}; expected one of {", ".join(AUTOENCODERS)}'
        )
    rest = {
        key: value
        for key, value in flat.items()
        if key not in ("format", "version", "vae_kind", *RETIRED_FIELDS)
    }
    try:
        transformer = VideoTransformerConfig(
            **_taken(path, rest, VideoTransformerConfig, "transformer_")
        )
        vae = AUTOENCODERS[kind](**_taken(path, rest, AUTOENCODERS[kind], "vae_"))
        values = _taken(path, rest, ModelConfig, "", leave_out=("transformer", "vae"))
        if rest:
            raise InputError(
                f'{path}: unknown "{next(iter(rest))}" ({len(rest)} such); written by a newer '
                "version?"
            )
        return ModelConfig(transformer=transformer, vae=vae, **values)
    except (AssertionError, ArithmeticError) as error:
        raise InputError(f"{path}: {error}") from error


def _taken(
    path: Path, flat: dict[str, Any], type_: type, prefix: str, leave_out: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Arguments of a dataclass, taken out of the flat configuration and compared with the fields'
    types.
    """
    kinds = typing.get_type_hints(type_)
    values = {}
    for field in fields(type_):
        key = prefix + field.name
        if field.name in leave_out or key not in flat:
            continue
        value = flat.pop(key)
        if not _fits(value, kinds[field.name]):
            raise InputError(
                f'{path}: "{key}" is {str(value)[:60]!r}; expected {_kind_name(kinds[field.name])}'
            )
        _check_bounds(path, key, field.name, value, kinds[field.name])
        values[field.name] = value
    required = [
        field.name
        for field in fields(type_)
        if not _has_default(field) and field.name not in (*leave_out, *values)
    ]
    if required:
        raise InputError(f'{path}: lacks "{prefix}{required[0]}"')
    return values


def _check_bounds(path: Path, key: str, name: str, value: object, kind: Any) -> None:
    """Raise ``InputError`` for a number that no model has, before anything is built of it. name,
    kind: of the field.
    """
    values = value if isinstance(value, list) else [value]
    longest = MOST_RESOLUTIONS if name in ("dim_mult", "temporal_downsample") else LONGEST_LIST
    if len(values) > longest or (isinstance(value, str) and len(value) > LONGEST_LIST):
        raise InputError(
            f'{path}: "{key}" has {len(values)} entries or is too long; expected at most {longest} '
            "entries"
        )
    most = (
        LARGEST_DEPTH if name in _DEPTHS else LARGEST_FACTOR if name in _FACTORS else LARGEST_WIDTH
    )
    for item in values:
        if isinstance(item, bool) or not isinstance(item, (int, float)):
            continue
        if float in (kind, *typing.get_args(kind)):
            if not is_number(item, LARGEST_NUMBER):
                raise InputError(
                    f'{path}: "{key}" is {shown(item)}; expected a number of at most '
                    f"{LARGEST_NUMBER:g}"
                )
        elif not is_whole(item, 1 if name in (*_SIDES, *_FACTORS, "layers") else 0, most):
            raise InputError(
                f'{path}: "{key}" is {shown(item)}; expected a whole number up to {most:,}'
            )


def _fits(value: object, kind: Any) -> bool:
    """Whether a JSON value can be a field of this type."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value in typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(kind))
    if origin is tuple:
        return isinstance(value, list) and all(
            _fits(item, typing.get_args(kind)[0]) for item in value
        )
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return is_number(value, LARGEST_NUMBER)
    return isinstance(value, kind)


def _kind_name(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    return "a list" if origin is tuple else getattr(kind, "__name__", str(kind))


def _has_default(field: Any) -> bool:
    from dataclasses import MISSING

    return field.default is not MISSING or field.default_factory is not MISSING


# --------------------------------------------------------------------------------------------------
# other formats


def _located(path: Path) -> ModelFiles:
    """The parts of a model at a path that exists."""
    if path.is_file():
        if path.suffix != ".pt":
            raise InputError(
                f"{path}: expected a model folder, or a .pt file of the public release"
            )
        return _release_files(path)
    if (path / "config.json").is_file():
        config = read_config(path / "config.json")
        return ModelFiles(
            config,
            path / "transformer.safetensors",
            path / "vae.safetensors",
            _text_folder(path, config.takes_text),
        )
    if (path / "transformer" / "config.json").is_file():
        return _wan_files(path)
    if is_distributed_checkpoint(path):
        return _release_files(path)
    checkpoints = sorted(
        [*path.glob("*.pt"), *(part for part in path.iterdir() if is_distributed_checkpoint(part))]
    )
    if len(checkpoints) == 1:
        return _release_files(checkpoints[0])
    raise InputError(
        f"{path}: no model; expected config.json with transformer.safetensors, a Wan 2.1 folder "
        "with transformer/ and vae/, "
        f"or one .pt file or sharded checkpoint of the public release ({len(checkpoints)} here)"
    )


def _wan_files(folder: Path) -> ModelFiles:
    """A Wan 2.1 folder of diffusers."""
    path = folder / "transformer" / "config.json"
    content = as_object(read_json(path), path)
    for key, expected in (
        ("patch_size", [1, 2, 2]),
        ("image_dim", None),
        ("qk_norm", "rms_norm_across_heads"),
        ("cross_attn_norm", True),
    ):
        if content.get(key, expected) != expected:
            raise InputError(
                f"{path}: {key} = {shown(content[key])}, expected {expected!r}; only Wan 2.1 "
                "text-to-video models are known"
            )
    for key, most in _WAN_BOUNDS.items():
        if key in content and not is_whole(content[key], 1, most):
            raise InputError(
                f"{path}: {key} = {shown(content[key])}, expected a whole number up to {most:,}"
            )
    try:
        transformer = replace(
            wan_transformer(
                width=content["num_attention_heads"] * content["attention_head_dim"],
                ffn_width=content["ffn_dim"],
                heads=content["num_attention_heads"],
                layers=content["num_layers"],
            ),
            latent_channels=content["in_channels"],
            text_width=content["text_dim"],
            frequency_width=content["freq_dim"],
        )
    except KeyError as error:
        raise InputError(
            f"{path}: lacks {error}; expected the configuration of a Wan transformer"
        ) from error
    except AssertionError as error:
        raise InputError(f"{path}: {error}") from error
    return _with_wan_vae(folder, folder.name, transformer, folder / "transformer", "wan")


def _release_files(checkpoint: Path) -> ModelFiles:
    """The release's transformer in a ``.pt`` or a sharded checkpoint, whose shapes tell the
    architecture, with Wan's autoencoder beside it, or in the sharded checkpoint's folder."""
    shapes = open_tensors(checkpoint).shapes
    try:
        width, frequency_width = shapes["condition_embedder.time_embedder.linear_1.weight"]
        layers = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
        transformer = replace(
            wan_transformer(
                width,
                shapes["blocks.0.ffn.net.0.proj.weight"][0],
                max(1, width // WAN_HEAD_WIDTH),
                layers,
            ),
            latent_channels=shapes["patch_embedding.weight"][1],
            text_width=shapes["condition_embedder.text_embedder.linear_1.weight"][1],
            frequency_width=frequency_width,
        )
        bounds = (
            transformer.width,
            transformer.ffn_width,
            transformer.text_width,
            transformer.latent_channels,
        )
        if layers > min(LARGEST_DEPTH, len(shapes)) or not all(
            is_whole(value, 1, LARGEST_WIDTH) for value in bounds
        ):
            raise ValueError(f"{layers} layers, widths {bounds}")
    except (LookupError, ValueError, AssertionError, TypeError) as error:
        raise InputError(
            f"{checkpoint}: {len(shapes)} tensors, but not those of a transformer of the public "
            f"release ({error})"
        ) from error
    folder = checkpoint if (checkpoint / "vae").is_dir() else checkpoint.parent
    return _with_wan_vae(folder, checkpoint.stem, transformer, checkpoint, "release")


def _with_wan_vae(
    folder: Path,
    name: str,
    transformer: VideoTransformerConfig,
    weights: Path,
    format_: Literal["release", "wan"],
) -> ModelFiles:
    """Wan's autoencoder and text encoder, whose folders lie beside the transformer."""
    path = folder / "vae" / "config.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: has no vae/; expected Wan 2.1's autoencoder there (vae/ of "
            "Wan-AI/Wan2.1-T2V-14B-Diffusers)"
        )
    content = as_object(read_json(path), path)
    content["temporal_downsample"] = content.pop("temperal_downsample", None)  # diffusers' spelling
    if content.get("attn_scales"):
        raise InputError(f"{path}: attn_scales = {shown(content['attn_scales'])}, expected none")
    known = {
        key: value
        for key, value in content.items()
        if key in {field.name for field in fields(VaeConfig)} and value is not None
    }
    try:
        vae = VaeConfig(**_taken(path, known, VaeConfig, ""))
        transformer = replace(
            transformer, spatial_factor=vae.spatial_factor, temporal_factor=vae.temporal_factor
        )
        config = ModelConfig(name, transformer, vae)
    except (AssertionError, ArithmeticError) as error:
        raise InputError(f"{path}: {error}") from error
    return ModelFiles(config, weights, folder / "vae", _text_folder(folder), format_)


def _text_folder(folder: Path, is_wanted: bool = True) -> Path | None:
    return folder if is_wanted and all((folder / part).is_dir() for part in TEXT_PARTS) else None


def _no_text_encoder(config: ModelConfig) -> str:
    takers = [
        name
        for name, named in NAMED_MODELS.items()
        if named.config is not None and named.config.takes_text
    ]
    if not config.takes_text:
        return f"--prompt: model {config.name} takes no text; models that do: {', '.join(takers)}"
    return f"--prompt: model {config.name} has no text encoder; expected text_encoder/ and tokenizer/ of a Wan 2.1 model in its folder"


# --------------------------------------------------------------------------------------------------
# weights


def _ready(model: Model, device: torch.device, offload: bool) -> Model:
    """For inference; with ``offload`` the layers stream, and what is not in layers lies on the
    device.
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
    plain = model.transformer.remember
    model.transformer.remember = lambda conditions: plain(conditions, stream.in_turn())  # type: ignore[method-assign,assignment,misc]
    return replace(model, stream=stream)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _random_tensor(name: str, like: Tensor, random: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Norms start at one, biases are small, matrices keep the size of what they multiply."""
    values = torch.empty(like.shape, dtype=dtype, device=random.device)
    if "norm" in name and not name.endswith("bias"):
        return values.fill_(1)
    inputs = like.shape[1:].numel() if like.ndim > 1 else 100
    return values.normal_(generator=random).mul_(inputs**-0.5)


def _save_release_checkpoint(path: Path, files: ModelFiles, dtype: torch.dtype | None) -> None:
    """The transformer in the public release's format. Another ``dtype`` takes the memory of the
    converted weights.
    """
    config, network = files.config, files.config.transformer
    has_their_parts = (
        network.conditioning_place == "before_attention" and not network.noise_free_skip
    )
    is_theirs = has_their_parts and network.head_width == WAN_HEAD_WIDTH
    if not is_theirs or not isinstance(config.vae, VaeConfig):
        raise InputError(
            f"{path}: model {config.name} is not of the public release's architecture; expected a "
            "folder, not a .pt file"
        )
    if path.exists():
        raise InputError(f"{path}: exists; expected a new file")
    with torch.device("meta"):
        transformer: nn.Module = VideoTransformer(network)
    files.fill_transformer(transformer, "cpu", dtype)
    with atomic_path(path) as temporary:
        torch.save(
            {release_name(name): tensor for name, tensor in transformer.state_dict().items()},
            temporary,
        )


def _save_part(
    folder: Path,
    stem: str,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    part_bytes: int | None,
) -> None:
    """``STEM.safetensors``, or as many numbered files as needed."""

    def size(tensor: Tensor) -> int:
        return (
            tensor.numel()
            * (dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype).itemsize
        )

    parts: list[dict[str, Tensor]] = [{}]
    used = 0
    for name in sorted(tensors):
        if part_bytes is not None and parts[-1] and used + size(tensors[name]) > part_bytes:
            parts.append({})
            used = 0
        parts[-1][name] = tensors[name]
        used += size(tensors[name])
    for number, part in enumerate(parts, start=1):
        name = (
            f"{stem}.safetensors"
            if len(parts) == 1
            else f"{stem}-{number:05d}-of-{len(parts):05d}.safetensors"
        )
        save_tensors(folder / name, part, dtype)
