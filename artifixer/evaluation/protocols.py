"""The benchmarks: which scenes, which photos train and which are held out, masks, metric profiles.

In: a benchmark's name, the folder of its data in the public layout, options, and a folder to work
in. Out: ``BenchmarkScene``: a capture that every verb of this program reads, its split, and masks.
Lists of scenes and splits are facts in ``data/*.json``.

::

    mipnerf360-3|6|9        ReconFusion's few-view splits, images_4; transforms.json of its package,
                            or the COLMAP models of 360_v2
    nerfbusters             split by file names; visibility masks with --masks
    dl3dv-difix             needs --train-ids and --masks from its authors to be comparable
    novel-content-release   the public release's split of 28 DL3DV scenes
    novel-content-paper     the same scenes by Algorithm 1 as printed (paper, appendix B)
    heldout                 any capture, or a folder of captures, by its own or a named split
    gap                     the same with a contiguous piece in the middle held out
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.evaluation.prepared import (
    PHOTOS,
    PointCloud,
    camera_entries,
    seen_by_training,
    write_capture,
)
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular, read_whole
from artifixer.runtime.image_files import image_size
from artifixer.runtime.json_io import as_object, read_json
from artifixer.scenes import colmap, dl3dv
from artifixer.scenes.formats import brings_poses, find_format, load_scene
from artifixer.scenes.scene import Scene, Split
from artifixer.scenes.splits import FEWEST_TRAINING_VIEWS, choose_split

#: Sides of a mask and of its photo may differ by a factor, but not in aspect by more than this.
MASK_ASPECT_TOLERANCE = 0.01

#: Iterations of the two-means clustering at most; it ends when nothing changes.
CLUSTER_ITERATIONS = 100


@dataclass(frozen=True)
class Options:
    """What a user may choose. split: of ``heldout``, by scene, "" for all others. views: training
    views of Algorithm 1. half: of the release's split. gap: share of the photos that is held out.
    masks, train_ids: folders from a benchmark's authors.
    """

    split: Mapping[str, str] = field(default_factory=dict)
    views: int | None = None
    half: int = 0
    gap: float = 0.25
    masks: Path | None = None
    train_ids: Path | None = None


@dataclass(frozen=True)
class BenchmarkScene:
    """One scene, ready for work.

    capture: what ``artifixer run`` reads. photos: names in the order of the data set's own list,
    which is what frames are numbered by. train, heldout: names, sorted. masks: by held-out photo;
    pixels of at least 1 count. caveats: why figures cannot be compared with published ones.
    is_stand_in: the split is ours, not the benchmark's.
    """

    name: str
    capture: str
    photos: tuple[str, ...]
    train: tuple[str, ...]
    heldout: tuple[str, ...]
    masks: Mapping[str, Path] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    is_stand_in: bool = False


@dataclass(frozen=True)
class Protocol:
    """One benchmark.

    title: for people. profiles: names of metric profiles, the one of the published table first.
    published: name of its rows in ``data/published.json``, or "". scenes: names, or None where the
    data decides. find: where a scene lies below the data's folder, or None. open: see the module.
    path: the cameras that a run follows.
    """

    name: str
    title: str
    profiles: tuple[str, ...]
    published: str
    scenes: tuple[str, ...] | None
    find: Callable[[Path, str], Path | None]
    open: Callable[[Path, str, Options, Path], BenchmarkScene]
    path: str
    takes: tuple[str, ...] = ()


def protocol(name: str) -> Protocol:
    """A benchmark by name; ``InputError`` for an unknown one."""
    known = protocols()
    if name not in known:
        raise InputError(f"protocol {name!r}: unknown, expected one of {', '.join(known)}")
    return known[name]


@functools.cache
def protocols() -> dict[str, Protocol]:
    """All benchmarks by name."""
    few_views = [
        Protocol(
            f"mipnerf360-{count}",
            f"Mip-NeRF 360, {count} views",
            ("genfusion",),
            f"mipnerf360-{count}",
            tuple(data("mipnerf360")["scenes"]),
            _folder_of,
            functools.partial(_open_mipnerf360, views=count),
            "tour",
        )
        for count in (3, 6, 9)
    ]
    everything = [
        *few_views,
        Protocol(
            "nerfbusters",
            "Nerfbusters",
            ("difix", "nerfbusters", "genfusion"),
            "nerfbusters",
            tuple(data("nerfbusters")["scenes"]),
            _folder_of,
            _open_nerfbusters,
            "heldout",
            ("masks",),
        ),
        Protocol(
            "dl3dv-difix",
            "DL3DV, Difix split",
            ("difix", "genfusion"),
            "dl3dv-difix",
            dl3dv_scenes("difix"),
            _find_dl3dv,
            _open_dl3dv_difix,
            "heldout",
            ("masks", "train_ids"),
        ),
        Protocol(
            "novel-content-release",
            "Novel content (DL3DV), the release's split",
            ("genfusion", "difix_unmasked"),
            "novel-content",
            dl3dv_scenes("release"),
            _find_dl3dv,
            _open_novel_content_release,
            "heldout",
            ("views", "half"),
        ),
        Protocol(
            "novel-content-paper",
            "Novel content (DL3DV), Algorithm 1",
            ("genfusion", "difix_unmasked"),
            "novel-content",
            dl3dv_scenes("release"),
            _find_dl3dv,
            _open_novel_content_paper,
            "heldout",
            ("views",),
        ),
        Protocol(
            "heldout",
            "Held-out photos",
            ("genfusion",),
            "",
            None,
            _find_capture,
            _open_heldout,
            "tour",
            ("split", "views"),
        ),
        Protocol(
            "gap",
            "A contiguous piece held out",
            ("genfusion",),
            "",
            None,
            _find_capture,
            _open_gap,
            "tour",
            ("gap",),
        ),
    ]
    return {entry.name: entry for entry in everything}


@functools.cache
def data(name: str) -> dict[str, Any]:
    """One of the lists that come with the package."""
    file = resources.files("artifixer.evaluation") / "data" / f"{name}.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def dl3dv_scenes(benchmark: str) -> tuple[str, ...]:
    """Hashes of a DL3DV benchmark (``release`` or ``difix``) in the order of its list."""
    entries = data("dl3dv")["scenes"].items()
    places = {entry[benchmark]: name for name, entry in entries if entry[benchmark] is not None}
    return tuple(places[place] for place in sorted(places))


def find_scenes(entry: Protocol, root: Path, wanted: Sequence[str]) -> dict[str, Path]:
    """Where each wanted scene lies; all of the benchmark's, or of the data's, when none is named.

    Raises InputError that lists the scenes that are missing.
    """
    if not root.exists() and not str(root).startswith("procedural:"):
        raise InputError(f"{root}: does not exist, expected the data of {entry.title}")
    names = tuple(wanted)
    if not names:
        names = entry.scenes if entry.scenes is not None else tuple(_captures(root))
    unknown = [name for name in names if entry.scenes is not None and name not in entry.scenes]
    if unknown:
        raise InputError(
            f"--scenes {unknown[0]}: no scene of {entry.name}, expected some of "
            f"{', '.join(short(name) for name in entry.scenes or ())}"
        )
    places = {name: entry.find(root, name) for name in names}
    missing = [name for name, place in places.items() if place is None]
    if missing:
        raise InputError(
            f"{root}: lacks {len(missing)} of {len(names)} scenes of {entry.name}: "
            f"{', '.join(short(name) for name in missing)}; --scenes evaluates some of them"
        )
    return {name: place for name, place in places.items() if place is not None}


def short(name: str) -> str:
    """A scene's name for tables: hashes are cut."""
    return name[:8] if re.fullmatch(r"[0-9a-f]{64}", name) else name


