"""Point clouds in PLY files (``x y z`` and, if there, ``red green blue``) -> positions and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, reason
from artifixer.scenes.photo_files import LARGEST_POSITION
from artifixer.scenes.ply_header import vertex_stream

#: Colour of points in files without colours.
GREY = 128


def read_points(path: Path) -> tuple[Float[Tensor, "points 3"], UInt8[Tensor, "points 3"]]:
    """Positions (float32) and colours (uint8) of the vertices in a PLY file, ASCII or binary.

    Raises InputError when the file is missing, damaged, has no positions, or positions that aren't
    finite or absurdly far.
    """
    from plyfile import PlyData, PlyParseError

    try:
        vertices = PlyData.read(vertex_stream(path))["vertex"]
    except KeyError as error:
        raise InputError(
            f"{path}: has no element 'vertex'; expected a PLY file with points"
        ) from error
    except (PlyParseError, *PARSER_ERRORS) as error:
        raise InputError(f"{path}: not a readable PLY file ({reason(error)})") from error
    fields = vertices.data.dtype.names or ()
    if any(name not in fields for name in "xyz"):
        raise InputError(
            f"{path}: the vertices have the fields {', '.join(fields)}; expected x, y and z"
        )
    xyz = _columns(path, vertices.data, ("x", "y", "z")).astype(np.float64)
    if not (np.abs(xyz) <= LARGEST_POSITION).all():  # NaN fails too
        raise InputError(
            f"{path}: holds positions that are not numbers of at most {LARGEST_POSITION:g}"
        )
    rgb = np.full(xyz.shape, GREY, np.uint8)
    if all(name in fields for name in ("red", "green", "blue")):
        colours = _columns(path, vertices.data, ("red", "green", "blue"))
        if not ((colours >= 0) & (colours <= 255)).all():
            raise InputError(f"{path}: holds colours outside 0 to 255")
        rgb = colours.astype(np.uint8)
    return torch.from_numpy(xyz).to(torch.float32), torch.from_numpy(rgb)


def _columns(path: Path, data: np.ndarray, names: tuple[str, str, str]) -> np.ndarray:
    columns = [data[name] for name in names]
    if any(column.dtype == object for column in columns):
        raise InputError(f"{path}: {', '.join(names)} are lists; expected numbers")
    return np.stack(columns, axis=1)
