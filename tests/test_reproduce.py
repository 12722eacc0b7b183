"""The quick form of the reproduction, end to end: stopped, continued, repeated."""

from __future__ import annotations

import importlib
import json
import os
import signal
from pathlib import Path
from types import ModuleType

import pytest

from artifixer.evaluation.diagnostics import TITLES
from artifixer.recipes.reproduce import FULL, QUICK

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("reproduce")


def test_quick_form_end_to_end(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, page = tmp_path / "out", tmp_path / "page.md"
    words = ["--quick", "--out", str(out), "--page", str(page)]
    train, started = script.run_training, []

    def interrupted(job: object, folder: Path) -> Path:
        started.append(folder.name)
        if folder.name == "direct_causal":
            os.kill(os.getpid(), signal.SIGTERM)
        model: Path = train(job, folder)
        return model

    with monkeypatch.context() as patch:
        patch.setattr(script, "run_training", interrupted)
        assert script.main(words) == 75
    assert started[-1] == "direct_causal" and not page.exists()
    assert script.main(words) == 0
    text = page.read_text()
    assert text == (out / "reproduction.md").read_text()
    assert "these figures mean nothing" in text
    for method in script.TABLE_4:
        assert f"| {TITLES[method]} | " in text
    figures = json.loads((out / "figures.json").read_text())
    assert set(script.TABLE_4) | set(script.PRODUCTS) <= set(figures["0"])
    assert figures["0"]["diagnostic_mixing"] == figures["0"]["artifixer"], "the same model"
    assert figures["0"]["diagnostic_no_forcing"] != figures["0"]["artifixer"]
    timing = json.loads((out / "timing.json").read_text())
    assert {"pairs", "seed_0/no-forcing", "seed_0/evaluation_0"} <= set(timing)
    before = (out / "figures.json").read_bytes()
    assert script.main(words) == 0
    assert (out / "figures.json").read_bytes() == before


def test_all_variants_have_the_same_budget() -> None:
    for recipe in (FULL, QUICK):
        stages = ("autoencoder", "bidirectional", "diffusion_forcing", "self_forcing")
        loops = [[each.loop(stage) for stage in stages] for each in recipe.variants.values()]
        assert loops[0] == loops[1] == loops[2]
        clips = [each.bidirectional.clips for each in recipe.variants.values()]
        assert clips[0] == clips[1] == clips[2]
    assert len(FULL.seeds) == 2


def test_orders_are_judged_by_every_seed(script: ModuleType) -> None:
    def row(value: float) -> dict[str, float | None]:
        return {"psnr": value}

    names = {name for claim in script.CLAIMS for name in claim}
    seeds = {seed: {name: row(10.0) for name in names} for seed in ("0", "1")}
    seeds["0"]["diagnostic_mixing"] = seeds["1"]["diagnostic_mixing"] = row(11.0)
    seeds["0"]["artifixer"] = row(12.0)
    lines = list(script._claims(seeds))
    assert lines[0].endswith("agrees (+1.00 dB, +1.00 dB by seed).")
    assert "undecided (+2.00 dB, +0.00 dB by seed)" in lines[3]
    assert "2 of the paper's 6 orders hold in every seed" in lines[-1]
