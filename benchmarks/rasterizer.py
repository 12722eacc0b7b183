"""Speed of the CPU rasterizer against the prototype, and how it scales.

    OMP_WAIT_POLICY=passive python benchmarks/rasterizer.py --prototype FOLDER [--rounds 9]
    [--skip-scaling]

FOLDER holds the prototype's ``common.py`` and ``cand_numba.py``; without it only our own figures
are printed. All figures are CPU milliseconds (process time, one thread) of forward and backward,
medians over rounds in which the candidates are interleaved.

``kernels``: binning, blending and its backward pass, from projected Gaussians. Ours include the
gradients of the stored parameters, the prototype's end at its matrices. ``whole``: from parameters
to their gradients, unscented projection and colours included. With a CUDA device and gsplat,
gsplat's ``whole`` is printed too, in milliseconds of wall-clock time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artifixer.geometry.cameras import Cameras
from artifixer.splats.losses import photometric_loss, regulariser
from artifixer.splats.mcmc import McmcConfig, perturb
from artifixer.splats.rasterizers import numba_cpu
from artifixer.splats.rasterizers.numba_compositing import (
    TILE,
    Image,
    Pairs,
    composite,
    composite_backward,
    pair_up,
)
from artifixer.splats.rasterizers.numba_projection import (
    FEATURES,
    Gaussians,
    gradients,
    prepare,
    sum_pairs,
)
from artifixer.splats.render import render
from artifixer.splats.splats import SH_BASE, Splats
from artifixer.splats.trainable import TrainableSplats

#: Gaussians, width, height, and the factor on the Gaussians' size.
SIZES = ((20_000, 256, 256, 0.55), (50_000, 480, 270, 0.30))
NEAR = 0.05


def made_scene(
    count: int, width: int, height: int, size: float, seed: int = 0
) -> tuple[Splats, Cameras]:
    """The prototype's ``scene()``: Gaussians in a box before a pinhole camera, with the same random
    numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    means = (torch.rand(count, 3, generator=generator) - 0.5) * torch.tensor([6.5, 4.0, 4.0])
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)
    scales = torch.exp(torch.randn(count, 3, generator=generator) * 0.5) * 0.09 * size
    logits = torch.randn(count, generator=generator) * 1.2 - 1.8
    colors = torch.rand(count, 3, generator=generator)
    viewmat = torch.eye(4)
    viewmat[2, 3] = 5
    focal = 0.9 * width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    splats = Splats(means, quats, scales.log(), logits, (colors[:, None] - 0.5) / SH_BASE)
    return splats, Cameras.pinhole(viewmat[None], K[None], width, height)


