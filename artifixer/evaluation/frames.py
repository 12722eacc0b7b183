"""Frames of any method: assigns the files of a folder to held-out photos.

In: a folder that some program wrote, and a scene's photos. Out: ``FrameSource``: a file for every
held-out photo. Programs number frames by position in the data set's list (``index``), by rank among
the held-out photos sorted by name (``rank``), or name them after the photo (``name``). Some store
photo and prediction side by side, some store transparency in place of opacity. Missing and surplus
frames are refused: a mean over some of the photos is not the benchmark's figure. The layouts that
are recognised are listed in ``evaluation/frame_layouts``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from artifixer.evaluation.frame_layouts import PRODUCERS
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.runtime.image_files import read_image
from artifixer.runtime.npy import read_npy
from artifixer.scenes.photo_files import PHOTO_SUFFIXES

Naming = Literal["auto", "index", "rank", "name"]
SideBySide = Literal["auto", "none", "left-gt"]


@dataclass(frozen=True)
class FrameSource:
    """Frames of one method in one scene."""

    name: str
    """Name of the method."""

    producer: str
    """Name of the layout that was recognised, of ``PRODUCERS`` or ``plain``."""

    naming: str
    """Numbering of the files: index, rank or name."""

    files: Mapping[str, Path]
    """File by held-out photo."""

    truths: Mapping[str, Path] = field(default_factory=dict)
    """The method's own photos by held-out photo; empty where it has none, as for the next two."""

    opacities: Mapping[str, Path] = field(default_factory=dict)

    depths: Mapping[str, Path] = field(default_factory=dict)

    inverted: bool = False
    """Whether opacity is stored as 1 - opacity."""

    left_truth: bool = False
    """Whether the left half of a file is the photo and the right half the prediction."""

    @property
    def has_truth(self) -> bool:
        """Whether the method's own photos are available."""
        return self.left_truth or bool(self.truths)

    def prediction(self, photo: str) -> UInt8[np.ndarray, "height width 3"]:
        """The frame at the camera of the photo."""
        pixels = read_image(self.files[photo])
        return _half(pixels, self.files[photo], right=True) if self.left_truth else pixels

    def truth(self, photo: str) -> UInt8[np.ndarray, "height width 3"]:
        """The method's own photo, undistorted and cropped like its frames."""
        if self.left_truth:
            return _half(read_image(self.files[photo]), self.files[photo], right=False)
        return read_image(self.truths[photo])

    def opacity(self, photo: str) -> Float[np.ndarray, "height width"] | None:
        """Opacity of the method's render in [0,1], 1 for opaque; None where it has none."""
        if photo not in self.opacities:
            return None
        values = read_image(self.opacities[photo])[..., 0].astype(np.float32) / 255
        return 1 - values if self.inverted else values

    def depth(self, photo: str) -> Float[np.ndarray, "height width"] | None:
        """Depth of the method's render in its own units; None where it has none."""
        if photo not in self.depths:
            return None
        depth = read_npy(self.depths[photo])
        if depth.ndim == 3 and depth.shape[2] == 1:
            depth = depth[..., 0]
        if depth.ndim != 2 or depth.dtype.kind != "f":
            raise InputError(
                f"{self.depths[photo]}: {depth.dtype} {depth.shape}, expected floats of one image"
            )
        return depth


