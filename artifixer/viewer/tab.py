"""``Tab``: one browser tab's camera and choices, and what was sent to it.

The page's callbacks write (``moved``, ``changed``), the render and the repair thread read and take
turns; a version number tells whether what was made is still what is wanted, so the last request
wins.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.viewer.live_repair import RepairSettings
from artifixer.viewer.motion import window_camera
from artifixer.viewer.scene import Picture

#: Seconds without a new camera after which a view is at rest.
REST = 0.15


@dataclass(frozen=True)
class ViewChoice:
    """layer, other: titles of layers; other is None without a comparison. divider: share of the
    width. size: longest side in pixels of pictures at rest. lens: whether to show the capture's
    own. is_repairing: whether the model repairs what is seen.
    """

    layer: str = ""
    other: str | None = None
    divider: float = 0.5
    size: int = 640
    has_lens: bool = False
    is_repairing: bool = False
    repair: RepairSettings = field(default_factory=RepairSettings)


@dataclass(frozen=True)
class Pose:
    """A browser's camera: camera_to_world in OpenCV axes, vertical field of view in radians, and
    the canvas in pixels.
    """

    camera_to_world: Float[Tensor, "4 4"]
    fov: float
    width: int
    height: int

    def camera(self, longest: int, lens: Cameras | None = None) -> Cameras:
        """The view with this longest side, or the canvas' own where that is smaller."""
        factor = min(1.0, longest / max(self.width, self.height, 1))
        width, height = (max(16, round(side * factor)) for side in (self.width, self.height))
        return window_camera(self.camera_to_world, self.fov, width, height, lens)


@dataclass
class Tab:
    """One tab. show: sends a picture to the browser. Every change rings ``bell``."""

    number: int
    bell: threading.Condition
    show: Callable[[Picture, bool], None]
    choice: ViewChoice = field(default_factory=ViewChoice)
    pose: Pose | None = None
    version: int = 0
    changed_at: float = 0.0
    is_moving: bool = False
    is_open: bool = True
    #: Longest side in pixels of pictures while the camera moves; adapts to the machine.
    moving_size: int = 256
    #: What was painted or repaired last: the version, and the version at full size.
    shown_version: int = -1
    still_version: int = -1
    shown_times: deque[float] = field(default_factory=lambda: deque(maxlen=30))
    status: str = ""

    def moved(self, pose: Pose) -> None:
        """The browser's camera is elsewhere."""
        with self.bell:
            is_first = self.pose is None
            if not is_first and _same(self.pose, pose):
                return
            self.pose, self.is_moving = pose, not is_first
            self._ring()

    def changed(self, choice: ViewChoice) -> None:
        """Another layer, size, or switch: shown at full size at once."""
        with self.bell:
            if choice == self.choice:
                return
            self.choice, self.is_moving = choice, False
            self._ring()

    def refresh(self) -> None:
        """What is shown has changed."""
        with self.bell:
            self.is_moving = False
            self._ring()

    def close(self) -> None:
        """The tab is gone: whatever is made for it is cancelled."""
        with self.bell:
            self.is_open = False
            self._ring()

    def _ring(self) -> None:
        self.version += 1
        self.changed_at = time.monotonic()
        self.bell.notify_all()

    def send(self, picture: Picture, is_still: bool) -> None:
        """Show a picture, and note when."""
        if self.is_open:
            self.show(picture, is_still)
            self.shown_times.append(time.monotonic())

    @property
    def frames_per_second(self) -> float:
        """Of the last two seconds; 0 at rest."""
        now = time.monotonic()
        recent = [at for at in self.shown_times if now - at < 2]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 2 else 0.0


def _same(first: Pose | None, second: Pose) -> bool:
    return (
        first is not None
        and (first.fov, first.width, first.height) == (second.fov, second.width, second.height)
        and bool(torch.equal(first.camera_to_world, second.camera_to_world))
    )
