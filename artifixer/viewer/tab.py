"""``Tab``: camera and settings of a browser tab, and what was sent to it.

The page's callbacks change it (``moved``, ``changed``); the render thread and the repair thread
read it. Every change increments a version number, with which the threads recognise outdated work.
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
    """Settings of a tab's view."""

    layer: str = ""
    """Title of the layer."""

    other: str | None = None
    """Title of the layer to the right of the divider; None for no comparison."""

    divider: float = 0.5
    """Position of the divider, as a fraction of the width."""

    size: int = 640
    """Longest side in pixels of pictures at rest."""

    has_lens: bool = False
    """Whether to apply the lens distortion of the capture."""

    is_repairing: bool = False
    """Whether live repair is on."""

    repair: RepairSettings = field(default_factory=RepairSettings)
    """Settings of the live repair."""


@dataclass(frozen=True)
class Pose:
    """A browser's camera."""

    camera_to_world: Float[Tensor, "4 4"]
    """In OpenCV axes."""

    fov: float
    """Vertical field of view in radians."""

    width: int
    """Width of the canvas in pixels."""

    height: int
    """Height of the canvas in pixels."""

    def camera(self, longest: int, lens: Cameras | None = None) -> Cameras:
        """The camera at this longest side, or at the size of the canvas if that is smaller."""
        factor = min(1.0, longest / max(self.width, self.height, 1))
        width, height = (max(16, round(side * factor)) for side in (self.width, self.height))
        return window_camera(self.camera_to_world, self.fov, width, height, lens)


@dataclass
class Tab:
    """State of one tab."""

    number: int
    """viser's id of the client."""

    condition: threading.Condition
    """Notified on every change."""

    show: Callable[[Picture, bool], None]
    """Sends a picture to the browser; the flag is whether it is at full size."""

    choice: ViewChoice = field(default_factory=ViewChoice)
    """Settings of the view."""

    pose: Pose | None = None
    """The newest camera."""

    version: int = 0
    """Number of changes."""

    changed_at: float = 0.0
    """Time of the last change, by ``time.monotonic``."""

    is_moving: bool = False
    """Whether the last change was a camera motion."""

    is_open: bool = True
    """False once the tab is closed."""

    moving_size: int = 256
    """Longest side in pixels of pictures while the camera moves; adapts to the speed."""

    shown_version: int = -1
    """Version that was painted or repaired last."""

    still_version: int = -1
    """Version that was painted or repaired at full size last."""

    shown_times: deque[float] = field(default_factory=lambda: deque(maxlen=30))
    """Times of the last pictures, by ``time.monotonic``."""

    def moved(self, pose: Pose) -> None:
        """Set the newest camera."""
        with self.condition:
            is_first = self.pose is None
            if not is_first and _same(self.pose, pose):
                return
            self.pose, self.is_moving = pose, not is_first
            self._notify()

    def changed(self, choice: ViewChoice) -> None:
        """Set the settings of the view, which is then painted at full size at once."""
        with self.condition:
            if choice == self.choice:
                return
            self.choice, self.is_moving = choice, False
            self._notify()

    def refresh(self) -> None:
        """Paint again after the scene has changed."""
        with self.condition:
            self.is_moving = False
            self._notify()

    def close(self) -> None:
        """Mark the tab as closed, which cancels work for it."""
        with self.condition:
            self.is_open = False
            self._notify()

    def _notify(self) -> None:
        self.version += 1
        self.changed_at = time.monotonic()
        self.condition.notify_all()

    def send(self, picture: Picture, is_still: bool) -> None:
        """Show a picture and record the time."""
        if self.is_open:
            self.show(picture, is_still)
            self.shown_times.append(time.monotonic())

    @property
    def frames_per_second(self) -> float:
        """Pictures per second over the last two seconds; 0 at rest."""
        now = time.monotonic()
        recent = [at for at in self.shown_times if now - at < 2]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 2 else 0.0


def _same(first: Pose | None, second: Pose) -> bool:
    return (
        first is not None
        and (first.fov, first.width, first.height) == (second.fov, second.width, second.height)
        and bool(torch.equal(first.camera_to_world, second.camera_to_world))
    )
