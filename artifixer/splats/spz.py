"""SPZ, Niantic's compressed splat file (versions 1 to 4 are read, 3 is written).

Versions 1 to 3 are one gzip stream: a header of 16 bytes, then one section per attribute. Version 4
has an open header of 32 bytes, a table of contents, and every section as its own zstd stream.
Positions are 24-bit fixed point (version 1: float16), log scales steps of 1/16 from -10, opacities
and base colours 8 bit, rotations the three smaller components (versions 1 and 2: x, y, z in 8 bit),
higher harmonics steps of 1/128 within [-1, 1).

An SPZ file's axes are right, up, back, those of a splat PLY right, down, front: both directions
turn by half a turn about x. What does not fit is clipped, except positions: the fixed point moves
as far as they need.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import read_whole, write_bytes
from artifixer.splats.packing import (
    ALWAYS_ALLOWED_BYTES,
    LARGEST_EXPANSION,
    LARGEST_FILE,
    check_count,
    check_degree,
    from_largest_component,
    half_turned,
    largest_component,
    opacity_logits,
)
from artifixer.splats.splats import SH_COEFFICIENTS, Splats

MAGIC = b"NGSP"
GZIP_MAGIC = b"\x1f\x8b"

#: base colour byte = 255 (COLOR_SCALE sh + 0.5)
COLOR_SCALE = 0.15

#: Bits behind the point of the 24-bit positions: steps of 1e-6 for scenes within 8 units, as few as
#: the farthest Gaussian leaves.
MAX_FRACTION_BITS = 20

#: Largest value of the three 9-bit magnitudes of a rotation; their range is [0, 1/sqrt 2].
LARGEST_ROTATION = 511

#: Log scales that 8 bits hold.
LOG_SCALES = (-10.0, 255 / 16 - 10)

#: Fraction of Gaussians beyond the range of an attribute from which a file is said to be clipped;
#: a few specks and highlights of every scene are.
NOTED_FRACTION = 0.01

_HEADER = struct.Struct("<4sIIBBBB")
_OPEN_HEADER = struct.Struct("<4sIIBBBBI12x")


def is_spz(head: bytes) -> bool:
    """Whether a file that starts with these bytes may be an SPZ file."""
    return head.startswith((GZIP_MAGIC, MAGIC))


def read_spz(path: Path) -> Splats:
    """The Gaussians of an SPZ file in the axes of a splat PLY. Raises ``InputError`` for files that
    are none, damaged, or of a version above 4; version 4 needs the extra ``formats``."""
    data = read_whole(path, "a splat file", LARGEST_FILE)
    return half_turned(
        _decoded(
            path, *(_unzipped(path, data) if data.startswith(GZIP_MAGIC) else _unpacked(path, data))
        )
    )


def write_spz(path: Path, splats: Splats) -> None:
    """Write version 3, atomically; the same splats give the same bytes with the same zlib.

    Raises ``InputError`` for positions beyond 2^22 units, which 24 bits cannot tell apart to half a
    unit.
    """
    turned = half_turned(splats.map(lambda tensor: tensor.detach().cpu().to(torch.float32)))
    count, coefficients = turned.sh.shape[:2]
    means = turned.means.numpy().astype(np.float64)
    farthest = float(np.abs(means).max())
    bits = next(
        (bits for bits in range(MAX_FRACTION_BITS, 0, -1) if round(farthest * 2**bits) < 2**23),
        None,
    )
    if bits is None:
        raise InputError(
            f"{path}: a Gaussian lies {farthest:.6g} units from the origin; SPZ holds positions up "
            f"to {2**22}"
        )
    fixed = np.round(means * 2**bits).astype("<i4")
    largest, others = largest_component(turned.quats.numpy().astype(np.float64)[:, [1, 2, 3, 0]])
    magnitudes = (
        np.round(np.abs(others) * np.sqrt(2) * LARGEST_ROTATION)
        .clip(0, LARGEST_ROTATION)
        .astype(np.uint32)
    )
    fields = magnitudes | (others < 0).astype(np.uint32) << 9
    rotations = (
        largest.astype(np.uint32) << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]
    )
    sections = [
        _HEADER.pack(MAGIC, 3, count, SH_COEFFICIENTS.index(coefficients), bits, 0, 0),
        fixed.view(np.uint8).reshape(count, 3, 4)[..., :3].tobytes(),
        _byte(turned.opacities.numpy() * 255),
        _byte((turned.sh[:, 0].numpy() * COLOR_SCALE + 0.5) * 255),
        _byte((turned.log_scales.numpy() + 10) * 16),
        rotations.astype("<u4").tobytes(),
        _byte(turned.sh[:, 1:].numpy() * 128 + 128),
    ]
    packer = zlib.compressobj(wbits=31)  # gzip, without a name or time in its header
    write_bytes(path, packer.compress(b"".join(sections)) + packer.flush())


def clipping_note(splats: Splats) -> tuple[str, ...]:
    """A remark for splats of which many do not fit an SPZ file's ranges of sizes and colours, such
    as those of a capture in very small or large units.
    """
    largest = splats.log_scales.amax(dim=1)
    low, high = LOG_SCALES
    beyond = {
        f"sizes outside {math.exp(low):.2g} to {math.exp(high):.4g} units": (largest < low)
        | (largest > high),
        "colours": (splats.sh[:, 0].abs() > 0.5 / COLOR_SCALE).any(dim=1),
        "harmonics": (splats.sh[:, 1:].abs() > 1).flatten(1).any(dim=1),
    }
    counts = {name: int(found.sum()) for name, found in beyond.items()}
    named = [
        f"{count:,} have {name}"
        for name, count in counts.items()
        if count > NOTED_FRACTION * len(splats)
    ]
    if not named:
        return ()
    return (f"spz: of {len(splats):,} Gaussians {', '.join(named)} and are clipped",)


def _byte(values: np.ndarray) -> bytes:
    return np.round(values).clip(0, 255).astype(np.uint8).tobytes()


def _unzipped(path: Path, data: bytes) -> tuple[int, int, int, int, bytes]:
    """Version, count, degree, bits behind the point and sections of versions 1 to 3."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        header = unpacker.decompress(data, _HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(MAGIC):
            raise InputError(f"{path}: a gzip file without splats, expected an SPZ file")
        _, version, count, degree, bits, _, _ = _HEADER.unpack(header)
        if version not in (1, 2, 3):
            raise InputError(f"{path}: SPZ version {version}, expected 1 to 4")
        check_degree(path, degree)
        check_count(path, count, degree)
        size = sum(_section_sizes(version, count, degree))
        return version, count, degree, bits, unpacker.decompress(unpacker.unconsumed_tail, size)
    except zlib.error as error:
        raise InputError(f"{path}: damaged ({error}), expected an SPZ file") from error


