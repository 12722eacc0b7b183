"""``ViewedScene``: what the viewer shows, put together by whoever opens a folder or a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.local_origin import WORLD, Origin
from artifixer.scenes.view import View
from artifixer.splats.splats import Splats

Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class ViewedScene:
    """A scene to look at; it is replaced as a whole when its files change.

    name: of the folder or file. splats: title -> Gaussians, the best last; may be empty while a job
    has only begun. frames: captured cameras. photos: name of a photo -> reads it; of those that are
    at hand. points, point_colors: sparse points, uint8 colours. references: views that the video
    model attends to. camera_scale: world units to the model's units, with its source. distance: of
    what the cameras look at, world units. up: unit vector. pictures: what a job has made last, by
    title. curves: numbers of a job by name, as (step, value). notes: lines for the reader. origin:
    what splats, cameras and points are relative to.
    """

    name: str
    splats: Mapping[str, Splats]
    frames: tuple[CameraFrame, ...] = ()
    photos: Mapping[str, Callable[[], Picture]] = field(default_factory=dict)
    points: Float[Tensor, "points 3"] | None = None
    point_colors: UInt8[Tensor, "points 3"] | None = None
    references: tuple[View, ...] = ()
    camera_scale: float = 1.0
    camera_scale_source: str = ""
    distance: float = 1.0
    up: tuple[float, float, float] = (0.0, -1.0, 0.0)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    curves: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    origin: Origin = WORLD

    @property
    def best(self) -> Splats | None:
        """The last of the splats."""
        return list(self.splats.values())[-1] if self.splats else None

    @property
    def lens(self) -> Cameras | None:
        """The lens of the first captured camera, if it bends straight lines."""
        for frame in self.frames[:1]:
            camera = frame.camera
            if camera.model == "fisheye" or bool((camera.distortion != 0).any()):
                return camera
        return None


def up_axis(frames: tuple[CameraFrame, ...]) -> tuple[float, float, float]:
    """Mean up direction of the cameras' images; -y, which most captures' worlds have, without
    cameras.
    """
    if not frames:
        return (0.0, -1.0, 0.0)
    rows = torch.stack([-frame.camera.viewmats[0, 1, :3] for frame in frames]).mean(dim=0)
    if float(rows.norm()) < 1e-3:
        return (0.0, -1.0, 0.0)
    x, y, z = torch.nn.functional.normalize(rows, dim=0).tolist()
    return (x, y, z)


def axis_name(up: tuple[float, float, float]) -> str:
    """``-y`` for an axis of the world, else the direction in numbers."""
    index = max(range(3), key=lambda axis: abs(up[axis]))
    if abs(up[index]) > 0.98:
        return ("+" if up[index] > 0 else "-") + "xyz"[index]
    return "(" + ", ".join(f"{value:.2f}" for value in up) + ")"


def plain(text: str) -> str:
    """Text of files and captures for a Markdown element: letters that mean something there are
    escaped, since viser reads pictures that Markdown names from the server's disk.
    """
    return re.sub(r"([\\`*_{}\[\]()#+!<>|~])", r"\\\1", text)
