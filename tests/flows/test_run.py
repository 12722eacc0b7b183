"""The main job from a capture to the report: what it writes, that it continues where it was killed,
and what a changed option redoes.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
import torch
from made_runs import (
    CAPTURE,
    FIT,
    VIEWS,
    forget_setting,
    killed_run,
    results,
    small_config,
    small_run,
)

from artifixer.commands.run import Command, run_command, run_config
from artifixer.evaluation.evaluate import VARIANT_TITLES
from artifixer.geometry.camera_file import read_cameras, write_cameras
from artifixer.pipeline.capture import CaptureChoice
from artifixer.pipeline.plan import plan_run
from artifixer.pipeline.run import Result
from artifixer.pipeline.run_config import parse_variants
from artifixer.pipeline.run_stages import wanted_stages
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.image_files import image_size, read_image
from artifixer.runtime.seeds import numpy_generator
from artifixer.runtime.stages import StageFiles, Stages
from artifixer.scenes.depth_models import default_depth_model
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scale import METRIC_FACTOR
from artifixer.splats.ply import read_splats, write_splats
from artifixer.splats.render import render
from artifixer.splats.render_folder import read_render_folder, to_uint8
from artifixer.video.checkpoints.ours import save_model
from tests.in_process import in_process
from tests.scenes.capture_files import transforms_content, write_transforms
from tests.scenes.test_depth_models import MAKERS as DEPTH_MODELS
from tests.unchecked import unchecked
from tests.video.made_models import SMALL, made_model

TARGETS = 6

#: Rows of a run whose model is not adapted to the scene.
TITLES = set(VARIANT_TITLES) - {"artifixer_unadapted"}


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


# What it writes -----------------------------------------------------------------------------------


def test_a_run_leaves_every_output(finished: Result) -> None:
    out = finished.out
    names = {path.name for path in out.iterdir()}
    assert names >= {"splats", "renders", "renders_3d", "frames", "videos", "dataset"}
    assert names >= {"cameras.json", "metrics.json", "timing.json", "report.html", "config.json"}
    assert [
        len(read_splats(out / "splats" / f"{name}.ply")) > 0 for name in ("initial", "artifixer3d")
    ] == [True, True]
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
    pictures = [
        read_image(finished.out / "frames" / name / "00000.png")
        for name in ("artifixer", "artifixer3d", "artifixer3d_plus")
    ]
    pictures.append(read_image(finished.out / "renders" / "rgb" / "00000.png")[:36])
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_metrics_hold_every_variant_and_no_made_up_number(finished: Result) -> None:
    content = json.loads((finished.out / "metrics.json").read_text())
    assert list(content["variants"]) == sorted(TITLES - {"input"})
    for name, gains in content["gains"].items():
        change = content["variants"][name]["psnr"] - content["variants"]["3dgut"]["psnr"]
        assert gains["psnr"] == pytest.approx(change), "over the plain fit, the only render"
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
    assert widths == {
        "3dgut": 48,
        "artifixer": 48,
        "artifixer3d": 48,
        "artifixer3d_plus": 48,
        "side_by_side": 4 * 48,
    }


def test_the_dataset_loads_as_a_capture(finished: Result) -> None:
    scene = load_scene(finished.out / "dataset")
    assert len(scene.photos) == VIEWS + TARGETS
    frame = next(photo for photo in scene.photos if photo.name.endswith("frame_00002.png"))
    assert np.array_equal(
        frame.read(), read_image(finished.out / "frames" / "artifixer" / "00002.png")
    )


def test_the_report_shows_the_run(finished: Result) -> None:
    page = finished.report.read_text()
    assert all(
        title in page
        for title in ("ArtiFixer 3D+", "Camera scale", finished.heldout[0], "procedural:7")
    )
    assert len(page) < 25_000_000
    if importlib.util.find_spec("viser") is None:
        assert "artifixer[viewer]" in page
    else:
        assert page.count(">Look around<") == 2, "the plain fit and ArtiFixer 3D"


# With a free-space loss ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_input(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run whose model gets the render of a fit with a free-space loss."""
    return small_run(
        tmp_path_factory.mktemp("runs") / "input", model, reconstruct=FIT.with_free_space_loss(3.0)
    )


