"""Arrays of numbers as .npy files: written atomically, read without unpickling."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import (
    PARSER_ERRORS,
    check_regular,
    open_regular,
    reason,
    write_bytes,
)

#: Maximum number of values of an array in a .npy file.
MAX_VALUES = 1 << 29


def read_npy(path: str | Path) -> np.ndarray:
    """Read an array of numbers from a .npy file, without unpickling.

    Raises ``InputError``, before memory is allocated, if the file is missing, damaged, or of
    another size than its header states.
    """
    path = Path(path)
    with open_regular(path, "a NumPy array file") as file:
        return read_npy_stream(file, check_regular(path, "a NumPy array file"), str(path))


def read_npy_stream(file: io.BufferedIOBase, size: int, name: str) -> np.ndarray:
    """Read an array from an open file of ``size`` bytes. name: of the file in messages."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
        values = 1
        for side in shape:
            values *= side
        expected = file.tell() + values * dtype.itemsize
        if dtype.kind not in "biuf" or min(shape, default=1) < 0:
            raise InputError(
                f"{name}: an array of {str(dtype)[:40]} {str(shape)[:40]}, expected numbers"
            )
        if expected != size or values > MAX_VALUES:
            raise InputError(
                f"{name}: {size:,} bytes; its header states {str(shape)[:60]} {dtype}, which are "
                f"{expected:,}; it is damaged"
            )
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    except PARSER_ERRORS as error:
        raise InputError(
            f"{name}: cannot read: {reason(error)}, expected a NumPy array file"
        ) from error


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """Write an array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), allow_pickle=False)
    write_bytes(path, buffer.getbuffer())