# Mip-NeRF 360 -------------------------------------------------------------------------------------


def few_view_ids(scene: str, views: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Positions, in the photos sorted by name, of the training and of the held-out ones."""
    entry = data("mipnerf360")["scenes"][scene]
    train = sorted(position for group in entry["train"][: views // 3] for position in group)
    return tuple(train), tuple(range(0, entry["images"], 8))


def _open_mipnerf360(
    root: Path, name: str, options: Options, work: Path, *, views: int
) -> BenchmarkScene:
    folder, entry = (
        root / name if (root / name).is_dir() else root,
        data("mipnerf360")["scenes"][name],
    )
    content, points = _listed_views(folder)
    names = sorted(content)
    if len(names) != entry["images"]:
        raise InputError(
            f"{folder}: {len(names)} registered photos, expected the {entry['images']} of {name}; "
            "the split counts positions among exactly these"
        )
    ids = few_view_ids(name, views)
    _check_own_split(folder / f"train_test_split_{views}.json", ids)
    train, heldout = ([names[position] for position in half] for half in ids)
    photos = {photo: folder / "images_4" / photo for photo in names}
    _check_photos(photos)
    caveats = _size_caveat(photos[names[0]], entry["size"])
    write_capture(
        work,
        {"frames": [content[photo] for photo in names]},
        {photo: functools.partial(_photo_bytes, path) for photo, path in photos.items()},
        seen_by_training(points, train) if points is not None else None,
    )
    return _prepared(name, work, names, train, heldout, caveats=caveats)


def _listed_views(folder: Path) -> tuple[dict[str, dict[str, Any]], PointCloud | None]:
    """Frames of a transforms file by base name of the photo, with their own intrinsics, and the
    points of a COLMAP model.
    """
    path = folder / "transforms.json"
    if is_regular(path):
        whole = as_object(read_json(path), path)
        shared = {key: value for key, value in whole.items() if key in _SHARED_KEYS}
        return {
            photo: {**shared, **frame} for photo, frame in _frames(whole, str(path)).items()
        }, None
    model_folder = colmap.find_model(folder)
    if model_folder is None:
        raise InputError(
            f"{folder}: has neither transforms.json nor a COLMAP model in sparse/0, expected one"
        )
    return camera_entries(colmap.read_model(model_folder))


#: Keys of a transforms file that may stand in the file or in each frame.
_SHARED_KEYS = frozenset(
    [
        *("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y"),
        *("camera_model", "is_fisheye", "k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2"),
    ]
)


def _frames(whole: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Frames of a transforms file by the base name of their photo, in file order."""
    frames = whole.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f'{where}: "frames" is no list of photos')
    found: dict[str, dict[str, Any]] = {}
    for frame in frames:
        listed = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(listed, str) or "\0" in listed:
            raise InputError(f'{where}: a frame has no "file_path", expected a photo')
        photo = PurePosixPath(listed.replace("\\", "/")).name
        if photo in ("", ".", "..") or photo in found:
            raise InputError(f"{where}: lists {listed[:80]!r}, expected each photo once")
        found[photo] = frame
    return found


