"""How fast are frames scored, and how does that compare with torchmetrics?

    OMP_WAIT_POLICY=passive python benchmarks/scoring.py [--frames 1000] [--size 512] [--threads 2]

Pairs of frames of ``size`` x ``size``, drawn from a seed and disturbed: PSNR and SSIM by
``imaging/metrics`` as the profile ``genfusion`` computes them, the same by torchmetrics, and
ST-LPIPS. The three take turns, ``--batch`` frames at a time, so that machine load affects all
equally. Prints frames per second of wall-clock and of processor time.
"""

from __future__ import annotations

import argparse
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


def ours(prediction: Tensor, target: Tensor) -> None:
    """One value of each per image."""
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
    """Smooth pictures and disturbed copies, in [0,1]."""
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
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=10)
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    contenders: dict[str, Callable[[Tensor, Tensor], object]] = {
        "PSNR + SSIM": ours,
        "torchmetrics PSNR + SSIM": torchmetrics,
    }
    st_lpips, reason = load_st_lpips()
    if st_lpips is not None:
        contenders["ST-LPIPS"] = st_lpips
    else:
        print(reason)
    wall, cpu = dict.fromkeys(contenders, 0.0), dict.fromkeys(contenders, 0.0)
    done = 0
    while done < arguments.frames:
        count = min(arguments.batch, arguments.frames - done)
        prediction, target = pairs(count, arguments.size, seed=done)
        for name, measure in contenders.items():
            if done == 0:
                measure(prediction[:1], target[:1])  # load what is loaded once
            began = time.perf_counter(), time.process_time()
            measure(prediction, target)
            wall[name] += time.perf_counter() - began[0]
            cpu[name] += time.process_time() - began[1]
        done += count
    print(f"{done} frames of {arguments.size}x{arguments.size}, {arguments.threads} threads")
    for name in contenders:
        print(
            f"{name:26} {done / wall[name]:8.1f} frames/s, "
            f"{done / cpu[name]:8.1f} per processor second"
        )
    both = ("PSNR + SSIM", "ST-LPIPS")
    if all(name in wall for name in both):
        rate = done / sum(wall[name] for name in both)
        print(f"PSNR, SSIM and ST-LPIPS together: {rate:.1f} frames/s")


if __name__ == "__main__":
    main()
