"""The ``.metadata`` file of a ``torch.distributed.checkpoint``, read without executing its code.

In: an untrusted file. Out: inert records. torch's own reader unpickles the file and thus executes
any code in it; the unpickler here replaces the few expected classes by plain records and refuses
all other classes and functions.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS

METADATA = ".metadata"

#: Maximum size in bytes; a model of 14 billion weights on 128 processes needs about 30 million.
MAX_METADATA = 2**30


class Record:
    """Replaces an object of one of the known classes: its saved state, without behaviour."""

    state: Any

    def __new__(cls, *arguments: object) -> Record:
        record = object.__new__(cls)
        record.state = None
        return record

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def field(self, name: str) -> Any:
        """A field of a saved dataclass; None if it has no field of this name."""
        return self.state.get(name) if isinstance(self.state, dict) else None


class Metadata(Record): ...


class TensorMetadata(Record): ...


class BytesMetadata(Record): ...


class Properties(Record): ...


class ChunkMetadata(Record): ...


class Index(Record): ...


class StorageInfo(Record): ...


class Other(Record):
    """Known classes that are ignored: layouts, memory formats, paths."""


_DCP = "torch.distributed.checkpoint"

#: All names that a metadata file may contain, besides those of ``_DTYPES``.
_KNOWN: dict[tuple[str, str], type] = {
    (f"{_DCP}.metadata", "Metadata"): Metadata,
    (f"{_DCP}.metadata", "TensorStorageMetadata"): TensorMetadata,
    (f"{_DCP}.metadata", "BytesStorageMetadata"): BytesMetadata,
    (f"{_DCP}.metadata", "TensorProperties"): Properties,
    (f"{_DCP}.metadata", "ChunkStorageMetadata"): ChunkMetadata,
    (f"{_DCP}.metadata", "MetadataIndex"): Index,
    (f"{_DCP}.filesystem", "_StorageInfo"): StorageInfo,
    (f"{_DCP}.metadata", "StorageMeta"): Other,
    (f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"): Other,
    ("torch.serialization", "_get_layout"): Other,
    ("pathlib", "PosixPath"): Other,
    ("pathlib", "WindowsPath"): Other,
    ("pathlib._local", "PosixPath"): Other,
    ("pathlib._local", "WindowsPath"): Other,
    ("torch", "Size"): tuple,
}

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}


class _Table(dict[Any, Any]):
    """A dict whose keys are limited to the types in metadata: hashing a deeply nested tuple could
    exhaust the stack.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, (str, int, Record)):
            raise pickle.UnpicklingError(f"a key of type {type(key).__name__}")
        super().__setitem__(key, value)


#: The pickle opcodes that metadata need: plain values, containers, and objects of known classes.
_INSTRUCTIONS = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK),
    *(
        pickle.MEMOIZE,
        pickle.PUT,
        pickle.BINPUT,
        pickle.LONG_BINPUT,
        pickle.GET,
        pickle.BINGET,
        pickle.LONG_BINGET,
    ),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(
        pickle.EMPTY_LIST,
        pickle.APPEND,
        pickle.APPENDS,
        pickle.EMPTY_DICT,
        pickle.SETITEM,
        pickle.SETITEMS,
    ),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.NEWOBJ, pickle.REDUCE, pickle.BUILD),
)


def _empty_dict(unpickler: Any) -> None:
    unpickler.append(_Table())


class _MetadataUnpickler(pickle._Unpickler):
    """Builds records of the known classes, and raises at any other name or opcode.

    Based on the unpickler in Python, not the one in C: its memory is bounded by the size of the
    file, not by numbers in it.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in _INSTRUCTIONS},
        pickle.EMPTY_DICT[0]: _empty_dict,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The replacement of a class or dtype; nothing is imported."""
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}"[:200])
        return _KNOWN[module, name]


def read_metadata(folder: Path) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The checkpoint's entries by name, and the locations of their chunks. Raises ``InputError``
    for any other content.
    """
    path = folder / METADATA
    try:
        if path.stat().st_size > MAX_METADATA:
            raise InputError(
                f"{path}: {path.stat().st_size:,} bytes, expected at most {MAX_METADATA:,}"
            )
        metadata = _MetadataUnpickler(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    except PARSER_ERRORS as error:
        found = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"{path}: not plain metadata of torch.distributed.checkpoint, nothing in it was run "
            f"({found})"
        ) from error
    entries, places = (
        (metadata.field(name) for name in ("state_dict_metadata", "storage_data"))
        if isinstance(metadata, Metadata)
        else (None, None)
    )
    if (
        not isinstance(entries, dict)
        or not isinstance(places, dict)
        or not all(isinstance(name, str) for name in entries)
    ):
        raise InputError(
            f"{path}: expected the metadata of a checkpoint, with its tensors and their places"
        )
    return entries, places
