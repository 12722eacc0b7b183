"""JSON files: the same bytes for the same value, and errors that name the file."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given

from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import read_json, write_json
from tests.runtime.json_values import JSON_VALUES, Colour, Settings


def files_below(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


@given(JSON_VALUES)
def test_json_there_and_back(value: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "value.json", value)
        assert read_json(Path(folder) / "value.json") == value


def test_json_of_rich_values(tmp_path: Path) -> None:
    value = {
        "nan": float("nan"),
        "infinite": np.float32("inf"),
        "array": np.array([[1.5, np.nan]]),
        "tensor": torch.tensor([1, 2]),
        "path": Path("a/b"),
        "set": {3, 1, 2},
        "settings": Settings(),
        "enum": Colour.RED,
        "flag": np.bool_(True),
        "count": np.int64(7),
        4: "four",
    }
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == {
        "nan": None,
        "infinite": None,
        "array": [[1.5, None]],
        "tensor": [1, 2],
        "path": "a/b",
        "set": [1, 2, 3],
        "settings": {"iterations": 3, "rate": 0.5, "names": ["a", "b"]},
        "enum": "RED",
        "flag": True,
        "count": 7,
        "4": "four",
    }


def test_json_bytes_do_not_depend_on_insertion_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1, "y": [{"p": 1, "q": 2}] * 30})
    write_json(tmp_path / "b.json", {"y": [{"q": 2, "p": 1}] * 30, "x": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_json_of_undecodable_names(tmp_path: Path) -> None:
    name = os.fsdecode(b"photo-\xff.png")
    write_json(tmp_path / "names.json", [name])
    assert read_json(tmp_path / "names.json") == [name]


def test_json_refuses_other_types(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        write_json(tmp_path / "value.json", {"a": object()})
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,', "line 1, column"),
        (b"", "expected valid JSON"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 101 + b"]" * 101, "nested deeper than 100 levels"),
        (b'{"a": ' + b"9" * 5000 + b"}", "expected plain JSON"),
    ],
)
def test_broken_json_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "broken.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"broken\.json: .*{message}"):
        read_json(tmp_path / "broken.json")


def test_missing_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json: does not exist"):
        read_json(tmp_path / "nothing.json")
    with pytest.raises(InputError, match="cannot read"):
        read_json(tmp_path)
