"""``.splat``, the format of early web viewers: records of 32 bytes without a header (read only).

Position and standard deviations as float32, colour and opacity as 8-bit RGBA, the rotation wxyz as
(byte - 128) / 128. No harmonics above degree 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import check_regular
from artifixer.splats.packing import LARGEST_FILE, opacity_logits
from artifixer.splats.splats import SH_BASE, Splats

RECORD = np.dtype(
    [("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)]
)


def read_splat_records(path: Path) -> Splats:
    """The Gaussians of a ``.splat`` file. Raises ``InputError`` when its size is no multiple of 32
    bytes.
    """
    size = check_regular(path, "a splat file")
    if size > LARGEST_FILE:
        raise InputError(
            f"{path}: {size:,} bytes, expected a .splat file of at most {LARGEST_FILE:,}"
        )
    if size == 0 or size % RECORD.itemsize:
        raise InputError(
            f"{path}: has {size} bytes, expected a multiple of {RECORD.itemsize} in a .splat file"
        )
    records = np.fromfile(path, RECORD)
    # what has no logarithm counts as damaged, see files.py
    with np.errstate(divide="ignore", invalid="ignore"):
        log_scales = np.log(records["scale"])
    return Splats(
        means=torch.from_numpy(records["position"].copy()),
        quats=torch.from_numpy((records["rotation"].astype(np.float32) - 128) / 128),
        log_scales=torch.from_numpy(log_scales),
        opacity_logits=opacity_logits(records["rgba"][:, 3] / 255),
        sh=torch.from_numpy((records["rgba"][:, :3].astype(np.float32) / 255 - 0.5) / SH_BASE)[
            :, None
        ],
    )
