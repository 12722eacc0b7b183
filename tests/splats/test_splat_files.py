"""Splat files of other tools: the same Gaussians as independent programs read, there and back, and
one-line refusals.

Two independent programs are asked: ``gsply`` (a Python package), and ``splat-transform`` (npm
package @playcanvas/splat-transform), where it is on the PATH or named by ARTIFIXER_SPLAT_TRANSFORM.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from artifixer.cli import main
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.imaging.metrics import psnr
from artifixer.runtime.errors import InputError
from artifixer.splats.files import (
    EXPORTS,
    export_splats,
    parse_exports,
    read_splat_file,
    write_splat_file,
)
from artifixer.splats.packing import half_turned, largest_component
from artifixer.splats.ply import read_splats, write_splats
from artifixer.splats.render import render
from artifixer.splats.splats import SH_BASE, Splats

SPLAT_TRANSFORM = os.environ.get("ARTIFIXER_SPLAT_TRANSFORM") or shutil.which("splat-transform")
needs_splat_transform = pytest.mark.skipif(
    SPLAT_TRANSFORM is None, reason="splat-transform is not installed"
)

#: Largest differences of a file's values: half a step of each format (SPZ: 8 bits per value, SOG:
#: see its module), rounding on top. Of SOG's codebooks only measured bounds can be stated: 256
#: values for everything that the test draws.
PRECISION = {
    "ply": {
        "means": 0.0,
        "log_scales": 0.0,
        "opacities": 0.0,
        "base": 0.0,
        "higher": 0.0,
        "angle": 0.0,
    },
    "spz": {
        "means": 2e-6,
        "log_scales": 1 / 31,
        "opacities": 1 / 509,
        "base": 1 / 76,
        "higher": 1 / 250,
        "angle": 7e-3,
    },
    "sog": {
        "means": 1e-3,
        "log_scales": 0.05,
        "opacities": 1 / 509,
        "base": 0.02,
        "higher": 0.02,
        "angle": 2e-2,
    },
}

#: Two programs that read the same bytes differ by float32 rounding; opacities near 0 and 1 are
#: compared as opacities.
SAME = {
    "means": 2e-6,
    "log_scales": 2e-6,
    "opacities": 2e-6,
    "base": 2e-6,
    "higher": 2e-6,
    "angle": 2e-6,
}


def drawn_splats(count: int = 150, degree: int = 3) -> Splats:
    """Gaussians far enough apart to be told by their positions; harmonics within SPZ's range."""
    draw = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    sh = torch.cat(
        [
            normal(count, 1, 3).clamp(-3, 3),
            (0.3 * normal(count, (degree + 1) ** 2 - 1, 3)).clamp(-0.98, 0.98),
        ],
        dim=1,
    )
    return Splats(
        2 * normal(count, 3), normal(count, 4), -3 + 0.7 * normal(count, 3), 2 * normal(count), sh
    )


def differences(found: Splats, wanted: Splats) -> dict[str, float]:
    """Largest differences of Gaussians that may come in another order; each one is found by its
    position.
    """
    assert len(found) == len(wanted)
    nearest = torch.cdist(wanted.means.double(), found.means.double()).argmin(dim=1)
    assert len(nearest.unique()) == len(wanted), "two Gaussians have the same nearest one"
    found = found.map(lambda tensor: tensor[nearest])
    largest = {
        name: float((getattr(found, name) - getattr(wanted, name)).abs().max())
        for name in ("means", "log_scales", "opacities")
    }
    a, b = (torch.nn.functional.normalize(each.quats.double(), dim=1) for each in (found, wanted))
    angles = 4 * torch.asin(
        torch.minimum((a - b).norm(dim=1), (a + b).norm(dim=1)).clamp(max=2) / 2
    )
    largest |= {
        "base": float((found.sh[:, 0] - wanted.sh[:, 0]).abs().max()),
        "angle": float(angles.max()),
    }
    higher = (found.sh[:, 1:] - wanted.sh[:, 1:]).abs()
    return {**largest, "higher": float(higher.max()) if higher.numel() else 0.0}


def assert_within(found: Splats, wanted: Splats, limits: dict[str, float]) -> None:
    largest = differences(found, wanted)
    assert {name: value for name, value in largest.items() if value > limits[name]} == {}, largest


