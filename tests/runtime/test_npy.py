"""Arrays on disk: there and back."""

from pathlib import Path

import numpy as np
import pytest

from artifixer.runtime.errors import InputError
from artifixer.runtime.npy import read_npy, write_npy


def test_npy_there_and_back(tmp_path: Path) -> None:
    depth = np.array([[1.5, np.nan]], dtype=np.float32)
    write_npy(tmp_path / "depth.npy", depth)
    assert np.array_equal(read_npy(tmp_path / "depth.npy"), depth, equal_nan=True)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing"):
        read_npy(tmp_path / "nothing")
