"""Stages of a verb in its run folder: each runs once for its dependencies, and its outputs are
complete or absent.

In: a stage's files, the values and fingerprints that it depends on, and the function that computes
it. Out: its outputs in the run folder. A stage that is marked done with the same dependencies is
skipped if all its output files exist; otherwise the outputs of an earlier run are deleted and it
runs. Files that an interrupted process has written for the same dependencies are kept, so that
frame-by-frame work continues where it stopped. ``reconstruct``, ``render``, ``enhance`` and ``run``
resume by this mechanism.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from artifixer.runtime.added_settings import with_added, without_added
from artifixer.runtime.errors import InputError
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.json_io import is_number, read_json, to_json, write_json
from artifixer.runtime.progress import Progress, ProgressBar
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stopping import stop_if_requested
from artifixer.runtime.system import peak_memory

TIMING_FILE = "timing.json"

#: Incremented when the outputs of a stage change for the same settings, so that results of earlier
#: versions count as outdated.
VERSION = 2


@dataclass(frozen=True)
class StageFiles:
    """The files of one stage, relative to the run folder."""

    name: str
    """Name of the stage; its marker is ``.run/stages/NAME.json``."""
    outputs: tuple[str, ...]
    """Files and folders that the stage writes."""
    scratch: tuple[str, ...] = ()
    """Files and folders from which an interrupted stage continues; deleted at its end."""


class Stages:
    """Runs the stages of one run folder.

    ``completed``: names of the stages that this process ran or found done. ``executed``: names of
    those that it ran. ``seconds``: duration of all stages, including those run by earlier
    processes; written to ``timing.json`` with the peak memory if ``write_timing``. Raises
    ``InputError`` for a damaged ``timing.json``.
    """

    def __init__(self, run: RunFolder, progress: Progress, write_timing: bool = True) -> None:
        self.completed: list[str] = []
        self.executed: list[str] = []
        self.seconds: dict[str, float] = {}
        self._run, self._progress, self._write_timing = run, progress, write_timing
        self._peak_memory = 0.0
        if write_timing:
            self._read_timing()

    def complete(
        self,
        stage: StageFiles,
        depends_on: Mapping[str, object],
        total: int,
        work: Callable[[ProgressBar], None],
    ) -> str:
        """Run the stage unless it is done; returns a fingerprint of its dependencies.

        depends_on: values, settings or fingerprints, by their names in messages. Settings are
        dataclasses, so that stages of versions without an added setting are kept. total: number of
        steps, for the progress display. work: writes the outputs.
        """
        key = _key(depends_on)
        if self._run.is_done(stage.name, key):
            # left by a process that was killed right after marking the stage
            self._delete(stage.scratch)
            self._progress.note(f"{stage.name}: done before, kept")
            self.completed.append(stage.name)
            return fingerprint(without_added(key))
        stop_if_requested(f"before {stage.name}")
        self._begin(stage, key)
        began = time.monotonic()
        with self._progress.stage(stage.name, total) as bar:
            work(bar)
        self._run.mark_done(stage.name, key, stage.outputs, stage.scratch)
        self._delete(stage.scratch)
        self._record(stage.name, time.monotonic() - began)
        return fingerprint(without_added(key))

    def is_done(
        self, stage: StageFiles, depends_on: Mapping[str, object] = MappingProxyType({})
    ) -> bool:
        """Whether ``complete`` would skip the stage."""
        return self._run.is_done(stage.name, _key(depends_on))

    def discard(self, stage: StageFiles) -> None:
        """Delete the files of a stage that an earlier run had and this run does not have."""
        name = stage.name
        if self._run.key_of(name) is not None or self._run.key_of(_started(name)) is not None:
            self._remove(stage)

    def _begin(self, stage: StageFiles, key: Mapping[str, object]) -> None:
        """Delete files of other keys, and those of a finished stage with missing outputs. A kill at
        any point leaves a stage that is either unmarked or complete.
        """
        before = self._run.key_of(stage.name)
        if isinstance(before, dict):
            known = with_added(before, key)
            changed = [word for word in key if known.get(word) != to_json(key[word])]
            why = f"changed: {', '.join(changed)}"
            if not changed:
                why = f"missing: {', '.join(self._run.missing_outputs(stage.name)[:3])}"
            self._progress.note(f"{stage.name}: runs again, {why}")
        if before is not None or not self._run.is_done(_started(stage.name), key):
            self._remove(stage)
            self._run.mark_done(_started(stage.name), key)
        for name in (*stage.outputs, *stage.scratch):
            self._run.path(name)

    def _remove(self, stage: StageFiles) -> None:
        # marked until the last file is deleted, so that a kill in between leaves no file behind;
        # with a key that nothing continues, as some of the files are gone
        self._run.mark_done(_started(stage.name), {})
        self._run.forget(stage.name)
        self._delete((*stage.outputs, *stage.scratch))
        self._run.forget(_started(stage.name))

    def _delete(self, names: Sequence[str]) -> None:
        for name in names:
            path = self._run.path(name)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _read_timing(self) -> None:
        path = self._run.path(TIMING_FILE)
        known = read_json(path) if path.exists() else {}
        seconds = known.get("stages", {}) if isinstance(known, dict) else None
        memory = known.get("peak_memory_mb", 0.0) if isinstance(known, dict) else math.nan
        if (
            not isinstance(seconds, dict)
            or not all(is_number(value, 1e12) for value in seconds.values())
            or not is_number(memory, 1e12)
        ):
            raise InputError(
                f'{path}: damaged; expected "stages" with seconds and "peak_memory_mb"; delete it '
                "to continue without it"
            )
        self.seconds, self._peak_memory = seconds, memory

    def _record(self, name: str, seconds: float) -> None:
        self.completed.append(name)
        self.executed.append(name)
        self.seconds[name] = round(seconds, 3)
        self._peak_memory = max(self._peak_memory, peak_memory() / 1024**2)
        if self._write_timing:
            write_json(
                self._run.path(TIMING_FILE),
                {"stages": self.seconds, "peak_memory_mb": round(self._peak_memory, 1)},
            )


def _key(depends_on: Mapping[str, object]) -> dict[str, object]:
    return {"version of the program's stages": VERSION, **depends_on}


def _started(name: str) -> str:
    return f"{name}.started"
