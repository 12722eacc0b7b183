"""``splits.json``: the train and test photos that a capture itself defines -> ``Split`` by name.

The file maps names to lists of photos::

    {"splits": {"dense_every8": {"train": [...], "test": [...]},
                "algorithm1_K3": {"train": [...], "train_in_fps_order": [...], "test": [...],
                "test_far_group": [...]}}}

``train_in_fps_order`` is ``train`` in the order of selection and wins; lists called ``test_*``
become the split's groups. Names may differ from the photos' in case and encoding of accents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import read_json
from artifixer.scenes.file_names import KnownNames
from artifixer.scenes.scene import Split

FILE_NAME = "splits.json"

_GROUP_PREFIX = "test_"
_UNKNOWN = "is no photo of this capture"


def read_splits(
    path: Path, photos: Collection[str], lost: Collection[str] = ()
) -> dict[str, Split]:
    """All splits of ``path``; ``photos`` are the names that exist in the scene, ``lost`` those it
    had to leave out, which splits lose too.

    Raises InputError for broken files, unknown photos, and photos that both train and are held out.
    """
    content = read_json(path)
    entries = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise InputError(
            f'{path}: holds no object "splits"; expected {{"splits": {{NAME: {{"train": [...], '
            f'"test": [...]}}}}}}'
        )
    known, left_out = KnownNames((*photos, *lost)), frozenset(lost)
    return {name: _split(path, name, entry, known, left_out) for name, entry in entries.items()}


def _split(path: Path, name: str, entry: object, photos: KnownNames, lost: frozenset[str]) -> Split:
    if not isinstance(entry, dict):
        raise InputError(
            f'{path}: split {name} is {str(entry)[:40]!r}; expected an object with "train" and '
            '"test"'
        )
    train_key = "train_in_fps_order" if "train_in_fps_order" in entry else "train"
    train = _names(path, name, entry, train_key, photos, lost)
    heldout = _names(path, name, entry, "test", photos, lost)
    both = sorted(set(train) & set(heldout))
    if both:
        raise InputError(
            f"{path}: split {name} has {both[0]} in {train_key} and in test; expected no photo in "
            "both"
        )
    groups = {
        key.removeprefix(_GROUP_PREFIX): _names(path, name, entry, key, photos, lost)
        for key in entry
        if key.startswith(_GROUP_PREFIX)
    }
    return Split(name, train, heldout, groups)


def _names(
    path: Path,
    split: str,
    entry: Mapping[str, Any],
    key: str,
    photos: KnownNames,
    lost: frozenset[str],
) -> tuple[str, ...]:
    """The photos of one list in their order, each once, without lost ones."""
    names = entry.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f'{path}: split {split} has "{key}" = {str(names)[:40]!r}; expected a list of photos'
        )
    found: dict[str, None] = {}
    for name in names:
        matches = photos.find(name)
        if len(matches) != 1:
            problem = f"may be {' or '.join(sorted(matches)[:3])}" if matches else _UNKNOWN
            raise InputError(f"{path}: split {split} names {name} in {key}, which {problem}")
        found[matches[0]] = None
    return tuple(name for name in found if name not in lost)
