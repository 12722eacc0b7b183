"""Speed of the viewer in a browser, and its memory over time.

    python benchmarks/viewer.py FOLDER [--capture CAPTURE] [--window 320x569] [--seconds 8]
    [--flight-minutes 10]

FOLDER is one of ``run`` or ``reconstruct``. Starts ``artifixer view`` on it and headless Chromium
(which renders in software and shares the cores) and drags the mouse over the page. Measures what
the page has decoded: frames per second while the mouse drags, the time from the last mouse movement
to a full picture, the CPU time of the server while nothing changes; the same with "Repair what I
see" on; and the server's memory over a random flight. Prints the machine's load beside the figures.

Memory is the server's resident size after every drag: medians of the first, the middle and the last
tenth of the flight. The first tenth includes one-time allocations (kernels, photos, the model's
work space), so compare the middle with the end: a leak keeps growing there, while without one they
differ only by the variation of samples (tens of MB, from temporary blocks and pictures).
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.viewer.browser import Page, browser, served

#: Records the time of the last mouse movement, on the clock of the pictures.
NOTE_MOUSE = "addEventListener('pointermove', () => { window.lastMove = performance.now(); }, true)"

#: Seconds over which the idle server's CPU time is measured, and after which it counts as idle.
IDLE, SETTLING = 5.0, 12.0


def moving(page: Page, seconds: float) -> tuple[float, list[tuple[float, int, int]], float]:
    """(frames per second while the mouse moves, pictures afterwards with times from the last
    movement, measured seconds).
    """
    count = len(page.pictures())
    begun = page.driver.execute_script("return performance.now()")
    end = time.monotonic() + seconds
    sign = 1
    while time.monotonic() < end:
        page.drag(sign * 90, sign * 20, steps=40)
        sign = -sign
    last = page.driver.execute_script("return window.lastMove")
    time.sleep(SETTLING)
    pictures = page.pictures()[count:]
    inside = [picture for picture in pictures if begun <= picture[0] <= last]
    after = [(at - last, width, height) for at, width, height in pictures if at > last]
    return len(inside) / ((last - begun) / 1000), after, (last - begun) / 1000


def idle(process: psutil.Process) -> float:
    """CPU seconds per second."""
    before = process.cpu_times()
    time.sleep(IDLE)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / IDLE


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def measure(page: Page, process: psutil.Process, arguments: argparse.Namespace) -> None:
    page.driver.execute_script(NOTE_MOUSE)
    time.sleep(SETTLING / 2)
    rate, after, seconds = moving(page, arguments.seconds)
    full = max(after, key=lambda picture: picture[1], default=None)
    print(f"splats: {rate:.1f} frames/s while moving ({seconds:.0f} s), {load()}")
    if full is not None:
        first = next(at for at, width, _ in after if width == full[1])
        print(f"splats: {full[1]}x{full[2]} {first / 1000:.2f} s after the last movement")
    print(f"splats: {100 * idle(process):.1f} % of a core at rest")
    page.tab("Repair")
    page.check("Repair what I see")
    page.until(lambda: page.has_text("repaired"), "the model works")
    time.sleep(SETTLING)
    rate, after, seconds = moving(page, arguments.seconds)
    print(f"repair: {rate:.1f} frames/s while moving ({seconds:.0f} s), {load()}")
    if after:
        small = min(width for _, width, _ in after)
        bursts = [at for at, width, _ in after if width == small]
        stills = [picture for picture in after if picture[1] > small]
        print(f"repair: first repaired frame {bursts[0] / 1000:.2f} s after the last movement")
        last = bursts[0]
        for before, now in itertools.pairwise(bursts):
            last = now if now - before > 150 else last
        print(f"repair: first frame of the last block {last / 1000:.2f} s after it")
        if stills:
            at, width, height = stills[0]
            print(f"repair: {width}x{height} {at / 1000:.2f} s after it")
    print(f"repair: {100 * idle(process):.1f} % of a core at rest")


def flight(page: Page, process: psutil.Process, minutes: float) -> None:
    """Memory of the server along a random path with repair on."""
    draw = random.Random(1)
    begun = time.monotonic()
    sizes: list[float] = []
    while time.monotonic() - begun < 60 * minutes:
        page.drag(draw.randint(-80, 80), draw.randint(-30, 30), steps=20)
        sizes.append(process.memory_info().rss / 2**20)
    tenth = max(1, len(sizes) // 10)
    half = len(sizes) // 2
    parts = {
        "start": sizes[:tenth],
        "middle": sizes[max(0, half - tenth // 2) :][:tenth],
        "end": sizes[-tenth:],
    }
    shown = ", ".join(f"{name} {statistics.median(part):.0f}" for name, part in parts.items())
    print(
        f"memory over {minutes:g} minutes of random flight, MB (medians of a tenth of it): "
        f"{shown}, at most {max(sizes):.0f}, {len(sizes)} samples ({load()})"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--capture")
    parser.add_argument("--window", default="320x569")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--flight-minutes", type=float, default=10)
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.window.split("x"))
    capture = () if arguments.capture is None else ("--capture", arguments.capture)
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder.parent) as scratch,
        served(str(arguments.folder), *capture, "--port", "0") as (address, process),
        browser(Path(scratch), (width, height)) as page,
    ):
        page.open(address)
        watched = psutil.Process(process.pid)
        measure(page, watched, arguments)
        if arguments.flight_minutes:
            flight(page, watched, arguments.flight_minutes)


if __name__ == "__main__":
    main()
