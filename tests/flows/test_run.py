"""The main job from a capture to the report: what it writes, that it continues where it was killed, and what a changed option redoes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from made_runs import CAPTURE, VIEWS, results, small_config, small_run

from artifixer.commands.run import Command, run_command, run_config
from artifixer.enhance.enhance import EnhanceReport, enhance
from artifixer.evaluation.evaluate import VARIANT_TITLES
from artifixer.geometry.camera_file import read_cameras, write_cameras
from artifixer.geometry.cameras import concatenate
from artifixer.pipeline.capture import CaptureChoice, open_capture
from artifixer.pipeline.model_scale import find_camera_scale
from artifixer.pipeline.run import Result
from artifixer.pipeline.run_config import ignored_masks, parse_variants
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.media import image_size, read_image
from artifixer.runtime.seeds import numpy_generator
from artifixer.scenes.formats import load_scene
from artifixer.scenes.metric_depth import default_depth_model
from artifixer.scenes.scale import METRIC_FACTOR
from artifixer.splats.ply import read_splats, write_splats
from artifixer.splats.render_folder import read_render_folder
from artifixer.video.models import load_model, save_model
from tests.scenes.depth_models import save_depth_model
from tests.video.made_models import SMALL, made_model

TARGETS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, made_model(replace(SMALL, steps=1, takes_references=True)))
    return folder


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run with all variants."""
    return small_run(tmp_path_factory.mktemp("runs") / "finished", model)


@pytest.fixture
def copied(finished: Result, tmp_path: Path) -> Path:
    """The finished run's folder, to change."""
    return Path(shutil.copytree(finished.out, tmp_path / "copy"))


# What it writes -----------------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_every_output(finished: Result) -> None:
    out = finished.out
    names = {path.name for path in out.iterdir()}
    assert names >= {"splats", "renders", "renders_3d", "frames", "videos", "dataset"}
    assert names >= {"cameras.json", "metrics.json", "timing.json", "report.html", "config.json"}
    assert [len(read_splats(out / "splats" / f"{name}.ply")) > 0 for name in ("initial", "artifixer3d")] == [True, True]
    assert {path.name for path in (out / "splats").iterdir()} == {"initial.ply", "artifixer3d.ply"}
    for folder in ("renders", "renders_3d"):
        renders = read_render_folder(out / folder)
        assert len(renders) == TARGETS and len(renders.references) == 2
        assert (renders.frames[0].camera.width, renders.frames[0].camera.height) == (48, 32)
    for variant in ("artifixer", "artifixer3d", "artifixer3d_plus"):
        files = sorted((out / "frames" / variant).iterdir())
        assert [file.name for file in files] == [f"{index:05d}.png" for index in range(TARGETS)]
        assert {image_size(file) for file in files} == {(48, 36)}
    assert [frame.photo for frame in read_cameras(out / "cameras.json")] == list(finished.heldout)


def test_variants_differ_where_the_model_or_the_splats_do(finished: Result) -> None:
    pictures = [read_image(finished.out / "frames" / name / "00000.png") for name in ("artifixer", "artifixer3d", "artifixer3d_plus")]
    pictures.append(read_image(finished.out / "renders" / "rgb" / "00000.png")[:36])
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_splats_are_fitted_to_frames_without_lent_detail(tmp_path: Path) -> None:
    files = []
    for has_detail in (True, False):
        place = tmp_path / str(has_detail)
        own = replace(SMALL, steps=1, takes_references=True, camera_scale="median_depth", detail=has_detail, second_strength=0.5)
        save_model(place / "model", made_model(own))
        files.append(results(small_run(place / "run", place / "model").out))
    lent, plain = files
    frames = [f"{index:05d}.png" for index in range(TARGETS)]
    assert [lent.pop(f"frames/artifixer.plain/{name}") for name in frames] == [plain[f"frames/artifixer/{name}"] for name in frames]
    assert all(lent[f"frames/artifixer/{name}"] != plain[f"frames/artifixer/{name}"] for name in frames)
    assert lent.keys() == plain.keys()
    same = [name for name in lent if name.startswith(("splats/", "renders_3d/", "frames/artifixer3d"))]
    assert len(same) > 3 * TARGETS and [name for name in same if lent[name] != plain[name]] == []


