"""Weights of the video model on disk: four formats in, ours out, one tensor at a time.

========================
==============================================================================================
format                    files
========================
==============================================================================================
ours                      a folder with ``config.json`` (flat) and ``transformer.safetensors``, ``vae.safetensors``
the public release        one ``.pt`` file: a plain table of names and tensors of the transformer, float32 or bfloat16; or the
                          folder of a sharded checkpoint (``torch.distributed.checkpoint``), with an
                          optimizer or without
Wan 2.1 (diffusers)       a folder with ``transformer/`` and ``vae/``, each with a config and one or more safetensors files
========================
==============================================================================================

Files are mapped into memory, never unpickled beyond plain tensors, and compared with the model by
name and shape before anything is read. A tensor whose type and device are right is used where it
lies; others are converted one by one, so that the model is in host memory once.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, check_regular, file_beside, open_regular, reason
from artifixer.runtime.json_io import as_object, is_number, shown
from artifixer.runtime.run_folder import LARGEST_JSON, atomic_path, read_json
from artifixer.video.checkpoints.torch_distributed import (
    is_distributed_checkpoint,
    open_distributed_checkpoint,
)

#: Largest size, most layers, and most entries of a list that the configuration of a pretrained
#: network may name whatever its weights are.
LARGEST_SIZE, MOST_LAYERS, MOST_ENTRIES = 16_384, 100, 1000

#: Problems of a kind that are named in an error; the rest is counted.
NAMED_PROBLEMS = 3

#: Our names of the transformer's parts, and those of the public release, which are Wan 2.1's own in
#: diffusers where Wan has the part.
RELEASE_NAMES = (
    ("layers", "blocks"),
    ("modulation", "scale_shift_table"),
    ("head", "proj_out"),
    ("time_embedding.first", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.second", "condition_embedder.time_embedder.linear_2"),
    ("time_modulation", "condition_embedder.time_proj"),
    ("text_embedding.first", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.second", "condition_embedder.text_embedder.linear_2"),
    ("ray_embedding", "camera_embedding"),
    ("self_attention", "attn1"),
    ("cross_attention", "attn2"),
    ("cross_norm", "norm2"),
    ("query", "to_q"),
    ("key", "to_k"),
    ("value", "to_v"),
    ("out", "to_out.0"),
    ("query_norm", "norm_q"),
    ("key_norm", "norm_k"),
    ("reference_key", "add_k_proj"),
    ("reference_value", "add_v_proj"),
    ("reference_key_norm", "norm_added_k"),
    ("feed_forward.first", "ffn.net.0.proj"),
    ("feed_forward.second", "ffn.net.2"),
)

#: Layers that the public release adds to Wan 2.1, by the last part of their module's name.
ADDED_LAYERS = (
    "opacity_embedding",
    "ray_embedding",
    "reference_key",
    "reference_value",
    "reference_key_norm",
)


@dataclass(frozen=True)
class StoredTensors:
    """Tensors in files that were opened but not read. ``path`` names them in errors; ``read`` maps
    one tensor into memory.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]

    def renamed(self, rename: Callable[[str], str]) -> StoredTensors:
        """The same tensors under other names."""
        stored = {rename(name): name for name in self.shapes}
        return StoredTensors(
            self.path,
            {new: self.shapes[old] for new, old in stored.items()},
            lambda name: self.read(stored[name]),
        )


def open_tensors(path: Path) -> StoredTensors:
    """Open a ``.safetensors`` file (or its parts, ``NAME-00001-of-00002.safetensors``), a diffusers
    folder of them, a ``.pt`` file, or the folder of a sharded checkpoint.

    Raises ``InputError`` for files that are missing, truncated or damaged, and for ``.pt`` files
    and sharded checkpoints that hold anything but tables of tensors; code in them is never run.
    """
    if is_distributed_checkpoint(path):
        return StoredTensors(path, *open_distributed_checkpoint(path))
    if path.is_dir():
        return _merged(path, [_open_safetensors(file) for file in _shards(path)])
    if not path.is_file():
        return _merged(path, [_open_safetensors(file) for file in _numbered_parts(path)])
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)


