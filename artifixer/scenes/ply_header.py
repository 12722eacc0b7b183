"""The vertices of a PLY file, whose header is compared with the file's size before anything is
read: nothing is allocated for rows that are not there.

In: a path. Out: the rows of the element ``vertex``; later elements (faces) are ignored. Format:
http://paulbourke.net/dataformats/ply/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import LARGEST_TEXT, check_regular, open_regular

#: Bytes in which a header ends.
LONGEST_HEADER = 1 << 16

#: Rows of an element with lists, which the parser reads value by value.
MAX_LIST_ROWS = 1_000_000

#: Bytes of the scalar types under both of their names.
_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}

#: Begins the line of a float32 property that is no list.
_FLOAT = re.compile(rb"^(\s*property\s+)float(32)?(?=\s)")


@dataclass
class _Element:
    """One element: its lines in the header, rows, the fewest bytes of a row in binary and the
    fewest words of it in text.
    """

    name: str
    count: int
    lines: list[bytes]
    row_bytes: int = 0
    row_words: int = 0
    has_lists: bool = False


def read_vertices(path: Path) -> Any:
    """The rows of the element ``vertex`` as a numpy structured array, which may be read-only.

    Raises InputError when the file is no plain file or no PLY, and when an element promises more
    rows than the file has room for; KeyError when there is no such element, and the errors of
    ``plyfile``.
    """
    from plyfile import PlyData

    if not path.exists():
        raise InputError(
            f"{path}: cannot be read (No such file or directory); expected a PLY file with points"
        )
    size = check_regular(path, "a PLY file")
    with open_regular(path, "a PLY file") as file:
        header, newline = _header(path, file.read(LONGEST_HEADER))
        elements, preamble, length = _checked(path, header, newline, size - len(header))
        file.seek(len(header))
        body = file.read(length)
    kept = [line for element in elements for line in element.lines]
    is_text = any(line.split()[:2] == [b"format", b"ascii"] for line in preamble)
    if is_text or any(element.has_lists for element in elements):
        if is_text:
            # it may hold more digits than float32 has, as georeferenced positions do
            kept = [_FLOAT.sub(rb"\1double", line) for line in kept]
        data = PlyData.read(BytesIO(newline.join([*preamble, *kept, b"end_header", b""]) + body))
        return data["vertex"].data
    # plyfile, which reads value by value from memory, reads the header alone
    kept = [re.sub(rb"^(\s*element\s+\S+\s+)\d+", rb"\g<1>0", line) for line in kept]
    data = PlyData.read(BytesIO(newline.join([*preamble, *kept, b"end_header", b""])))
    kind = data["vertex"].dtype(data.byte_order)
    before = sum(element.count * element.row_bytes for element in elements[:-1])
    return np.frombuffer(body, kind, elements[-1].count, before)


def _checked(
    path: Path, header: bytes, newline: bytes, room: int
) -> tuple[list[_Element], list[bytes], int]:
    """The elements up to the vertices, the lines before them, and how many of the ``room`` bytes
    behind the header they take.
    """
    everything = room
    elements = _elements(path, header.split(newline))
    is_text = any(line.split()[:2] == [b"format", b"ascii"] for line in header.split(newline)[:3])
    for element in elements:
        row = 2 * element.row_words if is_text else element.row_bytes  # a digit and a blank
        if element.count and not element.row_words:
            raise InputError(
                f"{path}: the element {element.name} has {counted(element.count, 'row')} without "
                "a property"
            )
        if element.count * row > room + is_text:  # the last line may lack its end
            raise InputError(
                f"{path}: not a readable PLY file ({counted(element.count, 'row')} of "
                f"{element.name} of at least {row} bytes each are promised, "
                f"{max(room, 0):,} bytes are there)"
            )
        if element.has_lists and element.count > MAX_LIST_ROWS:
            raise InputError(
                f"{path}: {counted(element.count, 'row')} of {element.name} with lists; expected "
                f"at most {MAX_LIST_ROWS:,}"
            )
        room -= element.count * row
    preamble = [
        line
        for line in header.split(newline)
        if line.split()[:1] in ([b"ply"], [b"format"], [b"comment"])
    ]
    if not is_text and not any(element.has_lists for element in elements):
        return elements, preamble, everything - room
    if everything > LARGEST_TEXT:
        raise InputError(
            f"{path}: {everything:,} bytes of text or lists; expected at most {LARGEST_TEXT:,}, or "
            "binary rows without lists"
        )
    return elements, preamble, everything


def _header(path: Path, content: bytes) -> tuple[bytes, bytes]:
    """The header with its last line end, and what ends its lines."""
    match = re.match(rb"ply(\r\n|\n|\r)", content)
    if match is None:
        raise InputError(f"{path}: not a readable PLY file (it does not begin with a line 'ply')")
    newline = match[1]
    end = content.find(newline + b"end_header" + newline)
    if end < 0:
        raise InputError(
            f"{path}: not a readable PLY file (no line 'end_header' in its first "
            f"{LONGEST_HEADER:,} bytes)"
        )
    return content[: end + len(newline + b"end_header" + newline)], newline


def _elements(path: Path, lines: list[bytes]) -> list[_Element]:
    """The elements up to the vertices; none when there are no vertices."""
    found: list[_Element] = []
    for line in lines:
        words = line.decode("ascii", errors="replace").split()
        if words[:1] == ["element"]:
            if found and found[-1].name == "vertex":
                return found
            if len(words) != 3 or not re.fullmatch(r"\d{1,18}", words[2]):
                raise InputError(
                    f"{path}: not a readable PLY file (the line {' '.join(words)[:60]!r}; expected "
                    "element NAME COUNT)"
                )
            found.append(_Element(words[1], int(words[2]), [line]))
        elif words[:1] == ["property"]:
            is_list = words[1:2] == ["list"]
            types = words[2:4] if is_list else words[1:2]
            if (
                not found
                or len(words) != (5 if is_list else 3)
                or any(word not in _SIZES for word in types)
            ):
                raise InputError(
                    f"{path}: not a readable PLY file (the line {' '.join(words)[:60]!r}; expected "
                    "property TYPE NAME)"
                )
            found[-1].lines.append(line)
            found[-1].row_bytes += _SIZES[types[0]]
            found[-1].row_words += 1
            found[-1].has_lists |= is_list
    return found if found and found[-1].name == "vertex" else []
