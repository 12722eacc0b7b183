"""PLY files: bit-exact round trips, the original field order, and one-line refusals."""

import time

import numpy as np
import pytest
import torch
from plyfile import PlyData

from artifixer.runtime.errors import InputError
from artifixer.scenes.point_cloud import read_points
from artifixer.splats.ply import read_splats, write_splats
from artifixer.splats.splats import SH_BASE, SH_COEFFICIENTS, Splats
from tests.splats.splat_scenes import random_splats


def drawn_splats(count: int, coefficients: int) -> Splats:
    return random_splats(count, coefficients, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("coefficients", SH_COEFFICIENTS)
def test_round_trip_is_bit_exact(tmp_path, coefficients):
    splats = drawn_splats(17, coefficients)
    write_splats(tmp_path / "a.ply", splats)
    for name, values in vars(read_splats(tmp_path / "a.ply")).items():
        assert torch.equal(values, getattr(splats, name)), name


def test_many_gaussians_are_read_at_once_and_not_value_by_value(tmp_path):
    splats = drawn_splats(60_000, 16)
    write_splats(tmp_path / "a.ply", splats)
    before = time.process_time()
    read = read_splats(tmp_path / "a.ply")
    assert time.process_time() - before < 1, "0.05 s; value by value 3 s"
    assert torch.equal(read.sh, splats.sh) and torch.equal(read.means, splats.means)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_file_without_its_last_bytes_says_how_many_are_there(tmp_path, missing):
    path = tmp_path / "a.ply"
    write_splats(path, drawn_splats(3, 1))
    content = path.read_bytes()
    rows = 3 * 68
    path.write_bytes(content[:-missing])
    with pytest.raises(InputError, match=rf"are promised, {rows - missing} bytes are there"):
        read_splats(path)


def test_fields_stand_in_the_original_order(tmp_path):
    splats = drawn_splats(5, 16)
    write_splats(tmp_path / "a.ply", splats)
    vertices = PlyData.read(str(tmp_path / "a.ply"))["vertex"].data
    expected = [
        "x",
        "y",
        "z",
        "nx",
        "ny",
        "nz",
        "f_dc_0",
        "f_dc_1",
        "f_dc_2",
        *(f"f_rest_{k}" for k in range(45)),
        "opacity",
    ]
    expected += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert list(vertices.dtype.names) == expected
    assert all(vertices.dtype[name] == np.dtype("<f4") for name in expected)
    # Coefficients above degree 0 are grouped by channel: the first 15 are red's.
    np.testing.assert_array_equal(vertices["f_rest_0"], splats.sh[:, 1, 0])
    np.testing.assert_array_equal(vertices["f_rest_14"], splats.sh[:, 15, 0])
    np.testing.assert_array_equal(vertices["f_rest_15"], splats.sh[:, 1, 1])


def test_text_files_with_fields_in_another_order_are_read(tmp_path):
    names = [
        "f_dc_2",
        "f_dc_1",
        "f_dc_0",
        "rot_0",
        "rot_1",
        "rot_2",
        "rot_3",
        "opacity",
        "scale_2",
        "scale_1",
        "scale_0",
        "z",
        "y",
        "x",
    ]
    header = [
        "ply",
        "format ascii 1.0",
        "element vertex 1",
        *(f"property double {name}" for name in names),
        "end_header",
    ]
    (tmp_path / "a.ply").write_text(
        "\n".join([*header, " ".join(str(k) for k in range(len(names)))]) + "\n"
    )
    splats = read_splats(tmp_path / "a.ply")
    assert splats.means.tolist() == [[13.0, 12.0, 11.0]]
    assert splats.sh[:, 0].tolist() == [[2.0, 1.0, 0.0]]
    assert splats.log_scales.tolist() == [[10.0, 9.0, 8.0]]
    assert splats.opacity_logits.tolist() == [7.0]


def test_points_of_a_splat_file_take_its_base_colours(tmp_path):
    splats = drawn_splats(9, 4)
    write_splats(tmp_path / "a.ply", splats)
    cloud = read_points(tmp_path / "a.ply")
    xyz, rgb = cloud.xyz, cloud.rgb
    assert torch.equal(xyz, splats.means)
    expected = ((splats.sh[:, 0] * SH_BASE + 0.5).clamp(0, 1) * 255).round()
    assert torch.equal(rgb.to(torch.float32), expected)


def test_bad_files_are_refused_in_one_line(tmp_path):
    good = tmp_path / "good.ply"
    write_splats(good, drawn_splats(4, 1))
    content = good.read_bytes()
    broken = drawn_splats(4, 1)
    broken.means[2, 1] = float("nan")
    write_splats(tmp_path / "nan.ply", broken)
    (tmp_path / "truncated.ply").write_bytes(content[:-10])
    (tmp_path / "text.ply").write_text("hello")
    (tmp_path / "huge.ply").write_bytes(content.replace(b"vertex 4", b"vertex 4000000000000000"))
    (tmp_path / "field.ply").write_bytes(content.replace(b"float opacity", b"float opaqueness"))
    for name, words in {
        "nan.ply": "number 2",
        "truncated.ply": "PLY",
        "text.ply": "PLY",
        "huge.ply": "PLY",
        "field.ply": "opacity",
        "absent.ply": "no such file",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            read_splats(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_no_gaussian_at_all_is_refused_with_the_likely_cause(tmp_path):
    with pytest.raises(InputError, match=r"no Gaussian survived.*poses"):
        write_splats(tmp_path / "a.ply", drawn_splats(0, 4))
    assert not (tmp_path / "a.ply").exists()
