"""Speed of scoring frames, compared with torchmetrics.

    OMP_WAIT_POLICY=passive python benchmarks/scoring.py [--frames 1000] [--size 512] [--threads 1]

Pairs of random smooth images of ``size`` x ``size`` and noisy copies: PSNR and SSIM by
``imaging/metrics`` as the profile ``genfusion`` computes them, the same by torchmetrics, and
ST-LPIPS. The three are interleaved, ``--batch`` frames at a time, so that machine load affects all
equally. Prints medians over the batches: frames per second of CPU time, which other processes
hardly affect, and of wall-clock time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from artifixer.imaging.metrics import psnr, ssim
from artifixer.imaging.perceptual import load_st_lpips

OURS, TORCHMETRICS, ST_LPIPS = "PSNR + SSIM", "torchmetrics PSNR + SSIM", "ST-LPIPS"


def ours(prediction: Tensor, target: Tensor) -> None:
    """PSNR and SSIM of each image."""
    for image, photo in zip(prediction, target, strict=True):
        float(psnr(image, photo)), float(ssim(image, photo))


def torchmetrics(prediction: Tensor, target: Tensor) -> None:
    """The same, image by image: its functions average over a batch."""
    for image, photo in zip(prediction, target, strict=True):
        pair = [pixels.permute(2, 0, 1)[None] for pixels in (image, photo)]
        float(peak_signal_noise_ratio(*pair, data_range=1.0))
        value = structural_similarity_index_measure(*pair, data_range=1.0)
        assert isinstance(value, Tensor)
        float(value)


def pairs(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy copies and smooth images, in [0,1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 16, 16, generator=generator)
    photos = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    photos = photos.clamp(0, 1).permute(0, 2, 3, 1).contiguous()
    noise = 0.05 * torch.randn(photos.shape, generator=generator)
    return (photos + noise).clamp(0, 1), photos


@torch.no_grad()
def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--size", type=int, default=512, help="side of the frames, pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=10, help="frames between two turns")
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    measures: dict[str, Callable[[Tensor, Tensor], object]] = {
        OURS: ours,
        TORCHMETRICS: torchmetrics,
    }
    st_lpips, reason = load_st_lpips()
    if st_lpips is not None:
        measures[ST_LPIPS] = st_lpips
    else:
        print(reason)
    wall: dict[str, list[float]] = {name: [] for name in measures}
    cpu: dict[str, list[float]] = {name: [] for name in measures}
    done = 0
    while done < arguments.frames:
        count = min(arguments.batch, arguments.frames - done)
        prediction, target = pairs(count, arguments.size, seed=done)
        for name, measure in measures.items():
            if done == 0:
                measure(prediction[:1], target[:1])  # load everything that is loaded once
            began = time.perf_counter(), time.process_time()
            measure(prediction, target)
            wall[name].append((time.perf_counter() - began[0]) / count)
            cpu[name].append((time.process_time() - began[1]) / count)
        done += count
    seconds = {name: statistics.median(values) for name, values in cpu.items()}
    print(
        f"{done} frames of {arguments.size}x{arguments.size}, {arguments.threads} threads, medians "
        f"of {len(cpu[OURS])} batches"
    )
    for name, value in seconds.items():
        print(
            f"{name:26} {1 / value:8.1f} frames per processor second, "
            f"{1 / statistics.median(wall[name]):8.1f} per second of wall-clock time"
        )
    ratios = [theirs / own for own, theirs in zip(cpu[OURS], cpu[TORCHMETRICS], strict=True)]
    print(f"{TORCHMETRICS} takes {statistics.median(ratios):.2f} times as long as {OURS}")
    if ST_LPIPS in seconds:
        rate = 1 / (seconds[OURS] + seconds[ST_LPIPS])
        print(f"PSNR, SSIM and ST-LPIPS together: {rate:.2f} frames per processor second")


if __name__ == "__main__":
    main()
