"""The inputs of ``enhance``: renders in memory or in a folder, always quantised to 8 bit, and
reference views.

In: ``Renders``, or an object that returns uint8 colour and opacity by index, such as a render
folder. Out: colour and opacity in [0,1] at the cameras' size; reference photos at the model's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.imaging.resize import resize_bilinear, resize_photo
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.scenes.mask_files import resize_mask
from artifixer.scenes.view import View
from artifixer.splats.render import Renders
from artifixer.splats.render_folder import to_uint8
from artifixer.video.conditions import ReferencePhotos
from artifixer.video.rollout import RenderedFrames


@runtime_checkable
class RenderSource(Protocol):
    """Renders by index, such as a ``RenderFolder``."""

    def __len__(self) -> int: ...

    def rgb(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """Colour premultiplied by opacity, on black."""

    def opacity(self, index: int) -> UInt8[np.ndarray, "height width"]:
        """255 where the render is opaque."""

    def depth(self, index: int) -> Float[np.ndarray, "height width"] | None:
        """Camera z in world units, NaN where the render is empty; None when it is unknown."""


@dataclass(frozen=True)
class RendersInMemory:
    """``Renders`` as a source, rounded to 8 bit like the files of a render folder."""

    renders: Renders

    def __len__(self) -> int:
        return len(self.renders)

    def rgb(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        return to_uint8(self.renders.rgb[index]).numpy()

    def opacity(self, index: int) -> UInt8[np.ndarray, "height width"]:
        return to_uint8(self.renders.opacity[index]).numpy()

    def depth(self, index: int) -> Float[np.ndarray, "height width"] | None:
        return self.renders.depth[index].detach().cpu().to(torch.float32).numpy()


def checked_source(renders: Renders | RenderSource, cameras: Cameras) -> RenderSource:
    """The renders as a source of one frame per camera. ``InputError`` for other counts or sizes and
    for non-finite cameras.

    Only the first frame of a folder is checked here, the others when they are read.
    """
    if isinstance(renders, Renders):
        if renders.opacity.shape != renders.rgb.shape[:3]:
            opacity, rgb = (
                _size_text(*tensor.shape[:3]) for tensor in (renders.opacity, renders.rgb)
            )
            raise InputError(f"opacity: {opacity}; the renders are {rgb}")
        renders = RendersInMemory(renders)
    if len(renders) != len(cameras):
        raise InputError(
            f"{counted(len(renders), 'render')} for {counted(len(cameras), 'camera')}; expected "
            "as many"
        )
    if not len(cameras):
        raise InputError("no frames to enhance; expected at least one")
    check_finite(cameras, "target camera")
    _sized(renders.rgb(0), renders.opacity(0), cameras, 0)
    return renders


def check_finite(cameras: Cameras, label: str) -> None:
    """Raise ``InputError`` naming the first camera with a value that is not finite."""
    values = torch.cat(
        [cameras.viewmats.flatten(1), cameras.Ks.flatten(1), cameras.distortion], dim=1
    )
    broken = (~values.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f"{label} {broken[0]}: not finite ({len(broken)} of {len(cameras)} are); expected "
            "finite poses and intrinsics"
        )


def alike_cameras(frames: Sequence[CameraFrame], name: str) -> Cameras:
    """One batch of target cameras; ``InputError`` naming ``name`` unless all frames have one size
    and lens model.
    """
    kinds = [(frame.camera.width, frame.camera.height, frame.camera.model) for frame in frames]
    for index, kind in enumerate(kinds):
        if kind != kinds[0]:
            there, first = (
                f"{width}x{height} {model}" for width, height, model in (kind, kinds[0])
            )
            raise InputError(
                f"{name}: frame {index} is {there}, frame 0 is {first}; a clip has one size and "
                "lens model"
            )
    return concatenate([frame.camera for frame in frames])


def read_frames(
    source: RenderSource, cameras: Cameras, first: int, count: int, with_depth: bool = True
) -> RenderedFrames:
    """``count`` frames; frames beyond the last one repeat it. with_depth: whether depth is read; it
    is NaN in frames without it, whatever other frames are read with them.
    """
    indices = [min(index, len(cameras) - 1) for index in range(first, first + count)]
    pictures = [_sized(source.rgb(i), source.opacity(i), cameras, i) for i in indices]
    rgb, opacity = (
        torch.from_numpy(np.stack(planes)).to(torch.float32) / 255
        for planes in zip(*pictures, strict=True)
    )
    depths = [_depth(source, cameras, i) for i in indices] if with_depth else []
    if all(depth is None for depth in depths):
        return RenderedFrames(rgb, opacity)
    unknown = np.full((cameras.height, cameras.width), np.nan, np.float32)
    known = [unknown if depth is None else depth for depth in depths]
    return RenderedFrames(rgb, opacity, torch.from_numpy(np.stack(known)))


@dataclass(frozen=True)
class ReferenceBatch:
    """Reference photos in [0,1] and their cameras, at two sizes."""

    photos: ReferencePhotos
    """At the renders' size."""

    pixels: Float[Tensor, "views model_height model_width 3"]
    """At the model's size."""

    cameras: Cameras
    """At the model's size."""


