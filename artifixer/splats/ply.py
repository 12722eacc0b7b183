"""Splats and points as PLY files.

Splats use the field names and order of the original 3D Gaussian Splatting code (Kerbl et al. 2023),
which viewers and editors read: ``x y z nx ny nz f_dc_0..2 f_rest_* opacity scale_0..2 rot_0..3``,
all float32, little endian. Stored values are the optimised ones (log scales, opacity logits,
quaternions wxyz as they are), so writing and reading back is bit-exact. Higher spherical-harmonics
coefficients are stored channel by channel: ``f_rest_k`` = coefficient ``1 + k % n`` of channel ``k
// n``, with n the number of coefficients above degree 0.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, atomic_path, reason
from artifixer.scenes.photo_files import LARGEST_POSITION
from artifixer.scenes.ply_header import vertex_stream
from artifixer.splats.splats import SH_BASE, SH_COEFFICIENTS, Splats

POSITION = ("x", "y", "z")
NORMAL = ("nx", "ny", "nz")
BASE_COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE = ("scale_0", "scale_1", "scale_2")
ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")

#: Largest colour coefficient and opacity logit: beyond it products are not finite in float32.
LARGEST_VALUE = 1e15


def write_splats(path: Path, splats: Splats) -> None:
    """Write the splats as a standard 3DGS PLY, atomically. Normals, which Gaussians do not have,
    are zeros.

    Raises ``InputError`` when there are none.
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
            splats.means,
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
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(columns.detach().cpu().to(torch.float32).numpy().astype("<f4").tobytes())


def read_splats(path: Path) -> Splats:
    """Read a 3DGS PLY of spherical-harmonics degree 0 to 3, binary or text; fields may come in any
    order.

    For a run's own files. Raises ``InputError`` when the file is no PLY, lacks a field, or holds
    values that are not finite.
    """
    splats = read_unchecked_splats(path)
    for name, values in vars(splats).items():
        finite = torch.isfinite(values.reshape(len(splats), -1)).all(dim=1)
        if not finite.all():
            first = int(torch.nonzero(~finite)[0])
            raise InputError(
                f"{path}: {int((~finite).sum())} Gaussians with non-finite {name}, the first is "
                f"number {first}"
            )
    check_extent(path, splats)
    return splats


def read_unchecked_splats(path: Path) -> Splats:
    """The same without a look at the values, for files of other tools (``files.py``)."""
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

    count = len(vertices)
    sh = columns(BASE_COLOR)[:, None]
    if rest:
        ordered = [f"f_rest_{k}" for k in range(len(rest))]
        sh = torch.cat([sh, columns(ordered).reshape(count, 3, -1).mT], dim=1)
    return Splats(
        columns(POSITION),
        columns(ROTATION),
        columns(SCALE),
        columns(["opacity"])[:, 0],
        sh.contiguous(),
    )


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


def read_points(path: Path) -> tuple[Float[Tensor, "points 3"], UInt8[Tensor, "points 3"]]:
    """Positions and colours of a point-cloud PLY; grey where the file has no colours.

    Also takes a Gaussian-splat PLY, whose base colours are used. Raises ``InputError`` on
    unreadable files and non-finite positions.
    """
    vertices = _read_vertices(path)
    present = vertices.dtype.names or ()
    missing = [name for name in POSITION if name not in present]
    if missing:
        raise InputError(f"{path}: points need x, y and z; missing: {', '.join(missing)}")
    with np.errstate(over="ignore"):
        xyz = torch.from_numpy(
            np.stack([vertices[name].astype(np.float32) for name in POSITION], axis=1)
        )
    if not torch.isfinite(xyz).all():
        raise InputError(
            f"{path}: {int((~torch.isfinite(xyz).all(dim=1)).sum())} points have positions that "
            "are not finite"
        )
    if len(xyz) and float(xyz.abs().max()) > LARGEST_POSITION:
        raise InputError(
            f"{path}: positions of {float(xyz.abs().max()):g}, expected at most "
            f"{LARGEST_POSITION:g}"
        )
    if all(name in present for name in ("red", "green", "blue")):
        rgb = np.stack([vertices[name] for name in ("red", "green", "blue")], axis=1)
        if rgb.dtype.kind == "f":
            rgb = np.clip(rgb * 255, 0, 255).round()
        if not ((rgb >= 0) & (rgb <= 255)).all():  # NaN fails too
            raise InputError(f"{path}: holds colours outside 0 to 255")
        return xyz, torch.from_numpy(rgb.astype(np.uint8))
    if all(name in present for name in BASE_COLOR):
        base = np.stack([vertices[name].astype(np.float32) for name in BASE_COLOR], axis=1)
        return xyz, torch.from_numpy(
            (np.clip(base * SH_BASE + 0.5, 0, 1) * 255).round().astype(np.uint8)
        )
    return xyz, torch.full((len(xyz), 3), 128, dtype=torch.uint8)


def _read_vertices(path: Path) -> Any:
    """The vertex element of a PLY as a numpy structured array."""
    from plyfile import PlyData, PlyHeaderParseError, PlyParseError

    if not path.exists():
        raise InputError(f"{path}: no such file, expected a PLY")
    try:
        data = PlyData.read(vertex_stream(path), mmap=False)
    except (PlyParseError, PlyHeaderParseError, *PARSER_ERRORS) as error:
        raise InputError(f"{path}: not a readable PLY ({reason(error)})") from None
    if "vertex" not in data or len(data["vertex"].data) == 0:
        raise InputError(f"{path}: the PLY has no vertices")
    vertices = data["vertex"].data
    lists = [name for name in vertices.dtype.names if vertices.dtype[name].hasobject]
    if lists:
        raise InputError(f"{path}: the vertices' {lists[0]} is a list, expected numbers")
    return vertices
