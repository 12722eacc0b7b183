"""The output folder of a curation: finished scenes and complete shards.

::

    pairs-00000.tar ... index.json   see ``pairs/shards.py``; a shard holds the pairs of
                                     ``SCENES_PER_SHARD`` scenes in a row
    manifest.json                    per scene: state, error, and figures about its pairs
    timing.json                      per scene: seconds
    .scenes/000012.json, .tar        scenes whose shard is not full yet

A scene that fails has no pairs in its shard.
"""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifixer.curation.make_scene import MadeScene, PairFigures
from artifixer.curation.sources import Source
from artifixer.pairs.shards import (
    INDEX_FILE,
    SampleEntry,
    read_index,
    sample_from_json,
    write_index,
    write_shard,
)
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import read_whole, write_bytes
from artifixer.runtime.json_io import is_number, is_whole, read_json, to_json, write_json
from artifixer.runtime.run_folder import RunFolder

#: Pairs become readable shard by shard; 16 scenes at the tiny recipe's size are about 40 MB.
SCENES_PER_SHARD = 16

#: Maximum seconds of a scene in ``timing.json``.
MAX_SECONDS = 1e12

MANIFEST_FILE = "manifest.json"

TIMING_FILE = "timing.json"

_WAITING = ".scenes"


@dataclass(frozen=True)
class SceneRecord:
    """A finished scene in the manifest; ``error`` is None for one that gave pairs."""

    scene: str
    error: str | None
    pairs: tuple[PairFigures, ...]


@dataclass(frozen=True)
class CurationResult:
    """A finished curation."""

    scenes: int
    """Number of sources."""
    pairs: int
    """Number of pairs in the shards."""
    failed: tuple[SceneRecord, ...]
    """Records of the scenes without pairs."""


