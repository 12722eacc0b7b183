"""What a training leaves to look at: lines that an interruption does not change, and TensorBoard's
files where it is installed.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from artifixer.runtime.errors import InputError
from artifixer.training.watching import MetricsFile

HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None


def added(path: Path, first: int, last: int, begin_at: int) -> None:
    """Lines for the steps ``first`` to ``last``, by a training that continues after ``begin_at``
    steps.
    """
    metrics = MetricsFile(path, begin_at)
    for step in range(first, last + 1):
        metrics.add(step, {"loss": 1 / step})
    metrics.flush()


def test_lines_from_after_the_checkpoint_go_and_come_again(tmp_path: Path) -> None:
    added(tmp_path / "whole" / "metrics.jsonl", 1, 6, begin_at=0)
    path = tmp_path / "cut" / "metrics.jsonl"
    added(path, 1, 4, begin_at=0)
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # the process died while it wrote
    added(path, 3, 6, begin_at=2)
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


@pytest.mark.parametrize(
    "damage",
    [b"\x80\x04\x95\xff\n", b"[1]\n", b"{}\n", b'{"step": "one"}\n', b"[" * 100_000 + b"\n"],
)
def test_damage_before_the_last_line_is_refused(damage: bytes, tmp_path: Path) -> None:
    added(tmp_path / "metrics.jsonl", 1, 2, begin_at=0)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(damage + b'{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: "):
        MetricsFile(tmp_path / "metrics.jsonl", 3)


@pytest.mark.skipif(HAS_TENSORBOARD, reason="tensorboard is installed")
def test_without_tensorboard_there_is_no_folder_for_it(tmp_path: Path) -> None:
    added(tmp_path / "metrics.jsonl", 1, 2, begin_at=0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.skipif(not HAS_TENSORBOARD, reason="tensorboard is not installed")
def test_tensorboard_shows_every_step_once_however_often_the_training_was_interrupted(
    tmp_path: Path,
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    added(tmp_path / "metrics.jsonl", 1, 4, begin_at=0)
    added(tmp_path / "metrics.jsonl", 3, 6, begin_at=2)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = {event.step: event.value for event in board.Scalars("loss")}
    assert shown == pytest.approx({step: 1 / step for step in range(1, 7)})
    assert len(board.Scalars("loss")) == 6
