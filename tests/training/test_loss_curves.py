"""Loss curves of two processes are those of one: every stage, sharded and replicated, layers run
again or not.

The numbers of references are drawn from (0, n), as the paper's are: in most steps the processes
differ in them, and the clips of a batch too.
"""

from __future__ import annotations

import io
import json
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import run_ranks
from made_models import WHOLE_CLIPS, flow_stage, made_model, self_forcing_stage
from made_pairs import MadePairs

from artifixer.runtime.distributed import joined_processes, world_size
from artifixer.runtime.progress import Progress
from artifixer.training.autoencoder import AutoencoderStage, AutoencoderTraining
from artifixer.training.flow_matching import FlowMatchingTraining
from artifixer.training.loop import LoopConfig, train
from artifixer.training.parallel import ParallelConfig, distribute
from artifixer.training.self_forcing import SelfForcingTraining
from artifixer.training.stage import Stage
from artifixer.video.transformer import VideoTransformer

#: Means over processes are float32 sums in another order, which Adam amplifies over the steps.
CURVE_TOLERANCE = 1e-5

CLIPS = replace(WHOLE_CLIPS, references=(0, 3), tail_drop=1.0, text_drop=0.1, reference_drop=0.1)
RATE = 3e-4

#: (strategy, whether layers run again in the backward pass). The autoencoder is neither sharded nor
#: cut into layers.
PLAIN = ParallelConfig(strategy="replicate", compute="float32")
WAYS = {
    f"{strategy}{'-checkpointed' * again}": ParallelConfig(
        strategy=strategy, compute="float32", checkpoint_layers=again
    )  # type: ignore[arg-type]
    for strategy in ("shard", "replicate")
    for again in (False, True)
}
STAGES = ("autoencoder", "bidirectional", "diffusion_forcing", "self_forcing")


def made_stage(name: str, pairs: MadePairs, parallel: ParallelConfig) -> Stage:
    """The stage with its own optimizers, as ``run_training`` sets it up."""
    model = made_model(pairs, zeros=False)

    def distributed(network: VideoTransformer) -> None:
        network.checkpoint_layers = parallel.checkpoint_layers
        distribute(network, network.layers, parallel, torch.device("cpu"))

    if name == "autoencoder":
        return AutoencoderStage(
            model.vae.network,
            AutoencoderTraining(frames=5, learning_rate=RATE),
            pairs,
            seed=0,
            compute="float32",
        )
    if name == "self_forcing":
        teacher = made_model(pairs, seed=1, zeros=False)
        critic = deepcopy(teacher.transformer)
        teacher.transformer.head.bias.data += 0.1
        for network in (model.transformer, critic, teacher.transformer):
            distributed(network)
        settings = SelfForcingTraining(
            CLIPS,
            student_interval=2,
            guidance=2.0,
            student_learning_rate=RATE,
            critic_learning_rate=RATE,
        )
        return self_forcing_stage(model, teacher, critic, settings)
    distributed(model.transformer)
    return flow_stage(name, model, FlowMatchingTraining(CLIPS, learning_rate=RATE))


def train_curve(name: str, parallel: ParallelConfig, steps: int, folder: Path) -> None:
    """Four pairs per step, whatever the number of processes; the curve goes to
    ``metrics.jsonl``.
    """
    pairs = MadePairs(count=3)
    config = LoopConfig(steps=steps, batch=4 // world_size(), save_interval=steps)
    train(made_stage(name, pairs, parallel), pairs, config, folder, Progress(output=io.StringIO()))


def losses(folder: Path) -> list[list[float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        [value for name, value in sorted(line.items()) if name.startswith("loss")] for line in lines
    ]


def check_curves(name: str, steps: int, folder: Path) -> None:
    ways = WAYS if name != "autoencoder" else {"replicate": PLAIN}

    def process() -> None:
        with joined_processes("cpu"):
            for way, parallel in ways.items():
                train_curve(name, parallel, steps, folder / way)

    train_curve(name, PLAIN, steps, folder / "alone")
    assert run_ranks([process, process]) == [0, 0]
    alone = losses(folder / "alone")
    assert len(alone) == steps
    for way in ways:
        together = losses(folder / way)
        assert all(math.isfinite(loss) for line in together for loss in line)
        worst = max(
            abs(a - b)
            for ours, theirs in zip(together, alone, strict=True)
            for a, b in zip(ours, theirs, strict=True)
        )
        assert worst <= CURVE_TOLERANCE, f"{way} differs by {worst}"


@pytest.mark.parametrize("name", STAGES)
def test_the_first_losses_of_two_processes_are_those_of_one(name: str, tmp_path: Path) -> None:
    check_curves(name, steps=4, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_the_loss_curve_of_two_processes_is_that_of_one(name: str, tmp_path: Path) -> None:
    check_curves(name, steps=30, folder=tmp_path)
