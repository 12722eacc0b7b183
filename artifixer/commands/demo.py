"""``artifixer demo``: the main job on an embedded procedural capture with the embedded model, in a
few minutes on any machine.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path

from artifixer.commands import run as run_verb
from artifixer.pipeline.run import Result, run

#: A place drawn by lot, photographed from few sides.
CAPTURE, VIEWS, SIZE = "procedural:7", 4, "160"


@dataclass(frozen=True)
class Command:
    """Show what ArtiFixer does: a procedural capture of which only a few photos are used, repaired
    and extended by the embedded model.

    Needs no GPU, no download and a few minutes. Ends with a table of the variants and a report,
    which opens where there is a screen.

    Examples:
      artifixer demo
      artifixer demo --out my_demo --no-browser
    """

    out: Path = Path("demo")
    """Folder to create or continue."""
    seed: int = 0
    """The same seed gives the same files."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ... auto takes a GPU when there is one."""
    no_browser: bool = False
    """Do not open the report."""


def run_command(command: Command) -> None:
    options = run_verb.Command(
        CAPTURE, command.out, views=VIEWS, size=SIZE, seed=command.seed, device=command.device
    )
    result = run(run_verb.run_config(options))
    print("\n".join(run_verb.result_lines(result)))
    if not command.no_browser and has_screen():
        open_report(result)


def has_screen() -> bool:
    """Whether a browser window can be expected to open: a desktop session, on Linux one with a
    display.
    """
    has_desktop = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return sys.stdout.isatty() and has_desktop


def open_report(result: Result) -> bool:
    """Show the report in the user's browser; False when there is none."""
    return webbrowser.open(result.report.resolve().as_uri())
