"""Content hashes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import write_bytes
from artifixer.runtime.fingerprint import fingerprint
from tests.runtime.json_values import JSON_VALUES, Colour, Settings


@given(JSON_VALUES, JSON_VALUES)
def test_fingerprints_are_equal_exactly_for_equal_values(a: object, b: object) -> None:
    assert fingerprint(a) == fingerprint(json.loads(json.dumps(a)))
    if json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True):
        assert fingerprint(a) != fingerprint(b)
        assert fingerprint(a, b) != fingerprint(b, a)


def test_fingerprints_tell_similar_values_apart(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"text")
    values = [
        1, 1.0, "1", True, None, "None", b"1", [1], (1, 2), [[1], 2], [1, [2]], {"a": 1},
        {"a": [1]}, {1}, "text", tmp_path / "file",
        np.zeros(3), np.zeros((3, 1)), np.zeros(3, np.float32), torch.zeros(4),
        torch.zeros(4, dtype=torch.bfloat16), torch.zeros(2, 2), torch.zeros(0, 3),
        Settings(), Settings(iterations=4), Colour.RED,
    ]  # fmt: skip
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint("ab", "c") != fingerprint("a", "bc")


def test_fingerprints_see_content_only(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"same")
    write_bytes(tmp_path / "b", b"same")
    write_bytes(tmp_path / "c", b"other")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")
    assert fingerprint({"x": 1, "y": 2}) == fingerprint({"y": 2, "x": 1})
    assert fingerprint({3, 1}) == fingerprint({1, 3})
    assert fingerprint(torch.arange(6).reshape(2, 3).T) == fingerprint(
        torch.arange(6).reshape(2, 3).T.contiguous()
    )
    with pytest.raises(InputError, match="missing"):
        fingerprint(tmp_path / "missing")


def test_fingerprint_is_the_same_in_every_process() -> None:
    program = (
        "from artifixer.runtime.fingerprint import fingerprint; "
        "print(fingerprint({'b', 'a', 'c'}, {'k': 1.5}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert other.stdout.strip() == fingerprint({"a", "b", "c"}, {"k": 1.5})
