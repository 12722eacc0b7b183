"""Stages of a long job in a run folder: each one done once for what it depends on, complete or
absent.

A stage names everything it depends on (``depends_on``: by a word that people understand, values or
fingerprints). Finished before with the same, it is kept; otherwise what an earlier run left of it
is removed and it runs. Inside a stage, files that were written for the same dependencies stay, so
that work which goes frame by frame can continue where it was killed.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence

from artifixer.runtime.errors import InputError
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.json_io import is_number, read_json, to_json, write_json
from artifixer.runtime.progress import Progress, ProgressBar
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stopping import stop_if_requested
from artifixer.runtime.system import peak_memory

TIMING_FILE = "timing.json"

#: Raised when what a stage writes changes for the same settings: results of earlier versions then
#: count as outdated.
VERSION = 2


class Stages:
    """Runs the stages of one job. ``executed``: names of those that this process ran; ``seconds``:
    of all, earlier processes' included.
    """

    def __init__(self, run: RunFolder, progress: Progress) -> None:
        self.executed: list[str] = []
        self._run, self._progress = run, progress
        path = run.path(TIMING_FILE)
        known = read_json(path) if path.exists() else {}
        self.seconds: dict[str, float] = known.get("stages", {}) if isinstance(known, dict) else {}
        self._peak_memory: float = (
            known.get("peak_memory_mb", 0.0) if isinstance(known, dict) else math.nan
        )
        is_ours = isinstance(self.seconds, dict) and all(
            is_number(value, 1e12) for value in self.seconds.values()
        )
        if not is_ours or not is_number(self._peak_memory, 1e12):
            raise InputError(
                f'{path}: damaged; expected "stages" with seconds and "peak_memory_mb"; delete it '
                "to go on without it"
            )

    def complete(
        self,
        name: str,
        depends_on: Mapping[str, object],
        outputs: Sequence[str],
        total: int,
        work: Callable[[ProgressBar], None],
        scratch: Sequence[str] = (),
    ) -> str:
        """Make sure that the stage is done, and return a fingerprint of all it depends on.

        outputs: files or folders in the run folder that ``work`` leaves. total: steps, for the
        progress display. scratch: files or folders for continuing, removed at the end.
        """
        key = to_json({"version of the program's stages": VERSION, **depends_on})
        if self._run.is_done(name, key):
            self._delete(scratch)  # of a process that was killed when it had marked the stage
            self._progress.note(f"{name}: done before, kept")
            return fingerprint(key)
        stop_if_requested(f"before {name}")
        self._begin(name, key, [*outputs, *scratch])
        began = time.monotonic()
        with self._progress.stage(name, total) as stage:
            work(stage)
        self._run.mark_done(name, key, outputs)
        self._delete(scratch)
        self._record(name, time.monotonic() - began)
        return fingerprint(key)

    def discard(self, name: str, outputs: Sequence[str]) -> None:
        """Remove what an earlier run left of a stage that this run does not have."""
        if self._run.key_of(name) is not None or self._run.key_of(_started(name)) is not None:
            self._remove(name, outputs)

    def _begin(self, name: str, key: object, outputs: Sequence[str]) -> None:
        """Leave only what belongs to this key. A kill at any point leaves a stage that is either
        unmarked or whole.
        """
        before = self._run.key_of(name)
        if isinstance(before, dict) and isinstance(key, dict):
            changed = [word for word in key if before.get(word) != key[word]] or ["its files"]
            self._progress.note(f"{name}: runs again, changed: {', '.join(changed)}")
        if not self._run.is_done(_started(name), key):
            self._remove(name, outputs)
            self._run.mark_done(_started(name), key)
        for output in outputs:
            self._run.path(output)

    def _remove(self, name: str, outputs: Sequence[str]) -> None:
        self._run.forget(name)
        self._run.forget(_started(name))
        self._delete(outputs)

    def _delete(self, names: Sequence[str]) -> None:
        for name in names:
            path = self._run.path(name)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _record(self, name: str, seconds: float) -> None:
        self.executed.append(name)
        self.seconds[name] = round(seconds, 3)
        self._peak_memory = max(self._peak_memory, peak_memory() / 1024**2)
        write_json(
            self._run.path(TIMING_FILE),
            {"stages": self.seconds, "peak_memory_mb": round(self._peak_memory, 1)},
        )


def _started(name: str) -> str:
    return f"{name}.started"
