"""JSON files, and checks of values read from them.

In: values, paths. Out: files with the same bytes for the same value; plain data; ``InputError``
naming the file for anything else. Python's JSON reader accepts NaN, infinity, and integers too
large for a float; ``is_number`` and ``is_whole`` reject them.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import read_whole, write_bytes

#: Largest whole number that is exact in every JSON reader.
LARGEST_WHOLE = 2**53

#: Maximum nesting of lists and objects in a JSON file: more than any format needs, and small enough
#: to print a value without exhausting the stack.
DEEPEST_JSON = 100

#: Maximum size of a JSON file in bytes, more than any format needs; nested lists take twenty times
#: as much memory.
LARGEST_JSON = 64 * 1024**2

#: Width up to which a JSON list or object stays on one line.
JSON_LINE_WIDTH = 140


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as JSON, atomically, the same bytes for the same value.

    Accepts the types of ``to_json``. Mappings are sorted by key and sets by value; sequences keep
    their order. Short lists and objects are written on one line, so that matrices are readable.
    """
    text = _json_text(to_json(value), indent=0) + "\n"
    # undecodable file names become JSON escapes
    write_bytes(path, text.encode(errors="backslashreplace"))


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises ``InputError`` naming the file if it is missing, unreadable, larger than
    ``LARGEST_JSON``, not JSON, or nested more than ``DEEPEST_JSON`` levels deep.
    """
    path = Path(path)
    content = read_whole(path, "a JSON file", LARGEST_JSON)
    try:
        value = json.loads(content)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not text in UTF-8 (byte {error.start}), expected JSON"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno}, column {error.colno}: {error.msg}, expected valid JSON"
        ) from error
    except ValueError as error:  # numbers of thousands of digits
        raise InputError(f"{path}: {error}, expected plain JSON") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply, expected plain JSON") from error
    if is_deeper(value, DEEPEST_JSON):
        raise InputError(f"{path}: nested deeper than {DEEPEST_JSON} levels, expected plain JSON")
    return value


def to_json(value: object) -> Any:
    """``value`` as plain JSON data: None, bool, int, float, str, list and dict with string keys.

    Dataclasses become objects, paths strings, enums their names, sets sorted lists, tensors and
    arrays nested lists. JSON has no NaN and no infinity: both become null. Other types raise
    ``TypeError``.
    """
    match value:
        case None | bool() | str():
            return value
        case enum.Enum():
            return value.name
        case int() | np.integer():
            return int(value)
        case float() | np.floating():
            return float(value) if math.isfinite(value) else None
        case np.bool_():
            return bool(value)
        case Path():
            return value.as_posix()
        case Tensor():
            return to_json(value.detach().cpu().tolist())
        case np.ndarray():
            return to_json(value.tolist())
        case Mapping():
            return {json_key(key): to_json(item) for key, item in value.items()}
        case set() | frozenset():
            return sorted(to_json(item) for item in value)
        case list() | tuple():
            return [to_json(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    raise TypeError(f"{type(value).__name__} has no JSON form")


def is_number(value: object, most: float) -> TypeGuard[float]:
    """Whether a JSON value is a finite number with an absolute value of at most ``most``."""
    # NaN fails too
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= most


def is_whole(value: object, least: int = 0, most: int = LARGEST_WHOLE) -> TypeGuard[int]:
    """Whether a JSON value is a whole number in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def shown(value: object) -> str:
    """A JSON value for a message, shortened."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def as_object(content: object, source: object) -> dict[str, Any]:
    """``content`` if it is a JSON object; InputError naming ``source`` otherwise."""
    if not isinstance(content, dict):
        raise InputError(f"{source}: holds {shown(content)}, expected a JSON object")
    return content


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested more than ``levels`` deep."""
    level = [value]
    for _ in range(levels + 1):
        containers = [item for item in level if isinstance(item, (list, dict))]
        if not containers:
            return False
        level = [
            item
            for container in containers
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    return True


def json_key(key: object) -> str:
    """A mapping's key as a key of a JSON object. Raises ``TypeError`` unless it is a str, int or
    enum.
    """
    if isinstance(key, enum.Enum):
        return key.name
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return str(key)
    raise TypeError(f"{key!r} cannot be a key in JSON")


def _json_text(value: Any, indent: int) -> str:
    """JSON indented by two, except that lists and objects that fit stay on one line."""
    line = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False)
    nested = isinstance(value, (list, dict)) and value
    if not nested or (indent and len(line) + indent <= JSON_LINE_WIDTH):
        return line
    space = " " * (indent + 2)
    if isinstance(value, list):
        items = [space + _json_text(item, indent + 2) for item in value]
        opening, closing = "[]"
    else:
        items = [
            f"{space}{json.dumps(key, ensure_ascii=False)}: {_json_text(value[key], indent + 2)}"
            for key in sorted(value)
        ]
        opening, closing = "{}"
    return opening + "\n" + ",\n".join(items) + "\n" + " " * indent + closing