def test_the_baseline_is_the_plain_fit_whatever_render_the_model_gets(
    finished: Result, with_input: Result
) -> None:
    plain, ours = results(finished.out), results(with_input.out)
    same = [
        name
        for name in plain
        if name.startswith(("renders/", "splats/initial.ply", "cameras.json"))
    ]
    assert len(same) > 3 * TARGETS and [name for name in same if ours[name] != plain[name]] == []
    assert with_input.variants["3dgut"] == replace(
        finished.variants["3dgut"],
        psnr_opaque=with_input.variants["3dgut"].psnr_opaque,
        psnr_empty=with_input.variants["3dgut"].psnr_empty,
        per_view=with_input.variants["3dgut"].per_view,
    )
    assert [view.psnr for view in with_input.variants["3dgut"].per_view] == [
        view.psnr for view in finished.variants["3dgut"].per_view
    ]


def test_the_render_that_the_model_gets_is_a_stage_a_folder_and_a_row_of_its_own(
    finished: Result, with_input: Result
) -> None:
    assert with_input.executed[:4] == ("reconstruct", "reconstruct_input", "render", "render_input")
    assert set(with_input.variants) == TITLES
    assert with_input.variants["input"].psnr != with_input.variants["3dgut"].psnr
    renders, given = (
        read_render_folder(with_input.out / name) for name in ("renders", "renders_input")
    )
    assert len(renders) == len(given) == TARGETS
    opacity = [
        sum(float(folder.opacity(index).mean()) for index in range(TARGETS))
        for folder in (renders, given)
    ]
    assert opacity[1] < opacity[0], "the loss takes opacity away"
    frames = [
        (result.out / "frames" / "artifixer" / "00000.png").read_bytes()
        for result in (finished, with_input)
    ]
    assert frames[0] != frames[1], "the model gets the other render"
    assert (with_input.out / "videos" / "input.mp4").is_file()
    assert (
        "Input render" in with_input.report.read_text()
        and "splats/input.ply" in with_input.report.read_text()
    )


def test_gains_are_over_the_better_of_the_two_renders(with_input: Result) -> None:
    content = json.loads((with_input.out / "metrics.json").read_text())
    assert set(content["gains"]) == TITLES - {"3dgut", "input"}
    for field in ("psnr", "psnr_pooled", "ssim"):
        better = max(content["variants"][name][field] for name in ("3dgut", "input"))
        for name, gains in content["gains"].items():
            assert gains[field] == pytest.approx(content["variants"][name][field] - better)
    assert "against the better of the two renders" in with_input.report.read_text()
    assert "against the plain 3DGUT render" not in with_input.report.read_text()


def test_splats_of_other_frames_stayed_behind_when_a_run_without_them_was_killed(
    with_input: Result, model: Path, tmp_path: Path
) -> None:
    settings = {"reconstruct": FIT.with_free_space_loss(3.0), "variants": ("artifixer",)}
    small_run(tmp_path / "fresh", model, input_fits=2, **settings)
    killed = Path(shutil.copytree(with_input.out, tmp_path / "killed"))

    def dying() -> None:
        complete = Stages.complete

        def completed(stages: Stages, stage: StageFiles, *given: Any) -> str:
            key = complete(stages, stage, *given)
            if stage.name == "enhance":
                os.kill(os.getpid(), signal.SIGKILL)
            return key

        Stages.complete = completed  # type: ignore[method-assign]
        small_run(killed, model, input_fits=2, **settings)

    assert in_process(dying) == -signal.SIGKILL
    small_run(killed, model, input_fits=2, **settings)
    assert results(killed) == results(tmp_path / "fresh")


