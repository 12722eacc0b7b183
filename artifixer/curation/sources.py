"""Scenes to curate: captures, and procedural scenes by number.

In: names from the user. Out: ``Source`` of each scene, identified by its content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from artifixer.runtime.errors import InputError
from artifixer.scenes.formats import PROCEDURAL_PREFIX, readable
from artifixer.scenes.identity import sampled_fingerprint

#: Procedural scenes of different SEEDs never coincide.
SCENES_PER_SEED = 1_000_000


@dataclass(frozen=True)
class Source:
    """One scene to curate."""

    name: str
    """A capture's path, or ``procedural:NUMBER``."""
    identity: str
    """Identifies the content; key of all random draws."""
    changed: str = ""
    """Fingerprint of the files' modification times; reveals changes when curation continues."""

    @property
    def is_procedural(self) -> bool:
        return self.name.startswith(PROCEDURAL_PREFIX)


def expand_sources(names: Sequence[str]) -> list[Source]:
    """The scenes that the user names: captures, and ``procedural:COUNT[:SEED]`` for COUNT scenes.

    Raises ``InputError`` for a malformed count, a capture that does not exist, and a scene named
    twice.
    """
    sources: list[Source] = []
    for name in names:
        if name.startswith(PROCEDURAL_PREFIX):
            match = re.fullmatch(r"procedural:(\d{1,7})(?::(\d{1,9}))?", name)
            if match is None or not 1 <= int(match[1]) <= SCENES_PER_SEED:
                raise InputError(
                    f"{name}: expected procedural:COUNT or procedural:COUNT:SEED, with 1 to "
                    f"{SCENES_PER_SEED:,} scenes"
                )
            first = int(match[2] or 0) * SCENES_PER_SEED
            numbered = (
                f"{PROCEDURAL_PREFIX}{number}" for number in range(first, first + int(match[1]))
            )
            sources.extend(Source(scene, scene) for scene in numbered)
        else:
            sources.append(_capture(name))
    if not sources:
        raise InputError("no source: expected captures or procedural:COUNT")
    seen: set[str] = set()
    for source in sources:
        if source.identity in seen:
            raise InputError(f"{source.name}: named twice; expected every scene once")
        seen.add(source.identity)
    return sources


def _capture(name: str) -> Source:
    """A capture, identified by its folder's name and by names and content of its files."""
    path = Path(name)
    if not path.exists():
        raise InputError(
            f"{path}: does not exist, expected a capture folder, a video or procedural:COUNT"
        )
    with readable(path):
        content, changed = sampled_fingerprint(path)
    return Source(name, f"{path.resolve().name} {content}", changed)