def our_kernels(splats: Splats, camera: Cameras) -> Callable[[], None]:
    """The kernels after projection and preparation, which are done once here."""
    tensors = (splats.means, splats.quats, splats.scales, splats.opacities, splats.sh)
    gaussians = Gaussians(*(tensor.contiguous().numpy() for tensor in tensors))
    view = numba_cpu._view(camera, NEAR)
    visible, front_to_back, boxes = numba_cpu._visible(gaussians, view)
    features = np.empty((len(visible), FEATURES), np.float32)
    prepare(0, len(visible), visible, gaussians, view, splats.sh_degree, features)
    rays = numba_cpu.camera_rays(camera)
    tiles_x, tiles_y = -(-view.width // TILE), -(-view.height // TILE)
    tiles = tiles_x * tiles_y
    bar = Image(
        np.ones((view.height, view.width, 4), np.float32),
        np.ones((view.height, view.width), np.float32),
    )

    def run() -> None:
        pairs = Pairs(*pair_up(boxes, front_to_back, tiles_x, tiles_y))
        image, shown = numba_cpu._empty_image(view), np.zeros(len(pairs.rows), np.uint8)
        composite(0, tiles, rays, features, boxes, pairs, image, shown)
        per_pair = numba_cpu.pair_buffer(len(pairs.rows))
        composite_backward(0, tiles, rays, features, boxes, pairs, image, shown, bar, per_pair)
        feature_bars = np.empty_like(features)
        sum_pairs(0, len(visible), pairs.first, pairs.slots, shown, per_pair, feature_bars)
        result = Gaussians(*(np.zeros_like(array) for array in gaussians))
        gradients(
            0,
            len(visible),
            visible,
            gaussians,
            view,
            splats.sh_degree,
            features,
            feature_bars,
            result,
        )

    return run


def our_whole(splats: Splats, camera: Cameras) -> Callable[[], None]:
    leaves = splats.map(lambda tensor: tensor.clone().requires_grad_())

    def run() -> None:
        renders = render(leaves, camera, near=NEAR)
        (renders.rgb.sum() + renders.opacity.sum()).backward()
        leaves.map(_drop_gradient)

    return run


def _drop_gradient(tensor: torch.Tensor) -> torch.Tensor:
    tensor.grad = None
    return tensor


def prototype_runs(
    folder: Path, count: int, width: int, height: int, size: float
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The prototype's kernels, and its whole pass from parameters to gradients."""
    sys.path.insert(0, str(folder))
    import cand_numba as kernels
    import common
    import numba

    numba.set_num_threads(1)
    parameters, camera = common.scene(count, width, height, foot=size)
    leaves = {name: value.requires_grad_() for name, value in parameters.items()}

    def projected() -> tuple[Any, ...]:
        rotation, M, g, colors = common.preproc(leaves, camera)
        box, depth, visible = common.project_ut(
            leaves["means"], rotation, leaves["scales"], leaves["opac"], camera
        )
        return M.reshape(-1, 9), g, leaves["opac"], colors, box, depth, visible

    M, g, opacities, colors, box, depth, visible = projected()
    inputs = [tensor.detach().requires_grad_() for tensor in (M, g, opacities, colors)]

    def run_kernels() -> None:
        out, transmittance = kernels.raster(*inputs, camera, box, depth, visible)
        torch.autograd.grad(out.sum() - transmittance.sum(), inputs)

    def run_whole() -> None:
        M, g, opacities, colors, box, depth, visible = projected()
        out, transmittance = kernels.raster(M, g, opacities, colors, camera, box, depth, visible)
        torch.autograd.grad(out.sum() - transmittance.sum(), list(leaves.values()))

    return run_kernels, run_whole


def medians(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """CPU milliseconds per run, interleaved, after one warm-up run of each candidate."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.process_time()
            run()
            times[name].append((time.process_time() - started) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def on_gpu(splats: Splats, camera: Cameras, rounds: int) -> float:
    """Wall-clock milliseconds of ``whole`` on the GPU with gsplat: median of synchronised runs."""
    run = our_whole(splats.map(lambda tensor: tensor.cuda()), camera.to("cuda"))
    times = []
    for _ in range(3 + rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times[3:])


def training_step(splats: Splats, camera: Cameras) -> Callable[[], None]:
    """One step of reconstruction without its bookkeeping: render, loss, backward, Adam, noise."""
    splats = Splats(
        splats.means,
        splats.quats,
        splats.log_scales,
        splats.opacity_logits,
        torch.zeros(len(splats), 16, 3),
    )
    rates = {"means": 1e-6, "quats": 1e-6, "log_scales": 1e-6, "opacity_logits": 1e-6, "sh": 1e-6}
    trainable = TrainableSplats(splats, rates)
    generator = torch.Generator().manual_seed(0)
    photo = torch.rand(camera.height, camera.width, 3, generator=generator)

    def run() -> None:
        renders = render(trainable.splats, camera, near=NEAR)
        image = renders.rgb[0] + (1 - renders.opacity[0])[..., None] * torch.rand(
            3, generator=generator
        )
        loss = photometric_loss(image, photo, 0.2, None) + regulariser(
            trainable.splats, 0.01, 0.01, 4.0
        )
        loss.backward()
        trainable.step()
        perturb(trainable, McmcConfig(noise=1.0), 1e-6, generator)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prototype", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--skip-scaling", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    for count, width, height, size in SIZES:
        splats, camera = made_scene(count, width, height, size)
        runs = {"kernels": our_kernels(splats, camera), "whole": our_whole(splats, camera)}
        if arguments.prototype is not None:
            prototype = prototype_runs(arguments.prototype, count, width, height, size)
            runs |= {"prototype kernels": prototype[0], "prototype whole": prototype[1]}
        result = medians(runs, arguments.rounds)
        print(
            f"{count} Gaussians, {width}x{height}: "
            + ", ".join(f"{name} {value:.1f} ms" for name, value in result.items()),
            flush=True,
        )
        if torch.cuda.is_available():
            print(
                f"  whole on {torch.cuda.get_device_name()}: "
                f"{on_gpu(splats, camera, 5 * arguments.rounds):.2f} ms",
                flush=True,
            )
        if arguments.prototype is not None:
            for name in ("kernels", "whole"):
                print(f"  {name}: {result[name] / result[f'prototype {name}']:.2f} x the prototype")

    splats, camera = made_scene(*SIZES[0])
    result = medians(
        {"kernels": our_kernels(splats, camera), "step": training_step(splats, camera)},
        arguments.rounds,
    )
    print(
        f"training step at {SIZES[0][0]}, {SIZES[0][1]}x{SIZES[0][2]}, SH degree 3: "
        f"{result['step']:.1f} ms, ",
        end="",
    )
    print(f"of which kernels {result['kernels'] / result['step']:.0%}")

    if not arguments.skip_scaling:
        print(
            "CPU ms of forward + backward; the footprint in pixels is constant along each column, "
            "and in world units along each row"
        )
        sides = (128, 256, 512)
        print("Gaussians  " + "".join(f"{f'{side}x{side}':>10}" for side in sides))
        for count in (5_000, 10_000, 20_000, 40_000, 80_000):
            runs = {str(side): our_whole(*made_scene(count, side, side, 0.55)) for side in sides}
            print(
                f"{count:9d}  "
                + "".join(
                    f"{value:10.1f}"
                    for value in medians(runs, max(3, arguments.rounds // 2)).values()
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
