"""DL3DV scenes as they are distributed: a folder, or one zip per scene, read without unpacking it.

In: the data set's folder and a scene's hash. Out: ``Dl3dvScene``: the ``transforms.json``, the
photos it lists, and their bytes. Layouts:

    {root}/{batch}/{hash}.zip, {root}/{hash}.zip   DL3DV-ALL-*; ``batch`` is 1K to 11K
    {root}/{hash}/, {root}/{batch}/{hash}/         unpacked, and DL3DV-Benchmark; or {hash}/{hash}/

Inside, ``transforms.json`` lies in ``{hash}/nerfstudio``, ``{hash}``, ``nerfstudio`` or at the top;
photos lie below the scene's own folder, or beside the ``transforms.json``. It lists
``images/frame_00001.png`` while ``images_4`` (960P), ``images_8`` (480P) or ``images_2`` (2K) is
what is there.

Of a zip only the members that the ``transforms.json`` names are read, each up to a size limit;
nothing is unpacked to disk, and members of an implausible size or compression ratio are refused.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import (
    PARSER_ERRORS,
    is_regular,
    open_regular,
    path_inside,
    read_whole,
    reason,
)
from artifixer.runtime.json_io import (
    DEEPEST_JSON,
    LARGEST_JSON,
    as_object,
    is_deeper,
    read_json,
    shown,
)

#: Where the photos may lie, in the order of preference, and by how much their sides are divided.
IMAGE_FOLDERS = {"images_4": 4, "images_8": 8, "images_2": 2, "images": 1}

#: Upper bounds: members of a zip, bytes of a photo in it, and compression ratio.
MAX_MEMBERS = 100_000
LARGEST_PHOTO = 256 * 1024**2
MAX_RATIO = 200

#: Upper bound on the photos that a scene lists.
MAX_FRAMES = 20_000

#: Where a scene's transforms file may lie in a zip, and in a folder.
_TRANSFORMS = (
    "{hash}/nerfstudio/transforms.json",
    "{hash}/transforms.json",
    "nerfstudio/transforms.json",
    "transforms.json",
)


@dataclass(frozen=True)
class Dl3dvScene:
    """One scene. content: its transforms file. names: of the listed photos, in file order.
    image_folder: where they come from, of ``IMAGE_FOLDERS``. source: the folder or zip, for
    messages. read: the bytes of a photo by name; ``InputError`` when it cannot be read.
    """

    name: str
    source: Path
    content: dict[str, Any]
    names: tuple[str, ...]
    image_folder: str
    read: Callable[[str], bytes]


@dataclass(frozen=True)
class _Store:
    """Files of a folder or a zip by relative name."""

    source: Path
    has: Callable[[str], bool]
    read: Callable[[str, int], bytes]


def find_scene(root: Path, name: str, batch: str | None = None) -> Path | None:
    """The folder or zip of a scene below ``root``, or None. batch: the folder that keeps its zip;
    others are looked into as well.
    """
    batches = [batch] if batch else []
    batches += [f"{number}K" for number in range(1, 12) if f"{number}K" != batch]
    for folder in (root, *(root / each for each in batches)):
        archive = folder / f"{name}.zip"
        if is_regular(archive):
            return archive
        if (folder / name).is_dir():
            return folder / name
    # the scene's own folder or zip was given
    if root.stem == name and (is_regular(root) or root.is_dir()):
        return root
    return None


def open_scene(path: Path, name: str) -> Dl3dvScene:
    """The scene in a folder or zip.

    Raises InputError for damaged or hostile archives, scenes without a transforms file or photos,
    and names that leave the scene.
    """
    store = _zip_store(path) if is_regular(path) else _folder_store(path)
    places = [place.format(hash=name) for place in _TRANSFORMS]
    place = next((place for place in places if store.has(place)), None)
    if place is None:
        raise InputError(f"{path}: holds no transforms.json; looked for {', '.join(places)}")
    content = _transforms(store, place)
    names = _photo_names(content, f"{path}: {place}")
    home = PurePosixPath(place).parent
    roots = [home.parent, home] if home.name == "nerfstudio" else [home]
    for root in roots:
        for folder in IMAGE_FOLDERS:
            if store.has((root / folder / names[0]).as_posix()):

                def read(photo: str, at: PurePosixPath = root / folder) -> bytes:
                    return store.read((at / photo).as_posix(), LARGEST_PHOTO)

                return Dl3dvScene(name, path, content, names, folder, read)
    raise InputError(
        f"{path}: the photo {names[0]} of {place} is in none of {', '.join(IMAGE_FOLDERS)}"
    )


def without_dropped(scene: Dl3dvScene, dropped: Sequence[str]) -> tuple[str, ...]:
    """The scene's photos without those that the benchmark's own copy lacks; a scene that has only
    some of these is another version of the data, and an InputError.
    """
    there = [name for name in dropped if name in scene.names]
    if there and len(there) != len(dropped):
        raise InputError(
            f"{scene.source}: has {len(there)} of the {len(dropped)} photos that DL3DV-Benchmark "
            f"lacks ({there[0]} ...), expected all or none"
        )
    return tuple(name for name in scene.names if name not in there)


def _transforms(store: _Store, place: str) -> dict[str, Any]:
    where = f"{store.source}: {place}"
    try:
        content = json.loads(store.read(place, LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: no valid JSON ({reason(error)})") from error
    content = as_object(content, where)
    if is_deeper(content, DEEPEST_JSON):
        raise InputError(f"{where}: nested deeper than {DEEPEST_JSON} levels")
    return content


def _photo_names(content: dict[str, Any], where: str) -> tuple[str, ...]:
    """Base names of the listed photos; each is a plain name below ``images``."""
    frames = content.get("frames")
    if not isinstance(frames, list) or not 0 < len(frames) <= MAX_FRAMES:
        raise InputError(f'{where}: "frames" is {shown(frames)}, expected a list of photos')
    names = []
    for frame in frames:
        listed = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(listed, str):
            raise InputError(f'{where}: "file_path" is {shown(listed)}, expected a photo')
        parts = PurePosixPath(listed.replace("\\", "/").removeprefix("./")).parts
        if len(parts) != 2 or not parts[0].startswith("images") or ".." in parts or "\0" in listed:
            raise InputError(f"{where}: lists {listed[:80]!r}, expected images/NAME")
        names.append(parts[1])
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"{where}: lists {repeated} twice, expected one frame per photo")
    return tuple(names)


# Folders ------------------------------------------------------------------------------------------


def _folder_store(folder: Path) -> _Store:
    inner = folder / folder.name  # some downloaders double the folder
    if inner.is_dir() and not any(
        is_regular(folder / place.format(hash=folder.name)) for place in _TRANSFORMS[2:]
    ):
        folder = inner

    def find(name: str) -> Path:
        return path_inside(folder, name, folder)

    return _Store(
        folder,
        lambda name: is_regular(find(name)),
        lambda name, most: read_whole(find(name), "a file of the scene", most),
    )


# Zips ---------------------------------------------------------------------------------------------


def _zip_store(path: Path) -> _Store:
    with _opened_zip(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(archive.infolist()) > MAX_MEMBERS:
            raise InputError(f"{path}: {len(archive.infolist()):,} members, expected a scene")
        if len(members) != len(archive.infolist()):
            raise InputError(f"{path}: has two members of one name, expected each once")
        for name in members:
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if name.startswith(("/", "\\")) or ".." in parts or (parts and ":" in parts[0]):
                raise InputError(
                    f"{path}: the member {name[:80]!r} leaves the archive, expected a scene's files"
                )

    def read(name: str, most: int) -> bytes:
        info = members.get(name)
        if info is None:
            raise InputError(f"{path}: has no {name}, which its transforms.json lists")
        if info.file_size > most or info.file_size > MAX_RATIO * max(info.compress_size, 1024):
            raise InputError(
                f"{path}: {name} would become {info.file_size:,} bytes of {info.compress_size:,}, "
                f"expected at most {most:,} and no more than {MAX_RATIO} times as many"
            )
        with _opened_zip(path) as archive, archive.open(info) as file:
            content = file.read(info.file_size + 1)
        if len(content) != info.file_size:
            raise InputError(f"{path}: {name} is damaged, its size differs from what is listed")
        return content

    return _Store(path, lambda name: name in members, read)


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_regular(path, "a zip of a scene") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except InputError:
            raise
        except (NotImplementedError, *PARSER_ERRORS) as error:
            raise InputError(f"{path}: no readable zip ({reason(error)})") from error


def read_ids(path: Path, count: int) -> tuple[int, ...]:
    """Positions of training photos from a JSON list (``difix_train_ids.json``): distinct whole
    numbers below ``count``, ascending. Raises InputError for anything else.
    """
    content = read_json(path)
    is_list = isinstance(content, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count
        for value in content
    )
    if not is_list or len(set(content)) != len(content) or not 0 < len(content) < count:
        raise InputError(
            f"{path}: {shown(content)}, expected a list of distinct positions of training photos "
            f"from 0 to {count - 1}"
        )
    return tuple(sorted(content))
