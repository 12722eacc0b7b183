"""Checkpoints of ``torch.distributed.checkpoint``, as sharded trainings write them, read without
running anything in them.

In: a folder with ``.metadata`` and ``*.distcp`` files. Out: names, shapes, and a function that
reads one tensor. torch's own reader unpickles ``.metadata`` and thus executes code of an untrusted
folder. ``torch_metadata`` unpickles only the few classes that belong there, as inert records.
Entries of the other files are read with ``weights_only=True``. Sizes and offsets are compared with
the files before anything is allocated.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS
from artifixer.video.checkpoints.torch_metadata import (
    METADATA,
    BytesMetadata,
    ChunkMetadata,
    Index,
    Properties,
    StorageInfo,
    TensorMetadata,
    read_metadata,
)

#: Maximum side of a tensor; bounds products of sides in hostile files.
MAX_SIDE = 2**40

#: A weight that every transformer of ours, of the release and of Wan 2.1 has, and whose name does
#: not occur in optimizer states.
ANCHOR = "patch_embedding.weight"

_FILE_NAME = re.compile(r"[\w][\w.-]*\.distcp", re.ASCII)


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor, stored in ``length`` bytes of ``file`` from ``start`` on."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    length: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in chunks, which together have as many values as the tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


def is_distributed_checkpoint(folder: Path) -> bool:
    """Whether the folder is a sharded checkpoint; nothing is read."""
    return (folder / METADATA).is_file()


def open_distributed_checkpoint(
    folder: Path,
) -> tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]:
    """Shapes by name, and a function that reads one of these tensors.

    Of a whole training state only the network is returned, without the prefix of its names. Raises
    ``InputError`` for contents other than tensors, for truncated or damaged files, and for a state
    of several networks; nothing in the folder is executed.
    """
    entries, storage = read_metadata(folder)
    places = _places(folder, storage)
    # other objects, such as step counts, are not read
    stored = {
        name: _stored_tensor(folder / METADATA, name, entry, places)
        for name, entry in entries.items()
        if not isinstance(entry, BytesMetadata)
    }
    names = _network_names(folder, stored)
    shapes = {name: stored[name_there].shape for name, name_there in names.items()}
    return shapes, lambda name: _read_tensor(folder, names[name], stored[names[name]])


Places = Mapping[tuple[str, tuple[int, ...]], tuple[Path, int, int]]


def _places(folder: Path, storage: Mapping[Any, Any]) -> Places:
    """(name, offsets) -> (file, first byte, length) of each chunk. Files outside the folder or
    shorter than their entries raise ``InputError``.
    """
    path = folder / METADATA
    places: dict[tuple[str, tuple[int, ...]], tuple[Path, int, int]] = {}
    used: dict[Path, int] = defaultdict(int)
    sizes: dict[Path, int] = {}
    for index, info in storage.items():
        if not isinstance(index, Index) or not isinstance(info, StorageInfo):
            raise InputError(f"{path}: expected places of tensors in files")
        name, offset = index.field("fqn"), index.field("offset")
        file_name, start, length = (
            info.field(field) for field in ("relative_path", "offset", "length")
        )
        if not isinstance(name, str) or not all(
            isinstance(value, int) and value >= 0 for value in (start, length)
        ):
            raise InputError(f"{path}: expected a name, a first byte and a length for every chunk")
        if not isinstance(file_name, str) or not _FILE_NAME.fullmatch(file_name):
            raise InputError(
                f"{path}: {name} is in {str(file_name)[:100]!r}, expected a .distcp file of this "
                "folder"
            )
        if info.field("transform_descriptors"):
            raise InputError(f"{path}: {name} is compressed or encrypted, expected plain entries")
        file = folder / file_name
        if file not in sizes:
            if not file.is_file():
                raise InputError(f"{file}: does not exist, expected a part of the checkpoint")
            sizes[file] = file.stat().st_size
        used[file] += length
        if start + length > sizes[file] or used[file] > sizes[file]:
            raise InputError(
                f"{file}: {sizes[file]:,} bytes, too short for {name}; truncated, or the metadata "
                "is of another checkpoint"
            )
        if offset is not None:
            places[name, _sides(path, name, offset)] = (file, start, length)
    return places


def _stored_tensor(path: Path, name: str, entry: Any, places: Places) -> StoredTensor:
    properties, chunks = (
        entry.field(field) if isinstance(entry, TensorMetadata) else None
        for field in ("properties", "chunks")
    )
    state = properties.state if isinstance(properties, Properties) else None
    dtype = (
        state[0]
        if isinstance(state, tuple) and state
        else state.get("dtype")
        if isinstance(state, dict)
        else None
    )
    if (
        not isinstance(dtype, torch.dtype)
        or not isinstance(chunks, list)
        or not all(isinstance(chunk, ChunkMetadata) for chunk in chunks)
    ):
        raise InputError(f"{path}: {name}: expected a tensor's type, size and chunks")
    shape = _sides(path, name, entry.field("size"))
    found = []
    for chunk in chunks:
        offsets, sizes = (_sides(path, name, chunk.field(field)) for field in ("offsets", "sizes"))
        is_inside = len(offsets) == len(sizes) == len(shape) and all(
            offset + size <= side for offset, size, side in zip(offsets, sizes, shape, strict=True)
        )
        if not is_inside:
            raise InputError(
                f"{path}: {name}: a chunk at {offsets} of {sizes} is not inside {shape}"
            )
        if (name, offsets) not in places:
            raise InputError(f"{path}: {name}: no file has its chunk at {offsets}")
        file, start, length = places[name, offsets]
        if math.prod(sizes) * dtype.itemsize > length:
            raise InputError(f"{file}: {name}: {length:,} bytes for a chunk of {sizes} {dtype}")
        found.append(Chunk(offsets, sizes, file, start, length))
    if sum(math.prod(chunk.sizes) for chunk in found) != math.prod(shape):
        raise InputError(f"{path}: {name}: its chunks are not the whole of {shape}")
    return StoredTensor(dtype, shape, tuple(found))


def _sides(path: Path, name: str, value: Any) -> tuple[int, ...]:
    is_sides = isinstance(value, (tuple, list)) and all(
        isinstance(side, int) and 0 <= side <= MAX_SIDE for side in value
    )
    if not is_sides or len(value) > 8:
        raise InputError(f"{path}: {name}: expected sizes and offsets, small numbers")
    return tuple(value)


def _network_names(folder: Path, stored: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Names of the network's weights -> their names in the checkpoint, which may also hold
    optimizers and prefix the network's names, such as by ``model.``.
    """
    prefixes = sorted(
        name.removesuffix(ANCHOR) for name in stored if f".{name}".endswith(f".{ANCHOR}")
    )
    if len(prefixes) > 1:
        shown = ", ".join(repr(prefix.removesuffix(".")) for prefix in prefixes[:5])
        raise InputError(f"{folder}: holds {len(prefixes)} networks ({shown}); expected one")
    prefix = prefixes[0] if prefixes else ""
    names = [name for name in stored if name.startswith(prefix)]
    return {
        name.removeprefix(prefix): name for name in names if prefix or not name.startswith("optim")
    }