def check_tensors(
    stored: StoredTensors, expected: Mapping[str, tuple[int, ...]], may_miss: Iterable[str] = ()
) -> None:
    """Raise ``InputError`` unless names and shapes are exactly the expected ones, ``may_miss``
    aside: first three of a kind, and counts.
    """
    optional = set(may_miss)
    missing = [name for name in expected if name not in stored.shapes and name not in optional]
    unexpected = [name for name in stored.shapes if name not in expected]
    wrong = [
        f"{name} is {_shape(shape)} instead of {_shape(expected[name])}"
        for name, shape in stored.shapes.items()
        if name in expected and tuple(shape) != tuple(expected[name])
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(name[:120] for name in names[:NAMED_PROBLEMS])}{', ...' if len(names) > NAMED_PROBLEMS else ''}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", wrong),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"{stored.path}: {len(stored.shapes)} tensors do not fit the model's {len(expected)}: "
            f"{'; '.join(problems)}"
        )


def check_fit(
    module: nn.Module, stored: StoredTensors, may_lack_added: bool = False
) -> dict[str, tuple[int, ...]]:
    """``check_tensors`` for the names and shapes of a module, which are returned. may_lack_added:
    layers that Wan lacks may be missing.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_tensors(
        stored, expected, [name for name in expected if may_lack_added and is_added_layer(name)]
    )
    return expected


def load_into(
    module: nn.Module,
    stored: StoredTensors,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    added: torch.Generator | None = None,
) -> None:
    """Give a module built on the device ``meta`` its weights; the fit is checked first
    (``check_tensors``).

    dtype: of the weights; None keeps the file's. added: allows the layers that the release adds to
    Wan 2.1 to be missing; they start as in the paper (see ``initial_added_layer``), and the
    generator draws what is random. ``InputError`` as in ``check_tensors``, and naming the first
    tensor that is not finite.
    """
    expected = check_fit(module, stored, may_lack_added=added is not None)
    for name, shape in expected.items():
        if name in stored.shapes:
            tensor = stored.read(name)
            if not tensor.is_floating_point():
                raise InputError(
                    f"{stored.path}: {name} is of {tensor.dtype}, expected floating-point weights"
                )
        else:
            assert added is not None, f"{name} is missing"
            tensor = initial_added_layer(name, shape, added)
        tensor = tensor.to(device=device, dtype=dtype)
        if not is_finite(tensor):
            raise InputError(
                f"{stored.path}: {name} holds values that are not finite, expected numbers"
            )
        _assign(module, name, tensor)


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are numbers; a tensor on the device meta has none. Looks at a part at a
    time, which takes no second copy.
    """
    return tensor.is_meta or all(
        bool(torch.isfinite(part).all()) for part in tensor.reshape(-1).split(1 << 24)
    )


def release_name(name: str) -> str:
    """The public release's name of one of the transformer's tensors:
    "layers.0.self_attention.query.bias" -> "blocks.0.attn1.to_q.bias".
    """
    return _translated(name, RELEASE_NAMES)


def our_name(name: str) -> str:
    """Our name of a tensor of the public release or of Wan 2.1 in diffusers; the inverse of
    ``release_name``.
    """
    return _translated(name, tuple((theirs, ours) for ours, theirs in RELEASE_NAMES))


def is_added_layer(name: str) -> bool:
    """Whether a tensor belongs to a layer that Wan 2.1 does not have."""
    return any(part in ADDED_LAYERS for part in name.split("."))