def find_frames(
    name: str,
    folder: Path,
    scene: str,
    photos: Sequence[str],
    heldout: Sequence[str],
    naming: Naming = "auto",
    side_by_side: SideBySide = "auto",
) -> FrameSource:
    """The frames of method ``name`` in ``folder/scene``, or in ``folder`` itself when it has no
    such folder.

    photos: all photos of the scene in the order of the data set's list, which ``index`` refers to.
    heldout: the photos to be scored. Raises InputError for an unknown layout, missing or surplus
    frames, and file names that fit more than one numbering.
    """
    if not folder.is_dir():
        raise InputError(f"--frames {name}={folder}: does not exist, expected a folder")
    home = folder / scene if (folder / scene).is_dir() else folder
    label = f"--frames {name}: {home}"
    for producer in PRODUCERS:
        place = _place(home, producer.folder)
        if place is None:
            continue
        listed = _listed(place, producer.file, recursive=producer.naming == "name")
        if not listed:
            continue
        chosen: str = producer.naming if naming == "auto" else naming
        left = side_by_side == "left-gt" or (side_by_side == "auto" and producer.side_by_side)
        files = _match(label, place, listed, photos, heldout, chosen, producer.file)

        def beside(
            kind: str | None, place: Path = place, files: Mapping[str, Path] = files
        ) -> dict[str, Path]:
            return {} if kind is None else _beside(place, place.parent / kind, files)

        return FrameSource(
            name,
            producer.name,
            chosen,
            files,
            beside(producer.truth),
            beside(producer.opacity),
            beside(producer.depth),
            producer.inverted,
            left,
        )
    listed = _listed(home, None, recursive=True)
    if not listed:
        raise InputError(f"{label}: holds no images, expected one per held-out photo")
    chosen, files = _plain(label, home, listed, photos, heldout, naming)
    return FrameSource(name, "plain", chosen, files, left_truth=side_by_side == "left-gt")


# Files --------------------------------------------------------------------------------------------


def _place(home: Path, patterns: Sequence[str]) -> Path | None:
    """The folder below ``home`` whose parts match; of several, the one with the largest numbers."""
    places = [home]
    for pattern in patterns:
        places = [
            child
            for place in places
            for child in place.iterdir()
            if child.is_dir() and re.fullmatch(pattern, child.name)
        ]
    return max(places, key=lambda place: _numbers(place.relative_to(home)), default=None)


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,12}", path.as_posix())]


def _listed(place: Path, pattern: str | None, *, recursive: bool) -> list[Path]:
    """Images of a folder; with a pattern, only those that match it."""
    found = sorted(place.rglob("*") if recursive else place.iterdir())
    pictures = [
        path
        for path in found
        if path.suffix.lower() in PHOTO_SUFFIXES
        and not path.name.startswith(".")
        and (pattern is None or re.fullmatch(pattern, path.name))
        and is_regular(path)
    ]
    if pattern is not None and "step" in pattern and pictures:
        # one folder may hold the frames of several training steps: use the last one
        steps = {path: _numbers(Path(path.name))[0] for path in pictures}
        pictures = [path for path in pictures if steps[path] == max(steps.values())]
    return pictures


def _beside(place: Path, folder: Path, files: Mapping[str, Path]) -> dict[str, Path]:
    """The files of the same names in a folder beside that of the predictions; empty unless it has
    all of them.
    """
    found = {}
    for photo, path in files.items():
        twin = folder / path.relative_to(place)
        candidates = [twin, twin.with_suffix(".npy"), twin.with_suffix(".png")]
        match = next((candidate for candidate in candidates if is_regular(candidate)), None)
        if match is None:
            return {}
        found[photo] = match
    return found


