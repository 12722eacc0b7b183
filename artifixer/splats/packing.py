"""Shared parts of the compressed splat formats: smallest-three quaternions, 8-bit opacities, signs
of harmonics under a half turn, and limits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.splats.splats import SH_COEFFICIENTS, Splats

#: Opacities this near to 0 and 1 have no finite logit in float32 worth keeping; 8 bits reach both
#: ends.
OPACITY_MARGIN = 1e-6

#: Bytes of a compressed file, which is read as a whole.
LARGEST_FILE = 1024**3

#: A file may claim Gaussians of this many times its own size in memory, and of the size below in
#: any case: far more than real files compress by, and far less than a few bytes of zeros can unpack
#: to.
LARGEST_EXPANSION = 100
ALWAYS_ALLOWED_BYTES = 64 * 1024**2

#: Signs of the spherical harmonics of degree 1 to 3 under a half turn about x, (x, y, z) -> (x, -y,
#: -z).
HALF_TURN_SIGNS = (-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1)


def check_count(path: Path, count: int, degree: int = 3) -> None:
    """Raise ``InputError`` for a number of Gaussians that a file of this size cannot hold, before
    memory is allocated for them.
    """
    if count < 1:
        raise InputError(f"{path}: holds {counted(count, 'Gaussian')}, expected at least one")
    size = path.stat().st_size
    needed = 4 * count * (11 + 3 * SH_COEFFICIENTS[degree])
    if needed > max(ALWAYS_ALLOWED_BYTES, LARGEST_EXPANSION * size):
        raise InputError(
            f"{path}: claims {counted(count, 'Gaussian')} in {size:,} bytes, expected fewer in a "
            "file of this size"
        )


def check_degree(path: Path, degree: int) -> None:
    """Raises ``InputError`` for spherical harmonics that ``Splats`` does not hold."""
    if not 0 <= degree < len(SH_COEFFICIENTS):
        raise InputError(
            f"{path}: spherical harmonics of degree {degree}, expected 0 to "
            f"{len(SH_COEFFICIENTS) - 1}"
        )


def opacity_logits(opacities: np.ndarray) -> Float[Tensor, " count"]:
    """Opacities in [0,1], both ends allowed -> finite logits."""
    clipped = np.clip(np.asarray(opacities, np.float64), OPACITY_MARGIN, 1 - OPACITY_MARGIN)
    return torch.from_numpy(np.log(clipped / (1 - clipped)).astype(np.float32))


def largest_component(
    quats: Float[np.ndarray, "count 4"],
) -> tuple[Int[np.ndarray, " count"], Float[np.ndarray, "count 3"]]:
    """Unit quaternions as the index of the component of largest magnitude and the other three in
    their order.

    The sign is chosen so that the component left out is positive. A quaternion without length
    becomes the identity.
    """
    length = np.linalg.norm(quats, axis=1, keepdims=True)
    unit = np.where(length > 0, quats / np.where(length > 0, length, 1), np.array([1.0, 0, 0, 0]))
    largest = np.abs(unit).argmax(axis=1)
    sign = np.where(np.take_along_axis(unit, largest[:, None], axis=1) < 0, -1.0, 1.0)
    return largest, np.take_along_axis(unit * sign, _OTHERS[largest], axis=1)


def from_largest_component(
    largest: Int[np.ndarray, " count"], others: Float[np.ndarray, "count 3"]
) -> Float[np.ndarray, "count 4"]:
    """Inverse of ``largest_component``."""
    quats = np.empty((len(others), 4), np.float32)
    np.put_along_axis(quats, _OTHERS[largest], others.astype(np.float32), axis=1)
    rest = np.sqrt(np.maximum(0.0, 1.0 - np.square(others).sum(axis=1)))
    np.put_along_axis(quats, largest[:, None], rest[:, None].astype(np.float32), axis=1)
    return quats


def half_turned(splats: Splats) -> Splats:
    """The splats after a half turn about x: from axes right, down, front to right, up, back, or the
    other way round.
    """
    signs = torch.tensor([1, *HALF_TURN_SIGNS][: splats.sh.shape[1]], dtype=splats.sh.dtype)
    return Splats(
        means=splats.means * torch.tensor([1.0, -1.0, -1.0]),
        quats=splats.quats * torch.tensor([1.0, 1.0, -1.0, -1.0]),
        log_scales=splats.log_scales,
        opacity_logits=splats.opacity_logits,
        sh=splats.sh * signs[:, None],
    )


#: Row k: the components of a quaternion other than k.
_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