def test_another_weight_keeps_the_plain_fit_and_weight_0_leaves_no_trace(
    finished: Result, with_input: Result, model: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(with_input.out, tmp_path / "copy"))
    other = small_run(
        copy, model, reconstruct=FIT.with_free_space_loss(1.0), variants=("artifixer",)
    )
    assert other.executed[0] == "reconstruct_input"
    assert {"reconstruct", "render"}.isdisjoint(other.executed) and {
        "render_input",
        "enhance",
    } <= set(other.executed)
    plain = small_run(copy, model)
    assert {"reconstruct", "render"}.isdisjoint(plain.executed)
    assert results(copy) == results(finished.out)


def test_the_model_gets_the_median_of_three_fits(
    with_input: Result, model: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(with_input.out, tmp_path / "copy"))
    settings = {"reconstruct": FIT.with_free_space_loss(3.0), "variants": ("artifixer",)}
    three = small_run(copy, model, input_fits=2, **settings)
    assert three.executed[:3] == ("reconstruct_input_2", "render_input", "enhance")
    names = ("initial", "input", "input_2")
    fits = [read_splats(copy / "splats" / f"{name}.ply") for name in names]
    assert not torch.equal(fits[1].means, fits[2].means), "of another random seed"
    given = read_render_folder(copy / "renders_input")
    with torch.no_grad():
        alone = [render(splats, given.frames[1].camera) for splats in fits]
    middle = torch.stack([renders.rgb for renders in alone]).sort(dim=0).values[1]
    assert np.array_equal(given.rgb(1), to_uint8(middle[0]).numpy())
    assert "splats/input_2.ply" in (copy / "report.html").read_text()
    one = small_run(copy, model, **settings)
    assert "reconstruct_input" not in one.executed and "render_input" in one.executed
    assert not (copy / "splats" / "input_2.ply").exists()
    assert not any("input_2" in name for name in results(copy))


@pytest.mark.slow
def test_a_killed_run_with_a_free_space_loss_ends_with_the_same_files(
    with_input: Result, model: Path, tmp_path: Path
) -> None:
    out, deaths = tmp_path / "killed", numpy_generator(2, "moments of death").integers(15, 60, 3)
    for moment in deaths:
        killed_run(out, model, int(moment), reconstruct=FIT.with_free_space_loss(3.0))
    assert not (out / "report.html").exists(), "the last death comes too late to test anything"
    small_run(out, model, reconstruct=FIT.with_free_space_loss(3.0))
    assert results(out) == results(with_input.out)


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        (
            {"free_space_loss": 0.5, "dropout": 0.0, "input_fits": 1},
            ["reconstruct", "reconstruct_input"],
        ),
        ({"dropout": 0.3, "input_fits": 1}, ["reconstruct", "reconstruct_input"]),
        ({"dropout": 0.3}, ["reconstruct", "reconstruct_input", "reconstruct_input_2"]),
        ({"dropout": 0.0}, ["reconstruct"]),
        ({}, ["reconstruct", "reconstruct_input", "reconstruct_input_2"]),
    ],
)
def test_options_give_the_further_fits_and_0_the_plain_one_alone(
    options: dict[str, Any], fits: list[str], tmp_path: Path, model: Path
) -> None:
    """Without options the recipe tiny has two fits with dropout."""
    command = Command(
        CAPTURE, tmp_path, views=VIEWS, model=str(model), path="heldout", device="cpu", **options
    )
    config = run_config(command)
    assert config.has_input == (len(fits) > 1)
    assert config.has_median_input == (len(fits) == 3)
    found = {
        "free_space_loss": config.reconstruct.free_space.weight,
        "dropout": config.reconstruct.dropout,
        "input_fits": config.input_fits,
    }
    assert {name: found[name] for name in options} == options
    names = [*fits, *(["render", "render_input"] if len(fits) > 1 else ["render", "enhance"])]
    assert [stage.name for stage in plan_run(config).stages][: len(names)] == names
    assert [stage.name for stage in wanted_stages(config)][: len(names)] == names


