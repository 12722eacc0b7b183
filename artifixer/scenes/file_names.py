"""Finds files and photos whose names differ from the listed ones in upper and lower case, or in the
encoding of accents: lists come from Windows and macOS, which ignore case, and old file systems of
macOS store accents as separate characters.
"""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path


def folded(name: str) -> str:
    """The name without case and with accents in one encoding, for comparison."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class KnownNames:
    """The names of a capture's photos, for lists that name them: a name means the photo of exactly
    this name, or those that differ from it only in case or in the encoding of accents.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(dict.fromkeys(names))

    def find(self, listed: str) -> tuple[str, ...]:
        """The photos that ``listed`` may mean: none for an unknown name, several for an ambiguous
        one.
        """
        return self._exact.get(listed) or self._folded.get(folded(listed), ())

    def find_by_last_parts(self, listed: str) -> tuple[str, ...]:
        """The same, also for the last parts of a photo's path."""
        return (
            self._exact.get(listed)
            or self._exact_parts.get(listed)
            or self._folded.get(folded(listed))
            or self._folded_parts.get(folded(listed), ())
        )

    @functools.cached_property
    def _exact(self) -> dict[str, tuple[str, ...]]:
        return {name: (name,) for name in self._names}

    @functools.cached_property
    def _folded(self) -> dict[str, tuple[str, ...]]:
        return self._by(lambda name: [folded(name)])

    @functools.cached_property
    def _exact_parts(self) -> dict[str, tuple[str, ...]]:
        return self._by(_last_parts)

    @functools.cached_property
    def _folded_parts(self) -> dict[str, tuple[str, ...]]:
        return self._by(lambda name: _last_parts(folded(name)))

    def _by(self, keys: Callable[[str], list[str]]) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for name in self._names:
            for key in keys(name):
                found[key] = (*found.get(key, ()), name)
        return found


def _last_parts(name: str) -> list[str]:
    """``a/b/c`` -> ``b/c``, ``c``."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]


class FileNames:
    """The names in a capture's folder and in the folders inside it, listed once."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._names: dict[str, dict[str, list[str]]] = {}

    def find(self, path: Path) -> Path:
        """The path with the names that files and folders really have: exactly as listed, or the
        only ones that differ in case or in the encoding of accents.

        Gives ``path`` itself where there is no such file, or more than one. So the same capture has
        the same names on every system.
        """
        # as text: it is asked for several names of each photo, and paths take long to compare
        whole = str(path)
        above = "" if self._root == os.curdir else os.path.join(self._root, "")
        if not whole.startswith(above):
            return path
        found = self._root
        for part in whole[len(above) :].split(os.sep):
            names = self._in_folder(found).get(folded(part), [])
            if part not in names and len(names) != 1:
                return path
            found = os.path.join(found, part if part in names else names[0])
        return path if found == whole else Path(found)

    def find_all(self, paths: list[Path]) -> list[Path]:
        """The same for several: a file that is listed exactly is not taken for another one too."""
        found = [self.find(path) for path in paths]
        exact = {path for path, other in zip(found, paths, strict=True) if path == other}
        return [
            other if path != other and path in exact else path
            for path, other in zip(found, paths, strict=True)
        ]

    def _in_folder(self, folder: str) -> dict[str, list[str]]:
        """Names by ``folded``."""
        if folder not in self._names:
            self._names[folder] = {}
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
                self._names[folder].setdefault(folded(name), []).append(name)
        return self._names[folder]
