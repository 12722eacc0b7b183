"""Where the results of an evaluation lie: one folder per scene, one file per method."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def scene_folder(out: Path, name: str) -> Path:
    """Where the results of a scene lie."""
    return out / "scenes" / re.sub(r"[^\w.-]+", "_", name)


def method_file(name: str) -> str:
    """A method's name as part of a file's."""
    return re.sub(r"[^\w.+-]+", "_", name)


def relative_to_any(path: Path, roots: Sequence[Path]) -> str:
    """The path below the first of the folders that holds it, else its name: results do not say
    where things lie on a machine.
    """
    for root in roots:
        for place, below in ((path, root), (path.resolve(), root.resolve())):
            if place.is_relative_to(below):
                return place.relative_to(below).as_posix()
    return path.name


def without_places(text: str, places: Mapping[str, str]) -> str:
    """A message with the names of known folders in place of where they are on this machine.

    places: what is written for a folder, by its absolute path; longer paths first.
    """
    for place, name in sorted(places.items(), key=lambda entry: -len(entry[0])):
        text = text.replace(place, name)
    return text