def splat_transform(source: Path, target: Path, *options: str) -> Path:
    assert SPLAT_TRANSFORM is not None
    subprocess.run(
        [SPLAT_TRANSFORM, "-q", "-w", *options, str(source), str(target)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return target


# The same Gaussians -------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("name", PRECISION)
def test_there_and_back(tmp_path: Path, name: str, degree: int) -> None:
    splats = drawn_splats(degree=degree)
    write_splat_file(tmp_path / f"a.{name}", splats)
    found = read_splat_file(tmp_path / f"a.{name}")
    assert (found.format, found.notes) == (name, ())
    assert_within(found.splats, splats, PRECISION[name])


@needs_splat_transform
@pytest.mark.parametrize("name", ["spz", "sog"])
def test_splat_transform_reads_what_is_written(tmp_path: Path, name: str) -> None:
    write_splat_file(tmp_path / f"a.{name}", drawn_splats())
    theirs = read_splat_file(
        splat_transform(tmp_path / f"a.{name}", tmp_path / "theirs.ply")
    ).splats
    assert_within(theirs, read_splat_file(tmp_path / f"a.{name}").splats, SAME)


@needs_splat_transform
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.compressed.ply", ()),
        ("a.spz", ("--spz-version", "3")),
        ("a.spz", ("--spz-version", "4")),
        ("a.sog", ("-g", "cpu")),
    ],
)
def test_what_splat_transform_writes_is_read_as_it_reads_it(
    tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    write_splats(tmp_path / "ours.ply", drawn_splats())
    file = splat_transform(tmp_path / "ours.ply", tmp_path / name, *options)
    theirs = read_splat_file(splat_transform(file, tmp_path / "theirs.ply")).splats
    assert_within(read_splat_file(file).splats, theirs, SAME)


@needs_splat_transform
def test_splat_records_are_read_as_splat_transform_reads_them(tmp_path: Path) -> None:
    (tmp_path / "a.splat").write_bytes(splat_records(drawn_splats(degree=0)))
    theirs = read_splat_file(splat_transform(tmp_path / "a.splat", tmp_path / "theirs.ply")).splats
    assert theirs.sh_degree == 0
    # It takes rotations from byte / 127.5 - 1, half a step beside what the first writers of the
    # format stored.
    assert_within(read_splat_file(tmp_path / "a.splat").splats, theirs, SAME | {"angle": 0.02})


def test_gsply_reads_the_spz_that_is_written_in_its_axes(tmp_path: Path) -> None:
    gsply = pytest.importorskip("gsply")
    write_splat_file(tmp_path / "a.spz", drawn_splats())
    # gsply leaves the file's axes: right, up, back
    theirs = half_turned(of_gsply(gsply.read_spz(tmp_path / "a.spz")))
    assert_within(theirs, read_splat_file(tmp_path / "a.spz").splats, SAME)


@pytest.mark.parametrize("version", [3, 4])
def test_the_spz_of_gsply_is_read(tmp_path: Path, version: int) -> None:
    gsply = pytest.importorskip("gsply")
    write_splats(tmp_path / "a.ply", half_turned(drawn_splats()))
    gsply.write_spz(tmp_path / "a.spz", gsply.plyread(tmp_path / "a.ply"), version=version)
    # 12 bits
    assert_within(
        read_splat_file(tmp_path / "a.spz").splats,
        drawn_splats(),
        PRECISION["spz"] | {"means": 2e-4},
    )


def test_spz_of_the_first_versions(tmp_path: Path) -> None:
    """Version 1 has positions as float16, both have rotations as x, y, z in 8 bits: made by hand
    from the description.
    """
    wxyz = np.array([0.5, 0.1, -0.7, 0.5]) / np.linalg.norm([0.5, 0.1, -0.7, 0.5])
    rest = bytes(
        [128, 255, 0, 127, 160, 160, 144, *np.round((wxyz[1:] + 1) * 127.5).astype(np.uint8)]
    )
    for version, position in (
        (1, np.array([1.5, 2, -3], "<f2").tobytes()),
        (2, bytes([0, 6, 0, 0, 8, 0, 0, 244, 255])),
    ):
        header = struct.pack("<4sIIBBBB", b"NGSP", version, 1, 0, 10, 0, 0)
        packer = zlib.compressobj(wbits=31)
        (tmp_path / "a.spz").write_bytes(packer.compress(header + position + rest) + packer.flush())
        splats = read_splat_file(tmp_path / "a.spz").splats
        assert splats.means.tolist() == [[1.5, -2.0, 3.0]]
        assert splats.opacities.item() == pytest.approx(128 / 255, abs=1e-6)
        torch.testing.assert_close(splats.sh[0, 0], torch.tensor([0.5, -0.5, -0.5 / 255]) / 0.15)
        assert splats.log_scales.tolist() == [[0.0, 0.0, -1.0]]
        np.testing.assert_allclose(splats.unit_quats[0], wxyz * [1, 1, -1, -1], atol=0.01)


def test_splat_records(tmp_path: Path) -> None:
    splats = drawn_splats(degree=0)
    (tmp_path / "a.splat").write_bytes(splat_records(splats))
    found = read_splat_file(tmp_path / "a.splat").splats
    visible = ((splats.sh[:, 0] * SH_BASE + 0.5).clamp(0, 1) - 0.5) / SH_BASE
    limits = {
        "means": 0.0,
        "log_scales": 1e-5,
        "opacities": 1 / 509,
        "base": 0.5 / 255 / SH_BASE + 1e-5,
        "higher": 0.0,
        "angle": 0.02,
    }
    assert_within(found, replace(splats, sh=visible[:, None]), limits)


def test_usdz_holds_the_same_gaussians(tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom, UsdVol

    splats = drawn_splats()
    write_splat_file(tmp_path / "a.usdz", splats)
    stage = Usd.Stage.Open(str(tmp_path / "a.usdz"))
    prim = stage.GetDefaultPrim().GetChildren()[0]
    field = UsdVol.ParticleField3DGaussianSplat(prim)
    np.testing.assert_array_equal(np.array(field.GetPositionsAttr().Get()), splats.means)
    np.testing.assert_allclose(np.array(field.GetScalesAttr().Get()), splats.scales, rtol=1e-6)
    np.testing.assert_allclose(
        np.array(field.GetOpacitiesAttr().Get()), splats.opacities, rtol=1e-6
    )
    wxyz = [(quat.real, *quat.imaginary) for quat in field.GetOrientationsAttr().Get()]
    np.testing.assert_allclose(wxyz, splats.unit_quats, atol=1e-6)
    assert field.GetRadianceSphericalHarmonicsDegreeAttr().Get() == 3
    np.testing.assert_array_equal(
        np.array(field.GetRadianceSphericalHarmonicsCoefficientsAttr().Get()).reshape(-1, 16, 3),
        splats.sh,
    )
    # In the stage's world, y up, the capture's -y is up.
    placed = (
        UsdGeom.Imageable(prim)
        .ComputeLocalToWorldTransform(Usd.TimeCode.Default())
        .Transform((1.0, 2.0, 3.0))
    )
    np.testing.assert_allclose(placed, (1, -2, -3), atol=1e-9)
    low, high = np.array(field.GetExtentAttr().Get())
    assert (low <= splats.means.numpy()).all() and (splats.means.numpy() <= high).all()
    with zipfile.ZipFile(tmp_path / "a.usdz") as archive:
        (entry,) = archive.infolist()
        assert entry.compress_type == zipfile.ZIP_STORED
        data = (tmp_path / "a.usdz").read_bytes()
        assert data.index(b"PXR-USDC") % 64 == 0


# Pictures -----------------------------------------------------------------------------------------


def test_a_scene_looks_the_same_after_every_format_and_not_when_turned(tmp_path: Path) -> None:
    """The pictures tell what tolerances cannot: axes, the order of harmonics, quaternions."""
    splats = scene()
    camera = view(torch.tensor([0.9, -1.2, -4.0]))
    photo = render(splats, camera).rgb[0]
    for name, least in (("ply", 90.0), ("spz", 38.0), ("sog", 38.0)):
        write_splat_file(tmp_path / f"a.{name}", splats)
        found = read_splat_file(tmp_path / f"a.{name}").splats
        assert psnr(render(found, camera).rgb[0], photo) > least, name
        assert psnr(render(half_turned(found), camera).rgb[0], photo) < 25, name


def test_a_half_turn_of_splats_and_camera_changes_nothing() -> None:
    splats, camera = scene(), view(torch.tensor([0.4, -0.9, -4.0]))
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    turned = replace(camera, viewmats=camera.viewmats @ turn)
    for before, after in zip(
        vars(render(splats, camera)).values(),
        vars(render(half_turned(splats), turned)).values(),
        strict=True,
    ):
        torch.testing.assert_close(after, before, atol=2e-5, rtol=1e-4, equal_nan=True)


def test_the_same_splats_give_the_same_bytes(tmp_path: Path) -> None:
    names = EXPORTS if find("pxr") else tuple(name for name in EXPORTS if name != "usdz")
    for folder in ("one", "two"):
        export_splats(tmp_path / folder, "a", scene(), names)
    for name in names:
        assert (tmp_path / "one" / f"a.{name}").read_bytes() == (
            tmp_path / "two" / f"a.{name}"
        ).read_bytes(), name


def test_many_gaussians_share_a_palette_of_harmonics(tmp_path: Path) -> None:
    """More Gaussians than the smallest palette, in 40 kinds: each finds its own kind again."""
    splats = drawn_splats(3000)
    kinds = splats.sh[:40, 1:][torch.arange(3000) % 40]
    splats = replace(splats, sh=torch.cat([splats.sh[:, :1], kinds], dim=1))
    write_splat_file(tmp_path / "a.sog", splats)
    found = read_splat_file(tmp_path / "a.sog").splats
    nearest = torch.cdist(splats.means, found.means).argmin(dim=1)
    error = (found.sh[nearest, 1:] - splats.sh[:, 1:]).square().mean(dim=(1, 2)).sqrt()
    assert error.quantile(0.95) < 0.02


def test_far_gaussians_keep_their_places_in_spz(tmp_path: Path) -> None:
    splats = drawn_splats()
    splats.means[3, 0] = 300_000.0
    write_splat_file(tmp_path / "a.spz", splats)
    # 24 bits for 600,000 units
    assert differences(read_splat_file(tmp_path / "a.spz").splats, splats)["means"] <= 0.05
    splats.means[3, 0] = 5e6
    with pytest.raises(
        InputError,
        match=r"a\.spz: a Gaussian lies 5e\+06 units from the origin; "
        "SPZ holds positions up to 4194304",
    ):
        write_splat_file(tmp_path / "a.spz", splats)


def test_a_scene_too_small_for_spz_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In units of kilometres: Gaussians grew to the smallest size of the format in silence."""
    splats = drawn_splats()
    for factor, said in ((1.0, ""), (1e-4, "150 have sizes outside 4.5e-05 to 379 units")):
        small = replace(splats, log_scales=splats.log_scales + math.log(factor))
        write_splats(tmp_path / "a.ply", small)
        target = str(tmp_path / "a.spz")
        assert main(["convert", str(tmp_path / "a.ply"), target, "--overwrite"]) == 0
        noted = capsys.readouterr().err
        assert said in noted and bool(noted) == bool(said)


def test_one_gaussian_and_equal_ones(tmp_path: Path) -> None:
    for count in (1, 5):
        splats = drawn_splats(1).map(
            lambda tensor, count=count: tensor.expand(count, *tensor.shape[1:]).clone()
        )
        for name in ("spz", "sog"):
            write_splat_file(tmp_path / f"a.{name}", splats)
            found = read_splat_file(tmp_path / f"a.{name}").splats
            assert len(found) == count
            torch.testing.assert_close(found.means, splats.means, atol=1e-3, rtol=0)


# Damaged and hostile files ------------------------------------------------------------------------


def test_gaussians_with_nan_are_left_out_and_named(tmp_path: Path) -> None:
    splats = drawn_splats()
    splats.means[4, 1] = float("nan")
    splats.log_scales[9, 0] = float("inf")
    splats.sh[9, 7, 2] = float("nan")
    write_splats(tmp_path / "a.ply", splats)
    found = read_splat_file(tmp_path / "a.ply")
    assert len(found.splats) == 148
    assert found.notes == (
        "a.ply: 2 of 150 Gaussians have non-finite means, log_scales, sh and are left out (first: "
        "4)",
    )
    splats.means[:] = float("nan")
    write_splats(tmp_path / "a.ply", splats)
    with pytest.raises(InputError, match=r"a\.ply: none of its 150 Gaussians has finite values"):
        read_splat_file(tmp_path / "a.ply")


def test_opaque_and_flat_gaussians_are_kept(tmp_path: Path) -> None:
    splats = drawn_splats()
    splats.opacity_logits[:2] = torch.tensor([float("inf"), float("-inf")])
    splats.log_scales[5, 2] = float("-inf")
    write_splats(tmp_path / "a.ply", splats)
    found = read_splat_file(tmp_path / "a.ply")
    assert len(found.splats) == 150 and found.notes == ()
    assert found.splats.opacities[:2].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert torch.isfinite(render(found.splats, view(torch.tensor([0.0, 0.0, -9.0]))).rgb).all()


def test_content_counts_more_than_the_ending(tmp_path: Path) -> None:
    write_splat_file(tmp_path / "a.spz", drawn_splats())
    (tmp_path / "a.spz").rename(tmp_path / "a.ply")
    assert read_splat_file(tmp_path / "a.ply").format == "spz"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.ksplat",
            b"\0" * 5000,
            ".ksplat files are not read; convert it to .ply with splat-transform",
        ),
        ("a.usdz", b"PK\x03\x04", ".usdz files are not read"),
        ("a.splat", b"\0" * 33, "has 33 bytes, expected a multiple of 32"),
        ("a.splat", b"", "has 0 bytes"),
        (
            "a.txt",
            b"hello",
            "not a splat file of a known format, expected .compressed.ply, .ply, .spz, .sog, "
            ".splat",
        ),
        ("a.spz", b"\x1f\x8b" + b"\0" * 200, "expected an SPZ file"),
        ("a.spz", b"NGSP" + b"\0" * 8, "expected an SPZ file"),
        ("a.sog", b"PK\x03\x04" + b"\0" * 200, "expected a SOG file"),
        (
            "a.ply",
            b"ply\nelement vertex 1\nproperty uint packed_position\n",
            "no end of the header",
        ),
    ],
)
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, words)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    refused(tmp_path / "absent.ply", "no such file")
    refused(tmp_path, "it is a folder, expected a splat file")


def test_counts_that_the_file_cannot_hold_take_no_memory(tmp_path: Path) -> None:
    """A few bytes claim millions of Gaussians; zeros compress to nothing, so a bomb is that as
    well.
    """
    write_splat_file(tmp_path / "good.sog", drawn_splats())
    with zipfile.ZipFile(tmp_path / "good.sog") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    meta = json.loads(members["meta.json"])
    huge = {
        "a.sog": zipped({**members, "meta.json": json.dumps({**meta, "count": 10**8}).encode()})
    }
    huge["picture.sog"] = zipped({**members, "quats.webp": black_webp(8192)})
    huge["labels.sog"] = zipped(
        {
            **members,
            "meta.json": json.dumps({**meta, "shN": {**meta["shN"], "count": 65_536}}).encode(),
        }
    )
    packer = zlib.compressobj(9, wbits=31)
    header = struct.pack("<4sIIBBBB", b"NGSP", 3, 4_000_000, 3, 12, 0, 0)
    huge["bomb.spz"] = packer.compress(header + bytes(65 * 4_000_000)) + packer.flush()
    huge["claim.spz"] = zlib.compress(b"", wbits=31) + b""
    huge["toc.spz"] = struct.pack("<4sIIBBBBI12x", b"NGSP", 4, 100, 0, 12, 0, 200, 2**31) + bytes(
        100
    )
    header_text = (
        "ply\nformat binary_little_endian 1.0\nelement chunk 999999999999\n"
        "property float min_x\nelement vertex 5\n"
    )
    huge["claim.ply"] = f"{header_text}property uint packed_position\nend_header\n".encode()
    for name, content in huge.items():
        (tmp_path / name).write_bytes(content)
        tracemalloc.start()
        refused(tmp_path / name, name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * len(content) + 16e6, (
            f"{name}: {peak / 1e6:.0f} MB for {len(content):,} bytes"
        )


@pytest.mark.parametrize("name", ["a.spz", "v4.spz", "a.sog", "a.compressed.ply", "a.splat"])
def test_mutated_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    splats = drawn_splats(40, degree=1)
    good = made_file(tmp_path, name, splats)
    draw = random.Random(11)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(150):
        content = bytearray(good)
        for _ in range(draw.choice((1, 3))):
            position = draw.choice(
                (draw.randrange(len(content)), draw.randrange(min(len(content), 64)))
            )
            content[position] = draw.choice((0, 255, 127, draw.randrange(256)))
        (tmp_path / name).write_bytes(
            content[: draw.choice((len(content), len(content), draw.randrange(len(content))))]
        )
        try:
            found = read_splat_file(tmp_path / name)
        except InputError as error:
            outcomes["refused"] += name in str(error) and "\n" not in str(error)
        else:
            outcomes["read"] += bool(torch.isfinite(found.splats.means).all())
    assert sum(outcomes.values()) == 150, outcomes
    assert outcomes["refused"] > 10, outcomes


# Exports ------------------------------------------------------------------------------------------


def test_exports_by_name() -> None:
    assert parse_exports("spz, ply") == ("ply", "spz")
    for text in ("", "ply,obj", "splat"):
        with pytest.raises(InputError, match="--export"):
            parse_exports(text)


def test_what_needs_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_4 = made_file(tmp_path, "v4.spz", drawn_splats(40, degree=1))
    (tmp_path / "a.spz").write_bytes(version_4)
    for library in ("pxr", "zstandard"):
        monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install 'artifixer\[formats\]'"):
        parse_exports("usdz")
    refused(tmp_path / "a.spz", "artifixer[formats]")


# Helpers ------------------------------------------------------------------------------------------


def refused(path: Path, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_splat_file(path)
    assert words in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def find(library: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(library) is not None


def scene() -> Splats:
    """Flat discs of many colours, some opaque, with harmonics that differ from all sides."""
    splats = drawn_splats(600)
    return replace(
        splats,
        means=0.5 * splats.means,
        log_scales=splats.log_scales.clamp(-4, -1.5) + torch.tensor([0.5, 0.0, -1.5]),
        opacity_logits=splats.opacity_logits + 2,
    )


def view(eye: torch.Tensor) -> Cameras:
    viewmats = invert_rigid(look_at(eye[None], torch.zeros(1, 3), torch.tensor([0.0, -1.0, 0.0])))
    return Cameras.pinhole(
        viewmats, torch.tensor([[[90.0, 0, 40], [0, 90, 32], [0, 0, 1]]]), 80, 64
    )


def of_gsply(data: object) -> Splats:
    means, quats, scales, opacities, sh0, rest = (
        torch.from_numpy(np.array(getattr(data, name), np.float32))
        for name in ("means", "quats", "scales", "opacities", "sh0", "shN")
    )
    return Splats(means, quats, scales, opacities, torch.cat([sh0[:, None], rest], dim=1))


def splat_records(splats: Splats) -> bytes:
    """The Gaussians as the 32-byte records of ``.splat``."""
    colors = torch.cat([splats.sh[:, 0] * SH_BASE + 0.5, splats.opacities[:, None]], dim=1).clamp(
        0, 1
    )
    parts = [
        splats.means.numpy().view(np.uint8),
        splats.scales.numpy().view(np.uint8),
        (colors * 255).round().numpy().astype(np.uint8),
    ]
    parts.append((splats.unit_quats * 128 + 128).round().clamp(0, 255).numpy().astype(np.uint8))
    return np.concatenate(parts, axis=1).tobytes()


def made_file(folder: Path, name: str, splats: Splats) -> bytes:
    """A good file of any readable format, by the name of a case."""
    path = folder / f"made-{name}"
    makers: dict[str, Callable[[], object]] = {
        "a.splat": lambda: path.write_bytes(splat_records(splats)),
        "v4.spz": lambda: path.write_bytes(version_4(folder, splats)),
        "a.compressed.ply": lambda: path.write_bytes(compressed_ply(splats)),
    }
    makers.get(name, lambda: write_splat_file(path, splats))()
    return path.read_bytes()


def version_4(folder: Path, splats: Splats) -> bytes:
    """The sections of a version 3 file in the container of version 4."""
    zstandard = pytest.importorskip("zstandard")
    write_splat_file(folder / "v3.spz", splats)
    data = zlib.decompress((folder / "v3.spz").read_bytes(), wbits=31)
    _, _, count, degree, bits, _, _ = struct.unpack("<4sIIBBBB", data[:16])
    sections, start = [], 16
    for size in (9, 1, 3, 3, 4, 3 * ((degree + 1) ** 2 - 1)):
        sections.append(data[start : start + size * count])
        start += size * count
    packed = [zstandard.ZstdCompressor().compress(section) for section in sections]
    contents = b"".join(
        struct.pack("<QQ", len(small), len(large))
        for small, large in zip(packed, sections, strict=True)
    )
    header = struct.pack("<4sIIBBBBI12x", b"NGSP", 4, count, degree, bits, 0, len(sections), 32)
    return header + contents + b"".join(packed)


def compressed_ply(splats: Splats) -> bytes:
    """One chunk of at most 256 Gaussians, packed as the module describes."""
    count = len(splats)
    bounds, packed = [], []
    for values, bits in ((splats.means, (11, 10, 11)), (splats.log_scales, (11, 10, 11))):
        low, high = values.min(dim=0).values.numpy(), values.max(dim=0).values.numpy()
        steps = np.round((values.numpy() - low) / (high - low) * (2 ** np.array(bits) - 1)).astype(
            np.uint32
        )
        bounds += [low, high]
        packed.append(steps[:, 0] << 21 | steps[:, 1] << 11 | steps[:, 2])
    colors = (
        (
            torch.cat([splats.sh[:, 0] * SH_BASE + 0.5, splats.opacities[:, None]], dim=1).clamp(
                0, 1
            )
            * 255
        )
        .round()
        .numpy()
    )
    rgba = colors.astype(np.uint32)
    largest, others = largest_component(splats.quats.numpy().astype(np.float64))
    thirds = np.round((others / np.sqrt(2) + 0.5) * 1023).astype(np.uint32)
    rotation = (
        largest.astype(np.uint32) << 30 | thirds[:, 0] << 20 | thirds[:, 1] << 10 | thirds[:, 2]
    )
    words = np.stack(
        [
            packed[0],
            rotation,
            packed[1],
            rgba[:, 0] << 24 | rgba[:, 1] << 16 | rgba[:, 2] << 8 | rgba[:, 3],
        ],
        axis=1,
    )
    names = [
        f"{end}_{kind}{axis}" for kind in ("", "scale_") for end in ("min", "max") for axis in "xyz"
    ]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        "element chunk 1",
        *(f"property float {name}" for name in names),
    ]
    lines += [
        f"element vertex {count}",
        *(f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")),
    ]
    return (
        "\n".join([*lines, "end_header", ""]).encode()
        + np.concatenate(bounds).astype("<f4").tobytes()
        + words.astype("<u4").tobytes()
    )


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def black_webp(side: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "webp", lossless=True)
    return buffer.getvalue()


def test_compressed_ply_without_bounds_of_colours(tmp_path: Path) -> None:
    splats = drawn_splats(degree=0)
    (tmp_path / "a.compressed.ply").write_bytes(compressed_ply(splats))
    visible = ((splats.sh[:, 0] * SH_BASE + 0.5).clamp(0, 1) - 0.5) / SH_BASE
    limits = {
        "means": 0.01,
        "log_scales": 0.005,
        "opacities": 1 / 509,
        "base": 0.5 / 255 / SH_BASE + 1e-5,
        "higher": 0.0,
        "angle": 5e-3,
    }
    assert_within(
        read_splat_file(tmp_path / "a.compressed.ply").splats,
        replace(splats, sh=visible[:, None]),
        limits,
    )
    with pytest.raises(InputError, match="not a Gaussian-splat PLY"):
        read_splats(tmp_path / "a.compressed.ply")