def test_metrics_hold_every_variant_and_no_made_up_number(finished: Result) -> None:
    content = json.loads((finished.out / "metrics.json").read_text())
    assert list(content["variants"]) == sorted(VARIANT_TITLES)
    assert content["views"] == {"train": list(finished.train), "heldout": list(finished.heldout)}
    assert (len(finished.train), len(finished.heldout)) == (VIEWS, TARGETS)
    for variant in content["variants"].values():
        assert len(variant["per_view"]) == TARGETS
        assert 3 < variant["psnr"] < 50 and -1 <= variant["ssim"] <= 1
        assert variant["lpips_vgg01"] is None and variant["lpips_alex"] is None
    assert finished.variants["3dgut"].psnr == content["variants"]["3dgut"]["psnr"]


def test_videos_play_everywhere(finished: Result) -> None:
    widths = {}
    for path in (finished.out / "videos").iterdir():
        with av.open(str(path)) as video:
            stream = video.streams.video[0]
            assert stream.codec_context.pix_fmt == "yuv420p"
            widths[path.stem] = stream.width
            assert len(list(video.decode(stream))) == TARGETS
    assert widths == {"3dgut": 48, "artifixer": 48, "artifixer3d": 48, "artifixer3d_plus": 48, "side_by_side": 4 * 48}


def test_the_dataset_loads_as_a_capture(finished: Result) -> None:
    scene = load_scene(finished.out / "dataset")
    assert len(scene.photos) == VIEWS + TARGETS
    frame = next(photo for photo in scene.photos if photo.name.endswith("frame_00002.png"))
    assert np.array_equal(frame.read(), read_image(finished.out / "frames" / "artifixer" / "00002.png"))


def test_the_report_shows_the_run(finished: Result) -> None:
    page = finished.report.read_text()
    assert all(title in page for title in ("ArtiFixer 3D+", "Camera scale", finished.heldout[0], "procedural:7"))
    assert len(page) < 25_000_000


# Continuing ---------------------------------------------------------------------------------------------------------------------------


def test_the_same_call_finds_everything_done(finished: Result, model: Path) -> None:
    before = results(finished.out)
    again = small_run(finished.out, model)
    assert again.executed == ()
    assert again.variants == finished.variants
    assert results(finished.out) == before


def test_a_run_that_was_killed_three_times_ends_with_the_same_files(finished: Result, model: Path, tmp_path: Path) -> None:
    out, deaths = tmp_path / "killed", numpy_generator(1, "moments of death").integers(15, 60, 3)
    program = [sys.executable, "-m", "tests.flows.made_runs", str(out), str(model)]
    for moment in deaths:
        done = subprocess.run([*program, str(moment)], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "report.html").exists(), "the last death comes too late to test anything"
    small_run(out, model)
    assert results(out) == results(finished.out)