def _check_own_split(path: Path, ids: tuple[Sequence[int], Sequence[int]]) -> None:
    """The split file that lies beside the data, where there is one, says the same."""
    if not is_regular(path):
        return
    content = as_object(read_json(path), path)
    if (content.get("train_ids"), content.get("test_ids")) != tuple(list(half) for half in ids):
        raise InputError(f"{path}: is another split than ReconFusion's, expected {list(ids[0])}")


# Nerfbusters --------------------------------------------------------------------------------------


def is_training_name(name: str) -> bool:
    """Whether a Nerfbusters photo belongs to the training video: ``frame_00001.png``; or, as Difix
    renamed them, ``image_train_000001.png``.
    """
    return bool(re.fullmatch(r"frame_\d+\.png", name)) or "_train_" in name


def _open_nerfbusters(root: Path, name: str, options: Options, work: Path) -> BenchmarkScene:
    folder, entry = (
        root / name if (root / name).is_dir() else root,
        data("nerfbusters")["scenes"][name],
    )
    path = folder / "transforms.json"
    whole = as_object(read_json(path), path)
    content = _frames(whole, str(path))
    names = list(content)
    train = sorted(photo for photo in names if is_training_name(photo))
    heldout = sorted(photo for photo in names if not is_training_name(photo))
    if not train or not heldout:
        raise InputError(
            f"{path}: {len(train)} training and {len(heldout)} evaluation photos, expected "
            "frame_00001.png and frame_1_00001.png"
        )
    photos = {photo: folder / entry["folder"] / photo for photo in names}
    _check_photos(photos)
    masks = _masks(options.masks, name, heldout, photos[heldout[0]])
    caveats = _size_caveat(photos[names[0]], entry["size"])
    if not masks:
        caveats += ("no visibility masks (--masks): the published table is masked",)
    write_capture(
        work,
        whole | {"frames": [content[photo] for photo in names]},
        {photo: functools.partial(_photo_bytes, path) for photo, path in photos.items()},
    )
    return _prepared(name, work, names, train, heldout, masks, caveats)


