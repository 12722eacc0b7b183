"""``artifixer demo``: ``artifixer run`` on a small procedural capture with the embedded model."""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifixer.commands import run as run_verb

if TYPE_CHECKING:
    from artifixer.pipeline.run import Result

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = run_verb.WORK_MODULES

#: The capture, its number of training views, and the longest side in pixels.
CAPTURE, VIEWS, SIZE = "procedural:7", 4, "160"


@dataclass(frozen=True)
class Command:
    """Show what ArtiFixer does: reconstruct a procedural capture from 4 of its photos, then repair
    and extend it with the embedded model.

    Takes a few minutes, without a GPU or a download. Prints a table of the variants and opens the
    report in a browser if there is a screen.

    Examples:
      artifixer demo
      artifixer demo --out my_demo --no-browser
    """

    out: Path = Path("demo")
    """Output folder, created or continued."""
    seed: int = 0
    """Random seed; the same seed gives the same files."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto selects a GPU when there is one."""
    no_browser: bool = False
    """Do not open the report."""


def run_command(command: Command) -> None:
    from artifixer.pipeline.run import run

    options = run_verb.Command(
        CAPTURE, command.out, views=VIEWS, size=SIZE, seed=command.seed, device=command.device
    )
    result = run(run_verb.run_config(options))
    print("\n".join(run_verb.result_lines(result)))
    if not command.no_browser and has_screen():
        open_report(result)


def has_screen() -> bool:
    """Whether a browser window can open: a terminal in a desktop session, on Linux with a
    display.
    """
    has_desktop = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return sys.stdout.isatty() and has_desktop


def open_report(result: Result) -> bool:
    """Open the report in the user's browser; False when there is none."""
    return webbrowser.open(result.report.resolve().as_uri())
