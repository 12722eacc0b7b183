"""``PathJob``: ``artifixer run`` along a path in a separate process, with progress for the page.

There is at most one process; ``cancel`` sends SIGTERM, so that the same command continues.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

#: Seconds that a cancelled process gets to save its state before it is killed.
EXIT_SECONDS = 20

_PROGRESS = re.compile(r"^(\w[\w ]*) \((\d+)/(\d+)\) (\d+)/(\d+) ")


class PathJob:
    """A run that is started from the page.

    changed: called when ``line`` or ``fraction`` has changed. done: called when the process has
    ended with exit code 0.
    """

    def __init__(self, changed: Callable[[], None], done: Callable[[], None]) -> None:
        self._changed, self._done = changed, done
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_cancelled = False
        self.line = ""
        self.fraction = 0.0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, arguments: Sequence[str]) -> bool:
        """Start ``artifixer`` with these arguments; returns False if a process is running."""
        with self._lock:
            if self.is_running:
                return False
            self._is_cancelled = False
            self.line, self.fraction = "starting ...", 0.0
            self._process = subprocess.Popen(
                [sys.executable, "-m", "artifixer", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # Ctrl-C goes to the viewer, which then cancels this process
                start_new_session=sys.platform != "win32",
            )
            threading.Thread(target=self._follow, args=(self._process,), daemon=True).start()
        self._changed()
        return True

    def cancel(self) -> None:
        """Stop the process and wait for its end."""
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                return
            self._is_cancelled = True
            process.terminate()
        try:
            process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in process.stdout:
                text = line.strip()
                if not text:
                    continue
                self.line = text[:200]
                found = _PROGRESS.match(text)
                if found is not None:
                    stage, stages, step, steps = (int(found[group]) for group in (2, 3, 4, 5))
                    self.fraction = min(1.0, (stage - 1 + step / max(1, steps)) / stages)
                self._changed()
        code = process.wait()
        if code == 0:
            self.line, self.fraction = "done; new layers are in the list", 1.0
            self._done()
        elif self._is_cancelled:
            self.line = "cancelled; starting again continues"
        else:
            self.line = f"failed ({code}): {self.line}"
        self._changed()