# DL3DV --------------------------------------------------------------------------------------------


def _find_dl3dv(root: Path, name: str) -> Path | None:
    batch = PurePosixPath(data("dl3dv")["scenes"][name]["zip"]).parent.name
    return dl3dv.find_scene(root, name, batch)


def _dl3dv_capture(
    root: Path, name: str, work: Path
) -> tuple[tuple[str, ...], Scene, tuple[str, ...]]:
    """The scene's photos in file order, the capture that was written, and caveats."""
    path = _find_dl3dv(root, name)
    assert path is not None, name
    scene = dl3dv.open_scene(path, name)
    names = dl3dv.without_dropped(scene, data("dl3dv")["dropped"].get(name, ()))
    content = _frames(scene.content, str(path))
    whole = {key: value for key, value in scene.content.items() if key != "ply_file_path"}
    write_capture(
        work,
        whole | {"frames": [content[photo] for photo in names]},
        {photo: functools.partial(scene.read, photo) for photo in names},
    )
    caveats: tuple[str, ...] = ()
    if scene.image_folder != "images_4":
        caveats = (f"photos come from {scene.image_folder}, the published ones from images_4",)
    return names, load_scene(work), caveats


def _open_dl3dv_difix(root: Path, name: str, options: Options, work: Path) -> BenchmarkScene:
    names, scene, caveats = _dl3dv_capture(root, name, work)
    if options.train_ids is None:
        in_training = training_cluster(torch.cat([camera.centers for camera in scene.cameras]))
        by_name = [photo.name.removeprefix(f"{PHOTOS}/") for photo in scene.photos]
        train = [photo for photo, member in zip(by_name, in_training, strict=True) if member]
        caveats += (
            "the Difix split is not public and --train-ids was not given: the larger of two "
            "clusters of camera positions trains instead",
        )
    else:
        ids = dl3dv.read_ids(options.train_ids / name / "difix_train_ids.json", len(names))
        train = [names[position] for position in ids]
    heldout = sorted(set(names) - set(train))
    masks = _masks(options.masks, name, heldout, work / PHOTOS / heldout[0], fallback=names)
    if not masks:
        caveats += ("no visibility masks (--masks): the published table is masked",)
    return _prepared(
        name, work, names, train, heldout, masks, caveats, is_stand_in=options.train_ids is None
    )


def training_cluster(centers: Float[Tensor, "views 3"]) -> list[bool]:
    """Which cameras are in the larger of two clusters of positions: two-means from the farthest
    pair, the first cluster of two equal ones. A stand-in for a split that is not public.
    """
    points = centers.to(torch.float64)
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    first, second = divmod(int(distance.argmax()), len(points))
    means = points[[first, second]]
    near = torch.zeros(len(points), dtype=torch.bool)
    for _ in range(CLUSTER_ITERATIONS):
        gaps = torch.cdist(points, means, compute_mode="donot_use_mm_for_euclid_dist")
        now = gaps[:, 0] <= gaps[:, 1]
        if torch.equal(now, near):
            break
        near = now
        means = torch.stack([points[near].mean(dim=0), points[~near].mean(dim=0)])
    larger = near if 2 * int(near.sum()) >= len(points) else ~near
    return [bool(member) for member in larger]