def initial_added_layer(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The start of a layer that Wan 2.1 does not have, so that the model begins as Wan 2.1:
    opacity, rays and reference values contribute nothing (zeros); reference keys are an ordinary
    linear layer with a norm of ones (paper section 4.1)."""
    if "reference_key_norm" in name:
        return torch.ones(shape)
    if "reference_key" not in name:
        return torch.zeros(shape)
    bound = 1 / math.sqrt(shape[-1])  # weight and bias of a square layer alike
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> None:
    """Write a safetensors file atomically, tensor by tensor: names sorted, so that the same tensors
    give the same bytes.

    dtype: convert floating-point tensors on the way. Tensors may lie on any device or in mapped
    files; only one is copied at a time.
    """
    kinds = {
        torch.float32: "F32",
        torch.bfloat16: "BF16",
        torch.float16: "F16",
        torch.float64: "F64",
        torch.int64: "I64",
        torch.uint8: "U8",
    }

    def stored_type(tensor: Tensor) -> torch.dtype:
        return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype

    header: dict[str, Any] = {}
    end = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * stored_type(tensor).itemsize
        header[name] = {
            "dtype": kinds[stored_type(tensor)],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            values = tensors[name].detach().to("cpu", stored_type(tensors[name])).contiguous()
            file.write(values.reshape(-1).view(torch.uint8).numpy().data)


def read_flat_json(path: Path) -> dict[str, Any]:
    """A JSON object whose values are plain or lists of plain values; ``InputError`` otherwise."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: {type(content).__name__}, expected a JSON object")
    nested = [key for key, value in content.items() if isinstance(value, dict)]
    if nested:
        raise InputError(f'{path}: "{nested[0][:60]}" is an object, expected a flat configuration')
    return content


def check_pretrained(folder: Path, limits: Mapping[str, int] | None = None) -> None:
    """Raise ``InputError`` when the ``config.json`` of a folder of transformers describes more than
    the weights beside it hold. limits: other bounds, see ``check_numbers``.

    Its library builds what the config says before it looks at the weights: a million layers, or
    layers as wide as the memory.
    """
    path = folder / "config.json"
    check_settings_files(folder)
    shapes = open_tensors(folder).shapes
    longest = max((side for shape in shapes.values() for side in shape), default=0)
    by_shape = dict.fromkeys(("layers", "depths", "blocks"), max(len(shapes), MOST_LAYERS))
    by_shape |= {"hidden": longest, "intermediate": longest, "ratio": MOST_LAYERS}
    check_numbers(
        path,
        as_object(read_json(path), path),
        max(LARGEST_SIZE, longest),
        {**(limits or {}), **by_shape},
    )


def check_settings_files(folder: Path) -> None:
    """Raise ``InputError`` for settings and vocabularies in a folder of transformers that are no
    plain files or absurdly large: its library reads them whole."""
    for path in sorted(folder.iterdir()):
        if (
            path.suffix in (".json", ".txt", ".model")
            and (size := check_regular(path, "settings or a vocabulary")) > LARGEST_JSON
        ):
            raise InputError(
                f"{path}: {size:,} bytes, expected settings or a vocabulary of at most "
                f"{LARGEST_JSON:,}"
            )


