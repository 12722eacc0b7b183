"""Checkpoints: another number of processes reads the same bits, nothing in them is unpickled, and
what is wrong with one is named.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import ended, fork, run_ranks
from made_pairs import MadePairs
from test_loop import Toy
from test_loop import run as run_toy
from test_loss_curves import CURVE_TOLERANCE, PLAIN, WAYS, losses, made_stage
from torch import Tensor

from artifixer.runtime.distributed import joined_processes, rank, world_size
from artifixer.runtime.errors import InputError
from artifixer.runtime.progress import Progress
from artifixer.training.checkpoint import INDEX, latest_checkpoint, load_checkpoint, state_tensors
from artifixer.training.loop import LoopConfig, train
from artifixer.training.parallel import is_sharded
from artifixer.training.stage import Stage


def whole_state(stage: Stage) -> dict[str, Tensor]:
    """All that a checkpoint holds, gathered; weights, both moments of both optimizers and the
    average.
    """
    tensors = state_tensors(stage.modules, stage.optimizers, stage.extra_state)
    return {
        name: (value.full_tensor() if is_sharded(value) else value).clone()
        for name, value in tensors.items()
    }  # type: ignore[attr-defined]


def train_to(step: int, folder: Path, before: Path | None, after: Path | None) -> None:
    """Self forcing with sharded weights where there are several processes, four pairs per step.

    before, after: files for the state as it is read from the checkpoint, and as it is at the end.
    """
    pairs = MadePairs(count=3)
    stage = made_stage("self_forcing", pairs, PLAIN if world_size() == 1 else WAYS["shard"])
    newest = latest_checkpoint(folder / "checkpoints")
    if newest is not None and before is not None:
        load_checkpoint(newest, stage.modules, stage.optimizers, stage.extra_state)
        save_on_first(whole_state(stage), before)
    train(
        stage,
        pairs,
        LoopConfig(steps=step, batch=4 // world_size(), save_interval=100),
        folder,
        Progress(output=io.StringIO()),
    )
    if after is not None:
        save_on_first(whole_state(stage), after)


def save_on_first(state: dict[str, Tensor], path: Path) -> None:
    if rank() == 0:
        torch.save(state, path)


def run_on(processes: int, action: Callable[[], None]) -> None:
    def process() -> None:
        with joined_processes("cpu"):
            action()

    assert run_ranks([process] * processes) == [0] * processes


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of one process, without interruption."""
    folder = tmp_path_factory.mktemp("alone")
    train_to(2, folder, None, None)
    return folder


@pytest.mark.parametrize(("saved", "resumed"), [(1, 2), (2, 1), (2, 4)])
def test_another_number_of_processes_continues_with_the_same_bits(
    saved: int, resumed: int, alone: Path, tmp_path: Path
) -> None:
    run_on(saved, lambda: train_to(1, tmp_path, None, tmp_path / "saved.pt"))
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    parts = {f"part-{number:05d}-of-{saved:05d}.safetensors" for number in range(1, saved + 1)}
    assert {path.name for path in checkpoint.iterdir()} == {"index.json", "complete.json", *parts}
    run_on(resumed, lambda: train_to(2, tmp_path, tmp_path / "read.pt", None))
    before, after = (
        torch.load(tmp_path / name, weights_only=True) for name in ("saved.pt", "read.pt")
    )
    assert before.keys() == after.keys()
    assert {name.partition(".")[0] for name in before} == {"modules", "optimizers", "extra"}
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    for ours, theirs in zip(losses(tmp_path), losses(alone), strict=True):
        assert ours == pytest.approx(theirs, abs=CURVE_TOLERANCE)


def test_the_same_state_has_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        run_toy(Toy(), tmp_path / name, LoopConfig(steps=2))
        checkpoint = tmp_path / name / "checkpoints" / "step_00000002"
        files.append(
            {
                path.name: path.read_bytes()
                for path in checkpoint.iterdir()
                if path.name != "complete.json"
            }
        )
    assert files[0] == files[1] and len(files[0]) == 2


@pytest.mark.parametrize("is_in_place", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("file", ["part-00001-of-00001.safetensors", "index.json", "complete.json"])
def test_killed_while_it_saves_a_training_goes_on_with_the_same_bits(
    file: str, is_in_place: bool, tmp_path: Path
) -> None:
    """The process dies when the file of its second checkpoint is about to get its name, or has just
    got it.
    """

    def die() -> None:
        replace = os.replace

        def deadly(source: Any, target: Any) -> None:
            is_due = Path(target).name == file and Path(target).parent.name == "step_00000004"
            if is_due and not is_in_place:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
            if is_due:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = deadly  # type: ignore[assignment]
        run_toy(Toy(), tmp_path / "cut")

    whole = run_toy(Toy(), tmp_path / "whole")
    assert ended(fork(die)) == -signal.SIGKILL
    resumed = run_toy(Toy(), tmp_path / "cut")
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(resumed.state(), whole.state(), strict=True)
    )
    names = [
        sorted(
            path.relative_to(tmp_path / name).as_posix() for path in (tmp_path / name).rglob("*")
        )
        for name in ("whole", "cut")
    ]
    assert names[0] == names[1]
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_bytes()


Index = dict[str, Any]

WEIGHT = "modules.first.weight"


def changed(index: Index, **values: Any) -> None:
    index["tensors"][WEIGHT].update(values)


