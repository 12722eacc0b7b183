"""A whole run in a few seconds: a small procedural capture, few iterations, an untrained model of
two layers.

As a program, ``python -m tests.flows.made_runs OUT MODEL KILL_AT``: ``small_run`` that dies by
SIGKILL when it puts its KILL_AT-th file in place.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifixer.enhance.distill import DistillConfig
from artifixer.pipeline.capture import CaptureChoice
from artifixer.pipeline.run import Result, run
from artifixer.pipeline.run_config import RunConfig
from artifixer.recipes.run import RECIPES
from artifixer.runtime.json_io import read_json, write_json
from artifixer.runtime.progress import Progress
from artifixer.splats.initial import InitialConfig
from artifixer.splats.mcmc import McmcConfig
from artifixer.training.scene_adaptation import AdaptationConfig
from tests.in_process import in_process

#: 36 pixels are no multiple of 16: renders have 32 rows, and frames are resized.
CAPTURE = "procedural:7:frames=9,width=48,height=36,points_per_photo=40"
VIEWS = 3

FIT = replace(
    RECIPES["tiny"].reconstruct.plain(),
    iterations=40,
    initial=InitialConfig(points=250),
    mcmc=McmcConfig(max_gaussians=300, every=10, growth=1.2),
)


def small_config(out: Path, weights: Path, **changes: Any) -> RunConfig:
    config = RunConfig(
        choice=CaptureChoice(CAPTURE, views=VIEWS),
        out=out,
        path="heldout",
        model=str(weights),
        references=2,
        reconstruct=FIT,
        distill=DistillConfig(FIT, frames=4),
    )
    return replace(config, **changes)


def small_run(out: Path, weights: Path, **changes: Any) -> Result:
    return run(small_config(out, weights, **changes), progress=Progress(output=None))


def adaptation(steps: int) -> AdaptationConfig:
    """A few steps that change every frame, on short fits."""
    return AdaptationConfig(steps=steps, learning_rate=1e-2, fit_fraction=0.5)


def results(out: Path) -> dict[str, bytes]:
    """All files of a run that its inputs, settings and seed decide."""
    files = (path for path in out.rglob("*") if path.is_file())
    named = {path.relative_to(out).as_posix(): path for path in files}
    undecided = {"timing.json", "config.json"}
    return {
        name: path.read_bytes()
        for name, path in named.items()
        if name not in undecided and not name.startswith(".run/")
    }


def killed_run(out: Path, weights: Path, at_file: int, **changes: Any) -> None:
    """The run in a process of its own, which dies by SIGKILL when it puts its ``at_file``-th file
    in place.
    """
    said = out.with_name("said.txt")

    def dying() -> None:
        _die_at_file(at_file)
        small_run(out, weights, **changes)

    assert in_process(dying, said) == -signal.SIGKILL, said.read_text()


def forget_setting(out: Path, name: str) -> int:
    """Remove a setting from ``config.json`` and the stage markers, as in folders of versions
    before it; returns the number of places.
    """
    count = 0

    def without(value: Any) -> Any:
        nonlocal count
        if isinstance(value, list):
            return [without(item) for item in value]
        if not isinstance(value, dict):
            return value
        count += name in value
        return {key: without(item) for key, item in value.items() if key != name}

    for path in (out / "config.json", *(out / ".run" / "stages").glob("*.json")):
        write_json(path, without(read_json(path)))
    return count


def _die_at_file(number: int) -> None:
    """Checkpoints do not count: how many there are depends on the machine's speed."""
    replace_file, count = os.replace, 0

    def counted(source: Any, target: Any) -> None:
        nonlocal count
        count += not str(target).endswith(".checkpoint")
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace_file(source, target)

    os.replace = counted  # type: ignore[assignment]


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    _die_at_file(int(sys.argv[3]))
    small_run(Path(sys.argv[1]), Path(sys.argv[2]))
