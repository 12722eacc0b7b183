"""``TrainingView``: a picture that splats are fitted to, with its camera and weights.

In: photos or generated frames with their cameras. Out: per view, what a fit needs of it on its
device, and the distance of a render to it (paper section 5.1: L1 and SSIM).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.scenes.scene import Photo
from artifixer.scenes.view import View
from artifixer.splats.losses import photometric_loss
from artifixer.splats.render import Renders

#: (render, photo), both [0,1] ``[height width 3]`` -> the loss of a view.
ViewLoss = Callable[
    [Float[Tensor, "height width 3"], Float[Tensor, "height width 3"]], Float[Tensor, ""]
]


@dataclass(frozen=True)
class TrainingView:
    """A photo or frame, its camera (a single view of the same size), and how it counts."""

    photo: Photo
    camera: Cameras

    weight: float = 1.0
    """Factor of the view's loss, at least 0."""

    pixel_weights: Float[Tensor, "height width"] | None = None
    """Factors in [0,1] of the loss per pixel; None for ones (generated frames count little where
    photos already decide)."""

    loss: ViewLoss | None = None
    """Replaces the photometric loss and the pixel weights."""

    @staticmethod
    def of(view: View) -> TrainingView:
        """A captured view of weight 1."""
        return TrainingView(view.photo, view.camera)


@dataclass(frozen=True)
class LoadedView:
    """A training view on the device of the fit."""

    source: TrainingView
    camera: Cameras
    pixels: UInt8[Tensor, "height width 3"]

    mask: Float[Tensor, "height width"] | None
    """1 where the photo counts, 0 where it does not; None where all of it counts."""

    opacity: Float[Tensor, "height width"] | None
    """Opacity of what the photo shows, [0,1]; None where the photo is opaque."""

    pixel_weights: Float[Tensor, "height width"] | None
    """``source.pixel_weights``."""

    def compared(
        self, renders: Renders, background: Float[Tensor, " 3"], ssim_weight: float
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Weighted loss of a render of this view, and its mean squared error over the pixels that
        count (0 where none does), which has no gradient.

        background: colour behind both render and photo where they are transparent. Both are black
        where the photo is masked, so that windows of SSIM that reach there see no difference.
        """
        photo = self.pixels.to(torch.float32) / 255
        image = renders.rgb[0] + (1 - renders.opacity[0])[..., None] * background
        target = photo
        if self.opacity is not None:
            target = target + (1 - self.opacity)[..., None] * background
        if self.mask is not None:
            image, target = image * self.mask[..., None], target * self.mask[..., None]
        own_loss = self.source.loss
        distance = (
            own_loss(image, target)
            if own_loss
            else photometric_loss(image, target, ssim_weight, self._weights())
        )
        return self.source.weight * distance, self._squared_error(renders.rgb[0].detach(), photo)

    def _weights(self) -> Float[Tensor, "height width"] | None:
        """Weights of the pixels, 0 where the photo is masked."""
        if self.mask is None or self.pixel_weights is None:
            return self.pixel_weights if self.mask is None else self.mask
        return self.pixel_weights * self.mask

    def _squared_error(
        self, render: Float[Tensor, "height width 3"], photo: Float[Tensor, "height width 3"]
    ) -> Float[Tensor, ""]:
        squared = (render - photo).square().mean(dim=-1)
        if self.mask is None:
            return squared.mean()
        return (squared * self.mask).sum() / self.mask.sum().clamp(min=1)

    def identity(self) -> tuple[object, ...]:
        """What the fit depends on, for a fingerprint. Losses count by their presence."""
        source = self.source
        has_loss = source.loss is not None
        return self.pixels, self.mask, self.opacity, source.pixel_weights, source.weight, has_loss


def load_views(views: Sequence[TrainingView], device: str) -> list[LoadedView]:
    """The views on a device. A photo of several views is read once and shared."""
    layers: dict[int, tuple[UInt8[Tensor, "h w 3"], Tensor | None, Tensor | None]] = {}
    for view in views:
        photo = view.photo
        if id(photo) not in layers:
            mask = photo.weights()
            opacity = None
            if photo.opacity is not None:
                opacity = torch.from_numpy(photo.opacity()).to(device, torch.float32) / 255
            layers[id(photo)] = (
                torch.from_numpy(photo.read()).to(device),
                None if mask is None else mask.to(device),
                opacity,
            )
    return [
        LoadedView(
            view,
            view.camera.to(device),
            *layers[id(view.photo)],
            None if view.pixel_weights is None else view.pixel_weights.to(device),
        )
        for view in views
    ]
