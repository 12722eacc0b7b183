"""Progress of long jobs: a live bar on a terminal, a plain line every few seconds elsewhere, and
the same lines in a log file.

    with Progress(("reconstruct", "render"), log_file=run.path("log.txt")) as progress:
        with progress.stage("reconstruct", total=2000) as bar:
            for iteration in range(2000):
                ...
                bar.update(iteration + 1, loss=loss, gaussians=len(splats))
        progress.note("held-out PSNR 24.1 dB")

Output goes to standard error, because standard output is for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO, TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TextIO

from artifixer.runtime.files import append_text

if TYPE_CHECKING:
    from rich.progress import Progress as LiveBar

#: Seconds between redraws of the live bar.
REDRAW_SECONDS = 0.2


class Progress:
    """The progress display of a process.

    stages: names of all stages in order, so that a stage is shown as "2/5"; other stages have no
    number. log_file: file to which plain lines are appended. line_seconds: time between plain lines
    of one stage. output: stream to show progress on (the current standard error by default), with a
    live bar if it is a terminal; None for no display.
    """

    def __init__(
        self,
        stages: Sequence[str] = (),
        log_file: str | Path | None = None,
        line_seconds: float = 5.0,
        output: TextIO | TextIOWrapper | StringIO | Literal["stderr"] | None = "stderr",
    ) -> None:
        self.stages = tuple(stages)
        self.log_file = Path(log_file) if log_file is not None else None
        self.line_seconds = line_seconds
        self.output = sys.stderr if output == "stderr" else output
        self._bar: LiveBar | None = None

    def __enter__(self) -> Progress:
        if self.output is not None and self.output.isatty():
            self._bar = _live_bar(self.output)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[ProgressBar]:
        """The bar of a stage of ``total`` steps; 0 if the number is not known yet. Stages cannot be
        nested.
        """
        bar = ProgressBar(self, self._title(name), total)
        yield bar
        bar.finish()

    def note(self, text: str) -> None:
        """Show a line of text above the bar and append it to the log."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self.output is not None:
            print(text, file=self.output, flush=True)
        self._log(text)

    def _title(self, name: str) -> str:
        return (
            f"{name} ({self.stages.index(name) + 1}/{len(self.stages)})"
            if name in self.stages
            else name
        )

    def _line(self, text: str) -> None:
        if self._bar is None and self.output is not None:
            print(text, file=self.output, flush=True)
        self._log(text)

    def _log(self, text: str) -> None:
        if self.log_file is not None:
            append_text(self.log_file, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


class ProgressBar:
    """Progress of one stage; created by ``Progress.stage``."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        assert total >= 0, f"stage {title}: {total} steps"
        self.title, self.total = title, total
        self.done = 0
        self._fields: dict[str, Any] = {}
        self._progress = progress
        self._first_done: int | None = None
        self._line_done: int | None = None
        self._started = self._last_draw = self._last_line = time.monotonic()
        self._task = (
            None
            if progress._bar is None
            else progress._bar.add_task(title, total=total or None, detail="")
        )

    def update(self, done: int, **fields: Any) -> None:
        """Set the number of finished steps. Fields are shown as ``name=value``; numbers may be
        tensors, which are read only when shown.

        Takes about a microsecond unless the display is updated. The steps of the first call do not
        count for the speed, because a resumed stage starts with finished steps.
        """
        self.done, self._fields = done, fields
        now = time.monotonic()
        if self._first_done is None:
            self._first_done, self._started = done, now
        if self._task is not None and now - self._last_draw >= REDRAW_SECONDS:
            self._draw(now)
        if now - self._last_line >= self._progress.line_seconds:
            self._write_line(now)

    def note(self, text: str) -> None:
        """Show a line of text, see ``Progress.note``."""
        self._progress.note(text)

    def advance(self, **fields: Any) -> None:
        """Add one finished step."""
        self.update(self.done + 1, **fields)

    def finish(self) -> None:
        """Show the final state."""
        now = time.monotonic()
        if self._task is not None:
            self._draw(now)
        if self._line_done != self.done:
            self._write_line(now)

    def _draw(self, now: float) -> None:
        bar = self._progress._bar
        assert bar is not None and self._task is not None, "drawn without a bar"
        self._last_draw = now
        bar.update(
            self._task, total=self.total or None, completed=self.done, detail=self._detail(now)
        )

    def _write_line(self, now: float) -> None:
        self._last_line, self._line_done = now, self.done
        self._progress._line(self._text(now))

    def _text(self, now: float) -> str:
        percent = f" {100 * self.done // self.total}%" if self.total else ""
        total = f"/{self.total}" if self.total else ""
        return f"{self.title} {self.done}{total}{percent} {self._detail(now)}".rstrip()

    def _detail(self, now: float) -> str:
        parts = [f"{name}={_shown(value)}" for name, value in self._fields.items()]
        return " ".join([*parts, *self._speed(now)])

    def _speed(self, now: float) -> list[str]:
        steps, seconds = self.done - (self._first_done or 0), now - self._started
        if steps <= 0 or seconds <= 0:
            return []
        rate = steps / seconds
        shown = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f}s each"
        return [
            shown,
            f"took {_clock(seconds)}"
            if self.done >= self.total
            else f"ETA {_clock((self.total - self.done) / rate)}",
        ]


def _live_bar(output: TextIO | TextIOWrapper | StringIO) -> LiveBar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    return Progress(*columns, console=Console(file=output), refresh_per_second=1 / REDRAW_SECONDS)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    number = value if isinstance(value, int) else float(value)
    return f"{number:,}" if isinstance(number, int) else f"{number:.4g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
