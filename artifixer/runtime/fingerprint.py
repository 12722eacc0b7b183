"""Content hashes of inputs and settings.

In: values and file paths. Out: SHA-256 in hex, the same on every machine for equal content.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import open_regular, reason
from artifixer.runtime.json_io import json_key


def fingerprint(*parts: object) -> str:
    """SHA-256 over the parts, in hex; the same for equal content in all processes and on all
    machines.

    Accepts the types of ``to_json`` and bytes. A ``Path``, also inside containers, is hashed by the
    content of its file (``InputError`` if it cannot be read); tensors and arrays by dtype, shape
    and values. The order of mappings and sets does not matter; 1, 1.0, "1" and True differ.
    """
    digest = hashlib.sha256()
    for piece in _pieces(list(parts)):
        # lengths, so that different lists of pieces never give the same bytes
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: object) -> Iterator[bytes]:
    """The value as a list of byte strings that differs between any two values; containers start
    with their length.
    """
    match value:
        case Path():
            yield b"file"
            yield _file_digest(value)
        case Tensor():
            yield f"array {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}".encode()
            yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        case np.ndarray():
            yield f"array {value.dtype} {value.shape}".encode()
            yield np.ascontiguousarray(value).tobytes()
        case bytes():
            yield b"bytes"
            yield value
        case enum.Enum():
            yield f"enum {type(value).__name__}.{value.name}".encode()
        case Mapping():
            yield f"mapping {len(value)}".encode()
            for key in sorted(value, key=json_key):
                yield json_key(key).encode()
                yield from _pieces(value[key])
        case set() | frozenset():
            yield f"set {len(value)}".encode()
            yield from sorted(fingerprint(item).encode() for item in value)
        case list() | tuple():
            yield f"list {len(value)}".encode()
            for item in value:
                yield from _pieces(item)
        case None | bool() | int() | float() | str() | np.generic():
            plain = value.item() if isinstance(value, np.generic) else value
            yield f"{type(plain).__name__} {plain!r}".encode()
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield type(value).__name__.encode()
            yield from _pieces(
                {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            )
        case _:
            raise TypeError(f"{type(value).__name__} has no fingerprint")


def _file_digest(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"{path}: cannot read: No such file or directory")
    with open_regular(path, "a file") as file:
        try:
            return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise InputError(f"{path}: cannot read: {reason(error)}") from error