def _open_novel_content_release(
    root: Path, name: str, options: Options, work: Path
) -> BenchmarkScene:
    views = 6 if options.views is None else options.views
    if options.half not in (0, 1):
        raise InputError(f"--half {options.half}: expected 0 or 1")
    caveats: tuple[str, ...] = ()
    if (views, options.half) != (6, 0):
        caveats = (f"{views} views of half {options.half}; the release's default is 6 of half 0",)
    split = f"half_covisibility_{'1_' if options.half else ''}K{views}"
    return _open_novel_content(root, name, work, split, caveats)


def _open_novel_content_paper(
    root: Path, name: str, options: Options, work: Path
) -> BenchmarkScene:
    views = 6 if options.views is None else options.views
    note = "the paper does not state its number of views and its group; here the larger group"
    return _open_novel_content(root, name, work, f"algorithm1_raw_units_K{views}", (note,))


def _open_novel_content(
    root: Path, name: str, work: Path, split_name: str, caveats: tuple[str, ...]
) -> BenchmarkScene:
    names, scene, found = _dl3dv_capture(root, name, work)
    split = choose_split(scene, name=split_name)
    train, heldout = (
        [photo.removeprefix(f"{PHOTOS}/") for photo in half]
        for half in (split.train, split.heldout)
    )
    return _prepared(name, work, names, train, heldout, caveats=(*found, *caveats))


# Any capture --------------------------------------------------------------------------------------


def _captures(root: Path) -> Iterator[str]:
    """The scenes of a folder: the capture that it is, or those in it."""
    if _is_capture(root):
        yield root.name if root.is_dir() or root.suffix else str(root)
        return
    names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    found = [name for name in names if not name.startswith((".", "_")) and _is_capture(root / name)]
    if not found:
        raise InputError(
            f"{root}: neither a capture with poses nor a folder of some, expected one of them; "
            "artifixer run finds poses"
        )
    yield from found


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


def _find_capture(root: Path, name: str) -> Path | None:
    if str(root).startswith("procedural:"):
        return root
    for path in (root / name, root):
        if path.name == name and _is_capture(path):
            return path
    return None


def _open_heldout(root: Path, name: str, options: Options, work: Path) -> BenchmarkScene:
    path = _find_capture(root, name)
    assert path is not None, name
    scene = load_scene(path)
    chosen = options.split.get(name, options.split.get(""))
    if chosen is None and options.views is None:
        chosen = "every_8" if len(scene.photos) >= 16 else "every_4"
    if chosen is not None and options.views is not None:
        raise InputError("--split and --views exclude each other: give one of them")
    split = choose_split(scene, name=chosen) if chosen else choose_split(scene, views=options.views)
    return _in_place(name, path, scene, split)


def _open_gap(root: Path, name: str, options: Options, work: Path) -> BenchmarkScene:
    path = _find_capture(root, name)
    assert path is not None, name
    scene = load_scene(path)
    return _in_place(name, path, scene, gap_split(scene, options.gap))


def gap_split(scene: Scene, share: float) -> Split:
    """A contiguous piece in the middle of the capture's order is held out; all others train.

    Raises InputError for a share that is not between 0 and 1, or leaves too few photos.
    """
    if not 0 < share < 1:
        raise InputError(f"--gap {share:g}: expected a share of the photos between 0 and 1")
    names = [photo.name for photo in scene.photos]
    count = max(1, round(share * len(names)))
    first = (len(names) - count) // 2
    heldout = names[first : first + count]
    train = names[:first] + names[first + count :]
    if len(train) < FEWEST_TRAINING_VIEWS:
        raise InputError(
            f"--gap {share:g}: leaves {len(train)} of {len(names)} photos of {scene.name} to train "
            f"on, expected at least {FEWEST_TRAINING_VIEWS}"
        )
    return Split(f"gap_{share:g}", tuple(train), tuple(heldout))


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


