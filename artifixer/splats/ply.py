"""Splats as PLY files.

They use the field names and order of the original 3D Gaussian Splatting code (Kerbl et al. 2023),
which viewers and editors read: ``x y z nx ny nz f_dc_0..2 f_rest_* opacity scale_0..2 rot_0..3``,
all float32, little endian. Stored values are the optimised ones (log scales, opacity logits,
quaternions wxyz as they are), so writing and reading back is bit-exact. Higher spherical-harmonics
coefficients are stored channel by channel: ``f_rest_k`` = coefficient ``1 + k % n`` of channel ``k
// n``, with n the number of coefficients above degree 0.

Georeferenced splats (``local_origin``) are written in the world's coordinates: ``x y z`` are
doubles then, and a comment ``origin X Y Z`` tells what they are read relative to.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artifixer.geometry.local_origin import (
    WORLD,
    Origin,
    local_origin,
    points_to_local,
    points_to_world,
)
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, atomic_path, open_regular, reason
from artifixer.scenes.photo_files import LARGEST_POSITION
from artifixer.scenes.ply_header import LONGEST_HEADER, read_vertices
from artifixer.splats.splats import SH_COEFFICIENTS, Splats

POSITION = ("x", "y", "z")
NORMAL = ("nx", "ny", "nz")
BASE_COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE = ("scale_0", "scale_1", "scale_2")
ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")

#: Begins the header's line that names the origin.
ORIGIN_COMMENT = "comment origin"

#: Largest colour coefficient and opacity logit: beyond it products are not finite in float32.
LARGEST_VALUE = 1e15


def write_splats(path: Path, splats: Splats, origin: Origin = WORLD) -> None:
    """Write the splats as a standard 3DGS PLY, atomically. Normals, which Gaussians do not have,
    are zeros.

    origin: what ``means`` are relative to. Raises ``InputError`` when there are none.
    """
    count, coefficients = splats.sh.shape[:2]
    if count == 0:
        raise InputError(
            f"{path}: no Gaussian survived the fit; expected at least 1. Cameras that do not see "
            "the points are the usual cause: "
            "check the capture's poses (axes, camera_to_world or world_to_camera)"
        )
    rest = tuple(f"f_rest_{k}" for k in range(3 * (coefficients - 1)))
    names = (*POSITION, *NORMAL, *BASE_COLOR, *rest, "opacity", *SCALE, *ROTATION)
    columns = torch.cat(
        [
            torch.zeros_like(splats.means),
            splats.sh[:, 0],
            splats.sh[:, 1:].mT.reshape(count, -1),
            splats.opacity_logits[:, None],
            splats.log_scales,
            splats.quats,
        ],
        dim=1,
    )
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    kind, means = "float", splats.means
    if origin != WORLD:
        header.insert(2, f"{ORIGIN_COMMENT} {' '.join(repr(value) for value in origin)}")
        kind, means = "double", points_to_world(splats.means, origin)
    header += [f"property {kind if name in POSITION else 'float'} {name}" for name in names] + [
        "end_header",
        "",
    ]
    rows = np.zeros(
        count,
        [("position", "<f4" if kind == "float" else "<f8", 3), ("rest", "<f4", columns.shape[1])],
    )
    rows["position"] = means.detach().cpu().numpy()
    rows["rest"] = columns.detach().cpu().to(torch.float32).numpy()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(rows.tobytes())


def read_ply_origin(path: Path) -> Origin:
    """The origin that a PLY's comment names; ``WORLD`` when none does. Raises ``InputError`` for
    unreadable files and other values.
    """
    with open_regular(path, "a PLY file") as file:
        lines = file.read(LONGEST_HEADER).partition(b"end_header")[0].splitlines()
    comment = next(
        (line for line in lines if line.startswith(ORIGIN_COMMENT.encode() + b" ")), None
    )
    if comment is None or not lines[0].startswith(b"ply"):
        return WORLD
    try:
        x, y, z = (float(word) for word in comment.split()[2:])
    except ValueError:
        x = y = z = math.nan
    if not max(abs(x), abs(y), abs(z)) <= LARGEST_POSITION:
        raise InputError(
            f"{path}: the header says {comment[:80].decode(errors='replace')!r}; expected "
            "three numbers"
        )
    return x, y, z


def read_splats(path: Path, origin: Origin | None = None) -> Splats:
    """Read a 3DGS PLY of spherical-harmonics degree 0 to 3, binary or text; fields may come in any
    order.

    origin: what ``means`` are to be relative to; None for what the file says. For a run's own
    files. Raises ``InputError`` when the file is no PLY, lacks a field, or holds values that are
    not finite.
    """
    splats = read_unchecked_splats(path, origin)
    for name, values in vars(splats).items():
        finite = torch.isfinite(values.reshape(len(splats), -1)).all(dim=1)
        if not finite.all():
            first = int(torch.nonzero(~finite)[0])
            raise InputError(
                f"{path}: {counted(int((~finite).sum()), 'Gaussian')} with non-finite {name}, the "
                f"first is number {first}"
            )
    check_extent(path, splats)
    return splats


def read_unchecked_splats(path: Path, origin: Origin | None = None) -> Splats:
    """The same without a look at the values."""
    return _read_splats(path, origin, measured=False)[0]


def read_placed_splats(path: Path) -> tuple[Splats, Origin]:
    """The same for files of other tools (``files.py``), and what ``means`` are relative to: the
    origin that the file names, or where it holds positions in float64 their ``local_origin``.
    """
    return _read_splats(path, None, measured=True)


def _read_splats(path: Path, origin: Origin | None, measured: bool) -> tuple[Splats, Origin]:
    vertices = _read_vertices(path)
    present = vertices.dtype.names or ()
    required = (*POSITION, *BASE_COLOR, "opacity", *SCALE, *ROTATION)
    missing = [name for name in required if name not in present]
    if missing:
        raise InputError(f"{path}: not a Gaussian-splat PLY, fields missing: {', '.join(missing)}")
    rest = [name for name in present if name.startswith("f_rest_")]
    if 1 + len(rest) / 3 not in SH_COEFFICIENTS:
        allowed = ", ".join(str(3 * (n - 1)) for n in SH_COEFFICIENTS)
        raise InputError(f"{path}: {len(rest)} f_rest_* fields, expected one of {allowed}")
    gaps = [f"f_rest_{k}" for k in range(len(rest)) if f"f_rest_{k}" not in present]
    if gaps:
        raise InputError(
            f"{path}: {gaps[0]} is missing among {len(rest)} f_rest_* fields; expected f_rest_0 to "
            f"f_rest_{len(rest) - 1}"
        )

    def columns(names: tuple[str, ...] | list[str]) -> Tensor:
        # doubles beyond float32 become infinite, which is refused below
        with np.errstate(over="ignore"):
            return torch.from_numpy(
                np.stack([vertices[name].astype(np.float32) for name in names], axis=1)
            )

    positions = np.stack([vertices[name] for name in POSITION], axis=1)
    if origin is None:
        origin = read_ply_origin(path)
        if measured and origin == WORLD and positions.dtype == np.float64:
            origin = local_origin(positions)
    with np.errstate(over="ignore", invalid="ignore"):
        means = points_to_local(positions, origin)
    count = len(vertices)
    sh = columns(BASE_COLOR)[:, None]
    if rest:
        ordered = [f"f_rest_{k}" for k in range(len(rest))]
        sh = torch.cat([sh, columns(ordered).reshape(count, 3, -1).mT], dim=1)
    splats = Splats(
        means, columns(ROTATION), columns(SCALE), columns(["opacity"])[:, 0], sh.contiguous()
    )
    return splats, origin


def check_extent(path: Path, splats: Splats) -> None:
    """Raise ``InputError`` for Gaussians so far away or so large that squares of their lengths are
    not finite in float32.
    """
    limits = {
        "means": LARGEST_POSITION,
        "log_scales": math.log(LARGEST_POSITION),
        "opacity_logits": LARGEST_VALUE,
        "sh": LARGEST_VALUE,
    }
    for name, limit in limits.items():
        values = getattr(splats, name)
        largest = (
            float(values.max() if name == "log_scales" else values.abs().max())
            if len(splats)
            else 0.0
        )
        if largest > limit:
            raise InputError(f"{path}: {name} of {largest:g}, expected at most {limit:g}")


def _read_vertices(path: Path) -> Any:
    """The vertex element of a PLY as a numpy structured array."""
    from plyfile import PlyHeaderParseError, PlyParseError

    if not path.exists():
        raise InputError(f"{path}: no such file, expected a PLY")
    try:
        vertices = read_vertices(path)
    except KeyError:
        raise InputError(f"{path}: the PLY has no vertices") from None
    except (PlyParseError, PlyHeaderParseError, *PARSER_ERRORS) as error:
        raise InputError(f"{path}: not a readable PLY ({reason(error)})") from None
    if len(vertices) == 0:
        raise InputError(f"{path}: the PLY has no vertices")
    lists = [name for name in vertices.dtype.names if vertices.dtype[name].hasobject]
    if lists:
        raise InputError(f"{path}: the vertices' {lists[0]} is a list, expected numbers")
    return vertices
