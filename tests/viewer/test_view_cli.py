"""``artifixer view``: bad input is one line and exit code 2; a PLY alone has a default view."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from artifixer.cli import main
from artifixer.pipeline.view import ViewJob, _run_arguments
from artifixer.pipeline.view_scene import ViewSource, open_view
from artifixer.recipes.run import RECIPES
from artifixer.runtime.errors import InputError
from artifixer.splats.ply import write_splats
from artifixer.viewer.access import Access
from tests.viewer.browser import served
from tests.viewer.test_trajectory import wall

LOCAL = Access("127.0.0.1", 0)


@pytest.fixture
def ply(tmp_path: Path) -> Path:
    write_splats(tmp_path / "wall.ply", wall())
    return tmp_path / "wall.ply"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--host", "0.0.0.0"), "--token"),
        (("--token", "abc"), "--token"),
        (("--port", "70000"), "--port 70000"),
        (("--size", "7"), "--size 7"),
        (("--model", "nonsense"), "nonsense"),
        (("--cameras", "missing.json"), "missing.json"),
    ],
)
def test_bad_options_are_named(
    ply: Path, options: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(ply), "--port", "0", *options]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_a_port_in_use_is_named(ply: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["view", str(ply), "--port", str(port)]) == 2
    assert f"--port {port}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing", "missing.ply", "."])
def test_nothing_to_show_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(tmp_path / name), "--port", "0"]) == 2
    assert "expected" in capsys.readouterr().err


def test_without_viser_the_extra_is_named(ply: Path, tmp_path: Path) -> None:
    (tmp_path / "viser.py").write_text("raise ImportError('no viser here')\n")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "artifixer", "view", str(ply), "--port", "0"]
    found = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert found.returncode == 2
    assert "artifixer[viewer]" in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_ply_alone_has_a_default_view_and_says_what_is_missing(ply: Path) -> None:
    pytest.importorskip("viser")
    scene = open_view(ViewSource(ply), "cpu")
    assert scene.frames == ()
    assert "no cameras" in scene.notes[0]
    assert scene.distance > 0
    with served(str(ply), "--port", "0", "--device", "cpu") as (address, process):
        assert re.fullmatch(r"http://localhost:\d+/", address)
        process.terminate()
        assert process.wait(30) == 75


def test_a_run_of_the_page_needs_the_capture(tmp_path: Path) -> None:
    recipes = {name: recipe.reconstruct for name, recipe in RECIPES.items()}
    arguments, reason = _run_arguments(ViewJob(ViewSource(tmp_path), LOCAL), recipes)
    assert arguments is None
    assert "--capture" in reason


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "generate", "steps": 3},
        {"iterations": 60},
        {"iterations": 10_000},
        {"recipe": "paper"},
        {"recipe": "release"},
        {"iterations": 60, "dropout": 0.0},
        {"iterations": 1500, "dropout": 0.3, "free_space_loss": 0.1},
        {"input_fits": 1},
        {"adapt": 2.5, "frame_weights": "uniform"},
        {"adapt_steps": 40, "export": "spz,usdz"},
        {"references": 0, "camera_scale": 0.25, "ignore_masks": True, "device": "cpu"},
    ],
)
def test_a_run_of_the_page_has_the_settings_of_the_folder(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """The command that the page starts is the folder's own, with another path."""
    from artifixer.commands.run import Command, run_config
    from artifixer.pipeline.run_config import settings_of
    from artifixer.runtime.run_folder import to_json, write_json

    made = run_config(Command("procedural:7", tmp_path, views=3, size="64", seed=4, **options))
    write_json(tmp_path / "config.json", {"settings": settings_of(made)})
    recipes = {name: recipe.reconstruct for name, recipe in RECIPES.items()}
    source = ViewSource(tmp_path, "procedural:7")
    arguments, note = _run_arguments(ViewJob(source, LOCAL), recipes)
    assert arguments is not None, note
    import tyro

    assert ("adapted to the scene" in note) == (made.adaptation is not None)
    words = arguments(tmp_path / "path.json", "3d")
    again = settings_of(run_config(tyro.cli(Command, args=words[1:])))
    before = settings_of(made)
    for changed in ("path", "variants"):
        before.pop(changed)
        again.pop(changed)
    assert to_json(again) == to_json(before)


def test_a_model_that_does_not_fit_is_refused(ply: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from artifixer.pipeline.view import serve
    from artifixer.video import memory_estimate as memory

    monkeypatch.setattr(memory, "free_memory", lambda device: 1 << 20)
    job = ViewJob(ViewSource(ply), LOCAL)
    with pytest.raises(InputError, match="--model"):
        serve(job, {})
