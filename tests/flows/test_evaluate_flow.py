"""``artifixer evaluate``: every benchmark end to end on a miniature in its public layout; frames of
other methods; what is refused; that it continues where it was stopped.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import FIT

from artifixer.cli import main
from artifixer.commands.evaluate import Command as EvaluateCommand
from artifixer.commands.evaluate import evaluate_config
from artifixer.commands.run import Command as RunCommand
from artifixer.commands.run import run_config
from artifixer.enhance.distill import DistillConfig
from artifixer.evaluation.benchmarks.scene import BenchmarkScene, Options
from artifixer.evaluation.inpainting import METHODS
from artifixer.evaluation.profiles import PROFILES, Figure, Figures, Profile, score
from artifixer.imaging.metrics import psnr
from artifixer.pipeline.evaluate import evaluate
from artifixer.pipeline.evaluate_config import EvaluateConfig, scene_run_config
from artifixer.pipeline.evaluate_scores import resize_frame
from artifixer.runtime.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    InputError,
    Stopped,
)
from artifixer.runtime.image_files import read_image
from artifixer.runtime.run_folder import RunFolder
from artifixer.video.checkpoints.ours import save_model
from tests.evaluation.made_benchmarks import (
    HEIGHT,
    WIDTH,
    encoded,
    plain_dl3dv_scene,
    write,
    write_dl3dv,
    write_mipnerf360,
    write_nerfbusters,
)
from tests.video.made_models import SMALL, made_model
from tests.viewer.browser import browser

QUICK = replace(FIT, iterations=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, made_model(replace(SMALL, steps=1, takes_references=True)))
    return folder


def config(
    protocol: str, data: Path | str, out: Path, model: Path, **changes: Any
) -> EvaluateConfig:
    """A whole evaluation in seconds."""
    return replace(
        EvaluateConfig(
            protocol,
            str(data),
            out,
            variants=("artifixer",),
            path="heldout",
            model=str(model),
            references=2,
            reconstruct=QUICK,
            distill=DistillConfig(QUICK, frames=3),
        ),
        **changes,
    )


def results_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "results.json").read_text())
    return content


def decided(out: Path) -> dict[str, bytes]:
    """What inputs, settings and seed decide."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
        and path.name not in ("timing.json", "config.json", "report.html")
        and ".run" not in path.relative_to(out).parts
    }


def test_scenes_are_run_as_run_does(tmp_path: Path, model: Path) -> None:
    """The same recipe gives the same fits, also those of the model's input."""
    common = {"recipe": "tiny", "device": "cpu", "model": str(model), "out": tmp_path / "out"}
    settings = evaluate_config(EvaluateCommand("heldout", "procedural:3", **common))
    scene = BenchmarkScene("3", "procedural:3", (), (), ())
    ours = scene_run_config(settings, scene, tmp_path)
    ran = run_config(RunCommand("procedural:3", **common))
    assert ours.has_median_input
    for name in ("reconstruct", "input_fits", "distill", "mode", "references", "seed"):
        assert getattr(ours, name) == getattr(ran, name), name


# Every benchmark ----------------------------------------------------------------------------------


def test_mipnerf360(tmp_path: Path, model: Path) -> None:
    names = write_mipnerf360(tmp_path / "data")
    found = evaluate(
        config("mipnerf360-3", tmp_path / "data", tmp_path / "out", model, scenes=("stump",))
    ).results
    assert found["scenes"]["stump"]["heldout"] == [f"images/{name}" for name in names[::8]]
    assert not found["comparable"] and "1 of 9 scenes" in found["caveats"]
    records = found["methods"]["artifixer"]["views"]
    assert len(records) == 16 and list(records[0]["figures"]) == ["genfusion"]
    page = (tmp_path / "out" / "table.md").read_text()
    assert "| CAT3D (paper)† | 16.62 | 0.377 | 0.515 | - |" in page
    assert "| ArtiFixer (paper)* | 17.06 | 0.420 | 0.437 | - |" in page
    assert "* not comparable: 1 of 9 scenes; photos have 48x40 pixels" in page


