"""``ViewedScene``: everything that the viewer shows of a scene."""

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
    """A scene to view; it is replaced as a whole when its files change."""

    name: str
    """Name of the folder or file."""

    splats: Mapping[str, Splats]
    """Gaussians by title, the best last; empty while a job has not written any yet."""

    frames: tuple[CameraFrame, ...] = ()
    """Captured cameras."""

    photos: Mapping[str, Callable[[], Picture]] = field(default_factory=dict)
    """Functions that read the available photos, by name."""

    points: Float[Tensor, "points 3"] | None = None
    """Sparse points; None for none."""

    point_colors: UInt8[Tensor, "points 3"] | None = None
    """Colours of the sparse points."""

    references: tuple[View, ...] = ()
    """Views that the video model attends to."""

    camera_scale: float = 1.0
    """Factor from world units to the model's units."""

    camera_scale_source: str = ""
    """How the camera scale was determined."""

    distance: float = 1.0
    """Typical distance of the content from the cameras, world units."""

    up: tuple[float, float, float] = (0.0, -1.0, 0.0)
    """Unit vector."""

    pictures: Mapping[str, Picture] = field(default_factory=dict)
    """Latest pictures of a running job, by title."""

    curves: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    """Metrics of a running job by name, as (step, value)."""

    notes: tuple[str, ...] = ()
    """Remarks for the user."""

    origin: Origin = WORLD
    """Origin that splats, cameras and points are relative to."""

    @property
    def best(self) -> Splats | None:
        """The last of the splats; None if there are none."""
        return list(self.splats.values())[-1] if self.splats else None

    @property
    def lens(self) -> Cameras | None:
        """The first captured camera if it has a fisheye lens or distortion, else None."""
        for frame in self.frames[:1]:
            camera = frame.camera
            if camera.model == "fisheye" or bool((camera.distortion != 0).any()):
                return camera
        return None


def up_axis(frames: tuple[CameraFrame, ...]) -> tuple[float, float, float]:
    """Mean up direction of the cameras; without cameras -y, as in most captures."""
    if not frames:
        return (0.0, -1.0, 0.0)
    rows = torch.stack([-frame.camera.viewmats[0, 1, :3] for frame in frames]).mean(dim=0)
    if float(rows.norm()) < 1e-3:
        return (0.0, -1.0, 0.0)
    x, y, z = torch.nn.functional.normalize(rows, dim=0).tolist()
    return (x, y, z)


def axis_name(up: tuple[float, float, float]) -> str:
    """Name of a direction: ``-y`` for an axis of the world, otherwise its components."""
    index = max(range(3), key=lambda axis: abs(up[axis]))
    if abs(up[index]) > 0.98:
        return ("+" if up[index] > 0 else "-") + "xyz"[index]
    return "(" + ", ".join(f"{value:.2f}" for value in up) + ")"


def plain(text: str) -> str:
    """Escape text from files and captures for a Markdown element. This is necessary because viser
    reads images that Markdown refers to from the server's disk.
    """
    return re.sub(r"([\\`*_{}\[\]()#+!<>|~])", r"\\\1", text)
