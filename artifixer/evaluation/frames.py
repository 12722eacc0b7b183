"""Frames of any method: which file shows which held-out photo.

In: a folder that some program wrote, and a scene's photos. Out: ``FrameSource``: a file for every
held-out photo. Programs number frames by position in the data set's list (``index``), by rank among
the held-out photos sorted by name (``rank``), or name them after the photo (``name``); some put the
photo and the prediction side by side, some store opacity upside down. Missing and surplus frames
are refused: an average over what happens to be there is no figure of the benchmark.

=====================  ======================================  =======  =========================
producer               predictions, below FOLDER/SCENE         frames   beside them
=====================  ======================================  =======  =========================
artifixer-release      frames/batch_0000/pred/00000.png        index    gt/
difix3d-gsplat         renders/val/STEP/Pred/0000.png          rank     GT/, Alpha/ (1 - opacity)
difix3d-nerfstudio     renders/val/STEP/0000.png               rank
gsplat                 renders/STAGE_stepSTEP_0000.png         rank     photo in the left half
ns-eval                PREFIX_img_0000.png                     rank     photo in the left half
genfusion, gsfixer     test/renders/PHOTO                      name     gt/
3dgs                   test/ours_STEP/renders/00000.png        rank     gt/
3dgrut                 ours_STEP/renders/00000.png             index    opacity/
ns-render              SPLIT/rgb/PHOTO                         name     gt-rgb/
nerfbusters            rgb/00000.png                           rank     rgb_gt/, depth_raw/
plain                  any pictures                            any
=====================  ======================================  =======  =========================
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.runtime.image_files import read_image
from artifixer.runtime.npy import read_npy
from artifixer.scenes.photo_files import PHOTO_SUFFIXES

Naming = Literal["auto", "index", "rank", "name"]
SideBySide = Literal["auto", "none", "left-gt"]


@dataclass(frozen=True)
class Producer:
    """How one program lays out its frames. folder: of the predictions, by patterns of its parts;
    the last of several matches by number. file: pattern of a file's name whose group is the number;
    None for names of photos. truth, opacity, depth: folders beside that of the predictions.
    inverted: whether opacity is stored as 1 - opacity.
    """

    name: str
    folder: tuple[str, ...]
    naming: Literal["index", "rank", "name"]
    file: str | None = None
    side_by_side: bool = False
    truth: str | None = None
    opacity: str | None = None
    inverted: bool = False
    depth: str | None = None


_NUMBER = r"(\d+)\.(?:png|jpg|jpeg)"

PRODUCERS = (
    Producer("artifixer-release", ("frames", "batch_0000", "pred"), "index", _NUMBER, truth="gt"),
    Producer(
        "difix3d-gsplat",
        ("renders", "val", r"\d+", "Pred"),
        "rank",
        _NUMBER,
        truth="GT",
        opacity="Alpha",
        inverted=True,
    ),
    Producer("difix3d-nerfstudio", ("renders", "val", r"\d+"), "rank", _NUMBER),
    Producer("genfusion", ("test", "renders"), "name", truth="gt"),
    Producer("3dgs", ("test", r"ours_\d+", "renders"), "rank", _NUMBER, truth="gt"),
    Producer("3dgrut", (r"ours_\d+", "renders"), "index", _NUMBER, opacity="opacity"),
    Producer("ns-render", (r"test|val|eval", "rgb"), "name", truth="gt-rgb"),
    Producer("nerfbusters", ("rgb",), "rank", _NUMBER, truth="rgb_gt", depth="depth_raw"),
    Producer("gsplat", ("renders",), "rank", r"[A-Za-z]+_step\d+_(\d+)\.png", side_by_side=True),
    Producer("ns-eval", (), "rank", r".*_img_(\d+)\.(?:png|jpg)", side_by_side=True),
)


@dataclass(frozen=True)
class FrameSource:
    """Frames of one method in one scene. producer, naming: how they were recognised. files: by
    held-out photo. truths, opacities, depths: likewise where the producer has them. left_truth:
    the left half of a file is the photo, the right half the prediction.
    """

    name: str
    producer: str
    naming: str
    files: Mapping[str, Path]
    truths: Mapping[str, Path] = field(default_factory=dict)
    opacities: Mapping[str, Path] = field(default_factory=dict)
    depths: Mapping[str, Path] = field(default_factory=dict)
    inverted: bool = False
    left_truth: bool = False

    @property
    def has_truth(self) -> bool:
        """Whether the method's own photos are there."""
        return self.left_truth or bool(self.truths)

    def prediction(self, photo: str) -> UInt8[np.ndarray, "height width 3"]:
        """The frame that shows what the photo shows."""
        pixels = read_image(self.files[photo])
        return _half(pixels, self.files[photo], right=True) if self.left_truth else pixels

    def truth(self, photo: str) -> UInt8[np.ndarray, "height width 3"]:
        """The method's own photo: undistorted and cropped as its frames are."""
        if self.left_truth:
            return _half(read_image(self.files[photo]), self.files[photo], right=False)
        return read_image(self.truths[photo])

    def opacity(self, photo: str) -> Float[np.ndarray, "height width"] | None:
        """Opacity of the method's render in [0,1], 1 where it shows something; None where it has
        none.
        """
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

    photos: all of the scene's in the order of the data set's list, which ``index`` counts; heldout:
    those to be scored. Raises InputError for an unknown layout, frames that are missing or surplus,
    and names that could mean two numberings.
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
        raise InputError(f"{label}: holds no pictures, expected one per held-out photo")
    chosen, files = _plain(label, home, listed, photos, heldout, naming)
    return FrameSource(name, "plain", chosen, files, left_truth=side_by_side == "left-gt")


# Files --------------------------------------------------------------------------------------------


def _place(home: Path, patterns: Sequence[str]) -> Path | None:
    """The folder below ``home`` whose parts match, the one with the largest numbers of several."""
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
    """Pictures of a folder; with a pattern only those that match it."""
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
        # frames of several steps lie in one folder: the last step counts
        steps = {path: _numbers(Path(path.name))[0] for path in pictures}
        pictures = [path for path in pictures if steps[path] == max(steps.values())]
    return pictures


def _beside(place: Path, folder: Path, files: Mapping[str, Path]) -> dict[str, Path]:
    """The files of the same names in a folder beside that of the predictions, where it has all."""
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
    """A folder of pictures: the numbering that fits, which must be one."""
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
            f"{label}: the names fit the numberings {', '.join(fitting)}; give --naming"
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
    """Frames of exactly the wanted numbers, or of exactly all photos."""
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
    """Frames named after the photos: by path inside the folder of photos, without the ending."""
    stems = _keys(photos)
    there = {_stem(path.relative_to(place).as_posix()): path for path in listed}
    wanted = {photo: stems[photo] for photo in heldout}
    missing = sorted(set(wanted.values()) - set(there))
    surplus = sorted(set(there) - set(wanted.values()))
    if missing or (surplus and set(there) != set(stems.values())):
        raise _mismatch(label, len(there), len(wanted), missing, surplus)
    return {photo: there[stem] for photo, stem in wanted.items()}


def _keys(photos: Sequence[str]) -> dict[str, str]:
    """What names each photo in other programs' folders: its path below ``images``, without the
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
        f"{label}: {there} frames for {wanted} held-out photos, {' and '.join(parts)}; expected "
        "exactly one frame for each"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