def _read_tensor(folder: Path, name: str, stored: StoredTensor) -> Tensor:
    if len(stored.chunks) == 1 and stored.chunks[0].sizes == stored.shape:
        return _read_chunk(name, stored, stored.chunks[0])
    whole = torch.zeros(stored.shape, dtype=stored.dtype)
    for chunk in stored.chunks:
        box = tuple(
            slice(offset, offset + size)
            for offset, size in zip(chunk.offsets, chunk.sizes, strict=True)
        )
        whole[box] = _read_chunk(name, stored, chunk)
    return whole


def _read_chunk(name: str, stored: StoredTensor, chunk: Chunk) -> Tensor:
    """One chunk, an entry of ``torch.save``."""
    try:
        with chunk.file.open("rb") as file:
            file.seek(chunk.start)
            data = io.BytesIO(file.read(chunk.length))
        with zipfile.ZipFile(data) as archive:
            records = archive.infolist()
        if (
            any(record.compress_type != zipfile.ZIP_STORED for record in records)
            or sum(record.file_size for record in records) > chunk.length
        ):
            raise InputError(
                f"{chunk.file}: {name}: larger inside than it is, expected an entry of torch.save"
            )
        data.seek(0)
        tensor = torch.load(data, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{chunk.file}: {name}: holds more than a plain tensor and may run code, not loaded"
        ) from error
    except (
        RuntimeError,
        OSError,
        zipfile.BadZipFile,
        NotImplementedError,
        *PARSER_ERRORS,
    ) as error:
        found = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise InputError(f"{chunk.file}: {name}: truncated or damaged ({found})") from error
    if (
        type(tensor) is not Tensor
        or tensor.layout != torch.strided
        or tensor.dtype != stored.dtype
        or tuple(tensor.shape) != chunk.sizes
    ):
        raise InputError(
            f"{chunk.file}: {name}: expected a tensor of {chunk.sizes} {stored.dtype}, as the "
            "metadata says"
        )
    return tensor
