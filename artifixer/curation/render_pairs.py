"""Scene and splats -> ``TrainingPair``: the clip, its renders, and flaws of the photos.

The clip follows the capture's own cameras. Photos of procedural scenes are flawless, those of real
captures are not: exposure and white balance differ a little between photos, and poses are off by a
fraction of a pixel. Splats explain both with floaters, so the training photos of procedural scenes
get the same flaws before the fit (the clip itself stays as it is).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8

from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.imaging.resize import multiple_of_16
from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.scenes.resize_scene import resize_scene
from artifixer.scenes.scale import CameraScale
from artifixer.scenes.scene import Scene
from artifixer.scenes.view import View
from artifixer.splats.render import render
from artifixer.splats.render_folder import to_uint8
from artifixer.splats.splats import Splats


@dataclass(frozen=True)
class FlawConfig:
    """Flaws of the training photos of procedural scenes: standard deviations, scaled by a factor
    that is drawn from [0,1] per pair.
    """

    exposure: float = 0.12
    """Of the logarithm of a photo's brightness."""
    balance: float = 0.03
    """Of the logarithm of the brightness of each colour channel."""
    noise: float = 0.015
    """Of the noise of a pixel in [0,1]."""
    pose_pixels: float = 0.35
    """Of the image position of a distant point, in pixels, by rotating the camera."""


def draw_clip_indices(
    captured: Sequence[int], frames: int, rng: np.random.Generator, stride_limit: int = 2
) -> tuple[int, ...]:
    """``frames`` evenly spaced photos, anywhere among the captured ones, forwards or backwards.

    Raises ``InputError`` when the capture is too short.
    """
    if len(captured) < frames:
        raise InputError(
            f"{counted(len(captured), 'photo')}; expected at least the {frames} of a clip"
        )
    widest = max(1, min(stride_limit, (len(captured) - 1) // max(1, frames - 1)))
    # Wide clips are more likely: they show regions near training views and regions far from them.
    stride = widest if rng.random() < 0.7 else int(rng.integers(1, widest + 1))
    first = int(rng.integers(len(captured) - stride * (frames - 1)))
    clip = tuple(captured[first + stride * position] for position in range(frames))
    return clip[::-1] if rng.random() < 0.5 else clip


def spread_clip_indices(
    captured: Sequence[int],
    frames: int,
    count: int,
    rng: np.random.Generator,
    stride_limit: int = 2,
) -> tuple[tuple[int, ...], ...]:
    """Up to ``count`` different clips of ``frames`` photos, evenly spread from the capture's first
    photo to its last.

    All have the stride with which they cover most of the capture; each runs in a random direction.
    Raises ``InputError`` when the capture is too short.
    """
    if len(captured) < frames:
        raise InputError(
            f"{counted(len(captured), 'photo')}; expected at least the {frames} of a clip"
        )
    stride = max(1, min(stride_limit, (len(captured) - 1) // max(1, frames - 1)))
    last = len(captured) - 1 - stride * (frames - 1)
    # A single clip lies in the middle.
    starts = (
        sorted({round(start) for start in np.linspace(0, last, count)})
        if count > 1
        else [last // 2]
    )
    clips = [
        tuple(captured[first + stride * position] for position in range(frames)) for first in starts
    ]
    return tuple(clip[::-1] if rng.random() < 0.5 else clip for clip in clips)


def sized_for_clips(scene: Scene, longest: int) -> Scene:
    """The scene at a size that the video model takes, the longest side about ``longest`` pixels.

    All photos get the first one's aspect ratio. Raises ``InputError`` when they have different lens
    models.
    """
    first = scene.photos[0]
    if len({camera.model for camera in scene.cameras}) > 1:
        raise InputError(f"{scene.name}: photos of different lens models; expected one")
    factor = min(1.0, longest / max(first.width, first.height))
    width, height = multiple_of_16(round(first.width * factor), round(first.height * factor))
    return resize_scene(scene, f"{width}x{height}")


def with_flaws(views: Sequence[View], config: FlawConfig, rng: np.random.Generator) -> list[View]:
    """The views with pose errors, and with exposure, white balance and noise in their photos."""
    strength = rng.uniform(0, 1)
    flawed = []
    for view in views:
        photo = view.photo
        camera = _turned(view.camera, strength * config.pose_pixels, rng)
        gain = np.exp(
            strength * (config.exposure * rng.normal() + config.balance * rng.normal(size=3))
        )
        grain = strength * config.noise * rng.normal(size=(photo.height, photo.width, 3))
        pixels = _exposed(photo.read(), gain, grain)
        flawed.append(View(camera, replace(photo, read=functools.partial(_constant, pixels))))
    return flawed


def render_pair(
    name: str,
    scene: Scene,
    clip: tuple[int, ...],
    references: Sequence[View],
    splats: Splats,
    scale: CameraScale,
) -> TrainingPair:
    """The pair of a clip and of splats, rendered where the splats are.

    clip: indices into ``scene.photos``. references: the views whose photos the splats were fitted
    to.
    """
    cameras = scene.batch(clip)
    with torch.no_grad():
        renders = render(splats, cameras.to(splats.means.device))
    return TrainingPair(
        name=name,
        clean_frames=torch.from_numpy(np.stack([scene.photos[index].read() for index in clip])),
        renders=to_uint8(renders.rgb).cpu(),
        opacity=to_uint8(renders.opacity).cpu(),
        cameras=cameras,
        reference_photos=torch.from_numpy(np.stack([view.photo.read() for view in references])),
        reference_cameras=concatenate([view.camera for view in references]),
        camera_scale=scale.value,
        camera_scale_kind=scale.kind,
    )


def _turned(camera: Cameras, pixels: float, rng: np.random.Generator) -> Cameras:
    """The camera rotated about its centre so that distant points move by about ``pixels``."""
    x, y, z = (
        torch.from_numpy(rng.normal(size=3)) * pixels / float(camera.Ks[0, 0, 0]) / 2
    ).tolist()
    turn = torch.eye(4, dtype=torch.float64)
    quaternion = torch.tensor([1.0, x, y, z], dtype=torch.float64)
    turn[:3, :3] = quaternion_to_matrix(quaternion / quaternion.norm())
    return replace(
        camera, viewmats=(turn @ camera.viewmats.to(torch.float64)).to(camera.viewmats.dtype)
    )


def _exposed(
    photo: UInt8[np.ndarray, "height width 3"], gain: np.ndarray, grain: np.ndarray
) -> UInt8[np.ndarray, "height width 3"]:
    exposed: np.ndarray = np.rint(np.clip(photo / 255 * gain + grain, 0, 1) * 255).astype(np.uint8)
    return exposed


def _constant(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    return pixels
