"""Two processes are one: gradients and weights of every stage, replicated and sharded, and
checkpoints read by another number of them.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from forked import run_ranks
from made_models import CONFIG, WHOLE_CLIPS, flow_stage, made_model, self_forcing_stage
from made_pairs import MadePairs, losses_of
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from artifixer.runtime.distributed import joined_processes, rank, world_size
from artifixer.runtime.progress import Progress
from artifixer.runtime.seeds import generator
from artifixer.training.autoencoder import AutoencoderStage, AutoencoderTraining
from artifixer.training.clips import encode_clips
from artifixer.training.flow_matching import FlowMatchingTraining
from artifixer.training.loop import LoopConfig, train
from artifixer.training.parallel import (
    ParallelConfig,
    compile_layers,
    distribute,
    whole_tensors,
)
from artifixer.training.self_forcing import SelfForcingTraining
from artifixer.training.small_model import SmallFlowTraining
from artifixer.training.stage import Stage
from artifixer.video.transformer import VideoTransformer

#: Means over processes are sums in another order, in float64.
WEIGHT_TOLERANCE = 1e-9

#: The same in float32, relative to the norm of a network's gradient.
GRADIENT_TOLERANCE = 1e-5

#: ``second`` is diffusion forcing with some clips shown as their own first result.
STAGES = ("autoencoder", "bidirectional", "diffusion_forcing", "second", "self_forcing")
Strategy = Literal["replicate", "shard"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
CLIPS = replace(WHOLE_CLIPS, tail_drop=1.0, text_drop=0.1, reference_drop=0.3)


def made_stage(
    name: str, pairs: MadePairs, strategy: Strategy, dtype: torch.dtype = torch.float64
) -> Stage:
    """The stage with plain gradient descent, in float64, so that rounding is not amplified."""
    model = made_model(pairs, zeros=False, dtype=dtype)
    parallel = ParallelConfig(strategy=strategy, compute="float32")

    def distributed(network: VideoTransformer) -> None:
        distribute(network, network.layers, parallel, torch.device("cpu"))

    stage: Stage
    if name == "autoencoder":
        stage = AutoencoderStage(
            model.vae.network, AutoencoderTraining(frames=5), pairs, seed=0, compute="float32"
        )
    elif name == "self_forcing":
        teacher = made_model(pairs, seed=1, zeros=False, dtype=dtype)
        critic = deepcopy(teacher.transformer)
        teacher.transformer.head.bias.data += 0.1
        for network in (model.transformer, critic, teacher.transformer):
            distributed(network)
        settings = SelfForcingTraining(CLIPS, student_interval=2, guidance=2.0)
        stage = self_forcing_stage(model, teacher, critic, settings)
    else:
        distributed(model.transformer)
        second = SmallFlowTraining(CLIPS, source="direct", second_fraction=0.5, second_from=1)
        plain = FlowMatchingTraining(CLIPS)
        stage = (
            flow_stage("diffusion_forcing", model, second)
            if name == "second"
            else flow_stage(name, model, plain)
        )
    for label, optimizer in stage.optimizers.items():
        stage.optimizers[label] = torch.optim.SGD(optimizer.param_groups[0]["params"], lr=0.01)  # type: ignore[index]
    return stage


def trained_weights(
    name: str, strategy: Strategy, folder: Path, steps: int = 5
) -> dict[str, torch.Tensor]:
    """All trained weights after a few steps with two pairs each, whatever the number of
    processes.
    """
    pairs = MadePairs(count=3)
    stage = made_stage(name, pairs, strategy)
    config = LoopConfig(steps=steps, batch=2 // world_size(), save_interval=100)
    train(stage, pairs, config, folder, Progress(output=io.StringIO()))
    return {
        f"{label}.{key}": value
        for label, module in stage.modules.items()
        for key, value in whole_tensors(module).items()
    }


def gradients(name: str, strategy: Strategy, folder: Path) -> dict[str, torch.Tensor]:
    """Gradients of the networks that have their turn at the first step, float32, two pairs; ``{}``
    on all processes but the first.
    """
    pairs = MadePairs(count=3)
    stage = made_stage(name, pairs, strategy, torch.float32)
    stage.gradient_limits = dict.fromkeys(stage.optimizers, math.inf)  # type: ignore[misc]
    train(
        stage,
        pairs,
        LoopConfig(steps=1, batch=2 // world_size(), save_interval=100),
        folder,
        Progress(output=io.StringIO()),
    )
    found = {}
    for label, module in stage.modules.items():
        parts = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        found[label] = torch.cat(
            [
                (part.full_tensor() if isinstance(part, DTensor) else part).flatten()
                for part in parts
            ]
        )
    return found if rank() == 0 else {}


def run_processes(folder: Path) -> None:
    """Two gloo processes that run ``main`` below."""
    port = 29500 + os.getpid() % 2000
    processes = []
    for number in range(2):
        environment = {
            **os.environ,
            "RANK": str(number),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(number),
            "OMP_NUM_THREADS": "1",
        }
        paths = os.pathsep.join(
            [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": paths}
        command = [sys.executable, __file__, str(folder)]
        processes.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]


def main(folder: Path) -> None:
    """What each of the two processes does: train all stages, continue a training, and stop at a bad
    loss.
    """
    torch.set_num_threads(1)
    with joined_processes("cpu"):
        for name in STAGES:
            for strategy in STRATEGIES if name != "autoencoder" else STRATEGIES[:1]:
                weights = trained_weights(name, strategy, folder / f"{name}-{strategy}")
                if rank() == 0:
                    torch.save(weights, folder / f"{name}-{strategy}.pt")
        weights = trained_weights("bidirectional", "shard", folder / "begun by one", steps=5)
        if rank() == 0:
            torch.save(weights, folder / "continued.pt")
        (folder / f"done-{rank()}.json").write_text(json.dumps(world_size()))


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two processes trained."""
    folder = tmp_path_factory.mktemp("by_two")
    trained_weights("bidirectional", "replicate", folder / "begun by one", steps=3)
    run_processes(folder)
    return folder


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        difference = float((value - theirs[key]).abs().max())
        assert difference <= WEIGHT_TOLERANCE, f"{key} differs by {difference}"