@pytest.mark.parametrize("recipe", ["paper", "release"])
def test_recipes_of_the_paper_and_the_release_have_one_fit(
    recipe: Literal["paper", "release"], tmp_path: Path, model: Path
) -> None:
    command = Command(CAPTURE, tmp_path, model=str(model), recipe=recipe, device="cpu")
    assert not run_config(command).has_input


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("free_space_loss", (-0.1, math.nan, math.inf)),
        ("dropout", (-0.1, 1.0, math.nan, math.inf)),
    ],
)
def test_bad_options_of_the_second_fit_are_refused(
    option: str, bad: tuple[float, ...], tmp_path: Path, model: Path
) -> None:
    name = f"--{option.replace('_', '-')}"
    for value in bad:
        command = Command(CAPTURE, tmp_path, model=str(model), device="cpu", **{option: value})
        with pytest.raises(InputError, match=name):
            run_config(command)
    command = Command(
        CAPTURE,
        tmp_path,
        model=str(model),
        from_splats=Path("a.ply"),
        device="cpu",
        **{option: 0.5},
    )
    with pytest.raises(InputError, match=f"{name} and --from-splats exclude each other"):
        run_config(command)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_fits": 3}, "--input-fits 3: expected 1 or 2"),
        ({"input_fits": 0}, "--input-fits 0: expected 1 or 2"),
        ({"input_fits": 2, "dropout": 0.0}, "--input-fits 2: expected together with --dropout"),
        ({"input_fits": 2, "from_splats": Path("a.ply")}, "--input-fits 2: expected together"),
    ],
)
def test_two_fits_for_the_input_need_dropout_or_a_free_space_loss(
    options: dict[str, Any], message: str, tmp_path: Path, model: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run_command(Command(CAPTURE, tmp_path, model=str(model), device="cpu", **options))


def test_iterations_are_those_of_both_fits_and_at_least_one(tmp_path: Path, model: Path) -> None:
    command = Command(CAPTURE, tmp_path, views=VIEWS, model=str(model), device="cpu", iterations=7)
    config = run_config(command)
    assert (config.reconstruct.iterations, config.distill.reconstruct.iterations) == (7, 7)
    with pytest.raises(InputError, match="--iterations 0: expected at least 1"):
        run_config(replace(command, iterations=0))


def test_on_a_gpu_the_embedded_model_was_given_frames_of_the_photos_size(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the recipe paper, whose size is the photos', it now takes the size that the model is
    made for; others keep the photos'.
    """
    monkeypatch.setattr(
        "artifixer.commands.run.resolve_device", lambda name: "cuda" if name == "auto" else name
    )
    config = run_config(Command(CAPTURE, tmp_path))
    assert (config.device, config.reconstruct.iterations, config.choice.size) == (
        "cuda",
        10_000,
        "256",
    )
    assert run_config(Command(CAPTURE, tmp_path, size="400")).choice.size == "400"
    assert run_config(Command(CAPTURE, tmp_path, model=str(model))).choice.size is None
    assert (
        run_config(Command(CAPTURE, tmp_path, model=str(model), device="cpu")).choice.size == "256"
    )


# Continuing ---------------------------------------------------------------------------------------


def test_the_same_call_finds_everything_done(finished: Result, model: Path) -> None:
    before = results(finished.out)
    again = small_run(finished.out, model)
    assert again.executed == ()
    assert again.variants == finished.variants
    assert results(finished.out) == before


@pytest.mark.posix
def test_a_run_that_was_killed_three_times_ends_with_the_same_files(
    finished: Result, model: Path, tmp_path: Path
) -> None:
    out, deaths = tmp_path / "killed", numpy_generator(1, "moments of death").integers(15, 60, 3)
    program = [sys.executable, "-m", "tests.flows.made_runs", str(out), str(model), str(deaths[0])]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for moment in deaths[1:]:
        killed_run(out, model, int(moment))
    assert not (out / "report.html").exists(), "the last death comes too late to test anything"
    small_run(out, model)
    assert results(out) == results(finished.out)


def test_a_stop_request_ends_the_stage_and_the_same_call_continues(
    finished: Result, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifixer.pipeline.run_context.stop_requested", lambda: True)
    with pytest.raises(Stopped, match="same command"):
        small_run(tmp_path / "stopped", model, variants=("artifixer",))
    monkeypatch.undo()
    assert (tmp_path / "stopped" / "renders" / "rgb" / "00000.png").is_file()
    continued = small_run(tmp_path / "stopped", model, variants=("artifixer",))
    assert "reconstruct" not in continued.executed
    assert not (tmp_path / "stopped" / "frames" / "artifixer3d").exists()
    # The other variants are added to it, and what there is stays.
    whole = small_run(tmp_path / "stopped", model)
    assert set(whole.executed) == {
        "distill",
        "render_3d",
        "enhance_3d",
        "dataset",
        "videos",
        "metrics",
        "report",
    }
    assert results(whole.out) == results(finished.out)


def test_other_steps_redo_the_frames_and_what_follows(
    copied: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from artifixer.pipeline.run import run
    from artifixer.runtime.progress import Progress

    result = run(
        small_config(copied, model, steps=2, variants=("artifixer",)),
        progress=Progress(output=sys.stderr),
    )
    assert set(result.executed) == {"enhance", "dataset", "videos", "metrics", "report"}
    said = capsys.readouterr().err
    assert "reconstruct: done before, kept" in said
    assert "enhance: runs again, changed: steps" in said
    assert not (copied / "frames" / "artifixer3d").exists(), (
        "frames of another run's steps would be taken for this one's"
    )


def test_another_mode_redoes_the_frames_of_models_that_it_changes(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_frames_of_an_earlier_version_of_the_smoothing_are_not_kept(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``finish`` has changed twice for the embedded model, without a change of its weights."""
    for cells, repeated in ((8, {"enhance", "dataset", "videos", "metrics", "report"}), (0, set())):
        model = tmp_path / str(cells)
        save_model(model, made_model(replace(SMALL, steps=1, smooth_cells=cells)))
        small_run(copied, model, variants=("artifixer",))
        with monkeypatch.context() as later:
            later.setattr("artifixer.video.finish.VERSION", 99, raising=False)
            assert set(small_run(copied, model, variants=("artifixer",)).executed) == repeated


def test_a_folder_from_before_a_setting_is_kept_at_the_value_as_before(
    finished: Result, copied: Path, model: Path
) -> None:
    # in config.json and in the markers of begun and finished stages, for both fits
    assert forget_setting(copied, "dropout") == 6
    again = small_run(copied, model)
    assert again.executed == ()
    assert results(copied) == results(finished.out)
    forget_setting(copied, "dropout")
    changed = small_run(copied, model, reconstruct=FIT.with_dropout(0.3), variants=("artifixer",))
    assert {"reconstruct_input", "enhance"} <= set(changed.executed)
    assert "reconstruct" not in changed.executed, "the plain fit is the same"


def test_the_mode_generate_does_not_keep_smoothed_frames(copied: Path, tmp_path: Path) -> None:
    """A mixing model with one step in both modes, whose frames are smoothed in one of them."""
    model = tmp_path / "smoothed"
    save_model(model, made_model(replace(SMALL, steps=1, generate_steps=1, smooth_cells=8)))
    small_run(copied, model, variants=("artifixer",))
    result = small_run(copied, model, mode="generate", variants=("artifixer",))
    assert "enhance" in result.executed


def test_a_run_without_the_figures_of_an_inpainting_gets_them(
    copied: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a version without push-pull has left it."""
    from artifixer.pipeline.run import run
    from artifixer.runtime.progress import Progress

    record = copied / ".run" / "stages" / "metrics.json"
    stage = json.loads(record.read_text())
    stage["key"].pop("inpaintings", None)
    record.write_text(json.dumps(stage))
    metrics = json.loads((copied / "metrics.json").read_text())
    del metrics["variants"]["inpainting_push_pull"], metrics["gains"]["inpainting_push_pull"]
    (copied / "metrics.json").write_text(json.dumps(metrics))
    result = run(small_config(copied, model), progress=Progress(output=sys.stderr))
    assert set(result.executed) == {"metrics"}
    assert "inpainting_push_pull" in result.variants
    assert "metrics 7/7 100%" in capsys.readouterr().err, "one step per row"


def test_a_path_of_one_camera_gives_one_frame_and_no_figures(
    copied: Path, model: Path, tmp_path: Path
) -> None:
    frame = read_cameras(copied / "cameras.json")[0]
    moved = frame.camera.viewmats + torch.tensor([[0, 0, 0, 0.05]] * 3 + [[0, 0, 0, 0]])
    write_cameras(
        tmp_path / "one.json", [replace(frame, camera=replace(frame.camera, viewmats=moved))]
    )
    result = small_run(copied, model, path=str(tmp_path / "one.json"), variants=("artifixer",))
    assert "reconstruct" not in result.executed and "render" in result.executed
    assert len(result.frames) == 1 and result.frames[0].photo is None
    assert [path.name for path in (copied / "frames" / "artifixer").iterdir()] == ["00000.png"]
    assert result.variants["artifixer"].psnr is None
    assert any("no target camera is that of a held-out photo" in note for note in result.notes)


# Splats of other tools ----------------------------------------------------------------------------


def test_splats_of_the_same_run_give_the_same_frames(
    finished: Result, model: Path, tmp_path: Path
) -> None:
    ply = Path(shutil.copy(finished.out / "splats" / "initial.ply", tmp_path / "scene.ply"))
    result = small_run(tmp_path / "run", model, from_splats=ply, variants=("artifixer",))
    theirs, ours = results(finished.out), results(result.out)
    same = [name for name in ours if name.startswith(("splats/", "renders/", "frames/"))]
    assert len([name for name in same if name.startswith("frames/")]) == TARGETS
    assert all(ours[name] == theirs[name] for name in same)


def test_splats_in_another_frame_are_refused(finished: Result, model: Path, tmp_path: Path) -> None:
    splats = read_splats(finished.out / "splats" / "initial.ply")
    write_splats(tmp_path / "moved.ply", replace(splats, means=splats.means + 100))
    with pytest.raises(InputError, match=r"moved.ply: PLY and cameras are not in the same frame"):
        small_run(tmp_path / "run", model, from_splats=tmp_path / "moved.ply")
    assert not (tmp_path / "run").exists()


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choice": CaptureChoice("procedural:8", views=3)}, "made from another input: capture is"),
        ({"choice": CaptureChoice("nowhere", views=3)}, "nowhere: does not exist"),
        (
            {"choice": CaptureChoice(CAPTURE, all_views=True), "path": "heldout"},
            "there is nothing to enhance; give --path tour",
        ),
        ({"choice": CaptureChoice(CAPTURE, views=99)}, "--views 99"),
        ({"choice": CaptureChoice(CAPTURE, views=3, split="every_4")}, "exclude each other"),
        ({"path": "nowhere.json"}, "--path nowhere.json: neither one of"),
        ({"model": "14b"}, r"nvidia/ArtiFixer.*GB; licence.*--model tiny works now"),
        ({"prompt": "a room"}, "takes no text"),
        ({"steps": 0}, "--steps 0"),
        ({"mode": "invent"}, "--mode invent: expected improve or generate"),
        ({"from_splats": Path("missing.ply")}, "missing.ply: does not exist"),
        ({"variants": ("best",)}, "--variants best"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    finished: Result, model: Path, changes: dict[str, object], message: str
) -> None:
    before = results(finished.out)
    with unchecked(), pytest.raises(InputError, match=message) as error:
        small_run(finished.out, model, **changes)
    assert "\n" not in str(error.value)
    assert results(finished.out) == before


def test_the_runs_own_splats_and_a_folder_inside_the_capture_are_refused(
    finished: Result, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="lies inside --out"):
        small_run(finished.out, model, from_splats=finished.out / "splats" / "initial.ply")
    with pytest.raises(InputError, match="lies inside the capture"):
        small_run(
            tmp_path / "capture" / "run", model, choice=CaptureChoice(str(tmp_path), all_views=True)
        )


def test_variants_are_words() -> None:
    assert parse_variants("3d+, artifixer") == ("artifixer", "artifixer3d_plus")
    with pytest.raises(InputError, match=r"--variants '4d'"):
        parse_variants("4d")


def test_the_plan_counts_and_writes_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(
        CAPTURE,
        tmp_path / "planned",
        views=VIEWS,
        path="heldout",
        model=str(model),
        plan=True,
        device="cpu",
    )
    assert run_config(command).device == "cpu"
    run_command(command)
    said = capsys.readouterr().out
    assert (
        f"{VIEWS} train, {TARGETS} held out" in said
        and f"{TARGETS} frames" in said
        and "minutes" in said
        and "GB" in said
    )
    assert list(tmp_path.iterdir()) == []


# The unit of length -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metric_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metric")
    save_model(folder, made_model(replace(SMALL, steps=1, camera_scale="metric")))
    return folder


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depth")
    torch.manual_seed(1)
    DEPTH_MODELS["DepthAnythingForDepthEstimation"](folder)
    return folder


def test_a_continued_run_does_not_ask_the_depth_model_again(
    metric_model: Path, depth_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is kept, and checked when it is read. The capture's own unit is not known."""
    capture = tmp_path / "capture"
    write_transforms(capture, transforms_content(6), views=6)
    settings = {
        "choice": CaptureChoice(str(capture), views=VIEWS),
        "variants": ("artifixer",),
        "depth_model": str(depth_model),
    }
    out = tmp_path / "run"
    first = small_run(out, metric_model, **settings)
    assert first.executed[:2] == ("reconstruct", "camera_scale")
    assert (first.camera_scale.kind, first.camera_scale.is_guess) == ("metric", False)
    assert "metric depth of" in first.report.read_text()
    before = results(out)

    def asked(*arguments: object) -> None:
        raise AssertionError("the depth model is asked again")

    with monkeypatch.context() as patch:
        patch.setattr("artifixer.pipeline.run_scale.metric_depth_model", asked)
        assert small_run(out, metric_model, **settings).executed == ()
        shutil.rmtree(out / "frames")
        again = small_run(out, metric_model, **settings)
        assert "enhance" in again.executed and "camera_scale" not in again.executed
        assert again.camera_scale == first.camera_scale
        assert results(out) == before
    stored = out / "camera_scale.json"
    stored.write_text(stored.read_text().replace('"value": ', '"value": -'))
    with pytest.raises(InputError, match=r"camera_scale.json: \"value\" is -.*delete the file"):
        small_run(out, metric_model, **settings)
    stored.unlink()
    assert "camera_scale" in small_run(out, metric_model, **settings).executed
    assert results(out) == before
    if default_depth_model() is None:
        guess = small_run(out, metric_model, **settings | {"depth_model": None})
        assert guess.camera_scale.is_guess and not stored.exists()


def test_a_drawn_capture_knows_its_metres(
    finished: Result, copied: Path, metric_model: Path
) -> None:
    """Released weights once saw 3 m in every scene."""
    metric = small_run(copied, metric_model, variants=("artifixer",))
    assert (metric.camera_scale.value, metric.camera_scale.kind) == (METRIC_FACTOR, "metric")
    assert not metric.camera_scale.is_guess
    assert finished.camera_scale.kind == "median_depth"


def test_scale_options_that_do_not_fit_are_refused_before_anything_is_written(
    model: Path, metric_model: Path, tmp_path: Path
) -> None:
    for weights, changes, message in (
        (model, {"depth_model": "some"}, "wants translations over the median depth"),
        (model, {"camera_scale": 0.0}, "--camera-scale 0: expected a positive finite number"),
        (metric_model, {"depth_model": "some", "camera_scale": 1.0}, "--camera-scale 1 is given"),
        (metric_model, {"depth_model": str(tmp_path / "absent")}, "depth model .*absent"),
    ):
        with pytest.raises(InputError, match=message):
            small_run(tmp_path / "run", weights, **changes)
    assert not (tmp_path / "run").exists()
