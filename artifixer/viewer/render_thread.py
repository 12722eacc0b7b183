"""The render thread: renders the splats for all tabs, small while a camera moves and at full size
at rest.

One thread serves the tabs in turn. It always renders the newest camera of a tab, and sleeps while
nothing changes. Tabs with live repair are served by the repair thread instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from artifixer.viewer.layers import LayerPainter, side_by_side
from artifixer.viewer.scene import ViewedScene
from artifixer.viewer.tab import REST, Tab

#: Target time in seconds of a picture while the camera moves (slower pictures make the next one
#: smaller, twice as fast ones larger), and minimum of its longest side in pixels.
MOVING_SECONDS, MIN_SIZE = 0.07, 96


class RenderThread(threading.Thread):
    """The thread that renders.

    condition: guards tabs and scene, notified on changes. tabs: returns the open tabs.
    scene: returns the current scene. report: shows the status of a tab.
    """

    def __init__(
        self,
        condition: threading.Condition,
        tabs: Callable[[], Iterable[Tab]],
        scene: Callable[[], ViewedScene],
        report: Callable[[Tab, str], None],
    ) -> None:
        super().__init__(name="render", daemon=True)
        self._condition, self._tabs, self._scene, self._report = condition, tabs, scene, report
        self._painter: LayerPainter | None = None
        self._is_stopping = False
        self._last = -1

    def stop(self) -> None:
        """End after the current picture."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify_all()

    def run(self) -> None:
        while (work := self._next()) is not None:
            tab, is_still = work
            self._paint(tab, is_still)

    def _next(self) -> tuple[Tab, bool] | None:
        """Wait for the next tab that needs a picture: (tab, whether at full size). None to end."""
        with self._condition:
            while not self._is_stopping:
                now, deadline = time.monotonic(), None
                tabs = [tab for tab in self._tabs() if tab.pose is not None]
                tabs = [tab for tab in tabs if not tab.choice.is_repairing]
                # round-robin: tabs after the last one come first
                tabs.sort(key=lambda tab: (tab.number <= self._last, tab.number))
                for tab in tabs:
                    if tab.still_version == tab.version:
                        continue
                    rests_at = tab.changed_at + (REST if tab.is_moving else 0)
                    if now >= rests_at:
                        return tab, True
                    if tab.shown_version != tab.version:
                        return tab, False
                    deadline = rests_at if deadline is None else min(deadline, rests_at)
                self._condition.wait(None if deadline is None else max(0.0, deadline - now))
            return None

    def _paint(self, tab: Tab, is_still: bool) -> None:
        with self._condition:
            self._last = tab.number
            version, pose, choice, scene = tab.version, tab.pose, tab.choice, self._scene()
            longest = choice.size if is_still else min(tab.moving_size, choice.size)
        assert pose is not None
        if self._painter is None or self._painter.scene is not scene:
            self._painter = LayerPainter(scene)
        started = time.monotonic()
        camera = pose.camera(longest, scene.lens if choice.has_lens else None)
        titles = [choice.layer] if choice.other is None else [choice.layer, choice.other]
        pictures = self._painter.paint(titles, camera)
        picture = (
            pictures[0]
            if len(pictures) == 1
            else side_by_side(pictures[0], pictures[1], choice.divider)
        )
        seconds = time.monotonic() - started
        with self._condition:
            tab.shown_version = version
            if is_still:
                tab.still_version = version
            else:
                tab.moving_size = _next_size(longest, seconds, choice.size)
            is_wanted = tab.is_open and not tab.choice.is_repairing
        if is_wanted:
            tab.send(picture, is_still)
            speed = f" · {tab.frames_per_second:.0f} frames/s" if not is_still else ""
            self._report(tab, f"{camera.width}x{camera.height} in {1000 * seconds:.0f} ms{speed}")


def _next_size(longest: int, seconds: float, most: int) -> int:
    if seconds > MOVING_SECONDS:
        return max(MIN_SIZE, int(longest * 0.8))
    if seconds < MOVING_SECONDS / 2:
        return min(most, int(longest * 1.15) + 1)
    return longest
