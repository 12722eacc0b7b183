"""Values that come out of JSON files: are they what a reader expects?

JSON as Python reads it has NaN, infinity, and integers of any length, which no conversion to a
float survives.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from artifixer.runtime.errors import InputError

#: Whole numbers up to this are exact in every JSON reader.
LARGEST_WHOLE = 2**53


def is_number(value: object, most: float) -> TypeGuard[float]:
    """Whether a JSON value is a finite number of at most ``most`` in size."""
    # NaN fails too
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= most


def is_whole(value: object, least: int = 0, most: int = LARGEST_WHOLE) -> TypeGuard[int]:
    """Whether a JSON value is a whole number in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def shown(value: object) -> str:
    """A JSON value for a message, cut to a readable length."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def as_object(content: object, source: object) -> dict[str, Any]:
    """``content`` when it is a JSON object; InputError naming ``source`` otherwise."""
    if not isinstance(content, dict):
        raise InputError(f"{source}: holds {shown(content)}, expected a JSON object")
    return content
