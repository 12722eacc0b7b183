"""Speed and memory of each training stage, and its time relative to the minimum for its arithmetic.

    OMP_WAIT_POLICY=passive python benchmarks/training.py [--models tiny,1.3b] [--stages
        autoencoder,bidirectional,...] [--device D] [--threads N] [--rounds 10] [--pairs FOLDER]
        [--size WxH]

``tiny`` is the recipe ``tiny``; ``1.3b`` is the 1.3B configuration with random weights under the
recipe ``release``, one clip per step, and needs a CUDA machine. Without ``--pairs`` the clips are
patterns in memory, of the recipe's length and size (``--size``: another size). Terms of a loss that
a recipe adds later in a training count from the first step.

Every stage runs in its own process with the training loop and optimizers, twice over the same
steps: first to count operations and warm up, then to measure. Random choices of a step (references,
exit steps) depend only on its number, so both passes do the same work. A round is one step, for
self forcing the steps between two updates of the student; figures are medians over the rounds but
the first. Nothing is saved.

``TFLOP``: operations of all matrix products, convolutions and attention in a round, forward and
backward, by PyTorch's counter, including the autoencoder, frozen networks, and recomputation by
checkpointing and fused attention. ``of floor``: the minimum time of these operations, at the rate
of a large matrix product measured in the same dtype, on the same device and threads, over the time
of the round.

Memory is the peak resident size of the process, on CUDA the peak of allocated tensors. Times on one
CPU thread are CPU seconds, so that other load does not affect them; otherwise they are wall-clock
times, and the first line states the machine's load.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded

import torch
from counted_products import CPU_OPERATIONS, OverlookedProducts
from synthetic_pairs import MadePairs
from torch.utils.flop_counter import (
    FlopCounterMode,
)
from watched_stage import Enough, WatchedStage

from artifixer.imaging.resize import GRID, fit_size
from artifixer.pairs.loader import OrderedPairs, open_pairs
from artifixer.recipes.train import RECIPES
from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import EXIT_BAD_INPUT, InputError
from artifixer.runtime.progress import Progress
from artifixer.training.autoencoder import AutoencoderStage
from artifixer.training.initial_model import initial_model
from artifixer.training.job import BATCHES_AHEAD, flow_matching_stage, self_forcing_class
from artifixer.training.loop import LoopConfig, train
from artifixer.training.parallel import distribute
from artifixer.training.recipe import StageName, TrainingRecipe
from artifixer.training.self_forcing import SelfForcingStage
from artifixer.training.stage import PairSource, Stage
from artifixer.video.model import Model
from artifixer.video.model_zoo import NAMED_MODELS
from artifixer.video.small_autoencoder import SmallAutoencoder
from artifixer.video.transformer import VideoTransformer

STAGES: tuple[StageName, ...] = get_args(StageName)


#: Sizes of synthetic pairs by model, similar to those of the recipes for curation.
SIZES = {"tiny": "128x96", "1.3b": "1024x576"}

#: Sides of the matrices whose product gives the machine's rate.
PRODUCT_SIZES = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Case:
    """One row: a stage of a model. size (width, height), frames, views: of synthetic pairs; folder:
    of pairs to use instead.
    """

    model: str
    stage: StageName
    device: str
    threads: int
    rounds: int
    size: tuple[int, int]
    frames: int
    views: int
    folder: Path | None


@dataclass(frozen=True)
class Measured:
    """seconds, operations: of each counted round of ``steps`` steps, in which ``samples`` clips are
    seen. memory: bytes at the peak. rate: operations per second of matrix products. overlooked:
    names of products that were not counted; should be empty.
    """

    steps: int
    samples: int
    seconds: tuple[float, ...]
    operations: tuple[float, ...]
    memory: int
    rate: float
    overlooked: tuple[str, ...]


class NotApplicable(Exception):
    """The model has no such stage."""


def measure(case: Case) -> Measured | str:
    """The figures of one row, or why there are none."""
    torch.set_num_threads(case.threads)
    device = torch.device(case.device)
    recipe = recipe_of(case.model)
    loop = replace(recipe.loop(case.stage), minutes=None, accumulation=1)
    pairs: PairSource
    if case.folder is None:
        pairs = MadePairs(case.size, case.frames, case.views, recipe.model.camera_scale)
    else:
        pairs = OrderedPairs(open_pairs(case.folder), loop.seed, loop.batch)
    clock = time.process_time if device.type == "cpu" and case.threads == 1 else time.perf_counter
    steps = max(1, recipe.self_forcing.student_interval) if case.stage == "self_forcing" else 1
    try:
        rate = product_rate(device, recipe.parallel.compute, clock)
        stage = built_stage(case.stage, recipe, pairs, case.device)
        total = steps * (1 + case.rounds)
        counter = FlopCounterMode(display=False, custom_mapping=CPU_OPERATIONS)
        with counter, OverlookedProducts() as overlooked:
            operations = readings(stage, pairs, loop, total, counter.get_total_flops)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        ahead = BATCHES_AHEAD if device.type == "cuda" else 0
        seconds = readings(stage, pairs, loop, total, lambda: _after_all(device, clock), ahead)
        rate = max(rate, product_rate(device, recipe.parallel.compute, clock))
    except NotApplicable as reason:
        return str(reason)
    except torch.OutOfMemoryError as error:
        return f"out of memory: {str(error).split('. ')[0]}"
    memory = (
        torch.cuda.max_memory_allocated() if device.type == "cuda" else _largest_resident_size()
    )
    return Measured(
        steps,
        loop.batch * steps,
        rounds_of(seconds, steps),
        rounds_of(operations, steps),
        memory,
        rate,
        tuple(sorted(overlooked.names)),
    )


def recipe_of(model: str) -> TrainingRecipe:
    """The settings of all stages, with all terms of the losses from the first step."""
    if model == "tiny":
        recipe = RECIPES["tiny"]
    else:
        config = NAMED_MODELS[model].config
        assert config is not None, f"{model} is embedded"
        # its negative prompt needs the text encoder; zeros take the same time
        release = RECIPES["release"]
        recipe = replace(
            release, model=config, self_forcing=replace(release.self_forcing, negative_prompt="")
        )
    stages: dict[str, Any] = {stage: _from_the_start(getattr(recipe, stage)) for stage in STAGES}
    return replace(recipe, **stages)


def _from_the_start(settings: Any) -> Any:
    """The settings with 0 for the first step of each term, also in nested settings."""
    changes: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            changes[field.name] = _from_the_start(value)
        elif field.name.endswith("_from") or field.name == "start":
            changes[field.name] = 0
    return replace(settings, **changes)


def built_stage(name: StageName, recipe: TrainingRecipe, pairs: PairSource, device: str) -> Stage:
    """The stage as ``artifixer train`` builds it, from random weights."""
    seed, compute = recipe.loop(name).seed, recipe.parallel.compute
    model = initial_model(recipe.model, None, seed, device)
    if name == "autoencoder":
        network = model.vae.network
        if not isinstance(network, SmallAutoencoder):
            raise NotApplicable("uses Wan's autoencoder as it is")
        return AutoencoderStage(network, recipe.autoencoder, pairs, seed, compute)
    if name == "self_forcing":
        return _self_forcing_stage(model, recipe, device)
    _prepare(model.transformer, recipe, device)
    settings = getattr(recipe, name)
    return flow_matching_stage(name, model, settings, seed, compute)


def _self_forcing_stage(model: Model, recipe: TrainingRecipe, device: str) -> SelfForcingStage:
    student, critic, teacher = (
        model.transformer,
        deepcopy(model.transformer),
        deepcopy(model.transformer),
    )
    for network in (student, critic, teacher):
        _prepare(network, recipe, device)
    settings, seed = recipe.self_forcing, recipe.self_forcing_loop.seed
    return self_forcing_class(recipe.self_forcing)(
        student,
        critic,
        teacher,
        model.vae,
        settings,
        recipe.model.sampling(),
        seed,
        recipe.parallel.compute,
    )


def _prepare(network: VideoTransformer, recipe: TrainingRecipe, device: str) -> None:
    network.checkpoint_layers = recipe.parallel.checkpoint_layers
    network.attention_backend = recipe.parallel.attention
    distribute(network, network.layers, recipe.parallel, torch.device(device))


def readings(
    stage: Stage,
    pairs: PairSource,
    loop: LoopConfig,
    steps: int,
    read: Callable[[], float],
    ahead: int = 0,
) -> list[float]:
    """Readings of ``read`` after each of the first steps of the loop, including step 0."""
    watched = WatchedStage(stage, steps, read)
    config = replace(loop, steps=steps + 1, save_interval=steps + 1, validation_interval=0)
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(output=None) as progress,
        suppress(Enough),
    ):
        train(watched, pairs, config, Path(folder), progress, ahead=ahead)
    return watched.readings


def rounds_of(values: Sequence[float], steps: int) -> tuple[float, ...]:
    """Increase of a reading in each round of steps, without the first round."""
    ends = values[steps - 1 :: steps]
    return tuple(after - before for before, after in pairwise(ends))


def product_rate(device: torch.device, compute: str, clock: Callable[[], float]) -> float:
    """Operations per second of a large matrix product, best of several."""
    size = PRODUCT_SIZES[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, compute)) for _ in range(2))
    times = []
    for _ in range(6):
        started = clock()
        (a @ b)[0, 0].item()
        times.append(clock() - started)
    return 2 * size**3 / min(times)


def _after_all(device: torch.device, clock: Callable[[], float]) -> float:
    """Time after the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def _largest_resident_size() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def table(cases: Sequence[Case]) -> None:
    """A row per case, each measured in a process of its own."""
    print(
        f"{'':6} {'stage':18} {'samples':>7} {'s':>8} {'samples/s':>9} {'memory GB':>9} "
        f"{'TFLOP':>8} {'TFLOP/s':>8} {'of floor':>8}"
    )
    for case in cases:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                found: Measured | str = pool.submit(measure, case).result()
            except BrokenProcessPool:
                found = "the process was killed (out of memory?)"
        print(
            f"{case.model:6} {case.stage:18} {found if isinstance(found, str) else row(found)}",
            flush=True,
        )