@pytest.mark.parametrize("name", STAGES)
def test_two_processes_train_the_weights_of_one(name, by_two, tmp_path):
    alone = trained_weights(name, "replicate", tmp_path)
    for strategy in STRATEGIES if name != "autoencoder" else STRATEGIES[:1]:
        assert_same_weights(torch.load(by_two / f"{name}-{strategy}.pt", weights_only=True), alone)


@pytest.mark.posix
@pytest.mark.parametrize("name", STAGES)
def test_two_processes_have_the_gradients_of_one(name, tmp_path):
    alone = gradients(name, "replicate", tmp_path / "alone")
    for strategy in STRATEGIES if name != "autoencoder" else STRATEGIES[:1]:

        def process(strategy: Strategy = strategy) -> None:
            with joined_processes("cpu"):
                if found := gradients(name, strategy, tmp_path / strategy):
                    torch.save(found, tmp_path / f"{strategy}.pt")

        assert run_ranks([process, process]) == [0, 0]
        together = torch.load(tmp_path / f"{strategy}.pt", weights_only=True)
        assert together.keys() == alone.keys()
        for label, gradient in alone.items():
            assert float(gradient.norm()) > 0, f"{label} learns nothing"
            assert float((together[label] - gradient).norm()) <= GRADIENT_TOLERANCE * float(
                gradient.norm()
            ), label


def test_sharded_weights_are_trained_at_the_levels_of_whole_ones(tmp_path):
    """Weights that are gathered in bfloat16, as on GPUs, and whole ones under autocast: 937.5 is
    rounded to 936 by both.
    """

    def process() -> None:
        with joined_processes("cpu"):
            for strategy in STRATEGIES:
                pairs = MadePairs(count=1)
                stage = flow_stage(
                    "bidirectional", made_model(pairs, zeros=False), FlowMatchingTraining(CLIPS)
                )
                network, first = stage.transformer, []
                if strategy == "shard":
                    policy = MixedPrecisionPolicy(
                        torch.bfloat16, torch.float32, cast_forward_inputs=False
                    )
                    for part in (*network.layers, network):
                        fully_shard(part, mp_policy=policy)
                network.time_embedding.register_forward_pre_hook(
                    lambda _, inputs, seen=first: seen.append(inputs[0].flatten()[0])
                )
                encoded = encode_clips(
                    stage.draw(pairs.pairs, [generator(0, "clip")], 0).clips, stage.vae, CONFIG.text
                )
                with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
                    network(encoded.clean_latents, torch.tensor([937.5]), encoded.conditions)
                (tmp_path / f"{strategy}-{rank()}").write_text(str(float(first[0])))

    assert run_ranks([process, process]) == [0, 0]
    levels = [
        float((tmp_path / f"{strategy}-{number}").read_text())
        for strategy in STRATEGIES
        for number in range(2)
    ]
    assert levels == pytest.approx([math.cos(936)] * 4, abs=5e-3)


def test_two_processes_write_the_losses_of_one(by_two, tmp_path):
    trained_weights("bidirectional", "replicate", tmp_path)
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (by_two / "bidirectional-shard", tmp_path)
    )
    for line, expected in zip(ours, theirs, strict=True):
        assert line == pytest.approx(expected, abs=1e-9)


def test_two_processes_continue_what_one_began(by_two, tmp_path):
    assert_same_weights(
        torch.load(by_two / "continued.pt", weights_only=True),
        trained_weights("bidirectional", "replicate", tmp_path),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stderr.flush()
    # all results are on disk; torch's own threads sometimes abort the process while the interpreter
    # is taken down
    os._exit(0)


def test_compiled_layers_have_the_same_weights_values_and_gradients():
    """Traced by ``torch.compile`` without generated code: what a GPU session turns on."""
    # here, since this file is also run as a script, which does not find the folder of tests
    from tests.unchecked import unchecked

    pairs = MadePairs(2)
    networks = [made_model(pairs, zeros=False) for _ in range(2)]
    compile_layers(networks[1].transformer.layers, ParallelConfig(compile="eager"))
    names = [list(model.transformer.state_dict()) for model in networks]
    assert names[0] == names[1]
    found = []
    for model in networks:
        stage = flow_stage("diffusion_forcing", model, FlowMatchingTraining(WHOLE_CLIPS))
        generators = [generator(0, "compiled", sample=index) for index in range(2)]
        with unchecked():  # checks of types would be traced too
            (loss,) = losses_of(stage, pairs.pairs[:2], generators, 0)[0].values()
            loss.backward()
        found.append((loss, [value.grad for value in model.transformer.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0])
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours, theirs)
