"""Lists of scenes, splits and published figures that come with the package (``data/*.json``)."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def data(name: str) -> dict[str, Any]:
    """The content of ``data/NAME.json``."""
    file = resources.files("artifixer.evaluation") / "data" / f"{name}.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def dl3dv_scenes(benchmark: str) -> tuple[str, ...]:
    """Scene hashes of a DL3DV benchmark (``release`` or ``difix``) in the order of its list."""
    entries = data("dl3dv")["scenes"].items()
    places = {entry[benchmark]: name for name, entry in entries if entry[benchmark] is not None}
    return tuple(places[place] for place in sorted(places))
