"""A run whose model is adapted to the scene first: both rows, the adapter, and continuing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import CAPTURE, VIEWS, adaptation, killed_run, results, small_run

from artifixer.commands.run import Command, run_config
from artifixer.pipeline.plan import plan_run
from artifixer.pipeline.run import Result
from artifixer.pipeline.run_stages import wanted_stages
from artifixer.runtime.errors import InputError
from artifixer.training.scene_adaptation import AdaptationConfig
from artifixer.video.checkpoints.ours import save_model
from tests.video.made_models import SMALL, made_model

ADAPTATION = adaptation(6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, made_model(replace(SMALL, source="direct", steps=1)))
    return folder


@pytest.fixture(scope="module")
def plain(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return small_run(tmp_path_factory.mktemp("runs") / "plain", model, variants=("artifixer",))


@pytest.fixture(scope="module")
def adapted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return small_run(
        tmp_path_factory.mktemp("runs") / "adapted",
        model,
        variants=("artifixer",),
        adaptation=ADAPTATION,
    )


def test_the_report_and_the_metrics_show_both_rows(plain: Result, adapted: Result) -> None:
    content = json.loads((adapted.out / "metrics.json").read_text())
    assert {"artifixer", "artifixer_unadapted"} <= set(content["variants"])
    assert {"artifixer", "artifixer_unadapted"} <= set(content["gains"])
    assert adapted.variants["artifixer_unadapted"] == plain.variants["artifixer"]
    assert adapted.variants["artifixer"] != plain.variants["artifixer"]
    page = adapted.report.read_text()
    assert "ArtiFixer, not adapted" in page
    assert "6 steps of rank 8 on 3 training photos" in page
    assert "artifixer_unadapted" not in plain.variants


def test_frames_of_the_model_as_it_is_are_those_of_a_run_without_adaptation(
    plain: Result, adapted: Result
) -> None:
    before, ours = results(plain.out), results(adapted.out)
    frames = [name for name in before if name.startswith("frames/artifixer/")]
    assert len(frames) == len(plain.frames)
    for name in frames:
        assert ours[name.replace("artifixer", "artifixer_unadapted")] == before[name]
    assert any(ours[name] != before[name] for name in frames)
    same = [name for name in before if name.startswith(("splats/", "renders/"))]
    assert all(ours[name] == before[name] for name in same)


def test_it_leaves_an_adapter_and_what_was_done_and_no_state(adapted: Result) -> None:
    done = json.loads((adapted.out / "adapter.json").read_text())
    assert done == {"left out": list(adapted.train), "rank": 8, "steps": 6}
    assert (adapted.out / "adapter.safetensors").is_file()
    assert not list(adapted.out.glob("adapter.state"))


def test_the_same_call_keeps_it_and_one_without_adaptation_removes_it(
    plain: Result, adapted: Result, model: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(adapted.out, tmp_path / "copy"))
    again = small_run(copy, model, variants=("artifixer",), adaptation=ADAPTATION)
    assert again.executed == ()
    more = replace(ADAPTATION, steps=7)
    other = small_run(copy, model, variants=("artifixer",), adaptation=more)
    assert other.executed[:2] == ("adapt", "enhance"), "the model as it is has its frames already"
    without = small_run(copy, model, variants=("artifixer",))
    assert {"reconstruct", "render"}.isdisjoint(without.executed)
    assert results(copy) == results(plain.out)


def test_a_time_limit_is_kept_with_its_steps(model: Path, tmp_path: Path) -> None:
    limit = AdaptationConfig(minutes=0.01, fit_fraction=0.25)
    first = small_run(tmp_path, model, variants=("artifixer",), adaptation=limit)
    steps = json.loads((tmp_path / "adapter.json").read_text())["steps"]
    assert "adapt" in first.executed and steps >= 1
    before = results(tmp_path)
    assert small_run(tmp_path, model, variants=("artifixer",), adaptation=limit).executed == ()
    assert results(tmp_path) == before


@pytest.mark.posix
def test_a_killed_adaptation_ends_with_the_same_files(
    adapted: Result, model: Path, tmp_path: Path
) -> None:
    """Dies at a pair, in the training, and at the frames."""
    out = tmp_path / "killed"
    for moment in (9, 4, 12):
        killed_run(out, model, moment, variants=("artifixer",), adaptation=ADAPTATION)
    assert not (out / "report.html").exists(), "the last death comes too late"
    small_run(out, model, variants=("artifixer",), adaptation=ADAPTATION)
    assert results(out) == results(adapted.out)


def test_the_options_say_how_long(model: Path, tmp_path: Path) -> None:
    command = Command(
        CAPTURE, tmp_path, views=VIEWS, model=str(model), path="heldout", dropout=0.0, device="cpu"
    )
    assert run_config(command).adaptation is None
    minutes = run_config(replace(command, adapt=2.5))
    assert minutes.adaptation == AdaptationConfig(minutes=2.5)
    assert run_config(replace(command, adapt_steps=9)).adaptation == AdaptationConfig(steps=9)
    assert [stage.name for stage in wanted_stages(minutes)][2:5] == [
        "adapt",
        "enhance_unadapted",
        "enhance",
    ]
    planned = {stage.name: stage for stage in plan_run(minutes).stages}
    assert planned["adapt"].work == "3 fits, 2.5 minutes" and planned["adapt"].seconds > 150


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapt": 0.0}, "--adapt 0: expected a finite number of minutes above 0"),
        ({"adapt": float("nan")}, "--adapt nan: expected a finite number"),
        ({"adapt_steps": 0}, "--adapt-steps 0: expected 1 to"),
        ({"adapt": 1.0, "adapt_steps": 5}, "exclude each other"),
        ({"adapt": 1.0, "from_splats": Path("a.ply")}, "--adapt and --from-splats exclude"),
        ({"adapt": 1.0, "views": 2}, "--adapt: 2 training photos; expected at least 3"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    options: dict[str, object], message: str, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = Command(CAPTURE, out, views=VIEWS, model=str(model), path="heldout", device="cpu")
    with pytest.raises(InputError, match=message):
        plan_run_and_inputs(replace(command, **options))  # type: ignore[arg-type]
    assert not out.exists()


def plan_run_and_inputs(command: Command) -> None:
    small = run_config(command)
    small_run(
        small.out,
        Path(small.model),
        choice=small.choice,
        adaptation=small.adaptation,
        from_splats=small.from_splats,
    )


def test_a_model_that_changes_only_empty_regions_says_that_there_is_little_to_adapt(
    adapted: Result, tmp_path: Path
) -> None:
    save_model(
        tmp_path / "model", made_model(replace(SMALL, source="direct", steps=1, smooth_cells=8))
    )
    result = small_run(
        tmp_path / "run", tmp_path / "model", variants=("artifixer",), adaptation=adaptation(1)
    )
    assert any("--adapt changes little" in note for note in result.notes)
    assert not any("--adapt changes little" in note for note in adapted.notes)