def row(found: Measured) -> str:
    """samples and seconds per round, and so on; medians over rounds."""
    seconds = statistics.median(found.seconds)
    shares = [
        operations / found.rate / time_
        for operations, time_ in zip(found.operations, found.seconds, strict=True)
    ]
    return (
        f"{found.samples:7d} {seconds:8.3f} {found.samples / seconds:9.3g} "
        f"{found.memory / 1e9:9.2f}"
        f" {statistics.median(found.operations) / 1e12:8.3g} {found.rate / 1e12:8.3g} "
        f"{statistics.median(shares):8.0%}"
        + (f"  not counted: {', '.join(found.overlooked)}" if found.overlooked else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="tiny,1.3b")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--device", default="auto", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pairs", type=Path, help="a folder of pairs instead of patterns")
    parser.add_argument(
        "--size", help="WxH of patterns; default 128x96 for tiny, 1024x576 for 1.3b"
    )
    arguments = parser.parse_args()
    try:
        device = resolve_device(arguments.device)
        cases = list(_cases(arguments, device))
        where = (
            torch.cuda.get_device_name()
            if device != "cpu"
            else f"cpu, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}"
        )
        clips = "patterns" if arguments.pairs is None else f"pairs of {arguments.pairs}"
        print(f"{where}, torch {torch.__version__}, {clips}")
        table(cases)
    except InputError as error:
        parser.exit(EXIT_BAD_INPUT, f"{error}\n")


def _cases(arguments: argparse.Namespace, device: str) -> Iterator[Case]:
    for model in arguments.models.split(","):
        if model not in SIZES:
            raise InputError(f"--models {model}: expected {' or '.join(SIZES)}")
        if model != "tiny" and device == "cpu":
            print(f"{model}: left out, it needs a CUDA machine")
            continue
        size = fit_size(1, 1, arguments.size or SIZES[model])
        if size[0] % GRID or size[1] % GRID:
            raise InputError(f"--size {arguments.size}: expected multiples of {GRID}")
        frames = 45 if model == "tiny" else 81
        for stage in arguments.stages.split(","):
            if stage not in STAGES:
                raise InputError(f"--stages {stage}: expected some of {', '.join(STAGES)}")
            yield Case(
                model,
                stage,
                device,
                arguments.threads,
                arguments.rounds,
                size,
                frames,
                3,
                arguments.pairs,
            )


if __name__ == "__main__":
    main()