def _unpacked(path: Path, data: bytes) -> tuple[int, int, int, int, bytes]:
    """The same of version 4."""
    if len(data) < _OPEN_HEADER.size:
        raise InputError(f"{path}: has {len(data)} bytes, expected an SPZ file")
    _, version, count, degree, bits, _, streams, contents = _OPEN_HEADER.unpack_from(data)
    if version != 4:
        raise InputError(f"{path}: SPZ version {version}, expected 1 to 4")
    check_degree(path, degree)
    check_count(path, count, degree)
    sizes = [size for size in _section_sizes(version, count, degree) if size]
    start = contents + 16 * streams
    if streams != len(sizes) or start > len(data):
        raise InputError(
            f"{path}: damaged (table of {streams} streams), expected {len(sizes)} in an SPZ file "
            f"of degree {degree}"
        )
    sections = []
    for (packed, unpacked), size in zip(
        struct.iter_unpack("<QQ", data[contents:start]), sizes, strict=True
    ):
        if unpacked != size or start + packed > len(data):
            raise InputError(
                f"{path}: damaged (a stream of {packed} bytes for {unpacked}), expected an SPZ file"
            )
        sections.append(_zstd(path, data[start : start + packed], size))
        start += packed
    return version, count, degree, bits, b"".join(sections)


