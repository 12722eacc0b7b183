"""The loop: resuming is as if nothing had happened, bad numbers stop it, stops save."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_pairs import MadePairs
from torch import Tensor, nn

from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.progress import Progress
from artifixer.training.ema import Ema
from artifixer.training.loop import LoopConfig, NonFiniteLoss, rate_factor, train


class Toy:
    """Two linear layers with optimizers of their own: the second has its turn at every
    other step.
    """

    name = "toy"

    def __init__(self, broken_at: int | None = None, stop_at: int | None = None) -> None:
        self.broken_at, self.stop_at = broken_at, stop_at
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.ema = Ema(self.first, 0.9)
        self.modules: Mapping[str, nn.Module] = {"first": self.first, "second": self.second}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(module.parameters(), lr=0.01)
            for name, module in self.modules.items()
        }
        self.gradient_limits = {"first": 1.0, "second": 1.0}

    @property
    def extra_state(self) -> Mapping[str, Tensor]:
        return self.ema.state()

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> Tensor:
        pixels = torch.stack([pair.clean_frames[0, 0, 0].float() / 255 for pair in pairs])
        return pixels + torch.stack(
            [torch.rand(3, generator=generator) for generator in generators]
        )

    def losses(
        self, pixels: Tensor, generators: Sequence[torch.Generator], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        noise = torch.stack([torch.randn(3, generator=generator) for generator in generators])
        losses = {"first": (self.first(pixels) - noise).square().mean()}
        if step % 2 == 0:
            losses["second"] = (self.second(pixels) - noise).square().mean()
        if step == self.broken_at:
            losses["first"] = losses["first"] * float("nan")
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses, {"noise": noise.mean()}

    def updated(self, step: int) -> None:
        self.ema.update()

    def state(self) -> list[Tensor]:
        moments = [
            value
            for optimizer in self.optimizers.values()
            for state in optimizer.state.values()
            for value in state.values()
        ]
        return [
            *self.first.parameters(),
            *self.second.parameters(),
            *self.ema.state().values(),
            *moments,
        ]


CONFIG = LoopConfig(
    steps=9, batch=2, accumulation=2, seed=3, warmup=3, cooldown=0.4, save_interval=2
)


def run(toy: Toy, folder: Path, config: LoopConfig = CONFIG) -> Toy:
    train(toy, MadePairs(frames=1), config, folder, Progress(output=io.StringIO()))
    return toy


def test_a_killed_training_ends_with_the_bits_of_an_uninterrupted_one(tmp_path):
    whole = run(Toy(), tmp_path / "whole")
    for broken_at in (7, 5):  # a crash between two checkpoints leaves what a kill leaves
        folder = tmp_path / f"cut-{broken_at}"
        with pytest.raises(NonFiniteLoss):
            run(Toy(broken_at), folder)
        resumed = run(Toy(), folder)
        assert all(
            torch.equal(ours, theirs)
            for ours, theirs in zip(resumed.state(), whole.state(), strict=True)
        )
        assert (folder / "metrics.jsonl").read_bytes() == (
            tmp_path / "whole" / "metrics.jsonl"
        ).read_bytes()


def test_sigterm_saves_and_the_same_call_continues(tmp_path):
    whole = run(Toy(), tmp_path / "whole")
    with pytest.raises(Stopped, match="toy stopped after step 4"):
        run(Toy(stop_at=3), tmp_path / "cut")
    resumed = run(Toy(stop_at=3), tmp_path / "cut")  # step 3 is done and does not come again
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(resumed.state(), whole.state(), strict=True)
    )


def test_batches_drawn_ahead_change_no_bit(tmp_path):
    whole = run(Toy(), tmp_path / "whole")
    ahead, folder = Toy(), tmp_path / "ahead"
    for steps in (5, 9):  # the second time from a checkpoint
        config = replace(CONFIG, steps=steps, cooldown=0) if steps == 5 else CONFIG
        train(ahead, MadePairs(frames=1), config, folder, Progress(output=io.StringIO()), ahead=3)
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(ahead.state(), whole.state(), strict=True)
    )


def test_a_non_finite_loss_names_stage_step_and_pairs_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(
        NonFiniteLoss, match=r"toy, step 6: loss is nan with pairs made-\d, made-\d"
    ):
        run(Toy(broken_at=5), tmp_path)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step_00000002",
        "step_00000004",
    ]
    assert (
        json.loads((tmp_path / "checkpoints" / "step_00000004" / "complete.json").read_text())[
            "step"
        ]
        == 4
    )


def test_a_checkpoint_without_its_marker_is_ignored_and_removed(tmp_path):
    whole = run(Toy(), tmp_path)
    (tmp_path / "checkpoints" / "step_00000009" / "complete.json").unlink()
    resumed = run(Toy(), tmp_path)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(resumed.state(), whole.state(), strict=True)
    )
    assert (tmp_path / "checkpoints" / "step_00000009" / "complete.json").is_file()


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    run(Toy(), tmp_path)
    other = Toy()
    other.modules = {"first": other.first, "third": other.second}
    with pytest.raises(InputError, match=r"holds another training: modules.third.*missing"):
        run(other, tmp_path)


def test_one_process_sees_the_same_losses_with_a_batch_as_with_accumulation(tmp_path):
    config = LoopConfig(steps=3, batch=4, save_interval=10)
    at_once = run(Toy(), tmp_path / "a", config)
    in_parts = run(
        Toy(), tmp_path / "b", LoopConfig(steps=3, batch=2, accumulation=2, save_interval=10)
    )
    for ours, theirs in zip(in_parts.first.parameters(), at_once.first.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_rates_rise_stay_and_fall_to_almost_zero():
    config = LoopConfig(steps=10, warmup=2, cooldown=0.5)
    factors = [rate_factor(step, 10, config) for step in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_a_time_limit_ends_the_training_with_its_fall(tmp_path):
    toy, output = Toy(), io.StringIO()
    config = LoopConfig(steps=10**9, minutes=0.01, cooldown=0.5)
    steps = train(
        toy, MadePairs(frames=1), config, tmp_path, Progress(output=output, line_seconds=0)
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == len(lines) < 10**9
    assert lines[0]["learning_rate_factor"] == 1
    assert lines[-1]["learning_rate_factor"] < 0.1
    # The display expects an end near the time limit from the first step on.
    shown = [
        re.match(r"toy (\d+)(?:/(\d+))?.*?(?: ETA (\S+))?$", line)
        for line in output.getvalue().splitlines()
    ]
    assert all(match is not None for match in shown)
    totals = [int(match[2]) for match in shown if match is not None and match[1] != "0"]
    assert totals[-1] == steps and max(totals) < 10**5
    assert {match[3] for match in shown if match is not None and match[3]} <= {"0:00:00", "0:00:01"}


def test_the_display_shows_loss_gradient_norm_speed_and_time_left(tmp_path):
    output = io.StringIO()
    train(
        Toy(),
        MadePairs(frames=1),
        LoopConfig(steps=3),
        tmp_path,
        Progress(output=output, line_seconds=0),
    )
    line = next(line for line in output.getvalue().splitlines() if line.startswith("toy 2/3 66%"))
    assert re.search(
        r" loss=\S+ noise=\S+ gradient_norm=\S+ samples_per_s=\S+ \S+ ETA 0:00:0\d$", line
    ), line
