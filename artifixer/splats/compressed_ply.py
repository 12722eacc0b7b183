"""Compressed PLY of PlayCanvas and SuperSplat (read only): four 32-bit words per Gaussian, relative
to bounds of 256 neighbours.

``element chunk`` holds the bounds of every 256 Gaussians as float32: ``min_x`` ... ``max_z``,
``min_scale_x`` ... ``max_scale_z`` and, in newer files, ``min_r`` ... ``max_b``. ``element vertex``
holds ``packed_position`` and ``packed_scale`` (11, 10 and 11 bits between the bounds),
``packed_rotation`` (2 bits for the largest of w, x, y, z, 10 bits for each other one) and
``packed_color`` (8-bit RGBA). ``element sh``, if there, holds ``f_rest_*`` of degree 1 and more as
bytes from -4 to 4, in the order of a splat PLY.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import read_whole
from artifixer.splats.packing import (
    LARGEST_FILE,
    check_count,
    from_largest_component,
    opacity_logits,
)
from artifixer.splats.splats import SH_BASE, SH_COEFFICIENTS, Splats

#: Gaussians that share bounds.
CHUNK = 256

#: Longest header that is looked at, bytes.
LONGEST_HEADER = 64 * 1024

_TYPES = {
    "float": "<f4",
    "float32": "<f4",
    "uint": "<u4",
    "uint32": "<u4",
    "uchar": "u1",
    "uint8": "u1",
}
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


def is_compressed_ply(head: bytes) -> bool:
    """Whether a file that starts with these bytes is a compressed PLY."""
    return head.startswith(b"ply") and b"packed_position" in head


def read_compressed_ply(path: Path) -> Splats:
    """The Gaussians of a compressed PLY. Raises ``InputError`` for files that are damaged or
    shorter than their header says.
    """
    data = read_whole(path, "a splat file", LARGEST_FILE)
    elements = _elements(path, data)
    missing = (
        [name for name in _PACKED if name not in (elements["vertex"].dtype.names or ())]
        if "vertex" in elements
        else _PACKED
    )
    if missing or "chunk" not in elements:
        raise InputError(
            f"{path}: lacks {', '.join(missing) or 'element chunk'}, expected a compressed splat "
            "PLY"
        )
    vertices, chunks = elements["vertex"], elements["chunk"]
    if len(chunks) * CHUNK < len(vertices):
        raise InputError(
            f"{path}: {counted(len(chunks), 'chunk')} for {counted(len(vertices), 'Gaussian')}, "
            f"expected one for every {CHUNK}"
        )
    rows = chunks[np.arange(len(vertices)) // CHUNK]
    color = vertices["packed_color"][:, None] >> np.array([24, 16, 8], np.uint32) & 255
    rgb = color / 255  # of older files, which have no bounds of colours
    if "min_r" in (chunks.dtype.names or ()):
        rgb = _between(path, rows, ("r", "g", "b"), rgb)
    rotation = vertices["packed_rotation"]
    others = (
        (rotation[:, None] >> np.array([20, 10, 0], np.uint32) & 1023) / 1023 - 0.5
    ) * np.sqrt(2)
    base = ((rgb - 0.5) / SH_BASE)[:, None].astype(np.float32)
    return Splats(
        means=torch.from_numpy(
            _between(path, rows, ("x", "y", "z"), _thirds(vertices["packed_position"]))
        ),
        quats=torch.from_numpy(from_largest_component((rotation >> 30).astype(np.int64), others)),
        log_scales=torch.from_numpy(
            _between(
                path, rows, ("scale_x", "scale_y", "scale_z"), _thirds(vertices["packed_scale"])
            )
        ),
        opacity_logits=opacity_logits((vertices["packed_color"] & 255) / 255),
        sh=torch.from_numpy(
            np.concatenate([base, _higher(path, elements.get("sh"), len(vertices))], axis=1)
        ),
    )


def _elements(path: Path, data: bytes) -> dict[str, np.ndarray]:
    """The elements as structured arrays, of no more bytes than the file has."""
    end = data.find(b"end_header", 0, LONGEST_HEADER)
    body = data.find(b"\n", end) + 1 if end >= 0 else 0
    if body == 0:
        raise InputError(f"{path}: not a readable PLY (no end of the header)")
    lines = [line.split() for line in data[:end].decode("ascii", errors="replace").splitlines()]
    if ["format", "binary_little_endian", "1.0"] not in lines:
        raise InputError(
            f"{path}: not a little-endian binary PLY, expected one for compressed splats"
        )
    declared: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in lines:
        match line:
            case ["element", name, digits] if digits.isdecimal() and len(digits) < 16:
                declared.append((name, int(digits), []))
            case ["property", kind, name] if (
                kind in _TYPES and declared and name not in dict(declared[-1][2])
            ):
                declared[-1][2].append((name, _TYPES[kind]))
            case ["element" | "property", *_]:
                raise InputError(
                    f"{path}: the header says {' '.join(line)[:60]!r}, expected elements of "
                    "compressed splats"
                )
    elements = {}
    for name, count, fields in declared:
        size = count * np.dtype(fields).itemsize
        if not fields or body + size > len(data):
            raise InputError(
                f"{path}: {count:,} of element {name} do not fit into {len(data):,} bytes, "
                "expected a whole PLY"
            )
        if name == "vertex":
            check_count(path, count)
        elements[name] = np.frombuffer(data, fields, count, body)
        body += size
    return elements


def _thirds(words: np.ndarray) -> Float[np.ndarray, "count 3"]:
    """11, 10 and 11 bits as numbers from 0 to 1."""
    thirds: np.ndarray = (
        words[:, None] >> np.array([21, 11, 0], np.uint32) & np.array([2047, 1023, 2047], np.uint32)
    ) / np.array([2047, 1023, 2047])
    return thirds


def _between(
    path: Path, rows: np.ndarray, names: tuple[str, ...], share: np.ndarray
) -> Float[np.ndarray, "count 3"]:
    """The values at a share of the way between the bounds of each Gaussian's chunk."""
    try:
        low, high = (
            np.stack([rows[f"{end}_{name}"] for name in names], axis=1).astype(np.float64)
            for end in ("min", "max")
        )
    except ValueError:
        raise InputError(
            f"{path}: the chunks lack bounds of {', '.join(names)}, expected a compressed splat PLY"
        ) from None
    # damaged bounds give damaged Gaussians, see files.py
    with np.errstate(invalid="ignore", over="ignore"):
        return (low + share * (high - low)).astype(np.float32)


def _higher(
    path: Path, harmonics: np.ndarray | None, count: int
) -> Float[np.ndarray, "count coefficients 3"]:
    if harmonics is None:
        return np.zeros((count, 0, 3), np.float32)
    names = [f"f_rest_{k}" for k in range(len(harmonics.dtype.names or ()))]
    if len(names) not in [3 * (n - 1) for n in SH_COEFFICIENTS[1:]] or set(names) != set(
        harmonics.dtype.names or ()
    ):
        raise InputError(
            f"{path}: {counted(len(names), 'field')} of element sh, expected f_rest_* of degree 1 "
            "to 3"
        )
    if len(harmonics) != count:
        raise InputError(
            f"{path}: {len(harmonics):,} of element sh for {counted(count, 'Gaussian')}, expected "
            "one each"
        )
    stored = np.stack([harmonics[name] for name in names], axis=1)
    # A byte stands for the middle of its step; the two ends stand for themselves.
    share = np.where(stored == 0, 0.0, np.where(stored == 255, 1.0, (stored + 0.5) / 256))
    values = ((share - 0.5) * 8).astype(np.float32)
    return np.ascontiguousarray(values.reshape(count, 3, -1).swapaxes(1, 2))
