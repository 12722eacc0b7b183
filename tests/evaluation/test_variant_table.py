"""Variants out of metrics.json and into a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from artifixer.evaluation.evaluate import HeldoutView, VariantQuality, evaluate, metrics_content
from artifixer.evaluation.variant_table import read_variants, variant_lines
from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import write_json


def quality(error: int) -> VariantQuality:
    truth = np.full((12, 10, 3), 100, np.uint8)
    return evaluate(
        [HeldoutView("a.jpg", truth, truth + np.uint8(error), np.full((12, 10), 255, np.uint8))]
    )


def test_variants_come_back_as_they_were_written(tmp_path: Path) -> None:
    variants = {"artifixer3d": quality(3), "3dgut": quality(20)}
    write_json(tmp_path / "metrics.json", metrics_content(variants, ["b.jpg"], ["a.jpg"]))
    found = read_variants(tmp_path / "metrics.json")
    assert list(found) == ["3dgut", "artifixer3d"]
    assert found == {name: variants[name] for name in found}


def test_the_table_has_a_line_per_variant_and_no_empty_column() -> None:
    heading, first, second = variant_lines({"artifixer3d": quality(3), "3dgut": quality(20)})
    assert heading.split() == ["PSNR", "pooled", "opaque", "SSIM", "gain"], (
        "nothing is empty, and no perceptual network is there"
    )
    assert first.startswith("3DGUT render") and "22.11" in first
    assert second.startswith("ArtiFixer 3D ") and "38.59" in second and second.endswith("+16.48")


def test_gains_are_over_the_better_render() -> None:
    lines = variant_lines({"3dgut": quality(20), "input": quality(10), "artifixer": quality(3)})
    assert [line.split()[-1] for line in lines[3:]] == ["+10.46"]
    assert len({len(line.split()) for line in (lines[1][19:], lines[2][19:])}) == 1, (
        "renders have no gain"
    )


def test_a_table_of_nothing_says_so() -> None:
    (line,) = variant_lines({"3dgut": evaluate([])})
    assert "no photos to compare" in line


def test_another_file_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"heldout": {}})
    with pytest.raises(InputError, match="not a metrics file of a run"):
        read_variants(tmp_path / "metrics.json")
