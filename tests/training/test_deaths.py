"""Processes that are killed, stopped, out of disk or off the numbers: what they leave is good, and
the same call goes on from it.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from forked import ended, fork, run_ranks
from made_pairs import MadePairs
from test_job import small_recipe, write_made_pairs
from test_loop import Toy
from test_stages import new_stage

from artifixer import cli
from artifixer.recipes.train import RECIPES
from artifixer.runtime.distributed import joined_processes, rank
from artifixer.runtime.errors import EXIT_BAD_INPUT, EXIT_STOPPED, InputError, Stopped
from artifixer.runtime.progress import Progress
from artifixer.training.autoencoder import AutoencoderStage
from artifixer.training.checkpoint import MARKER
from artifixer.training.loop import LoopConfig, NonFiniteLoss, train

#: Bytes: less than a checkpoint's tensors, more than the other files of a few steps.
LITTLE_SPACE = 20_000


def test_the_command_continues_after_kill_9_and_sigterm_with_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "tiny", small_recipe())
    pairs = write_made_pairs(tmp_path / "pairs")

    def command(out: str) -> list[str]:
        options = ["--steps", "6", "--save-every", "2", "--device", "cpu"]
        return [
            "train",
            "autoencoder",
            "--pairs",
            str(pairs),
            "--out",
            str(tmp_path / out),
            *options,
        ]

    def signalled(number: signal.Signals, at: int) -> int:
        """The command, with a signal to itself after so many steps."""
        updated = AutoencoderStage.updated

        def update(stage: AutoencoderStage, step: int) -> None:
            updated(stage, step)
            if step == at:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(AutoencoderStage, "updated", update)
        return cli.main(command("cut"))

    assert cli.main(command("whole")) == 0
    assert ended(fork(lambda: signalled(signal.SIGKILL, 3))) == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").glob(f"*/{MARKER}")] == [
        MARKER
    ]
    assert ended(fork(lambda: signalled(signal.SIGTERM, 5))) == EXIT_STOPPED
    assert (tmp_path / "cut" / "checkpoints" / "step_00000005" / MARKER).is_file()
    assert cli.main(command("cut")) == 0
    for file in (
        "metrics.jsonl",
        "model/vae.safetensors",
        "model/transformer.safetensors",
        "model/config.json",
    ):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), (
            file
        )


def test_a_disk_that_takes_no_more_bytes_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """The system itself refuses to write beyond a file size."""

    def run(steps: int) -> None:
        stage = new_stage("bidirectional", MadePairs(count=2))
        train(
            stage,
            MadePairs(count=2),
            LoopConfig(steps=steps, save_interval=2),
            tmp_path,
            Progress(output=io.StringIO()),
        )

    def with_little_space() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LITTLE_SPACE, LITTLE_SPACE))
        with pytest.raises(
            InputError,
            match=r"step_00000004: cannot write the checkpoint: file larger.*; "
            r"earlier ones are intact",
        ):
            run(steps=4)
        return EXIT_BAD_INPUT

    run(steps=2)
    before = {
        path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()
    }
    assert ended(fork(with_little_space)) == EXIT_BAD_INPUT
    assert {
        path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()
    } == before
    run(steps=4)


class BrokenOnOneRank(Toy):
    """Its fourth loss is not a number on the second process, or that process is asked to stop after
    its third step.
    """

    def losses(self, drawn, generators, step):  # type: ignore[no-untyped-def]
        losses, numbers = super().losses(drawn, generators, step)
        if step == self.broken_at and rank() == 0:
            losses["first"] = torch.zeros((), requires_grad=True)
        return losses, numbers

    def updated(self, step: int) -> None:
        super().updated(step)
        if step == self.stop_at and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def on_two_ranks(toy: dict[str, int], folder: Path) -> list[dict[str, str]]:
    """Train on two processes; gives for each which error ended it."""

    def process(number: int) -> None:
        told: dict[str, str] = {}
        with joined_processes("cpu"):
            try:
                config = LoopConfig(steps=6, save_interval=2)
                train(
                    BrokenOnOneRank(**toy),
                    MadePairs(frames=1),
                    config,
                    folder,
                    Progress(output=io.StringIO()),
                )
            except (NonFiniteLoss, Stopped) as error:
                told = {type(error).__name__: str(error)}
        (folder / f"told-{number}.json").write_text(json.dumps(told))

    folder.mkdir()
    assert run_ranks([lambda number=number: process(number) for number in range(2)]) == [0, 0]
    return [json.loads((folder / f"told-{number}.json").read_text()) for number in range(2)]


def complete(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in (folder / "checkpoints").glob(f"*/{MARKER}"))


def test_a_loss_that_is_no_number_on_one_process_stops_all_and_names_its_pairs(
    tmp_path: Path,
) -> None:
    first, second = on_two_ranks({"broken_at": 3}, tmp_path / "run")
    assert first == second
    # The fourth step of two processes with one pair each takes the pairs 6 and 7 of four: the
    # second process's is made-3.
    assert (
        first["NonFiniteLoss"]
        == "toy, step 4: loss is nan with pairs made-3; the last checkpoint is from before"
    )
    assert complete(tmp_path / "run") == ["step_00000002"]


def test_sigterm_to_one_process_saves_and_stops_all(tmp_path: Path) -> None:
    told = on_two_ranks({"stop_at": 3}, tmp_path / "run")
    assert all(
        "toy stopped after step 3; run the same command to continue" in each["Stopped"]
        for each in told
    )
    assert complete(tmp_path / "run") == ["step_00000002", "step_00000003"]
