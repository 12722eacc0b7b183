"""Clips for the measure: which views are taken, their exact depth, and the whole way from a
procedural capture to figures and kept frames."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from artifixer.evaluation.invention import empty_warps, warp_errors
from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import read_json


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("held_out_clips"), importlib.import_module("invention")


def test_the_window_is_the_one_that_is_empty_as_wanted(benchmarks):
    clips, _ = benchmarks
    empty = torch.tensor([0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert clips.chosen_window(empty, 3, 0.4) == range(2, 5)
    assert clips.chosen_window(empty, 3, 0.0) == range(3)
    assert clips.chosen_window(empty, 30, 0.4) == range(7)


def test_depth_is_taken_from_the_pixel_under_the_centre(benchmarks):
    clips, _ = benchmarks
    depth = np.array([[0, 1000, 2000, 3000]] * 4, np.uint16)
    found = clips.resized_depth(depth, 1e-3, 2, 2)
    assert found.tolist() == [pytest.approx([1.0, 3.0])] * 2
    assert clips.resized_depth(depth, 1e-3, 4, 4)[0, 0] == np.inf


def test_depth_files_are_those_that_the_capture_lists(benchmarks, tmp_path):
    clips, _ = benchmarks
    assert clips.depth_files(tmp_path) == {}
    frames = [{"file_path": "images/a.jpg", "depth_file_path": "depth/a.png"}, {"file_path": "b"}]
    content = {"depth_unit_scale_factor": 0.01, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    assert clips.depth_files(tmp_path) == {"a.jpg": (tmp_path / "depth" / "a.png", 0.01)}
    frames[0]["depth_file_path"] = "../a.png"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="leaves the capture's folder"):
        clips.depth_files(tmp_path)


def test_from_a_capture_to_figures(benchmarks, tmp_path, capsys):
    """A procedural scene with three training views: the exact depth moves photos onto each other,
    figures of the truth are perfect, and a second call takes the kept frames."""
    clips, measure = benchmarks
    source = "procedural:5:frames=12,width=64,height=48"
    words = [source, "--out", str(tmp_path / "clips"), "--views", "3", "--size", "64"]
    assert clips.main([*words, "--frames", "4", "--iterations", "60"]) == 0
    (folder,) = (tmp_path / "clips").iterdir()
    clip, renders = measure.read_clip(folder)
    assert len(renders.references) == 3 and clip.truth.shape[0] == 4
    assert clip.truth.shape[1] % 16 == clip.truth.shape[2] % 16 == 0
    errors = [
        float(warp_errors(clip.truth, pair)[pair.visible].mean()) for pair, _ in empty_warps(clip)
    ]
    wrong = [
        float(warp_errors(clip.truth.flip(2), pair)[pair.visible].mean())
        for pair, _ in empty_warps(clip)
    ]
    assert np.mean(errors) < 0.5 * np.mean(wrong)
    capsys.readouterr()
    run = [str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--modes", "improve"]
    assert measure.main(run) == 0
    first = capsys.readouterr().out
    figures = read_json(tmp_path / "out" / "invention.json")["figures"]
    assert {"render", "telea", "push_pull", "tiny-improve", "noise", "dots"} < set(figures)
    assert figures["truth"]["psnr_mean"] == 60 and figures["render"]["psnr_mean"] < 60
    plain = figures["plain_render"]["psnr_mean"]
    assert plain not in (60, figures["render"]["psnr_mean"]), "the clip is of a second fit"
    assert figures["plain_push_pull"]["psnr_empty"] > figures["plain_render"]["psnr_empty"]
    kept = tmp_path / "out" / "frames" / "tiny-improve" / folder.name / "00001.png"
    before = kept.stat().st_mtime_ns
    assert measure.main(run) == 0
    assert capsys.readouterr().out == first and kept.stat().st_mtime_ns == before
    assert measure.main([str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "holds no clips" in capsys.readouterr().err
