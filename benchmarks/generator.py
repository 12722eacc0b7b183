"""Speed and memory of ``enhance``, and whether they grow with the length of the clip.

    OMP_WAIT_POLICY=passive python benchmarks/generator.py --model tiny|1.3b|14b [--random-weights]
        [--device D] [--size WxH] [--frames 109] [--references 6] [--offload] [--compile]
        [--profile]
    OMP_WAIT_POLICY=passive python benchmarks/generator.py --long [--blocks 61]

The table has a row for 4, 2 and 1 steps and for adaptive steps at several fractions of opaque
pixels. ``network`` is the speed of the network's calls alone, ``first`` the time from the call of
``enhance`` to the first block. ``--random-weights`` needs no files.

``of floor`` is the minimum time of the network's arithmetic (``network_operations``) divided by its
measured time. The minimum is the number of operations over the rate of a large matrix product,
measured on the same device in the same dtype.

``--long`` measures what must not grow: time and memory per block, and the time to the first frame
of clips of different lengths. On a CPU, times are CPU seconds of this process, so that other load
does not affect them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from network_operations import clip_operations, product_rate
from synthetic_clips import MadeRenders, made_cameras, made_references

from artifixer.enhance.enhance import EnhanceConfig, EnhanceReport, enhance
from artifixer.imaging.resize import fit_size
from artifixer.runtime.errors import InputError
from artifixer.scenes.view import View
from artifixer.video.memory_estimate import MemoryPlan, check_memory, default_plan, memory_estimate
from artifixer.video.model import Model, ModelConfig
from artifixer.video.model_files import load_model, locate_model, random_model
from artifixer.video.model_zoo import NAMED_MODELS
from artifixer.video.small_autoencoder import SmallAutoencoderConfig
from artifixer.video.transformer_config import VideoTransformerConfig

#: Replaces the embedded model with --random-weights where that is not installed.
SMALL_MODEL = ModelConfig(
    name="tiny",
    transformer=VideoTransformerConfig(
        width=192,
        ffn_width=576,
        heads=3,
        layers=4,
        text_width=16,
        text_tokens=1,
        frequency_width=128,
        spatial_factor=4,
    ),
    vae=SmallAutoencoderConfig(),
    camera_scale="median_depth",
    takes_text=False,
)

#: The smallest model that still has all parts, for --long.
LONG_MODEL = replace(
    SMALL_MODEL,
    transformer=replace(
        SMALL_MODEL.transformer, width=96, ffn_width=192, layers=2, latent_channels=8
    ),
    vae=SmallAutoencoderConfig(width=32, depth=2, z_dim=8),
)

#: Fractions of opaque pixels for the rows with adaptive steps.
COVERAGES = (1.0, 0.95, 0.8, 0.5, 0.0)

#: First block that is compared: before it the window fills up, and allocators and kernels warm up.
FIRST_COMPARED_BLOCK = 5


def open_model(
    name: str,
    device: torch.device,
    is_random: bool,
    plan_size: tuple[int, int],
    references: int,
    offload: bool,
) -> Model:
    """The model, or one with random weights and the same architecture, when it fits."""
    named = NAMED_MODELS.get(name)
    if is_random and named is not None:
        try:
            config = named.config or locate_model(name).config
        except InputError:
            config = SMALL_MODEL
    else:
        config = locate_model(name).config
    check_memory(config, default_plan(config, *plan_size, references, device, offload), device)
    return (
        random_model(config, device=device, offload=offload)
        if is_random
        else load_model(name, device, offload=offload)
    )


def run(model: Model, renders: MadeRenders, references: int, steps: object) -> EnhanceReport:
    """Enhance one whole clip."""
    report = EnhanceReport()
    cameras = made_cameras(renders.frames, renders.width, renders.height)
    photos = made_references(references, renders.width, renders.height)
    for _ in enhance(renders, cameras, photos, model, EnhanceConfig(steps=steps), report):  # type: ignore[arg-type]
        pass
    return report


def table(model: Model, size: tuple[int, int], frames: int, references: int) -> None:
    """A row per number of steps and coverage."""
    device, config = model.device, model.config
    rate = product_rate(device, model.dtype)
    dtype = str(model.dtype).replace("torch.", "")
    print(
        f"{config.name}, {size[0]}x{size[1]}, {frames} frames, {references} references, "
        f"{_name(device)}, {dtype}"
    )
    print(f"matrix products: {rate / 1e12:.3g} TFLOP/s")
    print(
        f"{'steps':>9} {'opaque':>7} {'calls':>6} {'frames/s':>9} {'network':>9} {'first s':>8} "
        f"{'memory GB':>10} {'of floor':>9}"
    )
    # compiles, tunes, allocates
    run(
        model,
        MadeRenders(2 * config.vae.pixel_frames(config.block_frames), *size, 0.5),
        references,
        4,
    )
    rows: list[tuple[object, float]] = [
        (4, 0.5),
        (2, 0.5),
        (1, 0.5),
        *(("adaptive", coverage) for coverage in COVERAGES),
    ]
    for steps, coverage in rows:
        report = run(model, MadeRenders(frames, *size, coverage), references, steps)
        width, height = config.model_size(*size)
        tokens = (width // config.grid) * (height // config.grid)
        per_block = [report.network_calls / report.blocks] * report.blocks
        floor = clip_operations(config, per_block, tokens, references) / rate
        print(
            f"{steps!s:>9} {coverage:7.0%} {report.network_calls:6d} "
            f"{frames / report.seconds:9.2f} {frames / report.network_seconds:9.2f}"
            f" {report.first_frame_seconds:8.2f} {report.peak_memory / 1e9:10.2f} "
            f"{floor / report.network_seconds:9.0%}",
            flush=True,
        )
    estimate = memory_estimate(
        config,
        MemoryPlan(*config.model_size(*size), references, model.dtype, model.stream is not None),
    )
    print(f"memory by estimate: {estimate.total / 1e9:.2f} GB")


def profile(model: Model, size: tuple[int, int], references: int) -> None:
    """Where the time of one block goes, once the window is full."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    config = model.config
    frames = config.vae.pixel_frames(config.window_frames + config.block_frames)
    cameras, photos = made_cameras(frames, *size), made_references(references, *size)
    blocks = enhance(
        MadeRenders(frames, *size, 0.5),
        cameras,
        photos,
        model,
        EnhanceConfig(steps=1, overlap=False),
    )
    for _ in range(config.window_frames // config.block_frames):
        next(blocks)
    is_cuda = model.device.type == "cuda"
    with profiled(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    ) as result:
        next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    order = "self_cuda_time_total" if is_cuda else "self_cpu_time_total"
    print(result.key_averages().table(sort_by=order, row_limit=18, max_name_column_width=60))


def long_run(blocks: int) -> None:
    """Time and memory per block of one long rollout, and time to the first frame of clips of
    different lengths.
    """
    device = torch.device("cpu")
    model = random_model(LONG_MODEL, device=device)
    size, config = (64, 64), LONG_MODEL
    frames = config.vae.pixel_frames(blocks * config.block_frames)
    photos = made_references(2, *size)
    first_frame_times(model, size, photos, (1, 10, blocks))
    times, memory = [], []
    started = time.process_time()
    for _ in enhance(
        MadeRenders(frames, *size, 0.5),
        made_cameras(frames, *size),
        photos,
        model,
        EnhanceConfig(steps=2),
    ):
        times.append(time.process_time() - started)
        memory.append(resident_bytes())
        started = time.process_time()
    print(
        f"{blocks} blocks of {config.block_frames} latent frames at {size[0]}x{size[1]}; blocks "
        f"{FIRST_COMPARED_BLOCK} to {blocks - 1}:"
    )
    print_trend("CPU ms per block", [1e3 * value for value in times[FIRST_COMPARED_BLOCK:]])
    print_trend(
        "MB of memory after a block", [value / 1e6 for value in memory[FIRST_COMPARED_BLOCK:]]
    )


def print_trend(label: str, values: Sequence[float]) -> None:
    """Mean, change of a linear fit over the values with its standard error, and their range."""
    slope, error = fitted_slope(values)
    mean, span = statistics.mean(values), len(values) - 1
    change = f"change {span * slope / mean:+.2%} +- {span * error / mean:.2%}"
    print(
        f"  {label}: mean {mean:.1f}, {change}, from {min(values):.1f} to {max(values):.1f} "
        f"({max(values) / min(values) - 1:.1%})"
    )


def first_frame_times(
    model: Model, size: tuple[int, int], photos: Sequence[View], lengths: Sequence[int]
) -> None:
    """CPU seconds to the first block: medians of five interleaved repetitions."""
    config = model.config
    times: dict[int, list[float]] = {blocks: [] for blocks in lengths}
    for turn in range(6):
        for blocks in lengths:
            frames = config.vae.pixel_frames(blocks * config.block_frames)
            cameras = made_cameras(frames, *size)
            started = time.process_time()
            stream = enhance(
                MadeRenders(frames, *size, 0.5), cameras, photos, model, EnhanceConfig(steps=2)
            )
            next(stream)
            if turn:  # the first one warms up
                times[blocks].append(time.process_time() - started)
            stream.close()  # type: ignore[attr-defined]
    shown = ", ".join(
        f"{blocks} blocks {1e3 * statistics.median(values):.1f} ms"
        for blocks, values in times.items()
    )
    print(f"CPU time to the first frame by length of the clip: {shown}")


def fitted_slope(values: Sequence[float]) -> tuple[float, float]:
    """Slope per step of a linear fit, and its standard error."""
    x = np.arange(len(values)) - (len(values) - 1) / 2
    y = np.asarray(values)
    slope = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - slope * x
    return slope, float(np.sqrt((rest**2).sum() / (len(x) - 2) / (x * x).sum()))


def resident_bytes() -> int:
    """Memory of this process now."""
    import resource

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu with {torch.get_num_threads()} threads"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="a name or a path")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument(
        "--size", default=None, help="WxH; default 1024x576 on a GPU, 256x144 on a CPU"
    )
    parser.add_argument("--frames", type=int, default=109)
    parser.add_argument("--references", type=int, default=6)
    parser.add_argument("--offload", action="store_true")
    parser.add_argument("--compile", action="store_true", help="compile the transformer's layers")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--blocks", type=int, default=61)
    arguments = parser.parse_args()
    if arguments.long:
        torch.set_num_threads(1)
        long_run(arguments.blocks)
        return
    device = torch.device(arguments.device)
    size = fit_size(1, 1, arguments.size or ("1024x576" if device.type == "cuda" else "256x144"))
    try:
        model = open_model(
            arguments.model,
            device,
            arguments.random_weights,
            size,
            arguments.references,
            arguments.offload,
        )
    except InputError as error:
        parser.exit(2, f"{error}\n")
    if arguments.compile:
        for layer in model.transformer.layers:
            layer.compile(dynamic=False)
    if arguments.profile:
        profile(model, size, arguments.references)
    table(model, size, arguments.frames, arguments.references)


if __name__ == "__main__":
    main()
