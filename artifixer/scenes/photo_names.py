"""Finds photos whose names differ slightly from the names that a capture lists.

Lists made on another machine hold its paths, paths that start beside the capture, another file
ending, or no sub-folder. A photo is taken when exactly one file inside the capture fits and no
other entry claims it; a note names it. Nothing outside the capture is read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.scenes.file_names import FileNames, folded
from artifixer.scenes.mask_files import is_mask
from artifixer.scenes.photo_files import PHOTO_SUFFIXES, path_inside


class PhotoNames:
    """Finds the photos of lists in the folders of a capture.

    capture: nothing outside is found.
    """

    def __init__(self, capture: Path) -> None:
        self._capture = capture
        self._names = FileNames(capture)
        self._below: dict[Path, dict[str, list[Path]]] = {}

    def find(self, root: Path, listed: str, source: Path) -> Path:
        """The file that ``listed`` means inside ``root``; a path where no file is when there is
        none.

        Raises InputError, naming ``source``, for paths that leave the capture and whose last parts
        are not inside it.
        """
        try:
            path = path_inside(root, listed, source)
        except InputError:
            found = self._by_last_parts(root, listed)
            if found is None:
                raise
            return found
        exact = self._names.find(path)
        if is_regular(exact):
            return exact
        # left out
        endings = (
            self._names.find(path.with_name(path.name + suffix)) for suffix in PHOTO_SUFFIXES
        )
        with_ending = next((candidate for candidate in endings if is_regular(candidate)), None)
        if with_ending is not None:
            return with_ending
        return self._by_last_parts(root, listed) or self._near(path) or path

    def find_all(self, root: Path, listed: Sequence[str], source: Path) -> list[Path]:
        """The same for a list; a file that several entries could mean belongs to the one that names
        it exactly, or to none.
        """
        found = [self.find(root, name, source) for name in listed]
        claims = Counter(found)
        own = [root / PurePosixPath(name.replace("\\", "/")) for name in listed]
        inside = [path.is_relative_to(self._capture) and ".." not in path.parts for path in own]
        return [
            exact if claims[path] > 1 and path != exact and is_inside else path
            for path, exact, is_inside in zip(found, own, inside, strict=True)
        ]

    def _by_last_parts(self, root: Path, listed: str) -> Path | None:
        parts = [
            part
            for part in PurePosixPath(listed.replace("\\", "/")).parts
            if part not in ("/", "..") and ":" not in part
        ]
        if not parts or "\0" in listed:
            return None
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            for folder in dict.fromkeys((root, self._capture)):
                path = self._names.find(folder / tail)
                if is_regular(path) and path.suffix.lower() in PHOTO_SUFFIXES:
                    return path
        return None

    def _near(self, path: Path) -> Path | None:
        """The only photo beside ``path`` with another ending, else the only one of its name in a
        folder further in.
        """
        folder = self._names.find(path.parent)
        below = self._photos_below(folder)
        stem = path.stem if path.suffix.lower() in PHOTO_SUFFIXES else path.name
        beside = [photo for photo in below.get(folded(stem), []) if photo.parent == folder]
        deeper = [
            photo
            for photo in below.get(folded(stem), [])
            if folded(photo.name) == folded(path.name)
        ]
        return next((fitting[0] for fitting in (beside, deeper) if len(fitting) == 1), None)

    def _photos_below(self, folder: Path) -> dict[str, list[Path]]:
        """Photos in ``folder`` and further in, by their name without ending and case. Links to
        folders are not followed.
        """
        if folder not in self._below:
            self._below[folder] = {}
            for here, folders, files in os.walk(folder):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in files:
                    path = Path(here, name)
                    if path.suffix.lower() in PHOTO_SUFFIXES and not name.startswith("."):
                        self._below[folder].setdefault(folded(path.stem), []).append(path)
        return self._below[folder]


def renamed_note(
    capture: Path, listed: Sequence[str], paths: Sequence[Path], source: Path
) -> tuple[str, ...]:
    """One line about the photos that were found under other names than ``source`` lists; empty when
    there are none.
    """
    other = [
        (name, path.relative_to(capture).as_posix())
        for name, path in zip(listed, paths, strict=True)
        if is_regular(path)
        and not _is_called(path, PurePosixPath(name.replace("\\", "/")).as_posix())
    ]
    if not other:
        return ()
    return (
        f"{source.name} names {counted(len(other), 'photo')} differently from their files (first: "
        f"{other[0][0]} is {other[0][1]})",
    )


def _is_called(path: Path, listed: str) -> bool:
    """Whether ``listed`` is the end of the path, with or without the file ending."""
    return path.as_posix().endswith(listed) or path.with_suffix("").as_posix().endswith(listed)


def unlisted_note(capture: Path, paths: Sequence[Path], source: Path) -> tuple[str, ...]:
    """One line about photos beside the listed ones that have no pose; empty when there are none."""
    taken = set(paths)
    beside = sorted(
        path
        for folder in {path.parent for path in paths}
        for path in folder.iterdir()
        if path not in taken
        and path.suffix.lower() in PHOTO_SUFFIXES
        and not path.name.startswith(".")
        and not is_mask(path, capture)
        and path.is_file()
    )
    if not beside:
        return ()
    first = beside[0].relative_to(capture).as_posix()
    are, they = ("is", "it has") if len(beside) == 1 else ("are", "they have")
    return (
        f"{counted(len(beside), 'photo')} {are} not in {source.name} and {are} left out: {they} no "
        f"pose (first: {first})",
    )
