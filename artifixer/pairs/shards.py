"""Training pairs on disk: tar shards in the WebDataset convention, and an index beside them.

::

    index.json          format, version, complete; per shard: file, bytes; per sample: name, offset
                        in the shard, checksum, shape
    pairs-00000.tar     files of one sample share the part of their name before the first dot:
        NAME.json           version, cameras, reference cameras, camera scale, caption
        NAME.clean.png      the frames stacked vertically; NAME.render.png, NAME.opacity.png,
                            NAME.reference.png likewise
        NAME.caption.npy    embedding of the caption, if there is one

The index locates every sample; other WebDataset readers need the shards alone. Equal pairs give
equal bytes: archive members have time zero and no owner. All images are lossless.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.camera_file import LARGEST_POSITION, LARGEST_SIDE
from artifixer.geometry.cameras import Cameras, LensModel
from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, atomic_path, file_beside, open_regular
from artifixer.runtime.json_io import (
    as_object,
    is_number,
    is_whole,
    read_json,
    shown,
    to_json,
    write_json,
)
from artifixer.runtime.media import MOST_PIXELS, opened_image
from artifixer.runtime.npy import read_npy_stream

FORMAT = "artifixer pairs"
VERSION = 2

INDEX_FILE = "index.json"

#: zlib level of the PNG files: twice as fast as the default, 3 % larger.
PNG_COMPRESSION = 3

#: A tar archive ends with two empty blocks.
_TAR_END = bytes(2 * tarfile.BLOCKSIZE)


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


def encode_sample(pair: TrainingPair) -> bytes:
    """The pair as members of a tar archive, without the end of the archive."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "name": pair.name,
        "cameras": _cameras_to_json(pair.cameras),
        "reference_cameras": _cameras_to_json(pair.reference_cameras),
        "camera_scale": pair.camera_scale,
        "camera_scale_kind": pair.camera_scale_kind,
        "caption": pair.caption,
    }
    members = {
        "json": json.dumps(header, sort_keys=True, allow_nan=False).encode(),
        "clean.png": _encode_images(pair.clean_frames),
        "render.png": _encode_images(pair.renders),
        "opacity.png": _encode_images(pair.opacity),
    }
    if pair.views:
        members["reference.png"] = _encode_images(pair.reference_photos)
    if pair.caption_embedding is not None:
        buffer = io.BytesIO()
        np.save(buffer, pair.caption_embedding.to(torch.float32).numpy(), allow_pickle=False)
        members["caption.npy"] = buffer.getvalue()
    return b"".join(
        _member(f"{pair.name}.{suffix}", content) for suffix, content in members.items()
    )