def test_a_stop_request_ends_the_stage_and_the_same_call_continues(
    finished: Result, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifixer.pipeline.run_work.stop_requested", lambda: True)
    with pytest.raises(Stopped, match="same command"):
        small_run(tmp_path / "stopped", model, variants=("artifixer",))
    monkeypatch.undo()
    assert (tmp_path / "stopped" / "renders" / "rgb" / "00000.png").is_file()
    continued = small_run(tmp_path / "stopped", model, variants=("artifixer",))
    assert "reconstruct" not in continued.executed
    assert not (tmp_path / "stopped" / "frames" / "artifixer3d").exists()
    # The other variants are added to it, and what there is stays.
    whole = small_run(tmp_path / "stopped", model)
    assert set(whole.executed) == {"distill", "render_3d", "enhance_3d", "dataset", "videos", "metrics", "report"}
    assert results(whole.out) == results(finished.out)


def test_other_steps_redo_the_frames_and_what_follows(copied: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from artifixer.pipeline.run import run
    from artifixer.runtime.progress import Progress

    result = run(small_config(copied, model, steps=2, variants=("artifixer",)), progress=Progress(output=sys.stderr))
    assert set(result.executed) == {"enhance", "dataset", "videos", "metrics", "report"}
    said = capsys.readouterr().err
    assert "reconstruct: done before, kept" in said
    assert "enhance: runs again, changed: steps" in said
    assert not (copied / "frames" / "artifixer3d").exists(), "frames of another run's steps would be taken for this one's"


def test_another_mode_redoes_the_frames_of_models_that_it_changes(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mixing model starts both modes alike; only the number of steps may differ."""
    from artifixer.pipeline.run import run
    from artifixer.runtime.progress import Progress

    def changed_by(folder: str, **changes: Any) -> tuple[Result, str]:
        save_model(tmp_path / folder, made_model(replace(SMALL, steps=1, **changes)))
        for mode in ("improve", "generate"):
            config = small_config(copied, tmp_path / folder, mode=mode, variants=("artifixer",))
            result = run(config, progress=Progress(output=sys.stderr))
        return result, capsys.readouterr().err

    same, _ = changed_by("mixing", generate_steps=1)
    assert same.executed == ("report",)
    assert "mode generate" in same.report.read_text()
    other, said = changed_by("direct", source="direct")
    assert set(other.executed) == {"enhance", "dataset", "videos", "metrics", "report"}
    assert "enhance: runs again, changed: source, steps" in said


def test_a_path_of_one_camera_gives_one_frame_and_no_figures(copied: Path, model: Path, tmp_path: Path) -> None:
    frame = read_cameras(copied / "cameras.json")[0]
    moved = frame.camera.viewmats + torch.tensor([[0, 0, 0, 0.05]] * 3 + [[0, 0, 0, 0]])
    write_cameras(tmp_path / "one.json", [replace(frame, camera=replace(frame.camera, viewmats=moved))])
    result = small_run(copied, model, path=str(tmp_path / "one.json"), variants=("artifixer",))
    assert "reconstruct" not in result.executed and "render" in result.executed
    assert len(result.frames) == 1 and result.frames[0].photo is None
    assert [path.name for path in (copied / "frames" / "artifixer").iterdir()] == ["00000.png"]
    assert result.variants["artifixer"].psnr is None
    assert any("no target camera is that of a held-out photo" in note for note in result.notes)


# The unit of length -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metric_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metric")
    save_model(folder, made_model(replace(SMALL, steps=1, camera_scale="metric")))
    return folder


def test_a_given_camera_scale_reaches_frames_and_report(copied: Path, finished: Result, model: Path) -> None:
    scaled = small_run(copied, model, variants=("artifixer",), camera_scale=0.75)
    assert (scaled.camera_scale.value, scaled.camera_scale.source) == (0.75, "given")
    assert "enhance" in scaled.executed and "render" not in scaled.executed
    assert "0.75, median_depth (given)" in scaled.report.read_text()
    assert f"{finished.camera_scale.value:.6g}, median_depth (median depth of the sparse points" in finished.report.read_text()


def test_a_depth_network_is_asked_once_and_its_answer_kept(copied: Path, metric_model: Path, tmp_path: Path) -> None:
    network = save_depth_model("depth_anything", tmp_path / "network")
    first = small_run(copied, metric_model, variants=("artifixer",), depth_model=str(network))
    assert "scale" in first.executed and first.camera_scale.kind == "metric"
    assert f"metres by {network} at the sparse points" in first.camera_scale.source
    assert json.loads((copied / "camera_scale.json").read_text())["value"] == first.camera_scale.value
    again = small_run(copied, metric_model, variants=("artifixer",), depth_model=str(network))
    assert again.executed == () and again.camera_scale == first.camera_scale
    other = small_run(copied, metric_model, variants=("artifixer",))
    assert other.camera_scale.value == METRIC_FACTOR  # a drawn scene is in metres
    assert not (copied / "camera_scale.json").exists() and "enhance" in other.executed


@pytest.mark.skipif(default_depth_model() is not None, reason="MoGe-2 is installed and is asked")
def test_run_and_enhance_assume_the_same_where_nothing_is_known(finished: Result, metric_model: Path) -> None:
    """Released weights once saw 3 m in ``run`` and 1 / depth in ``enhance``."""
    capture = open_capture(CaptureChoice(CAPTURE, views=VIEWS), None)
    unknown = replace(capture, scene=replace(capture.scene, metres_per_unit=None))
    splats = read_splats(finished.out / "splats" / "initial.ply")
    run_scale = find_camera_scale("metric", unknown, splats)
    without_points = replace(unknown, scene=replace(unknown.scene, points=None))
    rendered = find_camera_scale("metric", without_points, splats)
    report = EnhanceReport()
    renders = read_render_folder(finished.out / "renders")
    enhance(renders, concatenate([frame.camera for frame in renders.frames]), [], load_model(metric_model), report=report)
    values = [run_scale.value, rendered.value, report.camera_scale]
    assert max(values) < 1.6 * min(values), "seen from other views, by other means: not the same depth, but the same unit"
    assert all("is 3 m" in text for text in (run_scale.source, rendered.source, report.camera_scale_source))
    assert run_scale.warning and rendered.warning


# Splats of other tools ----------------------------------------------------------------------------------------------------------------


def test_splats_of_the_same_run_give_the_same_frames(finished: Result, model: Path, tmp_path: Path) -> None:
    ply = Path(shutil.copy(finished.out / "splats" / "initial.ply", tmp_path / "scene.ply"))
    result = small_run(tmp_path / "run", model, from_splats=ply, variants=("artifixer",))
    theirs, ours = results(finished.out), results(result.out)
    same = [name for name in ours if name.startswith(("splats/", "renders/", "frames/"))]
    assert len([name for name in same if name.startswith("frames/")]) == TARGETS
    assert all(ours[name] == theirs[name] for name in same)


def test_splats_in_another_frame_are_refused(finished: Result, model: Path, tmp_path: Path) -> None:
    splats = read_splats(finished.out / "splats" / "initial.ply")
    write_splats(tmp_path / "moved.ply", replace(splats, means=splats.means + 100))
    with pytest.raises(InputError, match=r"moved.ply: PLY and cameras are not in the same frame: .* dB"):
        small_run(tmp_path / "run", model, from_splats=tmp_path / "moved.ply")
    assert not (tmp_path / "run").exists()


# Bad input ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choice": CaptureChoice("procedural:8", views=3)}, "made from another input: capture is"),
        ({"choice": CaptureChoice("nowhere", views=3)}, "nowhere: does not exist"),
        ({"choice": CaptureChoice(CAPTURE, all_views=True), "path": "heldout"}, "nothing is left to enhance; give --path tour"),
        ({"choice": CaptureChoice(CAPTURE, views=99)}, "--views 99"),
        ({"choice": CaptureChoice(CAPTURE, views=3, split="every_4")}, "exclude each other"),
        ({"path": "nowhere.json"}, "--path nowhere.json: neither one of"),
        ({"model": "14b"}, r"nvidia/ArtiFixer.*GB; licence.*--model tiny works now"),
        ({"prompt": "a room"}, "takes no text"),
        ({"steps": 0}, "--steps 0"),
        ({"mode": "invent"}, "--mode invent: expected improve or generate"),
        ({"from_splats": Path("missing.ply")}, "missing.ply: does not exist"),
        ({"variants": ("best",)}, "--variants best"),
        ({"camera_scale": 0.0}, "camera scale 0: expected a positive finite number"),
        ({"camera_scale": 1.0, "depth_model": "some"}, "--depth-model some: --camera-scale 1 is given as well"),
        ({"depth_model": "some"}, "--depth-model some: model small measures in median depths, not in metres"),
    ],
)
def test_bad_input_is_one_line_before_any_work(finished: Result, model: Path, changes: dict[str, object], message: str) -> None:
    before = results(finished.out)
    with pytest.raises(InputError, match=message) as error:
        small_run(finished.out, model, **changes)
    assert "\n" not in str(error.value)
    assert results(finished.out) == before


def test_the_runs_own_splats_and_a_folder_inside_the_capture_are_refused(finished: Result, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a result of this run"):
        small_run(finished.out, model, from_splats=finished.out / "splats" / "initial.ply")
    with pytest.raises(InputError, match="lies inside the capture"):
        small_run(tmp_path / "capture" / "run", model, choice=CaptureChoice(str(tmp_path), all_views=True))


def test_variants_are_words() -> None:
    assert parse_variants("3d+, artifixer") == ("artifixer", "artifixer3d_plus")
    with pytest.raises(InputError, match=r"--variants '4d'"):
        parse_variants("4d")


def test_masks_are_mentioned(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert ignored_masks(str(tmp_path)) == []
    (tmp_path / "masks").mkdir()
    (note,) = ignored_masks(str(tmp_path))
    assert "masks" in note and "ignored" in note


def test_the_plan_counts_and_writes_nothing(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(CAPTURE, tmp_path / "planned", views=VIEWS, path="heldout", model=str(model), plan=True, device="cpu")
    assert run_config(command).device == "cpu"
    run_command(command)
    said = capsys.readouterr().out
    assert f"{VIEWS} train, {TARGETS} held out" in said and f"{TARGETS} frames" in said and "minutes" in said and "GB" in said
    assert list(tmp_path.iterdir()) == []
