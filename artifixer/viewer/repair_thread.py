"""The repair thread: runs the video model for all tabs with live repair, in turn.

It follows the newest camera of each tab (``live_repair``), and repairs the view at full size when
the camera rests. Work for a tab that has moved on, has switched repair off or was closed ends at
the next latent frame. The frames of a block are computed in bursts; ``Pacer`` shows them evenly.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable

from artifixer.runtime import system
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.viewer.layers import side_by_side
from artifixer.viewer.live_repair import Flight, Generator, RepairedFrame
from artifixer.viewer.scene import Picture, ViewedScene
from artifixer.viewer.tab import REST, Tab

#: Maximum number of rollouts whose caches are kept; the least recently used one is dropped first.
KEPT_FLIGHTS = 4


class Pacer(threading.Thread):
    """Calls functions at given times, to show frames at an even rate."""

    def __init__(self) -> None:
        super().__init__(name="pacer", daemon=True)
        self._condition = threading.Condition()
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._is_stopping = False

    def at(self, due: float, action: Callable[[], None]) -> None:
        """Call ``action`` when ``time.monotonic`` reaches ``due``."""
        with self._condition:
            heapq.heappush(self._waiting, (due, next(self._order), action))
            self._condition.notify()

    def stop(self) -> None:
        with self._condition:
            self._is_stopping = True
            self._condition.notify()

    def run(self) -> None:
        while True:
            with self._condition:
                while not self._is_stopping and (
                    not self._waiting or self._waiting[0][0] > time.monotonic()
                ):
                    wait = self._waiting[0][0] - time.monotonic() if self._waiting else None
                    self._condition.wait(wait)
                if self._is_stopping:
                    return
                _, _, action = heapq.heappop(self._waiting)
            action()


class RepairThread(threading.Thread):
    """The thread that repairs.

    condition: guards tabs and scene, notified on changes. tabs: returns the open tabs.
    scene: returns the current scene. load: loads the generator at first use; its ``InputError`` is
    shown as the status of the tab. report: shows the status of a tab.
    """

    def __init__(
        self,
        condition: threading.Condition,
        tabs: Callable[[], Iterable[Tab]],
        scene: Callable[[], ViewedScene],
        load: Callable[[ViewedScene], Generator],
        report: Callable[[Tab, str], None],
    ) -> None:
        super().__init__(name="repair", daemon=True)
        self._condition, self._tabs, self._scene = condition, tabs, scene
        self._load, self._report = load, report
        self._generator: Generator | None = None
        self._made_for: ViewedScene | None = None
        self._flights: dict[int, Flight] = {}
        self._pacer = Pacer()
        self._is_stopping = False
        self._last = -1

    def stop(self) -> None:
        """End after the current latent frame."""
        self._pacer.stop()
        with self._condition:
            self._is_stopping = True
            self._condition.notify_all()

    def run(self) -> None:
        self._pacer.start()
        while (work := self._next()) is not None:
            tab, is_still = work
            try:
                self._repair(tab, is_still)
            except InputError as error:
                with self._condition:
                    tab.shown_version = tab.still_version = tab.version
                self._report(tab, f"repair: {error}")

    def _next(self) -> tuple[Tab, bool] | None:
        """Wait for the next tab whose view is to be repaired: (tab, whether at full size). None to
        end.
        """
        with self._condition:
            while not self._is_stopping:
                now, deadline = time.monotonic(), None
                everyone = list(self._tabs())
                for number in set(self._flights) - {tab.number for tab in everyone}:
                    del self._flights[number]
                tabs = [
                    tab
                    for tab in everyone
                    if tab.choice.is_repairing and tab.pose is not None and self._scene().splats
                ]
                tabs.sort(key=lambda tab: (tab.number <= self._last, tab.number))
                for tab in tabs:
                    if tab.shown_version != tab.version:
                        return tab, False
                    if tab.still_version == tab.version:
                        continue
                    rests_at = tab.changed_at + REST
                    if now >= rests_at:
                        return tab, True
                    deadline = rests_at if deadline is None else min(deadline, rests_at)
                self._condition.wait(None if deadline is None else max(0.0, deadline - now))
            return None

    def _repair(self, tab: Tab, is_still: bool) -> None:
        with self._condition:
            self._last = tab.number
            version, pose, choice, scene = tab.version, tab.pose, tab.choice, self._scene()
            asked = tab.changed_at
        assert pose is not None
        if self._generator is None or (
            scene is not self._made_for and scene.references is not self._made_for.references  # type: ignore[union-attr]
        ):
            self._report(tab, "loading the model ...")
            self._generator = self._load(scene)
        self._made_for = scene
        splats = scene.splats.get(choice.layer.partition(": ")[0]) or scene.best
        assert splats is not None
        camera = pose.camera(choice.size, scene.lens if choice.has_lens else None)
        flight = self._flight(tab)

        def is_cancelled() -> bool:
            moved_on = tab.version != version if is_still else not tab.choice.is_repairing
            return self._is_stopping or moved_on or not tab.is_open

        frames = (
            flight.rest(self._generator, splats, camera, choice.repair, asked, is_cancelled)
            if is_still
            else flight.move(
                self._generator,
                splats,
                camera,
                choice.repair,
                scene.distance,
                asked,
                is_cancelled,
            )
        )
        started, shown_until = time.monotonic(), 0.0
        for count, frame in enumerate(frames):
            now = time.monotonic()
            step = (now - started) / flight.frames_per_block if count else 0.0
            shown_until = max(now, shown_until + min(step, 0.1))
            self._show_at(shown_until, tab, frame)
            self._report(tab, self._status(tab, frame, flight))
        with self._condition:
            tab.shown_version = version
            if is_still and tab.version == version:
                tab.still_version = version

    def _flight(self, tab: Tab) -> Flight:
        flight = self._flights.pop(tab.number, None) or Flight()
        self._flights[tab.number] = flight
        while len(self._flights) > KEPT_FLIGHTS:
            del self._flights[next(iter(self._flights))]
        return flight

    def _show_at(self, due: float, tab: Tab, frame: RepairedFrame) -> None:
        def show() -> None:
            choice = tab.choice
            if tab.is_open and choice.is_repairing:
                tab.send(composed(frame, choice.other is not None, choice.divider), frame.is_still)

        self._pacer.at(due, show)

    def _status(self, tab: Tab, frame: RepairedFrame, flight: Flight) -> str:
        height, width = frame.pixels.shape[:2]
        memory = system.peak_memory() / 2**30
        return (
            f"repaired {width}x{height} · {tab.frames_per_second:.0f} frames/s · latency "
            f"{frame.latency:.2f} s · {counted(frame.steps, 'step')} · rollout {flight.rollouts} · "
            f"{memory:.1f} GB"
        )


def composed(frame: RepairedFrame, is_compared: bool, divider: float) -> Picture:
    """The repaired frame; in a comparison with its render to the left of the divider."""
    return side_by_side(frame.render, frame.pixels, divider) if is_compared else frame.pixels