#: What is changed in the index -> what is said about it.
WRONG: dict[str, tuple[Callable[[Index], None], str]] = {
    "another format": (
        lambda index: index.update(format="pickle"),
        'expected an object of "format"',
    ),
    "no tensors": (lambda index: index.pop("tensors"), 'expected "parts", a number, and "tensors"'),
    "parts that are no number": (
        lambda index: index.update(parts="1/../../x"),
        'expected "parts", a number',
    ),
    "a part that is not there": (
        lambda index: index.update(parts=2),
        r"part-00001-of-00002.safetensors: does not exist",
    ),
    "more parts than named": (
        lambda index: changed(index, rows=[[7, 0, 3]]),
        "its rows are not the tensor's 3 in 1 part;",
    ),
    "rows that are missing": (
        lambda index: changed(index, rows=[[1, 0, 2]]),
        "its rows are not the tensor's 3",
    ),
    "rows twice": (
        lambda index: changed(index, rows=[[1, 0, 2], [1, 1, 3]]),
        "its rows are not the tensor's 3",
    ),
    "negative rows": (
        lambda index: changed(index, rows=[[1, -1, 3]]),
        "the latter of part, first and end row",
    ),
    "rows of names": (
        lambda index: changed(index, rows=[["../x", 0, 3]]),
        "the latter of part, first and end row",
    ),
    "a huge shape": (
        lambda index: changed(index, shape=[2**60, 3], rows=[[1, 0, 2**60]]),
        r"float32 of 1152921504606846976x3 there",
    ),
    "another type": (
        lambda index: changed(index, dtype="int64"),
        r"modules.first.weight is int64 of 3x3 there, float32 of 3x3 here",
    ),
    "another name": (
        lambda index: index["tensors"].update(other=index["tensors"].pop(WEIGHT)),
        "first.weight is missing",
    ),
    "another state": (
        lambda index: index["tensors"].update(
            {"optimizers.first.first.weight:hook": index["tensors"][WEIGHT]}
        ),
        "first.weight:hook is unexpected",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_index_is_refused_before_a_tensor_is_read(name: str, tmp_path: Path) -> None:
    run_toy(Toy(), tmp_path, LoopConfig(steps=2))
    path = tmp_path / "checkpoints" / "step_00000002" / INDEX
    index = json.loads(path.read_text())
    change, message = WRONG[name]
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(InputError, match=message) as refused:
        run_toy(Toy(), tmp_path, LoopConfig(steps=3))
    assert "\n" not in str(refused.value)


def damage(part: Path, kind: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(part)
    if kind == "truncated":
        part.write_bytes(part.read_bytes()[:-8])
    elif kind == "link":
        part.rename(part.parent.parent / "elsewhere")
        part.symlink_to(part.parent.parent / "elsewhere")
    elif kind == "shape":
        save_file(tensors | {WEIGHT: torch.zeros(4, 3)}, part)
    elif kind == "type":
        save_file(tensors | {WEIGHT: torch.zeros(3, 3, dtype=torch.int32)}, part)
    elif kind == "value":
        save_file(tensors | {WEIGHT: torch.full((3, 3), float("nan"))}, part)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "truncated or damaged"),
        ("link", "does not exist, expected a file"),
        ("shape", r"modules.first.weight is \[4, 3\], the index says \[3, 3\]"),
        ("type", "modules.first.weight is int32, the index says float32"),
        ("value", "modules.first.weight has values that are not finite"),
    ],
)
def test_a_damaged_part_is_refused_by_name_and_the_checkpoint_before_goes_on(
    kind: str, message: str, tmp_path: Path
) -> None:
    whole = run_toy(Toy(), tmp_path / "whole", LoopConfig(steps=5, save_interval=2))
    folder = tmp_path / "damaged"
    run_toy(Toy(), folder, LoopConfig(steps=4, save_interval=2))
    last = folder / "checkpoints" / "step_00000004"
    damage(last / "part-00001-of-00001.safetensors", kind)
    with pytest.raises(InputError, match=rf"{message}.*continue from the one before"):
        run_toy(Toy(), folder, LoopConfig(steps=5, save_interval=2))
    last.rename(tmp_path / "away")
    resumed = run_toy(Toy(), folder, LoopConfig(steps=5, save_interval=2))
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(resumed.state(), whole.state(), strict=True)
    )


@pytest.mark.parametrize(
    "values",
    [{"step": 1}, {"seconds": None}, {"seconds": -1}, {"total": "x"}, {"cooldown_start": 1.5}],
)
def test_wrong_plain_values_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    run_toy(Toy(), tmp_path, LoopConfig(steps=2))
    path = tmp_path / "checkpoints" / "step_00000002" / "complete.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(InputError, match=re.escape(str(path))):
        run_toy(Toy(), tmp_path, LoopConfig(steps=3))


def test_checkpoints_of_earlier_versions_are_refused_and_not_unpickled(tmp_path: Path) -> None:
    run_toy(Toy(), tmp_path, LoopConfig(steps=2))
    folder = tmp_path / "checkpoints" / "step_00000002"
    (folder / INDEX).unlink()
    touched = tmp_path / "touched"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (touched,)

    (folder / ".metadata").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(
        InputError,
        match=r"step_00000002: was written by an earlier version.*cannot be resumed: "
        r"use --overwrite",
    ):
        run_toy(Toy(), tmp_path, LoopConfig(steps=3))
    assert not touched.exists()


def test_a_link_among_the_checkpoints_is_neither_read_nor_removed(tmp_path: Path) -> None:
    run_toy(Toy(), tmp_path / "run", LoopConfig(steps=2))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    link = tmp_path / "run" / "checkpoints" / "step_00000009"
    link.symlink_to(elsewhere)
    run_toy(Toy(), tmp_path / "run", LoopConfig(steps=3))
    assert link.is_symlink() and (elsewhere / "mine").exists()
