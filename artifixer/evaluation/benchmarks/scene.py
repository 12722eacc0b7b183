"""``BenchmarkScene``, which every benchmark returns: a capture that every verb reads, its split and
masks; and the helpers that benchmarks with their own folder layout share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from artifixer.evaluation.benchmarks.prepared import PHOTOS
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular, read_whole
from artifixer.runtime.image_files import image_size
from artifixer.scenes import dl3dv


@dataclass(frozen=True)
class Options:
    """Options of the protocols; each protocol reads those that it lists in ``takes``."""

    split: Mapping[str, str] = field(default_factory=dict)
    """Named split of ``heldout`` by scene; the entry "" is used for all other scenes."""

    views: int | None = None
    """Number of training views."""

    half: int = 0
    """Which half of the clip trains in the release's split: 0 or 1."""

    gap: float = 0.25
    """Fraction of the photos that ``gap`` holds out."""

    masks: Path | None = None
    """Folder of the visibility masks from the benchmark's authors."""

    train_ids: Path | None = None
    """Folder of the training indices of the Difix split."""


@dataclass(frozen=True)
class BenchmarkScene:
    """One scene of a benchmark, ready to be reconstructed and scored."""

    name: str

    capture: str
    """What ``artifixer run`` reads."""

    photos: tuple[str, ...]
    """Names in the order of the data set's own list: the ``index`` numbering of frames."""

    train: tuple[str, ...]
    """Names of the training photos, sorted."""

    heldout: tuple[str, ...]
    """Names of the held-out photos, sorted."""

    masks: Mapping[str, Path] = field(default_factory=dict)
    """Mask file by held-out photo; pixels with a value of at least 1 count."""

    caveats: tuple[str, ...] = ()
    """Reasons why the figures are not comparable with published ones."""

    is_stand_in: bool = False
    """Whether the split is ours because the benchmark's own is not available."""


def prepared_scene(
    name: str,
    work: Path,
    names: Sequence[str],
    train: Sequence[str],
    heldout: Sequence[str],
    masks: Mapping[str, Path] | None = None,
    caveats: tuple[str, ...] = (),
    is_stand_in: bool = False,
) -> BenchmarkScene:
    """The scene of a capture that was written to ``work``. names: all photos, in the order of the
    data set's list; photos are named without their folder.
    """

    def listed(photos: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{PHOTOS}/{photo}" for photo in photos)

    return BenchmarkScene(
        name,
        str(work),
        listed(names),
        listed(sorted(train)),
        listed(sorted(heldout)),
        {f"{PHOTOS}/{photo}": path for photo, path in (masks or {}).items()},
        caveats,
        is_stand_in,
    )


def folder_of(root: Path, name: str) -> Path | None:
    """The scene's folder below ``root``, or ``root`` itself when it has the scene's name."""
    if (root / name).is_dir():
        return root / name
    return root if root.name == name and root.is_dir() else None


def check_photos(photos: Mapping[str, Path]) -> None:
    """Raise InputError unless every photo's file exists."""
    missing = [path for path in photos.values() if not is_regular(path)]
    if missing:
        raise InputError(
            f"{missing[0].parent}: lacks {len(missing)} of {len(photos)} photos, {missing[0].name} "
            "first; expected all that the scene lists"
        )


def photo_bytes(path: Path) -> bytes:
    """The photo's file as it is."""
    return read_whole(path, "a photo", dl3dv.LARGEST_PHOTO)


def size_caveat(photo: Path, expected: Sequence[int]) -> tuple[str, ...]:
    """A caveat when the photo differs from the published (width, height) by more than a pixel."""
    width, height = image_size(photo)
    if abs(width - expected[0]) <= 1 and abs(height - expected[1]) <= 1:
        return ()
    return (f"photos have {width}x{height} pixels, the published ones {expected[0]}x{expected[1]}",)
