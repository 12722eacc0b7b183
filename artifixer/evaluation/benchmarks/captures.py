"""Any capture with poses as a benchmark: the photos of a split, or a contiguous range, held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from artifixer.evaluation.benchmarks.scene import BenchmarkScene, Options
from artifixer.runtime.errors import InputError
from artifixer.scenes.formats import brings_poses, find_format, load_scene
from artifixer.scenes.scene import Scene, Split
from artifixer.scenes.splits import MIN_TRAINING_VIEWS, choose_split


def captures(root: Path) -> Iterator[str]:
    """Scene names below ``root``: the capture that ``root`` is, or the captures in it."""
    if _is_capture(root):
        yield root.name if root.is_dir() or root.suffix else str(root)
        return
    names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    found = [name for name in names if not name.startswith((".", "_")) and _is_capture(root / name)]
    if not found:
        raise InputError(
            f"{root}: neither a capture with poses nor a folder of such captures; photos without "
            "poses need artifixer run, which estimates them"
        )
    yield from found


def find_capture(root: Path, name: str) -> Path | None:
    """The capture of that name: ``root/name`` or ``root`` itself; None when there is none."""
    if str(root).startswith("procedural:"):
        return root
    for path in (root / name, root):
        if path.name == name and _is_capture(path):
            return path
    return None


def open_heldout(root: Path, name: str, options: Options, work: Path) -> BenchmarkScene:
    """``heldout``: the split of ``options``, else every 8th photo (every 4th of fewer than 16)."""
    path = find_capture(root, name)
    assert path is not None, name
    scene = load_scene(path)
    chosen = options.split.get(name, options.split.get(""))
    if chosen is None and options.views is None:
        chosen = "every_8" if len(scene.photos) >= 16 else "every_4"
    if chosen is not None and options.views is not None:
        raise InputError("--split and --views exclude each other: give one of them")
    split = choose_split(scene, name=chosen) if chosen else choose_split(scene, views=options.views)
    return _in_place(name, path, scene, split)


def open_gap(root: Path, name: str, options: Options, work: Path) -> BenchmarkScene:
    """``gap``: a contiguous range of the photos is held out."""
    path = find_capture(root, name)
    assert path is not None, name
    scene = load_scene(path)
    return _in_place(name, path, scene, gap_split(scene, options.gap))


def gap_split(scene: Scene, share: float) -> Split:
    """Hold out a contiguous range in the middle of the capture's order; all other photos train.

    share: fraction of the photos to hold out. Raises InputError when it is not between 0 and 1 or
    leaves too few training photos.
    """
    if not 0 < share < 1:
        raise InputError(f"--gap {share:g}: expected a fraction of the photos between 0 and 1")
    names = [photo.name for photo in scene.photos]
    count = max(1, round(share * len(names)))
    first = (len(names) - count) // 2
    heldout = names[first : first + count]
    train = names[:first] + names[first + count :]
    if len(train) < MIN_TRAINING_VIEWS:
        raise InputError(
            f"--gap {share:g}: leaves {len(train)} of {len(names)} photos of {scene.name} to train "
            f"on, expected at least {MIN_TRAINING_VIEWS}"
        )
    return Split(f"gap_{share:g}", tuple(train), tuple(heldout))


def _is_capture(path: Path) -> bool:
    if str(path).startswith("procedural:"):
        return True
    if not path.is_dir() and path.suffix.lower() != ".json":
        return False
    try:
        if path.is_dir():
            find_format(path)
        return brings_poses(path)
    except InputError:
        return False


def _in_place(name: str, path: Path, scene: Scene, split: Split) -> BenchmarkScene:
    if not split.heldout:
        raise InputError(f"{path}: split {split.name} holds no photo out, expected at least one")
    return BenchmarkScene(
        name,
        str(path),
        tuple(photo.name for photo in scene.photos),
        tuple(sorted(split.train)),
        tuple(sorted(split.heldout)),
    )
