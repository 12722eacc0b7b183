"""Paths of an evaluation: one folder per scene, one file per method."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def scene_folder(out: Path, name: str) -> Path:
    """Folder of a scene's results."""
    return out / "scenes" / re.sub(r"[^\w.-]+", "_", name)


def method_file(name: str) -> str:
    """A method's name as part of a file name."""
    return re.sub(r"[^\w.+-]+", "_", name)


def relative_to_any(path: Path, roots: Sequence[Path]) -> str:
    """The path relative to the first of the folders that contains it, otherwise its file name:
    results contain no absolute paths.
    """
    for root in roots:
        for place, below in ((path, root), (path.resolve(), root.resolve())):
            if place.is_relative_to(below):
                return place.relative_to(below).as_posix()
    return path.name


def without_places(text: str, places: Mapping[str, str]) -> str:
    """A message with absolute paths of known folders replaced by names.

    places: name by absolute path; longer paths are replaced first.
    """
    for place, name in sorted(places.items(), key=lambda entry: -len(entry[0])):
        text = text.replace(place, name)
    return text