class PairFolder:
    """The output folder of a curation: finished scenes and complete shards."""

    def __init__(self, run: RunFolder, sources: Sequence[Source]) -> None:
        self._run, self._sources = run, sources
        for name in (INDEX_FILE, MANIFEST_FILE, TIMING_FILE, _WAITING):
            run.path(name)
        self._shards = (
            {shard.file: shard for shard in read_index(run.root)}
            if (run.root / INDEX_FILE).is_file()
            else {}
        )
        self.records: dict[int, SceneRecord] = {}
        timing = run.root / TIMING_FILE
        self._seconds = _read_timing(timing, len(sources)) if timing.is_file() else {}
        if (run.root / MANIFEST_FILE).is_file():
            for number, record in _read_manifest(run.root / MANIFEST_FILE, len(sources)).items():
                if self._shard_file(number) in self._shards:
                    self.records[number] = record
        for path in sorted((run.root / _WAITING).glob("*.json")):
            number = int(path.stem) if re.fullmatch(r"\d{6,7}", path.stem) else len(sources)
            if number >= len(sources):
                raise InputError(
                    f"{path}: is no scene of this folder, which has {len(sources)}; use "
                    "--overwrite to start anew"
                )
            content = read_json(path)
            self.records[number] = _record_from_json(path, content)
            if is_number(content.get("seconds"), MAX_SECONDS):
                self._seconds[number] = content["seconds"]

    @property
    def pairs(self) -> int:
        return sum(len(record.pairs) for record in self.records.values())

    def add(self, number: int, made: MadeScene) -> None:
        """Store a scene's pairs, and write its shard if this was the shard's last scene."""
        record = SceneRecord(self._sources[number].name, made.error, made.figures)
        seconds = round(made.seconds, 2)
        # The JSON comes last: it marks the scene as done.
        write_bytes(self._waiting(number, "tar"), b"".join(data for _, data in made.samples))
        write_json(
            self._waiting(number, "json"),
            {
                **to_json(record),
                "seconds": seconds,
                "samples": [to_json(entry) for entry, _ in made.samples],
            },
        )
        self.records[number], self._seconds[number] = record, seconds
        self._close_shard(number // SCENES_PER_SHARD)

    def finish(self) -> CurationResult:
        """Close the remaining shards and mark the index as complete."""
        for shard in range(-(-len(self._sources) // SCENES_PER_SHARD)):
            self._close_shard(shard)
        self._write_lists()
        shutil.rmtree(self._run.root / _WAITING, ignore_errors=True)
        failed = tuple(
            record for _, record in sorted(self.records.items()) if record.error is not None
        )
        return CurationResult(len(self._sources), self.pairs, failed)

    def _close_shard(self, shard: int) -> None:
        file = f"pairs-{shard:05d}.tar"
        numbers = range(
            shard * SCENES_PER_SHARD, min(len(self._sources), (shard + 1) * SCENES_PER_SHARD)
        )
        if file in self._shards or not all(number in self.records for number in numbers):
            return
        samples: list[tuple[SampleEntry, bytes]] = []
        for number in numbers:
            path = self._waiting(number, "json")
            entries = [sample_from_json(path, content) for content in _samples(path)]
            data, offset = (
                read_whole(
                    self._waiting(number, "tar"),
                    "a scene's pairs",
                    sum(entry.bytes for entry in entries),
                ),
                0,
            )
            for entry in entries:
                piece = data[offset : offset + entry.bytes]
                if len(piece) != entry.bytes or zlib.crc32(piece) != entry.crc32:
                    raise InputError(
                        f"{path.with_suffix('.tar')}: does not match {path.name}; delete "
                        "both to curate the scene again"
                    )
                samples.append((entry, piece))
                offset += entry.bytes
        self._shards[file] = write_shard(self._run.path(file), samples)
        self._write_lists()
        for number in numbers:
            self._waiting(number, "json").unlink(missing_ok=True)
            self._waiting(number, "tar").unlink(missing_ok=True)

    def _write_lists(self) -> None:
        scenes = [
            {"number": number, **_record_to_json(self.records[number])}
            if number in self.records
            else {"number": number, "scene": source.name, "state": "waiting"}
            for number, source in enumerate(self._sources)
        ]
        # The manifest first: a shard counts as done when the index has it.
        write_json(self._run.root / MANIFEST_FILE, {"version": 2, "scenes": scenes})
        seconds = {f"{number:06d}": self._seconds.get(number) for number in sorted(self.records)}
        write_json(self._run.root / TIMING_FILE, {"seconds": seconds})
        is_complete = len(self.records) == len(self._sources)
        write_index(
            self._run.root, [shard for _, shard in sorted(self._shards.items())], is_complete
        )

    def _waiting(self, number: int, suffix: str) -> Path:
        return self._run.root / _WAITING / f"{number:06d}.{suffix}"

    @staticmethod
    def _shard_file(number: int) -> str:
        return f"pairs-{number // SCENES_PER_SHARD:05d}.tar"


def _record_to_json(record: SceneRecord) -> dict[str, Any]:
    return {**to_json(record), "state": "done" if record.error is None else "failed"}


def _read_manifest(path: Path, scenes: int) -> dict[int, SceneRecord]:
    """Records of the scenes that are done, by number; ``scenes``: how many there are."""
    content = read_json(path)
    entries = content.get("scenes") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and is_whole(entry.get("number"), 0, scenes - 1)
        for entry in entries
    ):
        raise InputError(
            f"{path}: not a manifest of {scenes} scenes; use --overwrite to start anew"
        )
    return {
        entry["number"]: _record_from_json(path, entry)
        for entry in entries
        if entry.get("state") != "waiting"
    }


def _read_timing(path: Path, scenes: int) -> dict[int, float]:
    """Seconds by scene, as far as they are known."""
    content = read_json(path)
    seconds = content.get("seconds") if isinstance(content, dict) else None
    if not isinstance(seconds, dict) or not all(
        re.fullmatch(r"[0-9]{6,7}", number)
        and int(number) < scenes
        and (value is None or is_number(value, MAX_SECONDS))
        for number, value in seconds.items()
    ):
        raise InputError(
            f"{path}: not the times of {scenes} scenes; delete it, no result depends on it"
        )
    return {int(number): value for number, value in seconds.items() if value is not None}


def _record_from_json(path: Path, content: Any) -> SceneRecord:
    try:
        record = SceneRecord(
            content["scene"],
            content["error"],
            tuple(PairFigures(**pair) for pair in content["pairs"]),
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: damaged record of a scene ({type(error).__name__}: {error}); use --overwrite "
            "to start anew"
        ) from error
    numbers = [
        value for figures in record.pairs for name, value in vars(figures).items() if name != "name"
    ]
    words = [record.scene, record.error or "", *(figures.name for figures in record.pairs)]
    if not all(is_number(value, 1e12) for value in numbers) or not all(
        isinstance(word, str) for word in words
    ):
        raise InputError(
            f"{path}: damaged record of a scene (text instead of numbers); use --overwrite to "
            "start anew"
        )
    return record


def _samples(path: Path) -> list[dict[str, Any]]:
    """The index lines of a scene whose shard is not full yet."""
    content = read_json(path)
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise InputError(f"{path}: damaged list of samples; delete it to curate the scene again")
    return samples
