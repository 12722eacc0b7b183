"""Files as damage and malice leave them: one seeded change to one file of a folder.

In: a folder and a random generator. Out: the same folder with a file changed, and a line that says
how. Changes know what kind of file they meet: JSON gets strange values, text strange words, headers
of PLY, npy, safetensors, tar and zip files other numbers; any file gets bytes changed, cut off, put
in, and can become a link, a FIFO, a folder, or 5 GB that take no space.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
from pathlib import Path
from typing import Any

#: What stands where a number, a name or a list belongs.
STRANGE_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "x",
        "0",
        "nan",
        "../../outside/secret.png",
        "/etc/hostname",
        "\0",
        "\ud800",
        "a" * 300,
        "é" * 200,
    ),
    *(
        [],
        {},
        [[]],
        [1, 2],
        {"k1": 1},
        [None],
        [[[[1]]]],
        [0] * 1000,
        "concat:a.mp4",
        "..\\..\\x",
        "C:\\x",
        ".",
        "..",
        "x/../..",
    ),
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        0,
        -1,
        1,
        2,
        1.5,
        1e-320,
        1e30,
        -1e30,
        1e308,
        1e12,
        1e7,
        255,
        256,
        65535,
        65536,
    ),
    *(-(2**63), 2**31, 2**32 - 1, 2**63, 2**64, 10**9, 10**12, 10**18, 10**400, -(10**400)),
)

STRANGE_WORDS = (
    *(
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e400",
        "1e30",
        "1_0",
        "x",
        "",
        "99999999999999999999",
        "4294967296",
        "1000000000",
        "0x10",
    ),
    *(
        "\u0663",
        "../x.png",
        "#",
        "1 2",
        "9" * 400,
        "a" * 300,
        "list",
        "-0",
        "1e-320",
        "\0",
        "ply",
        "double",
        "uchar",
        "vertex",
    ),
)

INTERESTING = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    10**9,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
)

#: Bytes of the largest file that is changed byte by byte.
LARGEST_CHANGED = 50_000_000

#: Bytes of a file that is all hole.
HOLE = 5 * 1024**3


def mutate(folder: Path, chance: random.Random, names: list[str], outside: Path) -> str:
    """Change one of the files ``names`` in the folder; returns what was done. outside: a folder
    that links may lead to.
    """
    name = chance.choice(names)
    path = folder / name
    if not path.is_file() or path.is_symlink() or path.stat().st_size > LARGEST_CHANGED:
        return f"{name}: gone already"
    if chance.random() < 0.04:
        return f"{name}: {_replaced(path, chance, outside)}"
    data = path.read_bytes()
    changes = [_bytes_changed, _bytes_changed, _number_changed]
    if path.suffix in (".json", ".jsonl"):
        changes = [_json_changed, _json_changed, _json_changed, _json_changed, _bytes_changed]
    elif path.suffix == ".safetensors":
        changes = [
            _safetensors_changed,
            _safetensors_changed,
            _bytes_changed,
            _tensor_values_changed,
        ]
    elif path.suffix == ".npy":
        changes = [_npy_changed, _npy_changed, _bytes_changed]
    elif path.suffix in (".txt", ".ply") or not path.suffix:
        changes = [_words_changed, _words_changed, _bytes_changed]
    elif path.suffix == ".tar":
        changes = [_tar_changed, _bytes_changed]
    elif path.suffix in (".png", ".jpg", ".webp", ".tif", ".bmp"):
        changes = [_picture_changed, _bytes_changed, _number_changed]
    change = chance.choice(changes)
    changed = change(data, chance)
    path.write_bytes(changed)
    return f"{name}: {change.__name__.strip('_').replace('_', ' ')}"


def _replaced(path: Path, chance: random.Random, outside: Path) -> str:
    """Another kind of file in the place of this one."""
    kind = chance.choice(
        [
            "a FIFO",
            "a folder",
            "a link to outside",
            "a link to itself",
            "a link to a device",
            "nothing",
            "a hole",
            "empty",
            "a socket",
        ]
    )
    path.unlink()
    match kind:
        case "a FIFO":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case "a link to outside":
            target = next(
                (other for other in sorted(outside.iterdir()) if other.suffix == path.suffix),
                outside / "secret.txt",
            )
            path.symlink_to(target)
        case "a link to itself":
            path.symlink_to(path)
        case "a link to a device":
            path.symlink_to("/dev/zero")
        case "a hole":
            with path.open("wb") as file:
                file.truncate(HOLE)
        case "empty":
            path.touch()
        case "a socket":
            import socket

            here = os.getcwd()
            with socket.socket(socket.AF_UNIX) as server:  # the address may be short only
                os.chdir(path.parent)
                try:
                    server.bind(path.name)
                finally:
                    os.chdir(here)
        case _:
            pass
    return kind


# Any bytes ---------------------------------------------------------------------------------------


def _bytes_changed(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        start = chance.randrange(len(data)) if data else 0
        if chance.random() < 0.3:
            start = min(start, chance.randrange(256))  # headers are at the front
        new = chance.choice(
            [chance.randbytes(chance.randint(1, 8)), b"\xff" * 8, b"\0" * 8, b"\x7f", b"\n", b'"']
        )
        match chance.choice(["cut", "change", "change", "change", "insert", "remove", "double"]):
            case "cut":
                data = data[:start]
            case "insert":
                data = data[:start] + new + data[start:]
            case "remove":
                data = data[:start] + data[start + chance.randint(1, 40) :]
            case "double":
                data = (
                    data[:start]
                    + data[start : start + chance.choice([16, 512, 4096])]
                    + data[start:]
                )
            case _:
                data = data[:start] + new + data[start + len(new) :]
    return data


def _number_changed(data: bytes, chance: random.Random) -> bytes:
    """A binary number somewhere, often near the front, becomes an interesting one."""
    size, order = chance.choice([1, 2, 4, 8]), chance.choice(["<", ">"])
    if len(data) < size:
        return data
    start = chance.randrange(len(data) - size + 1)
    if chance.random() < 0.5:
        start = min(start, chance.randrange(64))
    value = chance.choice(INTERESTING) & (2 ** (8 * size) - 1)
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
    new = (
        struct.pack(order + code, value)
        if chance.random() < 0.7
        else struct.pack("<f", chance.choice([float("nan"), float("inf"), 1e30, -1e38]))
    )
    return data[:start] + new + data[start + len(new) :]


# Text and JSON -----------------------------------------------------------------------------------


def _words_changed(data: bytes, chance: random.Random) -> bytes:
    """A word of the text becomes another; the text may be the header of a binary file."""
    head, mark, rest = data.partition(b"end_header\n")
    lines = head.split(b"\n")
    number = chance.randrange(len(lines))
    words = lines[number].split(b" ")
    words[chance.randrange(min(len(words), 12))] = chance.choice(STRANGE_WORDS).encode()
    lines[number] = b" ".join(words)
    if chance.random() < 0.15:
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
    return b"\n".join(lines) + mark + rest


def _json_changed(data: bytes, chance: random.Random) -> bytes:
    try:
        lines = data.splitlines() if data.count(b"\n{") else [data]
        number = chance.randrange(len(lines))
        content = json.loads(lines[number])
    except (ValueError, RecursionError):
        return _bytes_changed(data, chance)
    for _ in range(chance.choice([1, 1, 2, 3])):
        content = changed_json(content, chance)
    lines[number] = json.dumps(content).encode()
    return b"\n".join(lines) + b"\n"


def changed_json(content: Any, chance: random.Random) -> Any:
    """``content`` with one of its values replaced, removed or doubled."""
    places = _places(content)
    if not places or chance.random() < 0.02:
        return chance.choice(STRANGE_VALUES)
    depth = chance.randint(1, max(map(len, places)))
    chosen = [place for place in places if len(place) <= depth]
    *path, last = chance.choice(chosen)
    parent = content
    for key in path:
        parent = parent[key]
    action = chance.choice(["replace", "replace", "replace", "scale", "remove", "double"])
    if action == "replace":
        parent[last] = json.loads(json.dumps(chance.choice(STRANGE_VALUES)))
    elif action == "scale" and isinstance(parent[last], (int, float)) and abs(parent[last]) < 1e300:
        parent[last] = parent[last] * chance.choice([-1, 0, 2, 10**6, 1e-9])
    elif action == "remove":
        del parent[last]
    elif isinstance(parent, list):
        parent.append(json.loads(json.dumps(parent[last])))
    elif isinstance(parent, dict):
        parent[chance.choice(["", "x", "a" * 300, "\ud800"])] = parent[last]
    return content


def _places(value: Any, path: tuple[Any, ...] = (), most: int = 3000) -> list[tuple[Any, ...]]:
    """Paths to the values inside a JSON value, the first ``most``."""
    found: list[tuple[Any, ...]] = []
    waiting = [(value, path)]
    while waiting and len(found) < most:
        here, place = waiting.pop(0)
        inside = (
            here.items()
            if isinstance(here, dict)
            else enumerate(here)
            if isinstance(here, list)
            else ()
        )
        for key, item in inside:
            found.append((*place, key))
            waiting.append((item, (*place, key)))
    return found


# Formats with headers ----------------------------------------------------------------------------


def _safetensors_changed(data: bytes, chance: random.Random) -> bytes:
    """Another header, sometimes with the length that belongs to it."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return _number_changed(data, chance)
    if chance.random() < 0.15:
        return struct.pack("<Q", chance.choice(INTERESTING)) + data[8:]
    if chance.random() < 0.3:
        entries = (
            [entry for entry in header.values() if isinstance(entry, dict)]
            if isinstance(header, dict)
            else []
        )
        chance.choice(entries or [{}])["dtype"] = chance.choice(
            ["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X"]
        )
    else:
        header = changed_json(header, chance)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _tensor_values_changed(data: bytes, chance: random.Random) -> bytes:
    """A value of a tensor becomes none."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start + 4 > len(data):
        return data
    place = start + 4 * chance.randrange((len(data) - start) // 4)
    return (
        data[:place]
        + struct.pack("<f", chance.choice([float("nan"), float("inf"), 1e38]))
        + data[place + 4 :]
    )


def _npy_changed(data: bytes, chance: random.Random) -> bytes:
    """Another shape or type in the header, of the same length."""
    length = int.from_bytes(data[8:10], "little")
    text = data[10 : 10 + length].decode("latin-1")
    numbers = list(re.finditer(r"\d+", text))
    choice = chance.random()
    if choice < 0.5 and numbers:
        match = chance.choice(numbers)
        text = (
            text[: match.start()]
            + chance.choice(["0", "1", "10000000000", "99999999999999999999", "-1", "1e9"])
            + text[match.end() :]
        )
    elif choice < 0.8:
        text = re.sub(r"'descr': '[^']*'", f"'descr': {chance.choice(STRANGE_DTYPES)}", text)
    else:
        text = text.replace(
            "False", chance.choice(["True", "1", "None", "__import__('os')", "'" * 3])
        )
    text = text.rstrip() + " " * max(0, length - len(text.rstrip()) - 1) + "\n"
    return (
        data[:8]
        + struct.pack("<H", min(len(text), 65535))
        + text.encode("latin-1", "replace")
        + data[10 + length :]
    )


STRANGE_DTYPES = (
    "'|O'",
    "'<f8'",
    "'<i8'",
    "'<U9'",
    "'|S9'",
    "'<c16'",
    "'|V8'",
    "[('a', '<f4')]",
    "'<f2'",
    "'x'",
    "'<M8[s]'",
    "''",
    "1",
    "'|b1'",
)


def _tar_changed(data: bytes, chance: random.Random) -> bytes:
    """A member's header says another size or type, with the right checksum."""
    starts = [
        start
        for start in range(0, len(data) - 511, 512)
        if data[start + 257 : start + 262] == b"ustar"
    ]
    if not starts:
        return data
    start = chance.choice(starts)
    header = bytearray(data[start : start + 512])
    match chance.choice(["size", "size", "type", "name"]):
        case "size":
            header[124:136] = chance.choice(
                [
                    b"77777777777\0",
                    b"00000000000\0",
                    b"-0000000001\0",
                    b"\x80" + b"\xff" * 11,
                    b"00000001000\0",
                ]
            )
        case "type":
            header[156:157] = chance.choice(
                [b"1", b"2", b"3", b"5", b"6", b"S", b"L", b"x", b"g", b"V"]
            )
        case _:
            header[0:100] = chance.choice(
                [b"../outside/x", b"/etc/x", b"a.json", b"x" * 100]
            ).ljust(100, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + 512 :]


