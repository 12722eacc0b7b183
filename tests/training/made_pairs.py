"""Training pairs made by formula: a textured wall seen by a camera that moves sideways, its renders
with a hole and a stain.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.seeds import generator
from artifixer.training.stage import Stage

#: The wall is this far from the cameras, world units.
DISTANCE = 2.0


class MadePairs:
    """A source of pairs; ``count`` different ones, then the same again."""

    def __init__(self, count: int = 4, frames: int = 13, height: int = 16, width: int = 24) -> None:
        self.pairs = [made_pair(seed, frames, height, width) for seed in range(count)]

    def pair(self, index: int) -> TrainingPair:
        return self.pairs[index % len(self.pairs)]


def made_pair(
    seed: int = 0, frames: int = 13, height: int = 16, width: int = 24, views: int = 3
) -> TrainingPair:
    random = generator(seed, "made pair")
    waves = torch.randn(3, 4, 2, generator=random) * 3
    phases = torch.rand(3, 4, generator=random) * 6
    cameras, references = (
        _cameras(x, height, width)
        for x in (torch.linspace(0, 0.8, frames), torch.linspace(0.1, 0.7, views))
    )
    clean = _wall(cameras, waves, phases)
    opacity = torch.full(clean.shape[:3], 255, dtype=torch.uint8)
    opacity[:, height // 3 : height // 2, width // 4 : 3 * width // 4] = 0
    renders = torch.where(opacity[..., None] > 0, clean, torch.zeros_like(clean))
    renders[:, -height // 4 :, : width // 3] //= 2
    photos = _wall(references, waves, phases)
    return TrainingPair(
        f"made-{seed}",
        clean,
        renders,
        opacity,
        cameras,
        photos,
        references,
        1 / DISTANCE,
        "median_depth",
    )


def _cameras(x: torch.Tensor, height: int, width: int) -> Cameras:
    viewmats = torch.eye(4).repeat(len(x), 1, 1)
    viewmats[:, 0, 3] = -x
    Ks = torch.tensor([[float(width), 0, width / 2], [0, float(width), height / 2], [0, 0, 1]])
    return Cameras.pinhole(viewmats, Ks.repeat(len(x), 1, 1), width, height)


def _wall(cameras: Cameras, waves: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
    """What the cameras see of the wall."""
    rows, columns = torch.meshgrid(
        torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij"
    )
    pixels = torch.stack([columns, rows], dim=-1)
    places = (pixels - torch.tensor([cameras.width, cameras.height]) / 2) / cameras.width * DISTANCE
    places = places + cameras.centers[:, None, None, :2]
    values = torch.sin(torch.einsum("nhwk,cak->nhwca", places, waves) + phases).mean(dim=-1)
    return ((0.5 + 0.5 * values) * 255).round().to(torch.uint8)


def losses_of(
    stage: Stage, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the loop gets from a stage for these pairs."""
    return stage.losses(stage.draw(pairs, generators, step), generators, step)
