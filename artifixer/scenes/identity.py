"""What tells one capture from another: the names and the content of its files, wherever it lies.

In: a capture's folder or file. Out: a fingerprint that changes when a photo is changed in place,
also where its size and its time stay the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.runtime.fingerprint import fingerprint
from artifixer.scenes.photo_files import PHOTO_SUFFIXES
from artifixer.scenes.video_file import VIDEO_SUFFIXES

#: Files up to this many bytes, and all photos and videos, are hashed whole: that takes a small part
#: of the time of decoding them. Of other files evenly spaced pieces are hashed.
HASHED_BYTES = 256 * 1024**2

HASHED_PIECES = 64
PIECE_BYTES = 64 * 1024

#: Upper bound of a photo's size in bytes; larger files with a photo's ending may be sparse.
LARGEST_PHOTO = 2 * 1024**3

#: Pieces of photos and videos in ``sampled_fingerprint``: thousands of captures would take hours to
#: read whole.
PHOTO_PIECES = 8
PHOTO_PIECE_BYTES = 4 * 1024


def capture_fingerprint(capture: Path) -> str:
    """SHA-256 over the files of a capture: names inside it, and contents. Hidden files and folders
    are no part of it.

    Raises ``InputError`` for a file that cannot be read, and OSError for a folder that cannot be
    listed.
    """
    return fingerprint([(name, _content(path)) for name, path in _named_files(capture)])


def sampled_fingerprint(capture: Path) -> tuple[str, str]:
    """The same for captures by the thousand: photos and videos count with their size and a few
    pieces.

    Also gives a fingerprint of when these were changed, which notices a change between the pieces
    but is another one for a copy. Errors as in ``capture_fingerprint``.
    """
    files = _named_files(capture)
    contents = [
        (
            name,
            _pieces(path, PHOTO_PIECES, PHOTO_PIECE_BYTES) if _is_photo(path) else _content(path),
        )
        for name, path in files
    ]
    return fingerprint(contents), fingerprint(
        [path.stat().st_mtime_ns for _, path in files if _is_photo(path)]
    )


def _is_photo(path: Path) -> bool:
    """Or a video."""
    return path.suffix.lower() in (*PHOTO_SUFFIXES, *VIDEO_SUFFIXES)


def _content(path: Path) -> object:
    """The file itself, or size and pieces of a large one that is no photo."""
    size = path.stat().st_size
    if size <= HASHED_BYTES or (
        _is_photo(path) and (size <= LARGEST_PHOTO or path.suffix.lower() in VIDEO_SUFFIXES)
    ):
        return path
    return _pieces(path, HASHED_PIECES, PIECE_BYTES)


def _pieces(path: Path, count: int, length: int) -> tuple[int, list[bytes]]:
    """A file's size and evenly spaced pieces of it, the first and the last bytes among them."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= count * length:
            return size, [file.read()]
        pieces = []
        for piece in range(count):
            file.seek(piece * (size - length) // (count - 1))
            pieces.append(file.read(length))
    return size, pieces


def _named_files(capture: Path) -> list[tuple[str, Path]]:
    files = [capture] if capture.is_file() else _files_below(capture)
    return [(path.relative_to(capture).as_posix(), path) for path in files]


def _files_below(root: Path) -> list[Path]:
    """All files in a folder and in the folders inside it, links followed, sorted.

    Raises ``InputError`` for a link to a folder around this one, such as the root of the file
    system: all of that is no capture.
    """
    found, visited = [], set()
    around = {str(folder) for folder in root.resolve().parents}
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in around:
            raise InputError(
                f"{folder}: is a link to {real}, which holds the capture itself; expected links to "
                "photos"
            )
        # links can form circles
        folders[:] = (
            () if real in visited else (name for name in folders if not name.startswith("."))
        )
        visited.add(real)
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if is_regular(path))
