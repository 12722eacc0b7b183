"""Training pairs on disk: tar shards in the WebDataset convention, and an index beside them.

::

    index.json          format, version, complete; per shard: file, bytes; per sample: name, offset
                        in the shard, checksum, shape
    pairs-00000.tar     the samples' members (``sample_file.py``), one sample after the other

The index locates every sample; other WebDataset readers need the shards alone.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from artifixer.pairs.pair import TrainingPair
from artifixer.pairs.sample_file import FORMAT, TAR_END, VERSION, decode_sample
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import atomic_path, file_beside, open_regular
from artifixer.runtime.image_files import MAX_PIXELS
from artifixer.runtime.json_io import is_whole, read_json, shown, to_json, write_json

INDEX_FILE = "index.json"


@dataclass(frozen=True)
class SampleEntry:
    """Location and shape of a sample."""

    name: str
    """Name of the pair."""

    offset: int
    """First byte in the shard."""

    bytes: int
    """Length in the shard."""

    crc32: int
    """Checksum of these bytes."""

    frames: int
    """Frames of the clip."""

    height: int
    """Pixels."""

    width: int
    """Pixels."""

    views: int
    """Number of reference photos."""

    camera_scale_kind: str
    """See ``TrainingPair``."""


@dataclass(frozen=True)
class ShardEntry:
    """A shard of the index: file name, file size, and samples in order."""

    file: str
    bytes: int
    samples: tuple[SampleEntry, ...]


def describe(pair: TrainingPair, data: bytes, offset: int = 0) -> SampleEntry:
    """The index entry of a pair encoded as ``data``."""
    cameras = pair.cameras
    size = (len(cameras), cameras.height, cameras.width)
    return SampleEntry(
        pair.name, offset, len(data), zlib.crc32(data), *size, pair.views, pair.camera_scale_kind
    )


def write_shard(path: Path, samples: Sequence[tuple[SampleEntry, bytes]]) -> ShardEntry:
    """Write a shard atomically. The entries' offsets are set here."""
    entries, offset = [], 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for entry, data in samples:
            assert len(data) == entry.bytes and zlib.crc32(data) == entry.crc32, (
                f"{entry.name}: bytes of another sample"
            )
            entries.append(SampleEntry(**asdict(entry) | {"offset": offset}))
            offset += file.write(data)
        offset += file.write(TAR_END)
    return ShardEntry(path.name, offset, tuple(entries))


def write_index(folder: Path, shards: Sequence[ShardEntry], complete: bool) -> None:
    """Write the index atomically. complete: whether curation has ended."""
    write_json(
        folder / INDEX_FILE,
        {
            "format": FORMAT,
            "version": VERSION,
            "complete": complete,
            "shards": [to_json(s) for s in shards],
        },
    )


def read_index(folder: Path) -> tuple[ShardEntry, ...]:
    """The shards of a folder of pairs. Raises ``InputError`` when it is no such folder or of
    another version.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        raise InputError(
            f"{folder}: has no {INDEX_FILE}; expected a folder of training pairs (see artifixer "
            "curate)"
        )
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f'{path}: not an index of training pairs; expected "format": "{FORMAT}"')
    if content.get("version") != VERSION:
        raise InputError(
            f"{path}: version {shown(content.get('version'))}; this program reads version {VERSION}"
        )
    try:
        return tuple(_shard_from_json(path, shard) for shard in content["shards"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: damaged list of shards ({type(error).__name__}: {error})"
        ) from error


def sample_from_json(path: Path, content: dict[str, Any]) -> SampleEntry:
    """A sample entry of the index ``path``. Raises ``InputError`` for missing or unknown fields and
    for counts and sizes out of range.
    """
    try:
        entry = SampleEntry(**content)
    except TypeError as error:
        raise InputError(f"{path}: damaged list of shards ({error})") from error
    bounds = {"offset": 0, "bytes": 1, "crc32": 0, "frames": 1, "height": 1, "width": 1, "views": 0}
    wrong = next(
        (name for name, low in bounds.items() if not is_whole(getattr(entry, name), low)), None
    )
    if wrong is not None or not isinstance(entry.name, str):
        raise InputError(
            f"{path}: a sample's {wrong or 'name'} is {shown(content[wrong or 'name'])}; damaged "
            "list of shards"
        )
    if max(entry.frames, entry.views) * entry.height * entry.width > MAX_PIXELS:
        size = (
            f"{counted(entry.frames, 'frame')} and {counted(entry.views, 'photo')} of "
            f"{entry.width}x{entry.height}"
        )
        raise InputError(
            f"{path}: sample {entry.name[:80]} has {size} pixels, expected at most {MAX_PIXELS:,} "
            "together"
        )
    return entry


def _shard_from_json(path: Path, content: dict[str, Any]) -> ShardEntry:
    file_beside(path.parent, content["file"], path)
    if not is_whole(content["bytes"]):
        raise InputError(
            f"{path}: shard {content['file']} has {shown(content['bytes'])} bytes; damaged list of "
            "shards"
        )
    samples = tuple(sample_from_json(path, sample) for sample in content["samples"])
    outside = next(
        (sample.name for sample in samples if sample.offset + sample.bytes > content["bytes"]), None
    )
    if outside is not None:
        raise InputError(
            f"{path}: sample {outside[:80]} ends behind its shard {content['file']}; damaged list "
            "of shards"
        )
    return ShardEntry(content["file"], content["bytes"], samples)


def read_sample(folder: Path, shard: ShardEntry, entry: SampleEntry) -> TrainingPair:
    """One pair. Raises ``InputError`` naming shard and sample when its bytes are missing, changed,
    or of another version.
    """
    try:
        data = read_sample_bytes(folder, shard, entry)
        pair = decode_sample(data)
        there = (pair.frames, pair.cameras.height, pair.cameras.width, pair.views)
        if there != (entry.frames, entry.height, entry.width, entry.views):
            raise InputError(f"frames, height, width and views are {there}, unlike the index")
        return pair
    except InputError as error:
        raise InputError(f"{folder / shard.file}: sample {entry.name}: {error}") from None


def read_sample_bytes(folder: Path, shard: ShardEntry, entry: SampleEntry) -> bytes:
    """The sample's bytes of the shard, checked against the index. Raises ``InputError``; the
    message names neither shard nor sample.
    """
    try:
        with open_regular(folder / shard.file, "a shard") as file:
            file.seek(entry.offset)
            data = file.read(min(entry.bytes, os.fstat(file.fileno()).st_size))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}") from error
    if len(data) != entry.bytes:
        raise InputError(f"truncated: {len(data)} of {entry.bytes} bytes; --skip-broken omits it")
    if zlib.crc32(data) != entry.crc32:
        raise InputError("its bytes differ from the index (checksum); --skip-broken omits it")
    return data