def _zstd(path: Path, packed: bytes, size: int) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise InputError(
            f"{path}: SPZ version 4 needs the extra formats: pip install 'artifixer[formats]'"
        ) from None
    if size > max(ALWAYS_ALLOWED_BYTES, LARGEST_EXPANSION * path.stat().st_size):
        raise InputError(
            f"{path}: a stream of {size:,} bytes, expected less in a file of this size"
        )
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
            return reader.read(size)
    except zstandard.ZstdError as error:
        raise InputError(f"{path}: damaged ({error}), expected an SPZ file") from error


def _section_sizes(version: int, count: int, degree: int) -> list[int]:
    """Bytes of positions, opacities, colours, scales, rotations, harmonics."""
    position, rotation = 6 if version == 1 else 9, 3 if version < 3 else 4
    return [
        count * size for size in (position, 1, 3, 3, rotation, 3 * (SH_COEFFICIENTS[degree] - 1))
    ]


def _decoded(path: Path, version: int, count: int, degree: int, bits: int, data: bytes) -> Splats:
    sizes = _section_sizes(version, count, degree)
    if len(data) < sum(sizes):
        raise InputError(
            f"{path}: ends after {len(data):,} of {sum(sizes):,} bytes of splats, expected a whole "
            "SPZ file"
        )
    if bits > 24:
        raise InputError(
            f"{path}: damaged ({bits} bits behind the point of 24-bit positions), expected an SPZ "
            "file"
        )
    borders = np.cumsum([0, *sizes])
    positions, opacities, colors, scales, rotations, harmonics = (
        np.frombuffer(data, np.uint8, size, int(start))
        for size, start in zip(sizes, borders, strict=False)
    )
    if version == 1:
        means = positions.view("<f2").reshape(count, 3).astype(np.float32)
    else:
        fixed = np.zeros((count, 3, 4), np.uint8)
        # in the upper bytes, so that the sign comes along
        fixed[..., 1:] = positions.reshape(count, 3, 3)
        means = (fixed.reshape(-1).view("<i4").reshape(count, 3) / 2 ** (8 + bits)).astype(
            np.float32
        )
    base = (colors.reshape(count, 1, 3) / 255 - 0.5) / COLOR_SCALE
    higher = (harmonics.reshape(count, -1, 3).astype(np.float32) - 128) / 128
    return Splats(
        means=torch.from_numpy(means),
        quats=torch.from_numpy(_quats(version, rotations.reshape(count, -1))),
        log_scales=torch.from_numpy(scales.reshape(count, 3).astype(np.float32) / 16 - 10),
        opacity_logits=opacity_logits(opacities / 255),
        sh=torch.from_numpy(np.concatenate([base.astype(np.float32), higher], axis=1)),
    )


def _quats(version: int, packed: np.ndarray) -> np.ndarray:
    """wxyz."""
    if version < 3:
        xyz = packed / 127.5 - 1
        w = np.sqrt(np.maximum(0, 1 - np.square(xyz).sum(axis=1, keepdims=True)))
        return np.concatenate([w, xyz], axis=1).astype(np.float32)
    words = np.ascontiguousarray(packed).view("<u4")[:, 0]
    fields = np.stack([words >> shift & 1023 for shift in (20, 10, 0)], axis=1)
    others = np.where(fields & 512, -1.0, 1.0) * (fields & 511) / (LARGEST_ROTATION * np.sqrt(2))
    xyzw = from_largest_component((words >> 30).astype(np.int64), others)
    return np.ascontiguousarray(xyzw[:, [3, 0, 1, 2]])
