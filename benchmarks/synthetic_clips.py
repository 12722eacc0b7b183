"""Synthetic renders, cameras and reference views of any length and size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from artifixer.geometry.cameras import Cameras
from artifixer.scenes.view import View


@dataclass(frozen=True)
class MadeRenders:
    """Renders of a pattern, computed when read; the left ``coverage`` of each frame is opaque."""

    frames: int
    width: int
    height: int
    coverage: float

    def __len__(self) -> int:
        return self.frames

    def rgb(self, index: int) -> np.ndarray:
        rows, columns = np.indices((self.height, self.width))
        pattern = np.stack(
            [rows * 3 + index, columns * 2, rows + columns + 5 * index], axis=-1
        ).astype(np.uint8)
        return pattern * (self.opacity(index) > 0)[..., None]

    def opacity(self, index: int) -> np.ndarray:
        opaque = np.arange(self.width) < round(self.coverage * self.width)
        return np.broadcast_to(np.where(opaque, 255, 0).astype(np.uint8), (self.height, self.width))

    def depth(self, index: int) -> np.ndarray:
        return np.ones((self.height, self.width), np.float32)


def made_cameras(frames: int, width: int, height: int) -> Cameras:
    """Cameras that move slowly sideways."""
    K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    viewmats = torch.eye(4).repeat(frames, 1, 1)
    viewmats[:, 0, 3] = 0.01 * torch.arange(frames)
    return Cameras.pinhole(viewmats, K.expand(frames, 3, 3), width, height)


def made_references(count: int, width: int, height: int) -> list[View]:
    photo = MadeRenders(1, width, height, 1.0).rgb(0)
    return [View.of_pixels(made_cameras(1, width, height), photo + index) for index in range(count)]
