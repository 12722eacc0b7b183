"""What all stages promise: a training that is killed anywhere and continued has the bits of one
that was not.
"""

from __future__ import annotations

import io
import json
import os
import signal
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import ended, fork
from made_models import flow_stage, made_model, self_forcing_stage
from made_pairs import MadePairs

from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.progress import Progress
from artifixer.training.autoencoder import AutoencoderStage, AutoencoderTraining
from artifixer.training.checkpoint import state_tensors
from artifixer.training.loop import LoopConfig, NonFiniteLoss, train
from artifixer.training.small_clips import SmallClipConfig
from artifixer.training.small_model import SmallFlowTraining, SmallSelfForcingTraining
from artifixer.training.stage import Stage

STAGES = ("autoencoder", "bidirectional", "diffusion_forcing", "self_forcing")
CLIPS = SmallClipConfig(
    frames=(13,),
    references=(3, 3),
    tail_drop=0.5,
    text_drop=0.1,
    reference_drop=0.1,
    augment=True,
)
CONFIG = LoopConfig(steps=7, save_interval=2, cooldown=0.3)


class DeadlyPairs(MadePairs):
    """Pairs that kill the process when the one at ``last`` or a later one is asked for."""

    def __init__(self, last: int) -> None:
        super().__init__(count=2, frames=13)
        self.last = last

    def pair(self, index: int) -> TrainingPair:
        # the autoencoder reads many for its statistics before it starts
        if self.last <= index < 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pair(index)


def new_stage(name: str, pairs: MadePairs) -> Stage:
    model = made_model(pairs, zeros=False)
    if name == "autoencoder":
        return AutoencoderStage(
            model.vae.network,
            AutoencoderTraining(frames=5),
            MadePairs(count=2),
            seed=0,
            compute="bfloat16",
        )
    if name == "self_forcing":
        teacher = made_model(pairs, seed=1, zeros=False)
        settings = SmallSelfForcingTraining(CLIPS, student_interval=2, mixing_fraction=0.5)
        return self_forcing_stage(model, teacher, deepcopy(teacher.transformer), settings)
    return flow_stage(name, model, SmallFlowTraining(CLIPS, 1e-3, source="mixing", ema_decay=0.9))


def trained(name: str, pairs: MadePairs, folder: Path) -> dict[str, torch.Tensor]:
    stage = new_stage(name, pairs)
    train(stage, pairs, CONFIG, folder, Progress(output=io.StringIO()))
    return state_tensors(stage.modules, stage.optimizers, stage.extra_state)


@pytest.mark.posix
@pytest.mark.parametrize("name", STAGES)
def test_killed_twice_and_continued_is_as_if_nothing_had_happened(name, tmp_path):
    whole = trained(name, MadePairs(count=2), tmp_path / "whole")
    for last in (3, 6):
        assert (
            ended(fork(lambda last=last: trained(name, DeadlyPairs(last), tmp_path / "cut")))
            == -signal.SIGKILL
        )
    continued = trained(name, MadePairs(count=2), tmp_path / "cut")
    assert whole.keys() == continued.keys()
    assert [key for key, tensor in whole.items() if not torch.equal(tensor, continued[key])] == []
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("name", STAGES)
def test_a_broken_weight_stops_the_stage_by_name(name, tmp_path):
    pairs = MadePairs(count=1)
    stage = new_stage(name, pairs)
    next(
        iter(
            stage.modules[
                "critic" if "critic" in stage.modules else next(iter(stage.modules))
            ].parameters()
        )
    ).data.fill_(float("nan"))
    with pytest.raises(
        NonFiniteLoss, match=rf"{stage.name}, step 1: loss.* is nan with pairs made-0"
    ):
        train(stage, pairs, CONFIG, tmp_path, Progress(output=io.StringIO()))


#: One step in float32 with other kernels; convolutions without TF32.
GPU_TOLERANCE = 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", STAGES)
def test_a_gpu_trains_as_the_cpu(name, tmp_path):
    pairs, metrics = MadePairs(count=4), []
    for device in ("cpu", "cuda"):
        stage = on_device(new_stage(name, pairs), device)
        config = replace(CONFIG, steps=3, batch=4, save_interval=10)
        with torch.backends.cudnn.flags(allow_tf32=False):
            train(
                stage,
                pairs,
                config,
                tmp_path / device,
                Progress(output=io.StringIO()),
                ahead=2 * (device == "cuda"),
            )
        metrics.append(
            [
                json.loads(line)
                for line in (tmp_path / device / "metrics.jsonl").read_text().splitlines()
            ]
        )
    for ours, theirs in zip(metrics[1], metrics[0], strict=True):
        assert ours == pytest.approx(theirs, rel=GPU_TOLERANCE, abs=GPU_TOLERANCE)


def on_device(stage: Stage, device: str) -> Stage:
    """A new stage with all its networks on a device, in float32. Its optimizers have no state yet
    and hold the weights themselves.
    """
    for network in ("network", "transformer", "student", "critic", "teacher"):
        if hasattr(stage, network):
            getattr(stage, network).to(device)
    if hasattr(stage, "vae"):
        stage.vae.to(device)
    if getattr(stage, "ema", None) is not None:
        stage.ema.average = {key: value.to(device) for key, value in stage.ema.average.items()}
    stage.compute = "float32"
    return stage