def _picture_changed(data: bytes, chance: random.Random) -> bytes:
    """Another picture's beginning, PostScript, or a size that is not there."""
    if data.startswith(b"\x89PNG") and chance.random() < 0.6:
        import zlib

        sides = [chance.choice([0, 1, 64, 65535, 100_000, 2**31 - 1]) for _ in range(2)]
        chunk = b"IHDR" + struct.pack(">II", *sides) + data[24:29]
        return data[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    return chance.choice(BEGINNINGS) + data[chance.choice([0, 4, 16]) :]


BEGINNINGS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n"
    b"(/tmp/fuzz-was-here) (w) file closefile\nshowpage\n",
    b"P6\n99999 99999\n255\n",
    b"GIF89a",
    b"8BPS\0\1",
    b"II*\0\x08\0\0\0",
    b"\xff\xd8\xff\xe1\xff\xffExif\0\0MM\0*\0\0\0\x08\xff\xff",
    b"RIFF\xff\xff\xff\xffWEBPVP8X",
    b"BM\xff\xff\xff\xff\0\0\0\0\x36\0\0\0\x28\0\0\0\xff\xff\0\0\xff\xff\0\0\1\0\x18\0",
    b"SIMPLE  =                    T",
    b"\x89HDF\r\n\x1a\n",
)


def remove_tree(folder: Path) -> None:
    """The folder with all its content, whatever it is."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists() or folder.is_symlink():
        folder.unlink()
