"""Point clouds in PLY files of every kind."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from artifixer.runtime.errors import InputError
from artifixer.scenes.point_cloud import GREY, read_points


def write_ply(
    path: Path,
    fields: list[tuple[str, str]],
    rows: list[tuple[float, ...]],
    *,
    text: bool = False,
    byte_order: str = "=",
) -> Path:
    PlyData(
        [PlyElement.describe(np.array(rows, fields), "vertex")], text=text, byte_order=byte_order
    ).write(str(path))
    return path


XYZ = [("x", "f4"), ("y", "f4"), ("z", "f4")]
RGB = [("red", "u1"), ("green", "u1"), ("blue", "u1")]
ROWS = [(1, 2, 3, 10, 20, 30), (-4.5, 5, 6, 0, 255, 60)]


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("real", ["f4", "f8"])
def test_text_and_both_byte_orders(tmp_path: Path, text: bool, byte_order: str, real: str) -> None:
    fields = [("x", real), ("y", real), ("normal", "f4"), ("z", real), *RGB]
    path = write_ply(
        tmp_path / "a.ply",
        fields,
        [(x, y, 9, z, *rgb) for x, y, z, *rgb in ROWS],
        text=text,
        byte_order=byte_order,
    )
    cloud = read_points(path)
    xyz, rgb = cloud.xyz, cloud.rgb
    assert xyz.dtype == torch.float32 and xyz.tolist() == [[1, 2, 3], [-4.5, 5, 6]]
    assert rgb.dtype == torch.uint8 and rgb.tolist() == [[10, 20, 30], [0, 255, 60]]


def test_points_without_colours_are_grey(tmp_path: Path) -> None:
    cloud = read_points(write_ply(tmp_path / "a.ply", XYZ, [(1, 2, 3)]))
    assert cloud.rgb.tolist() == [[GREY] * 3]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("u1", (10, 20, 255), (10, 20, 255)),
        ("f4", (0.0, 0.5, 1.0), (0, 128, 255)),
        ("f8", (0.0, 0.5, 1.0), (0, 128, 255)),
        ("f4", (0.0, 127.6, 255.0), (0, 128, 255)),
        ("u2", (0, 32896, 65535), (0, 128, 255)),
        ("i4", (0, 32896, 65535), (0, 128, 255)),
        ("u2", (0, 128, 255), (0, 128, 255)),
        ("i4", (0, 128, 255), (0, 128, 255)),
    ],
)
@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("names", ["red green blue", "diffuse_red diffuse_green diffuse_blue"])
def test_colours_of_every_type_are_read_at_their_scale(
    tmp_path: Path,
    kind: str,
    values: tuple[float, ...],
    expected: tuple[int, ...],
    text: bool,
    names: str,
) -> None:
    """Float colours of ``ply_file_path`` came out black."""
    fields = [*XYZ, *((name, kind) for name in names.split())]
    path = write_ply(tmp_path / "a.ply", fields, [(1, 2, 3, *values)], text=text)
    assert tuple(read_points(path).rgb[0].tolist()) == expected


def test_splats_are_points_of_their_base_colours(tmp_path: Path) -> None:
    base = [(name, "f4") for name in ("f_dc_0", "f_dc_1", "f_dc_2")]
    path = write_ply(tmp_path / "a.ply", XYZ + base, [(1, 2, 3, 0.0, 1.0, -9.0)])
    constant = 0.5 / math.sqrt(math.pi)
    assert read_points(path).rgb[0].tolist() == [128, round(255 * (0.5 + constant)), 0]


def test_no_points(tmp_path: Path) -> None:
    cloud = read_points(write_ply(tmp_path / "a.ply", XYZ + RGB, []))
    assert cloud.xyz.shape == cloud.rgb.shape == (0, 3) and not cloud.notes


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(
    ("fields", "bad", "what"),
    [
        (XYZ + RGB, (math.nan, 2, 3, 1, 2, 3), "positions"),
        (XYZ + RGB, (1, -math.inf, 3, 1, 2, 3), "positions"),
        (XYZ + RGB, (1, 2, 1e13, 1, 2, 3), "positions"),
        ([*XYZ, *((n, "f4") for n, _ in RGB)], (1, 2, 3, math.nan, 0, 0), "positions or colours"),
    ],
)
def test_a_broken_point_is_left_out_and_counted(tmp_path, fields, bad, what, text):
    """One NaN point refused the whole capture."""
    path = write_ply(tmp_path / "a.ply", fields, [ROWS[0], bad, ROWS[1]], text=text)
    cloud = read_points(path)
    assert cloud.xyz.tolist() == [[1, 2, 3], [-4.5, 5, 6]]
    assert cloud.rgb.tolist() == [[10, 20, 30], [0, 255, 60]]
    (note,) = cloud.notes
    assert note.startswith(f"a.ply: 1 of 3 points are left out: their {what} are not numbers")


@pytest.mark.parametrize(
    ("fields", "rows", "message"),
    [
        (XYZ[:2], [(1, 2)], "have the fields x, y; expected x, y and z"),
        (XYZ, [(1, np.nan, 3)], "positions that are not numbers of at most"),
        (XYZ, [(1, 2, -np.inf)], "positions that are not numbers of at most"),
        (XYZ, [(1, 2, 1e13)], "positions that are not numbers of at most"),
        (
            [*XYZ, ("red", "i4"), ("green", "i4"), ("blue", "i4")],
            [(1, 2, 3, 65536, 0, 0)],
            "colours outside 0 to 255",
        ),
    ],
)
def test_unusable_points_are_refused(
    tmp_path: Path,
    fields: list[tuple[str, str]],
    rows: list[tuple[float, ...]],
    message: str,
) -> None:
    with pytest.raises(InputError, match=rf"a\.ply: .*{message}"):
        read_points(write_ply(tmp_path / "a.ply", fields, rows))


def test_lists_in_place_of_numbers_are_refused(tmp_path: Path) -> None:
    header = (
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar float x\n"
        "property float y\nproperty float z\nend_header\n"
    )
    (tmp_path / "a.ply").write_text(header + "2 1 2 3 4\n")
    with pytest.raises(InputError, match=r"a\.ply: x, y, z are lists; expected numbers"):
        read_points(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a readable PLY file"),
        (
            "ply\nformat ascii 1.0\nelement face 0\nproperty float x\nend_header\n",
            "has no element 'vertex'",
        ),
        (
            "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nend_header\n1\n",
            "not a readable PLY file",
        ),
        (
            "ply\nformat binary_little_endian 1.0\nelement vertex 99999999999999999\nproperty "
            "float x\nend_header\n1",
            "not a readable PLY file",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.ply").write_text(content)
    with pytest.raises(InputError, match=rf"a\.ply: {message}") as caught:
        read_points(tmp_path / "a.ply")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"absent\.ply: cannot be read \(No such file or directory\)"
    ):
        read_points(tmp_path / "absent.ply")