def test_nerfbusters_with_masks_through_the_command_line(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("art", "aloe"):
        write_nerfbusters(tmp_path / "data", name, tmp_path / "masks")
    words = ["evaluate", "nerfbusters", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    words += ["--scenes", "art", "aloe", "--masks", str(tmp_path / "masks"), "--model", str(model)]
    words += ["--iterations", "8", "--variants", "artifixer", "--references", "2"]
    assert main(words) == EXIT_DONE
    assert "## Profile difix" in capsys.readouterr().out
    found = results_of(tmp_path / "out")
    record = found["methods"]["3dgut"]["views"][0]
    assert list(record["figures"]) == ["difix", "genfusion", "nerfbusters"]
    assert record["mask"] == "art/00000.png", "below --masks"
    coverage = [
        view["figures"]["nerfbusters"]["coverage"] for view in found["methods"]["3dgut"]["views"]
    ]
    assert coverage == pytest.approx([10 / 24, 11 / 24, 12 / 24, 13 / 24] * 2)
    summary = found["methods"]["3dgut"]["summary"]
    assert summary["masked_views"] == {"difix": 8, "nerfbusters": 8}
    blackout, visible = (record["figures"][name]["psnr"] for name in ("difix", "nerfbusters"))
    assert blackout > visible + 2, "blacked-out pixels count as equal"


def test_dl3dv_difix_split_from_the_authors_files(tmp_path: Path, model: Path) -> None:
    name = plain_dl3dv_scene("difix")
    write_dl3dv(tmp_path / "data", name, 10)
    write(tmp_path / "ids" / name / "difix_train_ids.json", json.dumps([0, 2, 4, 6, 8]))
    for rank in range(5):
        mask = encoded(np.full((HEIGHT, WIDTH), 1, np.uint8))
        write(tmp_path / "masks" / name / "visibility_median_count" / f"{rank:05d}.png", mask)
    options = Options(train_ids=tmp_path / "ids", masks=tmp_path / "masks")
    found = evaluate(
        config(
            "dl3dv-difix",
            tmp_path / "data",
            tmp_path / "out",
            model,
            scenes=(name,),
            options=options,
        )
    ).results
    assert found["caveats"] == ["1 of 27 scenes"] and not found["stand_in"]
    assert "Difix3D+ (3DGS) (paper)†" in (tmp_path / "out" / "table.md").read_text()


def test_dl3dv_stand_in_split_never_stands_beside_published_rows(
    tmp_path: Path, model: Path
) -> None:
    name = plain_dl3dv_scene("difix")
    write_dl3dv(tmp_path / "data", name, 10)
    found = evaluate(
        config("dl3dv-difix", tmp_path / "data", tmp_path / "out", model, scenes=(name,))
    ).results
    assert found["stand_in"] and not found["comparable"]
    for file in ("table.md", "table.csv", "table.tex", "report.html"):
        text = (tmp_path / "out" / file).read_text()
        assert "Difix3D+ (3DGS)" not in text and "published:" not in text
    assert list(found["methods"]["artifixer"]["views"][0]["figures"]) == ["genfusion"], "no masks"


@pytest.mark.parametrize("protocol", ["novel-content-release", "novel-content-paper"])
def test_novel_content(tmp_path: Path, model: Path, protocol: str) -> None:
    name = plain_dl3dv_scene()
    write_dl3dv(tmp_path / "data", name, 13)
    options = Options(views=6 if protocol.endswith("release") else 4)
    found = evaluate(
        config(
            protocol, tmp_path / "data", tmp_path / "out", model, scenes=(name,), options=options
        )
    ).results
    views = found["methods"]["artifixer"]["views"]
    assert len(views) == 13 - (options.views or 0)
    assert sorted(views[0]["figures"]) == ["difix_unmasked", "genfusion"]
    assert "| GenFusion (paper)* | 17.03 |" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("protocol", ["heldout", "gap"])
def test_any_capture(tmp_path: Path, model: Path, protocol: str) -> None:
    capture = "procedural:7:frames=9,width=48,height=36,points_per_photo=40"
    every = ("artifixer", "artifixer3d", "artifixer3d_plus")
    found = evaluate(config(protocol, capture, tmp_path / "out", model, variants=every)).results
    (scene,) = found["scenes"].values()
    assert len(scene["heldout"]) == {"heldout": 3, "gap": 2}[protocol]
    inpaintings = [f"inpainting_{method}" for method in METHODS]
    assert list(found["methods"]) == ["3dgut", *inpaintings, *every]
    pooled = found["methods"]["artifixer"]["summary"]["pooled"]
    assert 3 < pooled["all"] < 60
    assert not found["caveats"] and not found["comparable"], "nothing is published for it"


# The figures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, model: Path) -> EvaluateConfig:
    """Nerfbusters' two scenes, with frames of another method that are the photos, one of them
    changed.
    """
    root = tmp_path_factory.mktemp("evaluated")
    for name in ("art", "aloe"):
        _, heldout = write_nerfbusters(root / "data", name, root / "masks")
        source = root / "data" / name / ("images_2" if name == "aloe" else "images")
        for rank, photo in enumerate(heldout):
            pixels = read_image(source / photo)
            if (name, rank) == ("aloe", 2):
                pixels = np.clip(pixels.astype(int) + 20, 0, 255).astype(np.uint8)
            write(root / "mine" / name / "rgb" / f"{rank:05d}.png", encoded(pixels))
    chosen = config(
        "nerfbusters",
        root / "data",
        root / "out",
        model,
        scenes=("art", "aloe"),
        options=Options(masks=root / "masks"),
        frames={"mine": root / "mine"},
    )
    evaluate(chosen)
    return chosen


def test_frames_of_another_method_stand_beside_ours(evaluated: EvaluateConfig) -> None:
    found = results_of(evaluated.out)
    mine = found["methods"]["mine"]
    assert (mine["producer"], mine["naming"]) == ("nerfbusters", "rank")
    changed = [view for view in mine["views"] if view["squared"][0]]
    assert [(view["scene"], view["photo"]) for view in changed] == [
        ("aloe", "images/frame_1_00003.png")
    ]
    photo = Path(evaluated.data) / "aloe" / "images_2" / "frame_1_00003.png"
    frame = evaluated.frames["mine"] / "aloe" / "rgb" / "00002.png"
    ours, theirs = (read_image(path).astype(np.float64) / 255 for path in (frame, photo))
    import torch

    expected = float(psnr(torch.from_numpy(ours), torch.from_numpy(theirs)))
    assert changed[0]["figures"]["genfusion"]["psnr"] == pytest.approx(expected, abs=1e-4)
    assert changed[0]["prediction"] == "aloe/rgb/00002.png", "below the folder of --frames"
    truth = "scenes/aloe/capture/images/frame_1_00003.png"
    assert changed[0]["truth"] == truth, "below OUT"
    equal = next(view for view in mine["views"] if not view["squared"][0])
    assert equal["figures"]["genfusion"]["psnr"] is None, "infinite, and no JSON number"


def test_both_averaging_orders_and_pooled_figures(evaluated: EvaluateConfig) -> None:
    method = results_of(evaluated.out)["methods"]["3dgut"]
    values = [(view["scene"], view["figures"]["genfusion"]["psnr"]) for view in method["views"]]
    by_scene = [
        np.mean([value for scene, value in values if scene == name]) for name in ("art", "aloe")
    ]
    summary = method["summary"]
    assert summary["frames"]["genfusion"]["psnr"] == pytest.approx(np.mean([v for _, v in values]))
    assert summary["scenes"]["genfusion"]["psnr"] == pytest.approx(np.mean(by_scene))
    squared = sum(view["squared"][0] for view in method["views"])
    pixels = sum(view["pixels"] for view in method["views"])
    expected = 10 * math.log10(255**2 * 3 * pixels / squared)
    assert summary["pooled"]["all"] == pytest.approx(expected)


def test_figures_without_weights_are_null_and_say_why(evaluated: EvaluateConfig) -> None:
    found = results_of(evaluated.out)
    for name, why in found["missing"].items():
        assert "not computed" in why
        if name.startswith("lpips"):
            views = found["methods"]["3dgut"]["views"]
            assert {view["figures"]["difix"]["lpips_alex"] for view in views} <= {
                None
            } or name != "lpips_alex"
    if "fid" in found["missing"]:
        assert found["methods"]["3dgut"]["summary"]["fid"]["difix"]["value"] is None
    kd = found["methods"]["3dgut"]["summary"]["kd"]
    assert kd["value"] is None and kd["why"], "8 crops are too few, or the weights are absent"


def test_tables_hold_the_results_figures(evaluated: EvaluateConfig) -> None:
    found = results_of(evaluated.out)
    rows = list(csv.DictReader((evaluated.out / "table.csv").read_text().splitlines()))
    value = next(
        row["value"]
        for row in rows
        if (row["method"], row["scene"], row["profile"], row["averaging"], row["figure"])
        == ("3dgut", "", "difix", "frames", "psnr")
    )
    assert float(value) == found["methods"]["3dgut"]["summary"]["frames"]["difix"]["psnr"]
    assert any(row["method"] == "published: Difix3D (3DGS)" for row in rows)
    text = (evaluated.out / "table.tex").read_text()
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") >= 4
    assert "ArtiFixer 3D+ (paper)$^*$ & 20.12" in text


def test_the_page_opens_without_a_network(evaluated: EvaluateConfig) -> None:
    page = (evaluated.out / "report.html").read_text()
    assert "http://" not in page and "https://" not in page and 'src="data:image/webp' in page
    assert "mine: worst and best views" in page and "worst: aloe, images/frame_1_00003.png" in page


def test_consistency_is_stated_for_all_methods(evaluated: EvaluateConfig) -> None:
    found = results_of(evaluated.out)
    errors = {name: method["consistency"] for name, method in found["methods"].items()}
    if errors["3dgut"]["views"]["neighbours"] is not None:
        assert errors["mine"]["views"]["neighbours"] is not None
        assert 0 < errors["mine"]["views"]["neighbours"] < 1


def test_own_photos_are_marked(evaluated: EvaluateConfig, tmp_path: Path) -> None:
    shutil.copytree(evaluated.frames["mine"], tmp_path / "mine")
    for path in sorted((tmp_path / "mine").rglob("rgb/*.png")):
        write(path.parents[1] / "rgb_gt" / path.name, path.read_bytes())
    own = replace(
        evaluated,
        out=tmp_path / "out",
        variants=(),
        own_truth=True,
        frames={"mine": tmp_path / "mine"},
    )
    found = evaluate(own).results
    assert found["methods"]["mine"]["own_gt"]
    assert all(view["squared"][0] == 0 for view in found["methods"]["mine"]["views"])
    assert "| mine; own photos |" in (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(InputError, match="has no photos beside its frames"):
        evaluate(replace(own, out=tmp_path / "other", frames=evaluated.frames))


def test_results_name_no_place_of_the_machine(
    evaluated: EvaluateConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same evaluation on another machine gives the same files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    again = replace(evaluated, out=tmp_path / "out", variants=())
    found = json.dumps(evaluate(again).results)
    assert "$TORCH_HOME/hub" in found, "the absent networks say where they belong"
    for out in (again.out, evaluated.out):
        for file in ("results.json", "table.md", "table.csv", "table.tex", "report.html"):
            text = (out / file).read_text()
            for place in (
                evaluated.out.parent,
                Path(evaluated.model).parent,
                tmp_path,
                Path.home(),
            ):
                assert str(place) not in text, f"{file} names {place}"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_desktops_and_phones(
    evaluated: EvaluateConfig, tmp_path: Path, width: int
) -> None:
    with browser(tmp_path, (width, 844)) as page:
        page.driver.get((evaluated.out / "report.html").as_uri())
        assert page.has_text("worst and best views")
        assert "`" not in page.text(), "Markdown in HTML"
        script = "return document.documentElement.scrollWidth <= innerWidth"
        assert page.driver.execute_script(script)
        broken = "return [...document.images].filter(image => !image.naturalWidth).length"
        assert page.driver.execute_script(broken) == 0


# Continuing ---------------------------------------------------------------------------------------


def test_the_same_command_changes_nothing(
    evaluated: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = decided(evaluated.out)
    monkeypatch.setattr("artifixer.pipeline.evaluate_scores.score_scene", None)  # nothing is scored
    evaluate(evaluated)
    assert decided(evaluated.out) == before


def test_a_stopped_evaluation_ends_with_the_same_bytes(
    evaluated: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM arrives at each of the first scored methods in turn."""
    again = replace(evaluated, out=tmp_path / "out")
    mark, stops = RunFolder.mark_done, 0

    def interrupted(self: RunFolder, stage: str, *arguments: Any) -> None:
        mark(self, stage, *arguments)
        if stage.startswith("score-") and self.root.name == "art":
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunFolder, "mark_done", interrupted)
    while True:
        try:
            evaluate(again)
            break
        except Stopped:
            stops += 1
            assert stops < 20
    assert stops >= 4
    ours, theirs = decided(again.out), decided(evaluated.out)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_workers_make_the_same_results(evaluated: EvaluateConfig, tmp_path: Path) -> None:
    again = replace(evaluated, out=tmp_path / "out", variants=())
    once = replace(evaluated, out=tmp_path / "once", variants=())
    evaluate(again, workers=2)
    evaluate(once)
    assert decided(again.out) == decided(once.out)


def test_a_new_figure_of_a_profile_stayed_empty_on_resume(
    evaluated: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = replace(evaluated, out=tmp_path / "out", variants=())
    evaluate(again)
    name = again.entry.profiles[0]
    profile = PROFILES[name]
    wider = replace(profile, figures=(*profile.figures, Figure("mse", "MSE", 3, False)))
    monkeypatch.setitem(PROFILES, name, wider)
    scored: list[str] = []

    def counted_score(profile: Profile, *arguments: Any) -> Figures:
        scored.append(profile.name)
        return score(profile, *arguments) | {"mse": 0.5}

    monkeypatch.setattr("artifixer.evaluation.scores.score", counted_score)
    evaluate(again)
    assert name in scored
    (file,) = again.out.rglob("art/scores/mine.json")
    views = json.loads(file.read_text())["views"]
    assert [view["figures"][name]["mse"] for view in views] == [0.5] * len(views)


def test_changed_frames_are_scored_again(evaluated: EvaluateConfig, tmp_path: Path) -> None:
    shutil.copytree(evaluated.frames["mine"], tmp_path / "mine")
    changed = replace(
        evaluated, out=tmp_path / "out", variants=(), frames={"mine": tmp_path / "mine"}
    )
    before = evaluate(changed).results["methods"]["mine"]["summary"]["pooled"]["all"]
    write(
        tmp_path / "mine" / "art" / "rgb" / "00000.png",
        encoded(np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
    )
    assert evaluate(changed).results["methods"]["mine"]["summary"]["pooled"]["all"] < before


# What is refused ----------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code = main(["evaluate", *map(str, words)])
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("artifixer: ")
    ]
    assert code == EXIT_BAD_INPUT and len(lines) == 1
    return lines[0]


def test_bad_input_is_one_line(
    evaluated: EvaluateConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = evaluated.data, tmp_path / "out"
    mine = evaluated.frames["mine"]
    alone = ["--variants", "none", "--scenes", "art", "--frames"]
    assert "lacks 10 of 12 scenes of nerfbusters: car, century" in refused(
        capsys, "nerfbusters", data, "--out", out
    )
    assert "unknown, expected one of" in refused(capsys, "nerfbuster", data, "--out", out)
    assert "does not exist" in refused(capsys, "nerfbusters", tmp_path / "no", "--out", out)
    assert "expected NAME=FOLDER" in refused(
        capsys, "nerfbusters", data, "--out", out, *alone, "mine"
    )
    assert "nothing to evaluate" in refused(
        capsys, "nerfbusters", data, "--out", out, "--variants", "none", "--scenes", "art"
    )
    assert "the name is in use" in refused(
        capsys, "nerfbusters", data, "--out", out, *alone, f"artifixer={mine}"
    )
    assert "--views: does not apply to nerfbusters" in refused(
        capsys, "nerfbusters", data, "--out", out, "--views", 3
    )
    assert "4 frames" not in str(out) and not out.exists(), "nothing is left of it"


def test_frames_of_another_size_are_refused_or_resized_on_request(
    evaluated: EvaluateConfig, tmp_path: Path
) -> None:
    for path in sorted((evaluated.frames["mine"] / "art").rglob("*.png")):
        small = resize_frame(read_image(path), WIDTH // 2, HEIGHT // 2, "area")
        write(tmp_path / "mine" / "art" / "rgb" / path.name, encoded(small))
    small_frames = replace(
        evaluated,
        out=tmp_path / "out",
        variants=(),
        scenes=("art",),
        frames={"mine": tmp_path / "mine"},
    )
    with pytest.raises(InputError, match=r"24x20 pixels, the photo .* has 48x40; --resize"):
        evaluate(small_frames)
    with pytest.raises(InputError, match=r"24x20 pixels, the photo .* has 48x40; --resize"):
        evaluate(replace(small_frames, out=tmp_path / "other", variants=("artifixer",)))
    assert not list((tmp_path / "other").rglob("splats")), "it is told before any heavy work"
    found = evaluate(replace(small_frames, resize="bicubic")).results
    assert found["measures"]["resized frames"] == "bicubic"
    assert "frames of another size resized (bicubic)" in found["caveats"]


def test_missing_weights_are_refused_on_request(
    evaluated: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"--require-weights: (lpips_|fid).* not computed"):
        evaluate(replace(evaluated, out=tmp_path / "out"), require_weights=True)


def test_results_inside_the_data_are_refused(evaluated: EvaluateConfig) -> None:
    inside = Path(evaluated.data) / "art" / "out"
    with pytest.raises(InputError, match="lies inside the scene"):
        evaluate(replace(evaluated, out=inside))
    assert not inside.exists()
