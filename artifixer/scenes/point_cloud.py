"""Point clouds in PLY files -> positions and colours.

Colours are ``red green blue`` (``diffuse_red ...`` or ``r g b`` in some exports), or the base
colours of a Gaussian-splat file. Integers go to 255, or to 65535 where one of them is larger than
255; floating-point numbers go to 1, or to 255 where one of them is larger than 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor

from artifixer.geometry.local_origin import WORLD, Origin, points_to_local
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, reason
from artifixer.scenes.photo_files import LARGEST_POSITION, MIN_GOOD_FRACTION
from artifixer.scenes.ply_header import read_vertices

#: Colour of points in files without colours.
GREY = 128

#: Names of colours, the usual ones first.
_COLOURS = (
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("r", "g", "b"),
)

#: Names of the constant harmonics of splats: colour = value / (2 sqrt(pi)) + 0.5.
_BASE_COLOURS = ("f_dc_0", "f_dc_1", "f_dc_2")


@dataclass(frozen=True)
class PointCloud:
    """Points and their colours; ``notes`` has one line about points that were left out."""

    xyz: Float[Tensor, "points 3"]
    rgb: UInt8[Tensor, "points 3"]
    notes: tuple[str, ...] = ()


def read_points(path: Path, origin: Origin = WORLD) -> PointCloud:
    """Positions relative to ``origin`` (float32) and colours (uint8) of the vertices in a PLY file,
    ASCII or binary. Points whose position or colour is not finite, or whose position is too large,
    are left out.

    Raises InputError when the file is missing, damaged, has no positions, or when more than half of
    its points are unusable.
    """
    from plyfile import PlyParseError

    try:
        vertices = read_vertices(path)
    except KeyError as error:
        raise InputError(
            f"{path}: has no element 'vertex'; expected a PLY file with points"
        ) from error
    except (PlyParseError, *PARSER_ERRORS) as error:
        raise InputError(f"{path}: not a readable PLY file ({reason(error)})") from error
    fields = vertices.dtype.names or ()
    if any(name not in fields for name in "xyz"):
        raise InputError(
            f"{path}: the vertices have the fields {', '.join(fields)}; expected x, y and z"
        )
    xyz = _columns(path, vertices, ("x", "y", "z")).astype(np.float64)
    colours = _colours(path, vertices, fields)
    good, notes = usable_points(path, xyz, colours)
    rgb = (
        np.full((int(good.sum()), 3), GREY, np.uint8)
        if colours is None
        else _eight_bit(path, colours[good])
    )
    return PointCloud(points_to_local(xyz[good], origin), torch.from_numpy(rgb), notes)


def usable_points(
    path: Path,
    xyz: Float[np.ndarray, "points 3"],
    colours: Float[np.ndarray, "points 3"] | Integer[np.ndarray, "points 3"] | None = None,
) -> tuple[Bool[np.ndarray, " points"], tuple[str, ...]]:
    """Which points have positions within ``LARGEST_POSITION`` and finite colours, and one line that
    counts the others; no line when all have.

    Points are only where a reconstruction starts, so a few broken ones do not make a capture
    unusable. Raises InputError when more than half are broken: such a file is damaged.
    """
    good = (np.abs(xyz) <= LARGEST_POSITION).all(axis=1)  # NaN fails too
    what = "positions"
    if colours is not None and not np.isfinite(colours).all():
        good &= np.isfinite(colours).all(axis=1)
        what = "positions or colours"
    if good.all():
        return good, ()
    bad = int((~good).sum())
    expected = f"not numbers of at most {LARGEST_POSITION:g}"
    if bad > (1 - MIN_GOOD_FRACTION) * len(good):
        raise InputError(f"{path}: {bad} of {len(good)} points have {what} that are {expected}")
    return good, (
        f"{path.name}: {bad} of {len(good)} points are left out: their {what} are {expected}",
    )


def _colours(
    path: Path, data: np.ndarray, fields: tuple[str, ...]
) -> Float[np.ndarray, "points 3"] | Integer[np.ndarray, "points 3"] | None:
    """The columns with colours as they stand in the file, those of splats in [0,1]; None without
    any.
    """
    names = next((names for names in _COLOURS if set(names) <= set(fields)), None)
    if names is not None:
        return _columns(path, data, names)
    if all(name in fields for name in _BASE_COLOURS):
        base = _columns(path, data, _BASE_COLOURS).astype(np.float64)
        return (base / (2 * math.sqrt(math.pi)) + 0.5).clip(0, 1)
    return None


def _eight_bit(path: Path, colours: np.ndarray) -> UInt8[np.ndarray, "points 3"]:
    """Colours of any numeric type; the largest value says how they are scaled."""
    largest = colours.max(initial=0)
    factor = 1.0
    if colours.dtype.kind == "f" and largest <= 1:
        factor = 255.0
    elif colours.dtype.kind != "f" and largest > 255:
        factor = 255 / 65535
    scaled = colours.astype(np.float64) * factor
    if not ((scaled >= 0) & (scaled <= 255)).all():  # NaN fails too
        raise InputError(f"{path}: holds colours outside 0 to 255")
    return scaled.round().astype(np.uint8)


def _columns(path: Path, data: np.ndarray, names: tuple[str, str, str]) -> np.ndarray:
    columns = [data[name] for name in names]
    if any(column.dtype == object for column in columns):
        raise InputError(f"{path}: {', '.join(names)} are lists; expected numbers")
    return np.stack(columns, axis=1)
