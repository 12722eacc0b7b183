"""Where the results of an evaluation lie: one folder per scene, one file per method."""

from __future__ import annotations

import re
from pathlib import Path


def scene_folder(out: Path, name: str) -> Path:
    """Where the results of a scene lie."""
    return out / "scenes" / re.sub(r"[^\w.-]+", "_", name)


def method_file(name: str) -> str:
    """A method's name as part of a file's."""
    return re.sub(r"[^\w.+-]+", "_", name)
