"""Settings that were added after folders had been written without them.

A field that is declared with ``added_setting`` names the value at which results are those of the
versions before it. Stored settings without the field have that value, so that folders of these
versions are continued::

    dropout: float = added_setting(0.0)

Any other difference between stored and present settings counts: a missing field that is not
declared, and a declared one with another value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from artifixer.runtime.json_io import json_key, to_json

AS_BEFORE = "value at which results are those of versions without the setting"


def added_setting(as_before: Any) -> Any:
    """A dataclass field with this default, at which results are the same as before the field
    existed. as_before: an immutable value.
    """
    return dataclasses.field(default=as_before, metadata={AS_BEFORE: as_before})


def with_added(stored: Any, present: object) -> Any:
    """``stored`` (JSON data of settings like ``present``, of any version) with the added settings
    that it lacks.
    """
    if isinstance(stored, list) and isinstance(present, (list, tuple)):
        if len(stored) != len(present):
            return stored
        return [with_added(*pair) for pair in zip(stored, present, strict=True)]
    if not isinstance(stored, dict):
        return stored
    parts = dict(_parts(present))
    complete = {**_added(present), **stored}
    return {
        name: with_added(value, parts[name]) if name in parts else value
        for name, value in complete.items()
    }


def without_added(settings: object) -> Any:
    """``settings`` as JSON data as before the added settings: without those whose results are the
    same as before.
    """
    if isinstance(settings, (list, tuple)):
        return [without_added(item) for item in settings]
    parts = dict(_parts(settings))
    if not parts:
        return to_json(settings)
    added = _added(settings)
    return {
        name: without_added(part)
        for name, part in parts.items()
        if name not in added or to_json(part) != added[name]
    }


def _parts(settings: object) -> Iterator[tuple[str, object]]:
    """Name and value of the fields of a dataclass and the entries of a mapping; none of others."""
    if isinstance(settings, Mapping):
        yield from ((json_key(key), value) for key, value in settings.items())
    elif dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        for field in dataclasses.fields(settings):
            yield field.name, getattr(settings, field.name)


def _added(settings: object) -> dict[str, Any]:
    """The added settings of a dataclass with the value as before, as JSON data."""
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return {}
    return {
        field.name: to_json(field.metadata[AS_BEFORE])
        for field in dataclasses.fields(settings)
        if AS_BEFORE in field.metadata
    }
