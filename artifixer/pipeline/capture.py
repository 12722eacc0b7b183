"""A user's choice of capture, photos and size -> a scene ready for work, and what identifies it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifixer.runtime.errors import InputError
from artifixer.runtime.run_folder import fingerprint
from artifixer.scenes.formats import PROCEDURAL_PREFIX, load_scene, readable
from artifixer.scenes.photo_files import PHOTO_SUFFIXES, resize_scene
from artifixer.scenes.scene import Scene, Split
from artifixer.scenes.splits import choose_split
from artifixer.scenes.video_file import VIDEO_SUFFIXES

#: Without a chosen split every 8th photo is held out, as is usual in the field; small captures hold out every 4th.
DEFAULT_SPLIT = "every_8"
SMALL_CAPTURE_SPLIT = "every_4"
SMALL_CAPTURE = 16

#: Files up to this many bytes identify a capture by their content, larger ones by their size.
HASHED_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class CaptureChoice:
    """Which photos of which capture, at which size.

    capture: a folder, a video file, or ``procedural:SEED``.
    split, views, train_list, all_views: at most one of them; how photos divide into training and held-out ones.
    size: longest side in pixels or ``WxH``; None keeps the photos' own size.
    faces: perspective views of each equirectangular photo; None for the default where photos are recognised as such.
    """

    capture: str
    split: str | None = None
    views: int | None = None
    train_list: Path | None = None
    all_views: bool = False
    size: str | None = None
    faces: int | None = None


@dataclass(frozen=True)
class OpenCapture:
    """A loaded and resized scene with its split; ``training`` and ``heldout`` index ``scene.photos``."""

    scene: Scene
    split: Split
    training: tuple[int, ...]
    heldout: tuple[int, ...]


def identify(capture: str) -> dict[str, str]:
    """What tells one capture from another: its folder's name, names and sizes of photos and videos, content of all other files.

    Hidden files and folders are no part of it. Raises ``InputError`` when there is nothing at the path.
    """
    if capture.startswith(PROCEDURAL_PREFIX):
        return {"capture": capture}
    root = Path(capture)
    if not root.exists():
        raise InputError(f"{capture}: does not exist, expected a capture folder, a video or {PROCEDURAL_PREFIX}SEED")
    with readable(root):
        files = [root] if root.is_file() else _files_below(root)
        listing = [(path.relative_to(root).as_posix(), path.stat().st_size, path if _is_hashed(path) else None) for path in files]
        return {"capture": root.resolve().name, "files": fingerprint(listing)}


def check_output(capture: str, out: Path) -> None:
    """Raises ``InputError`` when results would land in the capture: they would change what identifies it."""
    root = Path(capture).resolve()
    if not capture.startswith(PROCEDURAL_PREFIX) and root.is_dir() and out.resolve().is_relative_to(root):
        raise InputError(f"--out {out}: lies inside the capture {capture}; expected a folder beside it")


def open_capture(
    choice: CaptureChoice, work_folder: Path | None, cache_folder: Path | None = None, say: Callable[[str], None] = lambda text: None
) -> OpenCapture:
    """Load the capture, choose its split, and bring photos and cameras to the wanted size.

    work_folder: for structure from motion, when the capture has no poses; say: gets a line per step of it. cache_folder: for resized
    photos. None for either leaves nothing behind.
    """
    scene = load_scene(choice.capture, work_folder=work_folder, say=say, faces=choice.faces)
    split = _split(scene, choice)
    scene = resize_scene(scene, choice.size, cache_folder)
    positions = {photo.name: position for position, photo in enumerate(scene.photos)}
    return OpenCapture(scene, split, _indices(split.train, positions), _indices(split.heldout, positions))


def _files_below(root: Path) -> list[Path]:
    """All files in a folder and in the folders inside it, links followed, sorted."""
    found, visited = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = () if real in visited else (name for name in folders if not name.startswith("."))  # links can lead back
        visited.add(real)
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _is_hashed(path: Path) -> bool:
    """Poses and points can change without changing their length; encoded pictures hardly."""
    return path.suffix.lower() not in (*PHOTO_SUFFIXES, *VIDEO_SUFFIXES) and path.stat().st_size <= HASHED_BYTES


def _split(scene: Scene, choice: CaptureChoice) -> Split:
    chosen = [choice.split is not None, choice.views is not None, choice.train_list is not None, choice.all_views]
    if sum(chosen) > 1:
        raise InputError("--split, --views, --train-list and --all-views exclude each other: give one of them")
    name = choice.split
    if not any(chosen):
        name = DEFAULT_SPLIT if len(scene.photos) >= SMALL_CAPTURE else SMALL_CAPTURE_SPLIT
    return choose_split(scene, name=name, views=choice.views, train_list=choice.train_list, all_views=choice.all_views)


def _indices(names: Sequence[str], positions: dict[str, int]) -> tuple[int, ...]:
    return tuple(sorted(positions[name] for name in names))