# What all have in common --------------------------------------------------------------------------


def _folder_of(root: Path, name: str) -> Path | None:
    if (root / name).is_dir():
        return root / name
    return root if root.name == name and root.is_dir() else None


def _prepared(
    name: str,
    work: Path,
    names: Sequence[str],
    train: Sequence[str],
    heldout: Sequence[str],
    masks: Mapping[str, Path] | None = None,
    caveats: tuple[str, ...] = (),
    is_stand_in: bool = False,
) -> BenchmarkScene:
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


def _check_photos(photos: Mapping[str, Path]) -> None:
    missing = [path for path in photos.values() if not is_regular(path)]
    if missing:
        raise InputError(
            f"{missing[0].parent}: lacks {len(missing)} of {len(photos)} photos, {missing[0].name} "
            "first; expected all that the scene lists"
        )


def _photo_bytes(path: Path) -> bytes:
    return read_whole(path, "a photo", dl3dv.LARGEST_PHOTO)


def _size_caveat(photo: Path, expected: Sequence[int]) -> tuple[str, ...]:
    width, height = image_size(photo)
    if abs(width - expected[0]) <= 1 and abs(height - expected[1]) <= 1:
        return ()
    return (f"photos have {width}x{height} pixels, the published ones {expected[0]}x{expected[1]}",)


def _masks(
    root: Path | None,
    scene: str,
    heldout: Sequence[str],
    photo: Path,
    fallback: Sequence[str] = (),
) -> dict[str, Path]:
    """Visibility masks by held-out photo: ``{scene}/visibility_median_count/%05d.png`` or
    ``{scene}/%05d.png``, numbered by the rank of the photo among the held-out ones sorted by name,
    or by its position in ``fallback``. Empty without ``root``.

    Raises InputError for masks of another numbering or another aspect ratio than the photos.
    """
    if root is None:
        return {}
    folder = root / scene / "visibility_median_count"
    if not folder.is_dir():
        folder = root / scene
    if not folder.is_dir():
        raise InputError(f"{folder}: does not exist, expected the masks of {scene}")
    files = {path.name for path in folder.glob("*.png")}
    ordered = sorted(heldout)
    numberings = [{name: rank for rank, name in enumerate(ordered)}]
    if fallback:
        numberings.append({name: list(fallback).index(name) for name in ordered})
    for numbering in numberings:
        wanted = {name: f"{number:05d}.png" for name, number in numbering.items()}
        if set(wanted.values()) == files:
            found = {name: folder / file for name, file in wanted.items()}
            width, height = image_size(photo)
            for path in found.values():
                mask_width, mask_height = image_size(path)
                aspect = mask_width * height / (mask_height * width)
                if abs(aspect - 1) > MASK_ASPECT_TOLERANCE + 1 / min(mask_width, mask_height):
                    raise InputError(
                        f"{path}: {mask_width}x{mask_height} pixels, expected the aspect ratio of "
                        f"the photos, {width}x{height}"
                    )
            return found
    raise InputError(
        f"{folder}: {len(files)} masks, expected 00000.png to {len(ordered) - 1:05d}.png, one for "
        "each held-out photo by its rank"
    )


def read_mask(path: Path, width: int, height: int) -> np.ndarray:
    """Which pixels count, ``[height width]`` bool: the mask is at least 1; enlarged by nearest
    neighbours.
    """
    from PIL import Image

    from artifixer.runtime.image_files import read_image

    visible = read_image(path)[..., 0] >= 1
    if visible.shape == (height, width):
        return visible
    resized = Image.fromarray(visible.astype(np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    return np.asarray(resized) > 0
