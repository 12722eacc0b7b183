"""Files of a run folder that belong to the run: names that verbs write, and the list of written
files, ``.run/owned.txt``.

``overwrite`` deletes only paths that are in the list and match a name below, because a damaged list
or one from others may contain other files.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path, PurePosixPath

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import read_whole
from artifixer.runtime.json_io import LARGEST_JSON

#: First parts of the paths that verbs write into their folders. New outputs have to be added here;
#: otherwise ``overwrite`` does not delete them.
OUTPUT_NAMES = (
    # files
    *(
        "camera_scale.json",
        "cameras.json",
        "index.json",
        "manifest.json",
        "metrics.json",
        "metrics.jsonl",
    ),
    *("split.json", "timing.json", "transforms.json", "log.txt", "preview.png", "report.html"),
    *("adapter.safetensors", "adapter.json", "adapter.state"),
    *("video.mp4", "splats.*", "checkpoint.safetensors", "pairs-*.tar"),
    # folders
    *("cache", "checkpoints", "dataset", "export", "frames", "model", "opacity", "depth"),
    *("references", "rgb", "renders", "renders_3d", "renders_input", "sfm", "splats", "state"),
    *("tensorboard", "validation", "videos", ".scenes"),
    # evaluation
    *("scenes", "results.json", "table.md", "table.csv", "table.tex"),
    *("capture", "run", "scores", "pictures", "consistency.json", "scene.json"),
)

#: Links that verbs create in their folders: photos for structure from motion, and the text encoder
#: shared between models.
LINKED_NAMES = ("sfm/*/photos/*", "model/text_encoder", "model/tokenizer")


def read_owned(root: Path) -> list[str]:
    """The paths in ``owned.txt``, which ``overwrite`` deletes. Raises ``InputError`` for lines that
    a run never writes.
    """
    path = root / ".run" / "owned.txt"
    if not path.exists():
        return []
    try:
        names = read_whole(path, "a list of paths", LARGEST_JSON).decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not text in UTF-8 (byte {error.start}); choose another folder"
        ) from error
    for number, name in enumerate(names, start=1):
        plain = PurePosixPath(name)
        if (
            "\\" in name
            or name != plain.as_posix()
            or plain.is_absolute()
            or ".." in plain.parts
            or plain.parts[:1] in ((), (".run",))
        ):
            raise InputError(
                f"{path}: line {number} is {name[:80]!r}, expected a path of a result inside the "
                "folder; nothing was deleted, "
                "choose another folder"
            )
    return names


def is_output(relative: str) -> bool:
    """Whether a path inside a run folder is one that verbs write."""
    first = relative.split("/")[0]
    return any(fnmatch.fnmatchcase(first, pattern) for pattern in OUTPUT_NAMES)


def may_link(relative: PurePosixPath) -> bool:
    """Whether a path inside a run folder may be a link that verbs create."""
    return any(fnmatch.fnmatchcase(relative.as_posix(), pattern) for pattern in LINKED_NAMES)
