"""Synthetic training pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.pairs.pair import TrainingPair
from artifixer.scenes.scale import ScaleKind

#: Number of synthetic pairs, and the opaque fraction of their renders.
MADE_PAIRS, MADE_COVERAGE = 4, 0.6


class MadePairs:
    """Pairs of moving patterns, whose renders lack the right side of each frame."""

    def __init__(
        self, size: tuple[int, int], frames: int, views: int, camera_scale_kind: ScaleKind
    ) -> None:
        self.pairs = [
            _made_pair(number, size, frames, views, camera_scale_kind)
            for number in range(MADE_PAIRS)
        ]

    def pair(self, index: int) -> TrainingPair:
        return self.pairs[index % len(self.pairs)]


def _made_pair(
    number: int, size: tuple[int, int], frames: int, views: int, camera_scale_kind: ScaleKind
) -> TrainingPair:
    width, height = size

    def cameras(count: int) -> Cameras:
        viewmats = torch.eye(4).repeat(count, 1, 1)
        viewmats[:, 0, 3] = 0.01 * torch.arange(count)
        K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
        return Cameras.pinhole(viewmats, K.repeat(count, 1, 1), width, height)

    def pictures(count: int) -> Tensor:
        times, rows, columns = torch.meshgrid(
            torch.arange(count), torch.arange(height), torch.arange(width), indexing="ij"
        )
        bands = (
            3 * rows + 5 * times + 40 * number,
            2 * columns + 5 * times,
            rows + columns + 40 * number,
        )
        return (torch.stack(bands, dim=-1) % 256).to(torch.uint8)

    clean = pictures(frames)
    opacity = (
        torch.where(torch.arange(width) < MADE_COVERAGE * width, 255, 0)
        .to(torch.uint8)
        .expand(frames, height, width)
        .contiguous()
    )
    renders = torch.where(opacity[..., None] > 0, clean, torch.zeros_like(clean))
    return TrainingPair(
        f"made-{number}",
        clean,
        renders,
        opacity,
        cameras(frames),
        pictures(views),
        cameras(views),
        camera_scale=1.0,
        camera_scale_kind=camera_scale_kind,
    )
