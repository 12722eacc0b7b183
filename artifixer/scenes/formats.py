"""Which loader reads a capture: the table of formats in probe order, and ``load_scene``.

A capture is a folder, or ``procedural:SEED``. To add a format, write a file beside this one and add a line to ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from artifixer.runtime.errors import InputError
from artifixer.scenes import colmap
from artifixer.scenes.scene import Scene

PROCEDURAL_PREFIX = "procedural:"


@dataclass(frozen=True)
class Format:
    """One way to store a capture.

    looks_for: what makes a folder this format, for the message when nothing fits.
    find: returns the file or folder that ``load`` starts from, or None when the capture is of another format.
    load: makes the scene from the capture's folder and what ``find`` returned.
    """

    looks_for: str
    find: Callable[[Path], Path | None]
    load: Callable[[Path, Path], Scene]


#: Probed in this order.
FORMATS = (Format("a COLMAP model in sparse/0, sparse or the folder itself", colmap.find_model, colmap.load),)


def load_scene(capture: str | Path, *, work_folder: Path | None = None) -> Scene:
    """The scene of a capture: a folder in one of ``FORMATS``, or ``procedural:SEED``.

    work_folder: where loaders that compute something keep it (structure from motion); a folder inside the capture by default.
    Raises InputError when the folder is missing or of no known format, and for whatever is wrong inside it.
    """
    if str(capture).startswith(PROCEDURAL_PREFIX):
        from artifixer.scenes import procedural

        return procedural.load(str(capture))
    folder = Path(capture)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a capture's folder or {PROCEDURAL_PREFIX}SEED")
    for entry in FORMATS:
        start = entry.find(folder)
        if start is not None:
            return entry.load(folder, start)
    raise InputError(f"{folder}: no known capture format; looked for {', '.join(entry.looks_for for entry in FORMATS)}")