def _half(
    pixels: UInt8[np.ndarray, "height width 3"], path: Path, *, right: bool
) -> UInt8[np.ndarray, "height half 3"]:
    width = pixels.shape[1]
    if width % 2:
        raise InputError(
            f"{path}: {width} pixels wide, expected an even number: photo and prediction side by "
            "side"
        )
    return pixels[:, width // 2 :] if right else pixels[:, : width // 2]


# Which file is which ------------------------------------------------------------------------------


def _match(
    label: str,
    place: Path,
    listed: Sequence[Path],
    photos: Sequence[str],
    heldout: Sequence[str],
    naming: str,
    pattern: str | None,
) -> dict[str, Path]:
    if naming == "name":
        return _by_name(label, place, listed, photos, heldout)
    numbered = _numbered(label, listed, pattern)
    if naming == "rank":
        return _by_number(
            label, numbered, {photo: rank for rank, photo in enumerate(sorted(heldout))}, ()
        )
    positions = {photo: index for index, photo in enumerate(photos)}
    wanted = {photo: positions[photo] for photo in sorted(heldout)}
    return _by_number(label, numbered, wanted, range(len(photos)))


def _plain(
    label: str,
    home: Path,
    listed: Sequence[Path],
    photos: Sequence[str],
    heldout: Sequence[str],
    naming: Naming,
) -> tuple[str, dict[str, Path]]:
    """The numbering that fits a folder of images, and its files. Raises InputError unless exactly
    one assignment fits.
    """
    if naming != "auto":
        return naming, _match(label, home, listed, photos, heldout, naming, None)
    fitting: dict[str, dict[str, Path]] = {}
    reasons = []
    for each in ("name", "index", "rank"):
        try:
            fitting[each] = _match(label, home, listed, photos, heldout, each, None)
        except InputError as error:
            reasons.append(str(error))
    if not fitting:
        raise InputError(reasons[0])
    first = next(iter(fitting))
    if any(files != fitting[first] for files in fitting.values()):
        raise InputError(
            f"{label}: the file names fit several numberings ({', '.join(fitting)}); give --naming"
        )
    return first, fitting[first]


def _numbered(label: str, listed: Sequence[Path], pattern: str | None) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in listed:
        match = re.fullmatch(pattern or r".*?(\d+)\.\w+", path.name)
        if match is None or len(match[1]) > 12:
            raise InputError(f"{label}: {path.name} has no number, expected numbered frames")
        number = int(match[1])
        if number in found:
            raise InputError(
                f"{label}: {found[number].name} and {path.name} have the same number, expected "
                "each once"
            )
        found[number] = path
    return found


def _by_number(
    label: str, numbered: Mapping[int, Path], wanted: Mapping[str, int], all_numbers: Sequence[int]
) -> dict[str, Path]:
    """Frames with exactly the wanted numbers, or with the numbers of all photos."""
    there, needed = set(numbered), set(wanted.values())
    missing, surplus = sorted(needed - there), sorted(there - needed)
    if missing or (surplus and there != set(all_numbers)):
        raise _mismatch(
            label,
            len(there),
            len(needed),
            [f"{number:05d}" for number in missing],
            [f"{number:05d}" for number in surplus],
        )
    return {photo: numbered[number] for photo, number in wanted.items()}


def _by_name(
    label: str,
    place: Path,
    listed: Sequence[Path],
    photos: Sequence[str],
    heldout: Sequence[str],
) -> dict[str, Path]:
    """Frames named after the photos: by path below the folder of photos, without file ending."""
    stems = _keys(photos)
    there = {_stem(path.relative_to(place).as_posix()): path for path in listed}
    wanted = {photo: stems[photo] for photo in heldout}
    missing = sorted(set(wanted.values()) - set(there))
    surplus = sorted(set(there) - set(wanted.values()))
    if missing or (surplus and set(there) != set(stems.values())):
        raise _mismatch(label, len(there), len(wanted), missing, surplus)
    return {photo: there[stem] for photo, stem in wanted.items()}


def _keys(photos: Sequence[str]) -> dict[str, str]:
    """Name of each photo in other programs' folders: its path below ``images`` without file
    ending.
    """
    return {photo: _stem(photo.removeprefix("images/")) for photo in photos}


def _stem(path: str) -> str:
    return re.sub(r"\.\w+$", "", path)


def _mismatch(
    label: str, there: int, wanted: int, missing: Sequence[str], surplus: Sequence[str]
) -> InputError:
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({_some(missing)})")
    if surplus:
        parts.append(f"{len(surplus)} surplus ({_some(surplus)})")
    return InputError(
        f"{label}: {counted(there, 'frame')} for {counted(wanted, 'held-out photo')}, "
        f"{' and '.join(parts)}; expected exactly one frame for each"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
