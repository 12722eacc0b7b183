"""``artifixer evaluate --diagnostics``: rows of the paper's section 5.4 from one reconstruction."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import FIT

from artifixer.cli import main
from artifixer.enhance.distill import DistillConfig
from artifixer.enhance.enhance import EnhanceConfig
from artifixer.evaluation.diagnostics import DIAGNOSTICS, settings_of_row
from artifixer.pipeline.evaluate import evaluate
from artifixer.pipeline.evaluate_config import EvaluateConfig
from artifixer.pipeline.evaluate_diagnostics import DiagnosticRows, find_models
from artifixer.runtime.errors import EXIT_BAD_INPUT, InputError, Stopped
from artifixer.runtime.image_files import read_image
from artifixer.runtime.run_folder import RunFolder
from artifixer.video.checkpoints.ours import save_model
from tests.flows.test_evaluate_flow import decided
from tests.video.made_models import SMALL, made_model

CAPTURE = "procedural:7:frames=9,width=48,height=36,points_per_photo=40"
QUICK = replace(FIT, iterations=12)
DIRECT = replace(SMALL, steps=1, source="direct")
CONCATENATION = replace(
    SMALL, source="noise", transformer=replace(SMALL.transformer, concatenate_render=True)
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_model(root / "own", made_model(DIRECT))
    save_model(root / "concatenation", made_model(CONCATENATION, seed=1))
    save_model(root / "no_forcing", made_model(replace(SMALL, steps=4), seed=2))
    return root


def config(models: Path, out: Path, **changes: Any) -> EvaluateConfig:
    base = EvaluateConfig(
        "heldout",
        CAPTURE,
        out,
        variants=("artifixer",),
        path="heldout",
        model=str(models / "own"),
        references=2,
        reconstruct=QUICK,
        distill=DistillConfig(QUICK, frames=3),
        diagnostics=True,
        diagnostic_models={"concatenation": models / "concatenation"},
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def done(models: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateConfig:
    chosen = config(models, tmp_path_factory.mktemp("diagnostics") / "out")
    evaluate(chosen)
    return chosen


def results_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "results.json").read_text())
    return content


def frames(done: EvaluateConfig, folder: str) -> np.ndarray:
    (scene,) = (done.out / "scenes").iterdir()
    return np.stack([read_image(path) for path in sorted((scene / folder).glob("*.png"))])


def test_all_rows_stand_in_results_tables_and_page(done: EvaluateConfig) -> None:
    found = results_of(done.out)
    rows = {row["method"]: row for row in found["diagnostics"]}
    assert list(rows) == [row.method for row in DIAGNOSTICS]
    missing = {name for name, row in rows.items() if row["absent"] is not None}
    assert missing == {"diagnostic_no_forcing", "diagnostic_text_only"}
    assert set(rows) - missing <= set(found["methods"])
    assert rows["diagnostic_concatenation"]["source"] == "noise"
    assert rows["diagnostic_mixing"]["source"] == "mixing"
    assert rows["diagnostic_mixing"]["steps"] == 4, "the model's own in the mode generate"
    assert rows["diagnostic_steps3"]["steps"] == 3
    page = (done.out / "table.md").read_text()
    table = page[page.index("## Diagnostics") :].split("\n## ")[0]
    for row in DIAGNOSTICS:
        assert row.title in table
    assert "- No Diffusion Forcing start: absent, no model trained for it" in table
    assert "- Text only: absent, model small reads no text." in table
    assert "Without rays" not in page.replace(table, ""), "other tables are as without them"
    assert "Without rays" in (done.out / "report.html").read_text()


def test_the_models_own_settings_give_the_runs_own_frames(done: EvaluateConfig) -> None:
    """One step from the direct source is how this model runs."""
    own = frames(done, "run/frames/artifixer")
    for row in ("steps1", "direct"):
        assert np.array_equal(frames(done, f"diagnostics/{row}"), own), row
    for row in ("mixing", "concatenation", "no_rays", "no_opacity", "no_references", "steps2"):
        assert not np.array_equal(frames(done, f"diagnostics/{row}"), own), row


def test_one_reconstruction_serves_all_rows(done: EvaluateConfig, tmp_path: Path) -> None:
    (scene,) = (done.out / "scenes").iterdir()
    assert [path.name for path in (scene / "run" / "splats").iterdir()] == ["initial.ply"]
    assert not list((scene / "diagnostics").glob("*.state"))


def test_a_stopped_evaluation_continues_with_the_same_bytes(
    done: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, mark, stops = replace(done, out=tmp_path / "out"), RunFolder.mark_done, 0

    def interrupted(self: RunFolder, stage: str, *arguments: Any) -> None:
        mark(self, stage, *arguments)
        if stage in ("diagnostic_direct", "diagnostic_no_rays"):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunFolder, "mark_done", interrupted)
    while True:
        try:
            evaluate(again)
            break
        except Stopped:
            stops += 1
    assert stops == 2
    assert decided(again.out) == decided(done.out)


def test_without_diagnostics_their_rows_are_gone(done: EvaluateConfig, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(done.out, tmp_path / "out")
    plain = replace(done, out=tmp_path / "out", diagnostics=False, diagnostic_models={})
    found = evaluate(plain).results
    assert not found["diagnostics"] and "diagnostic_direct" not in found["methods"]
    assert "Diagnostics" not in (plain.out / "table.md").read_text()


def test_settings_of_rows() -> None:
    rows = {row.name: row for row in DIAGNOSTICS}
    assert settings_of_row(rows["mixing"], DIRECT, "improve", None) == EnhanceConfig(
        "generate", 4, source="mixing"
    )
    assert settings_of_row(rows["direct"], DIRECT, "improve", None) == EnhanceConfig(
        "improve", 1, source="direct"
    )
    assert settings_of_row(rows["references_only"], DIRECT, "improve", None) == EnhanceConfig(
        drop=("renders", "text")
    )
    assert settings_of_row(rows["steps2"], DIRECT, "improve", 4).steps == 2


def test_rows_of_inputs_take_the_adaptive_steps_of_the_run(models: Path) -> None:
    """They took the model's own number instead."""
    found = find_models(str(models / "own"), {})
    rows = DiagnosticRows(found, "generate", "adaptive", 2, has_prompts=False)
    row = next(row for row in DIAGNOSTICS if row.name == "no_rays")
    assert rows.settings(row).steps == "adaptive"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--variants", "none"], "--diagnostics: needs a run"),
        (["--diagnostic-models", "mine=x"], "mine=...: unknown, expected some of mixing"),
        (["--diagnostic-models", "direct"], "--diagnostic-models direct: expected NAME=FOLDER"),
        (["--diagnostic-models", "direct={root}/nowhere"], "nowhere"),
        (["--diagnostic-models", "concatenation={root}/own"], "starts at direct; expected noise"),
        (["--prompts", "{root}/prompts.json"], "expected all scenes"),
    ],
)
def test_bad_input_is_one_line(
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    (models / "prompts.json").write_text('{"other": "a house"}')
    out = tmp_path / "out"
    line = ["evaluate", "heldout", CAPTURE, "--out", str(out), "--diagnostics"]
    line += [word.replace("{root}", str(models)) for word in words]
    assert main([*line, "--model", str(models / "own")]) == EXIT_BAD_INPUT
    errors = capsys.readouterr().err.splitlines()
    (error,) = (line for line in errors if line.startswith("artifixer: "))
    assert expected in error
    assert not out.exists()


def test_models_without_diagnostics_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs --diagnostics"):
        evaluate(config(models, tmp_path / "out", diagnostics=False))
