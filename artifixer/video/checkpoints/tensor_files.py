"""Tensor files: opened without reading, read one tensor at a time, written atomically.

In: a ``.safetensors`` file, possibly in numbered parts, a diffusers folder of them, a ``.pt`` file,
or the folder of a sharded checkpoint. Out: names, shapes, and a function that maps one tensor into
memory. Nothing is unpickled beyond plain tensors.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import (
    PARSER_ERRORS,
    atomic_path,
    check_regular,
    file_beside,
    open_regular,
    reason,
)
from artifixer.runtime.json_io import read_json
from artifixer.video.checkpoints.torch_distributed import (
    is_distributed_checkpoint,
    open_distributed_checkpoint,
)


@dataclass(frozen=True)
class StoredTensors:
    """Tensors in opened files. ``path`` is for errors; ``read`` maps one tensor into memory."""

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


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> None:
    """Write a safetensors file atomically, tensor by tensor, sorted by name, so that equal tensors
    give equal bytes.

    dtype: of floating-point tensors in the file; None keeps theirs. Tensors may be on any device or
    in mapped files; only one is copied at a time.
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
    text += b" " * (-len(text) % 8)  # the format requires aligned data
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            values = tensors[name].detach().to("cpu", stored_type(tensors[name])).contiguous()
            file.write(values.reshape(-1).view(torch.uint8).numpy().data)


def save_part(
    folder: Path,
    stem: str,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    part_bytes: int | None,
) -> None:
    """Write ``STEM.safetensors``, or numbered files of at most ``part_bytes`` each."""

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
            tensor: Tensor = file.get_tensor(name)
            return tensor
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
        # By its strides a tensor may expand a few stored values to a shape of any size.
        if not is_plain or tensor.numel() * tensor.element_size() > size:
            kind = f"{tensor.layout} {shape_text(tensor.shape)} on {tensor.device}"
            raise InputError(
                f"{path}: {str(name)[:80]} is {kind} in a file of {_bytes(path)}; expected a plain "
                "table of names and tensors"
            )
    return StoredTensors(
        path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, tensors.__getitem__
    )


def _check_archive(path: Path, size: int) -> None:
    """Raise ``ValueError`` when a ``.pt`` file is a zip archive that unpacks to more bytes than the
    file has.
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
    """The safetensors files of a diffusers folder, listed by its index if there is one."""
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
    """The parts of a large ``NAME.safetensors``: ``NAME-00001-of-00002.safetensors`` etc."""
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
            f"{path.parent}: {counted(len(parts), 'file')} of {path.stem}; expected "
            f"{expected[0].name} to {expected[-1].name}"
        )
    return parts


def _merged(folder: Path, parts: list[StoredTensors]) -> StoredTensors:
    where = {name: part for part in parts for name in part.shapes}
    return StoredTensors(
        folder,
        {name: part.shapes[name] for name, part in where.items()},
        lambda name: where[name].read(name),
    )


def shape_text(shape: Iterable[int]) -> str:
    """2x3, or "a scalar"."""
    return "x".join(map(str, shape)) or "a scalar"


def _bytes(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0][:160]
