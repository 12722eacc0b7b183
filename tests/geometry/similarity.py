"""Similarity transforms between corresponding points, for tests that compare found poses with true
ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Similarity:
    """``target = scale * rotation @ source + translation``."""

    scale: Float[Tensor, ""]
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, " 3"]

    def __call__(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        return self.scale * points @ self.rotation.mT + self.translation

    def move_poses(self, camera_to_world: Float[Tensor, "views 4 4"]) -> Float[Tensor, "views 4 4"]:
        """Camera poses carried into the target's world; they stay rigid."""
        moved = camera_to_world.clone()
        moved[:, :3, :3] = self.rotation @ camera_to_world[:, :3, :3]
        moved[:, :3, 3] = self(camera_to_world[:, :3, 3])
        return moved


def similarity_fit(
    source: Float[Tensor, "points 3"], target: Float[Tensor, "points 3"]
) -> Similarity:
    """The similarity with the least squared error between corresponding points (Umeyama 1991,
    equations 39-42).

    At least three points that do not lie on one line (asserted: at least three).
    """
    assert len(source) >= 3 and source.shape == target.shape, (
        f"{tuple(source.shape)} to {tuple(target.shape)}: at least 3 pairs"
    )
    source_mean, target_mean = source.mean(dim=0), target.mean(dim=0)
    centred = source - source_mean
    covariance = (target - target_mean).mT @ centred / len(source)
    u, singular, v_transposed = torch.linalg.svd(covariance)
    signs = torch.ones_like(singular)
    # a reflection is not a rotation
    signs[2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(v_transposed))
    rotation = u @ torch.diag(signs) @ v_transposed
    scale = (singular * signs).sum() / centred.square().sum(dim=1).mean()
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)
