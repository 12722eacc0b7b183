"""Every example and the notebook run as they stand, from a folder of their own; the notebook in a
process that has loaded nothing before.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts import Scripts, scripts

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "examples").glob("[0-9][0-9]_*.py"))

#: What each script must leave behind, given its arguments.
OUTPUTS = {
    "01_repair_a_capture": ("out/report.html", "out/frames/artifixer/00000.png"),
    "02_reconstruct_and_render": ("out/00003.png",),
    "03_stream_clean_frames": ("out/00020.png",),
    "04_splat_files": ("out/scene.ply", "out/scene.spz", "out/scene.sog"),
    "05_judge_your_own_frames": (),
    "06_train_a_model": ("out/teacher/model",),
}


@pytest.fixture(scope="module")
def loaded() -> Iterator[Scripts]:
    with scripts() as process:
        yield process


def test_there_are_six_examples_and_each_is_tested():
    assert [script.stem for script in SCRIPTS] == list(OUTPUTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs_and_leaves_what_it_says(script, tmp_path, loaded):
    capture = ("procedural:7:frames=16,width=96,height=72",) if script.stem.startswith("01") else ()
    code, said = loaded.run(script, tmp_path, *capture, "out")
    assert code == 0, said[-2000:]
    assert said.strip()
    for name in OUTPUTS[script.stem]:
        assert (tmp_path / name).exists(), name


def test_the_notebook_runs_from_top_to_bottom_and_repairs(tmp_path):
    notebook = json.loads((ROOT / "examples" / "walk_through.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    # As a notebook does: one namespace for all cells.
    script = tmp_path / "notebook.py"
    checks = "assert after.psnr > before.psnr, (before.psnr, after.psnr)\nprint('repaired')"
    script.write_text("\n".join([*cells, checks]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "repaired" in done.stdout
