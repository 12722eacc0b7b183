"""Checks of pretrained networks that transformers loads: sizes in their settings are compared with
the weights before the library allocates them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import check_regular
from artifixer.runtime.json_io import LARGEST_JSON, as_object, is_number, read_json, shown
from artifixer.video.checkpoints.tensor_files import open_tensors

#: Maximum size, number of layers, and length of a list in the configuration of a pretrained network
#: that are accepted for any weights.
MAX_SIZE, MAX_LAYERS, MAX_ENTRIES = 16_384, 100, 1000


def check_pretrained(folder: Path, limits: Mapping[str, int] | None = None) -> None:
    """Raise ``InputError`` when the ``config.json`` of a folder of transformers describes a larger
    network than its weights. limits: other bounds, see ``check_numbers``.

    The library builds the network from the config before it reads the weights, so a hostile config
    could ask for a million layers or exhaust the memory.
    """
    path = folder / "config.json"
    check_settings_files(folder)
    shapes = open_tensors(folder).shapes
    longest = max((side for shape in shapes.values() for side in shape), default=0)
    by_shape = dict.fromkeys(("layers", "depths", "blocks"), max(len(shapes), MAX_LAYERS))
    by_shape |= {"hidden": longest, "intermediate": longest, "ratio": MAX_LAYERS}
    check_numbers(
        path,
        as_object(read_json(path), path),
        max(MAX_SIZE, longest),
        {**(limits or {}), **by_shape},
    )


def check_settings_files(folder: Path) -> None:
    """Raise ``InputError`` for settings and vocabularies in a folder of transformers that are not
    regular files or are too large: the library reads them whole.
    """
    for path in sorted(folder.iterdir()):
        if (
            path.suffix in (".json", ".txt", ".model")
            and (size := check_regular(path, "settings or a vocabulary")) > LARGEST_JSON
        ):
            raise InputError(
                f"{path}: {size:,} bytes, expected settings or a vocabulary of at most "
                f"{LARGEST_JSON:,}"
            )


def check_numbers(
    path: Path, content: Mapping[str, Any], max_value: int, limits: Mapping[str, int]
) -> None:
    """Raise ``InputError`` for an integer above ``max_value`` anywhere in a configuration, and for
    lists of more than ``MAX_ENTRIES``.

    limits: word -> bound for integers whose key contains the word; the first match counts.
    """
    waiting: list[tuple[str, Any]] = list(content.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
            if len(value) > MAX_ENTRIES:
                raise InputError(
                    f'{path}: "{key[:60]}" has {len(value):,} entries, expected at most '
                    f"{MAX_ENTRIES:,}"
                )
        elif isinstance(value, int) and not isinstance(value, bool):
            limit = next((bound for word, bound in limits.items() if word in key), max_value)
            if not is_number(value, limit):
                raise InputError(
                    f'{path}: "{key[:60]}" is {shown(value)}, expected at most {limit:,} beside '
                    "these weights"
                )