def check_numbers(
    path: Path, content: Mapping[str, Any], most: int, limits: Mapping[str, int]
) -> None:
    """Raise ``InputError`` for a whole number above ``most`` anywhere in a configuration, and for
    lists of more than ``MOST_ENTRIES``.

    limits: other bounds for numbers whose key has a word in it; the first word counts.
    """
    waiting: list[tuple[str, Any]] = list(content.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
            if len(value) > MOST_ENTRIES:
                raise InputError(
                    f'{path}: "{key[:60]}" has {len(value):,} entries, expected at most '
                    f"{MOST_ENTRIES:,}"
                )
        elif isinstance(value, int) and not isinstance(value, bool):
            limit = next((bound for word, bound in limits.items() if word in key), most)
            if not is_number(value, limit):
                raise InputError(
                    f'{path}: "{key[:60]}" is {shown(value)}, expected at most {limit:,} beside '
                    "these weights"
                )


def _open_safetensors(path: Path) -> StoredTensors:
    from safetensors import SafetensorError, safe_open

    check_regular(path, "weights")
    try:
        file = safe_open(path, framework="pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, *PARSER_ERRORS) as error:
        raise InputError(
            f"{path}: truncated or damaged ({reason(error)}); {_bytes(path)}, expected a "
            "safetensors file"
        ) from error

    def read(name: str) -> Tensor:
        try:
            return file.get_tensor(name)
        except (SafetensorError, *PARSER_ERRORS) as error:
            raise InputError(
                f"{path}: {name} cannot be read ({reason(error)}); expected a tensor of weights"
            ) from error

    return StoredTensors(path, shapes, read)


def _open_pickle(path: Path) -> StoredTensors:
    size = check_regular(path, "a PyTorch checkpoint")
    try:
        _check_archive(path, size)
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than plain tensors and may run code, not loaded "
            f"({_first_line(error)})"
        ) from error
    except PARSER_ERRORS as error:
        raise InputError(
            f"{path}: truncated or damaged ({_first_line(error)}); {_bytes(path)}, expected a "
            "PyTorch checkpoint"
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(value, Tensor) for value in tensors.values()
    ):
        kinds = (
            ", ".join(sorted({type(value).__name__ for value in tensors.values()}))
            if isinstance(tensors, dict)
            else type(tensors).__name__
        )
        raise InputError(f"{path}: holds {kinds}; expected a plain table of names and tensors")
    for name, tensor in tensors.items():
        is_plain = (
            isinstance(name, str)
            and tensor.layout is torch.strided
            and tensor.device.type == "cpu"
            and not tensor.is_quantized
        )
        # A tensor may repeat a few stored values over a shape of any size.
        if not is_plain or tensor.numel() * tensor.element_size() > size:
            kind = f"{tensor.layout} {_shape(tensor.shape)} on {tensor.device}"
            raise InputError(
                f"{path}: {str(name)[:80]} is {kind} in a file of {_bytes(path)}; expected a plain "
                "table of names and tensors"
            )
    return StoredTensors(
        path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, tensors.__getitem__
    )


def _check_archive(path: Path, size: int) -> None:
    """Raise ``ValueError`` when the zip archive that a ``.pt`` file is unpacks to more than the
    file holds; other files pass.
    """
    with open_regular(path, "a PyTorch checkpoint") as file:
        if not zipfile.is_zipfile(file):
            return
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    if (
        any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        or sum(entry.file_size for entry in entries) > size
    ):
        raise ValueError("its parts are compressed or larger than the file")


def _shards(folder: Path) -> list[Path]:
    """The safetensors files of a diffusers part, in the index's order when there is one."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        content = read_json(indices[0])
        listed = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(listed, dict) or not listed:
            raise InputError(f'{indices[0]}: has no "weight_map" of names and files')
        files = [file_beside(folder, name, indices[0]) for name in listed.values()]
        return sorted(set(files))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder}: holds no safetensors files, expected weights")
    return files


def _numbered_parts(path: Path) -> list[Path]:
    """The files that a large ``NAME.safetensors`` was cut into: ``NAME-00001-of-00002.safetensors``
    and so on.
    """
    parts = sorted(path.parent.glob(f"{path.stem}-?????-of-?????{path.suffix}"))
    if not parts:
        raise InputError(f"{path}: does not exist, expected weights")
    count = int(parts[-1].stem[-5:])
    expected = [
        path.with_name(f"{path.stem}-{number:05d}-of-{count:05d}{path.suffix}")
        for number in range(1, count + 1)
    ]
    if parts != expected:
        raise InputError(
            f"{path.parent}: {len(parts)} files of {path.stem}; expected {expected[0].name} to "
            f"{expected[-1].name}"
        )
    return parts


def _merged(folder: Path, parts: list[StoredTensors]) -> StoredTensors:
    where = {name: part for part in parts for name in part.shapes}
    return StoredTensors(
        folder,
        {name: part.shapes[name] for name, part in where.items()},
        lambda name: where[name].read(name),
    )


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter or buffer, keeping whether it is trained."""
    *path, leaf = name.split(".")
    owner = module.get_submodule(".".join(path))
    if leaf in owner._parameters:
        before = owner._parameters[leaf]
        assert before is not None, f"{name} is absent"
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=before.requires_grad)
    else:
        owner._buffers[leaf] = tensor


def _translated(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """Replace whole parts between dots, each at most once."""
    words = dict(table)
    parts = "|".join(re.escape(part) for part in sorted(words, key=len, reverse=True))
    return re.sub(rf"(?<![^.])(?:{parts})(?![^.])", lambda match: words[match.group()], name)


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _bytes(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0][:160]