def reference_batch(
    references: Sequence[View], width: int, height: int, model_size: tuple[int, int]
) -> ReferenceBatch | None:
    """Reference photos at the renders' size and at the model's (width, height); None without
    references.

    Photos are resized to the renders' size first (8 bit, antialiased), then to the model's size
    like renders. A photo's aspect ratio may differ from the renders': its camera is stretched with
    it. ``InputError`` for photos and cameras of different sizes and non-finite cameras.
    """
    if not references:
        return None
    photos, cameras, own_cameras, masks = [], [], [], []
    for index, reference in enumerate(references):
        camera, photo = reference.camera, reference.photo.read()
        if photo.shape[:2] != (camera.height, camera.width):
            expected = f"its camera says {camera.width}x{camera.height}"
            raise InputError(
                f"reference {index}: {photo.shape[1]}x{photo.shape[0]} pixels; {expected}"
            )
        if camera.model != references[0].camera.model:
            raise InputError(
                f"reference {index} is {camera.model}, reference 0 is "
                f"{references[0].camera.model}; expected one lens model"
            )
        photos.append(torch.from_numpy(resize_photo(photo, width, height)).to(torch.float32) / 255)
        cameras.append(camera.resized(*model_size))
        own_cameras.append(camera.resized(width, height))
        mask = None if reference.photo.mask is None else reference.photo.mask()
        if mask is None:
            masks.append(torch.ones(height, width))
        elif mask.shape != photo.shape[:2]:
            raise InputError(
                f"reference {index}: its mask has {mask.shape[1]}x{mask.shape[0]} pixels, the "
                f"photo {photo.shape[1]}x{photo.shape[0]}"
            )
        else:
            masks.append(torch.from_numpy(resize_mask(mask, width, height)).to(torch.float32) / 255)
    batch, pixels = concatenate(cameras), torch.stack(photos)
    check_finite(batch, "reference camera")
    return ReferenceBatch(
        ReferencePhotos(
            pixels,
            concatenate(own_cameras),
            torch.stack(masks) if any(view.photo.mask is not None for view in references) else None,
        ),
        resize_bilinear(pixels, *model_size),
        batch,
    )


def _depth(
    source: RenderSource, cameras: Cameras, index: int
) -> Float[np.ndarray, "height width"] | None:
    """The depth of a frame in float32; larger numbers become infinite, which is unknown."""
    depth = source.depth(index)
    if depth is None:
        return None
    if depth.shape != (cameras.height, cameras.width):
        raise InputError(
            f"depth {index}: array of {depth.shape}; expected "
            f"{(cameras.height, cameras.width)}, as its camera says"
        )
    with np.errstate(over="ignore"):
        return depth.astype(np.float32)


def _sized(
    rgb: np.ndarray, opacity: np.ndarray, cameras: Cameras, index: int
) -> tuple[np.ndarray, np.ndarray]:
    for kind, image in (("render", rgb), ("opacity", opacity)):
        if image.shape[:2] != (cameras.height, cameras.width):
            expected = f"its camera says {cameras.width}x{cameras.height}"
            raise InputError(
                f"{kind} {index}: {image.shape[1]}x{image.shape[0]} pixels; {expected}"
            )
    return rgb, opacity


def _size_text(frames: int, height: int, width: int) -> str:
    return f"{frames} of {width}x{height}"