def decode_sample(data: bytes) -> TrainingPair:
    """The inverse of ``encode_sample``. Raises ``InputError`` for damaged data; the message does
    not name the shard.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data + _TAR_END), mode="r:") as archive:
            members = {
                member.name.partition(".")[2]: _content(archive, member, len(data))
                for member in archive.getmembers()
            }
        header = as_object(json.loads(members["json"]), "json")
        if header.get("version") != VERSION or header.get("format") != FORMAT:
            raise InputError(
                f"format {shown(header.get('format'))}, version {shown(header.get('version'))}; "
                f"this program reads version {VERSION}"
            )
        for key in ("name", "caption"):
            if not isinstance(header[key], str) and (key == "name" or header[key] is not None):
                raise InputError(f'"{key}" is {shown(header[key])}, expected text')
        if (
            not is_number(header["camera_scale"], LARGEST_POSITION)
            or header["camera_scale"] < 1 / LARGEST_POSITION
        ):
            raise InputError(
                f'"camera_scale" is {shown(header["camera_scale"])}, expected a positive finite '
                "number"
            )
        cameras = _cameras_from_json(header["cameras"])
        references = _cameras_from_json(header["reference_cameras"])
        embedding = members.get("caption.npy")
        return TrainingPair(
            name=header["name"],
            clean_frames=_decode_images("clean.png", members, cameras),
            renders=_decode_images("render.png", members, cameras),
            opacity=_decode_images("opacity.png", members, cameras),
            cameras=cameras,
            reference_photos=_decode_images("reference.png", members, references)
            if len(references)
            else _no_images(references),
            reference_cameras=references,
            camera_scale=header["camera_scale"],
            camera_scale_kind=header["camera_scale_kind"],
            caption=header["caption"],
            caption_embedding=None if embedding is None else _decode_embedding(embedding),
        )
    except (tarfile.TarError, *PARSER_ERRORS) as error:
        raise InputError(f"cannot read: {type(error).__name__}: {error}") from error


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
        offset += file.write(_TAR_END)
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
    if max(entry.frames, entry.views) * entry.height * entry.width > MOST_PIXELS:
        size = f"{entry.frames} frames and {entry.views} photos of {entry.width}x{entry.height}"
        raise InputError(
            f"{path}: sample {entry.name[:80]} has {size} pixels, expected at most {MOST_PIXELS:,} "
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


def _member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(content), 0, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, room: int) -> bytes:
    """A member's bytes. ``InputError`` for links and sparse members, and for members larger than
    the archive (``room`` bytes).
    """
    file = (
        archive.extractfile(member)
        if member.isreg() and not member.issparse() and member.size <= room
        else None
    )
    if file is None:
        raise InputError(f"{member.name[:80]!r} is no plain file of the archive")
    return file.read()


def _encode_images(images: UInt8[Tensor, "images height width *channels"]) -> bytes:
    from PIL import Image

    tall = images.reshape(-1, *images.shape[2:]).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(tall).save(buffer, "png", compress_level=PNG_COMPRESSION)
    return buffer.getvalue()


def _decode_embedding(data: bytes) -> Float[Tensor, "tokens width"]:
    embedding = read_npy_stream(io.BytesIO(data), len(data), "caption.npy")
    if embedding.ndim != 2 or embedding.dtype != np.float32 or not np.isfinite(embedding).all():
        raise InputError(
            f"caption.npy is {embedding.dtype} {embedding.shape}, expected finite float32 of "
            "tokens and widths"
        )
    return torch.from_numpy(embedding)


def _decode_images(
    name: str, members: dict[str, bytes], cameras: Cameras
) -> UInt8[Tensor, "images height width *channels"]:
    with opened_image(Path(name), members[name]) as image:
        if image.size != (cameras.width, cameras.height * len(cameras)):
            raise InputError(
                f"{name} has {image.width}x{image.height} pixels, {len(cameras)} cameras of "
                f"{cameras.width}x{cameras.height}"
            )
        tall = np.array(image)
    return torch.from_numpy(tall).reshape(
        len(cameras), cameras.height, cameras.width, *tall.shape[2:]
    )


def _no_images(cameras: Cameras) -> UInt8[Tensor, "0 height width 3"]:
    return torch.zeros(0, cameras.height, cameras.width, 3, dtype=torch.uint8)


def _cameras_to_json(cameras: Cameras) -> dict[str, Any]:
    return {
        "width": cameras.width,
        "height": cameras.height,
        "model": cameras.model,
        "viewmats": cameras.viewmats.to(torch.float32).tolist(),
        "Ks": cameras.Ks.to(torch.float32).tolist(),
        "distortion": cameras.distortion.to(torch.float32).tolist(),
    }


def _cameras_from_json(content: dict[str, Any]) -> Cameras:
    """Cameras of a clip, possibly none. Raises ``InputError`` for values that are not finite and
    image sizes out of range.
    """
    sizes = (content["width"], content["height"])
    if not all(is_whole(side, 1, LARGEST_SIDE) for side in sizes) or content[
        "model"
    ] not in get_args(LensModel):
        raise InputError(
            f"cameras of {shown(sizes)} pixels, model {shown(content['model'])}; expected a size "
            "and pinhole or fisheye"
        )
    tensors = {}
    for name, shape in (("viewmats", (4, 4)), ("Ks", (3, 3)), ("distortion", (8,))):
        values = np.array(content[name], dtype=np.float64).reshape(-1, *shape)
        if not (np.abs(values) <= LARGEST_POSITION).all():  # NaN fails too
            raise InputError(f"{name} are not finite numbers of at most {LARGEST_POSITION:g}")
        tensors[name] = torch.from_numpy(values).to(torch.float32)
    return Cameras(**tensors, width=sizes[0], height=sizes[1], model=content["model"])
