"""``Cameras``: a batch of views of one size, and the only place that knows lens models.

Axes are OpenCV's (+x right, +y down, +z forward); the centre of the first pixel is at (0.5, 0.5).
``viewmats`` are world_to_camera. Lens models follow OpenCV's formulas: ``pinhole`` with the rational radial terms k1-k6 and the
tangential terms p1, p2; ``fisheye`` (equidistant) with k1-k4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

LensModel = Literal["pinhole", "fisheye"]

#: Columns of ``Cameras.distortion``. Fisheye lenses use the first four, the rest is zero.
DISTORTION_NAMES = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")


@dataclass(frozen=True)
class Cameras:
    """Views of one image size and one lens model.

    viewmats: world_to_camera, rigid, ``[views 4 4]``.
    Ks: intrinsics in pixels ``[[fx 0 cx] [0 fy cy] [0 0 1]]``, ``[views 3 3]``.
    width, height: image size in pixels.
    model: lens model of all views.
    distortion: coefficients in the order of ``DISTORTION_NAMES``, ``[views 8]``; zeros for an ideal lens.
    """

    viewmats: Float[Tensor, "views 4 4"]
    Ks: Float[Tensor, "views 3 3"]
    width: int
    height: int
    model: LensModel
    distortion: Float[Tensor, "views 8"]

    def __post_init__(self) -> None:
        views = self.viewmats.shape[0]
        assert self.viewmats.shape == (views, 4, 4), f"viewmats: {tuple(self.viewmats.shape)}"
        assert self.Ks.shape == (views, 3, 3), f"Ks: {tuple(self.Ks.shape)} for {views} views"
        assert self.distortion.shape == (views, 8), f"distortion: {tuple(self.distortion.shape)} for {views} views"
        assert self.width > 0 and self.height > 0, f"size {self.width}x{self.height}"

    @staticmethod
    def pinhole(
        viewmats: Float[Tensor, "views 4 4"],
        Ks: Float[Tensor, "views 3 3"],
        width: int,
        height: int,
    ) -> Cameras:
        """Ideal pinhole cameras without distortion."""
        return Cameras(viewmats, Ks, width, height, "pinhole", viewmats.new_zeros(viewmats.shape[0], 8))

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """The chosen views, still a batch: ``cameras[3]`` has one view."""
        if isinstance(index, int):
            index = [index]
        elif not isinstance(index, (slice, Tensor)):
            index = list(index)
        return replace(self, viewmats=self.viewmats[index], Ks=self.Ks[index], distortion=self.distortion[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        """The same cameras on another device or in another float type."""
        moved = {name: getattr(self, name).to(device=device, dtype=dtype) for name in ("viewmats", "Ks", "distortion")}
        return replace(self, **moved)

    @property
    def camera_to_world(self) -> Float[Tensor, "views 4 4"]:
        """Inverse of ``viewmats``, using that they are rigid."""
        rotation = self.viewmats[:, :3, :3].mT
        inverse = torch.zeros_like(self.viewmats)
        inverse[:, :3, :3] = rotation
        inverse[:, :3, 3] = -(rotation @ self.viewmats[:, :3, 3:])[..., 0]
        inverse[:, 3, 3] = 1
        return inverse

    @property
    def centers(self) -> Float[Tensor, "views 3"]:
        """Camera positions in world units."""
        return self.camera_to_world[:, :3, 3]

    def resized(self, width: int, height: int) -> Cameras:
        """The same views for images resized to ``width`` x ``height``; intrinsics scale per axis."""
        factors = self.Ks.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, Ks=self.Ks * factors[None, :, None], width=width, height=height)


def concatenate(batches: Sequence[Cameras]) -> Cameras:
    """One batch from several of the same size and lens model (asserted)."""
    first = batches[0]
    kinds = {(cameras.width, cameras.height, cameras.model) for cameras in batches}
    assert len(kinds) == 1, f"cameras of different sizes or lens models cannot form one batch: {sorted(kinds)}"
    return replace(
        first,
        viewmats=torch.cat([cameras.viewmats for cameras in batches]),
        Ks=torch.cat([cameras.Ks for cameras in batches]),
        distortion=torch.cat([cameras.distortion for cameras in batches]),
    )
