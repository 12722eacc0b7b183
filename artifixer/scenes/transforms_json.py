"""``transforms.json`` of nerfstudio and instant-ngp -> ``Scene``.

Poses are camera_to_world in OpenGL axes (+y up, -z forward) and become world_to_camera in OpenCV
axes; the world stays the file's. Intrinsics stand in the file, in the frame, or in both (the frame
wins); a field of view stands in for a missing focal length. ``ply_file_path``, or ``sparse_pc.ply``
beside the file, gives points without tracks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.local_origin import Origin, camera_origin, to_local
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.runtime.image_files import exif_orientation, read_image
from artifixer.scenes.mask_files import MaskFiles
from artifixer.scenes.panorama_faces import DEFAULT_FACES, panorama_splits, panorama_views
from artifixer.scenes.photo_files import (
    FittedView,
    cameras_are_upright,
    check_broken,
    check_may_read,
    fit_camera,
    left_out_note,
    open_photo,
    path_inside,
    stored_size,
)
from artifixer.scenes.photo_names import PhotoNames, renamed_note
from artifixer.scenes.point_cloud import read_points
from artifixer.scenes.scene import Photo, Scene, SparsePoints, Split, exact_viewmats_of
from artifixer.scenes.transforms_frames import (
    TransformsEntry,
    frame_camera,
    frame_viewmat,
    is_equirectangular,
    is_ideal_fisheye,
    json_object,
    read_transforms,
    shortened,
)

FILE_NAME = "transforms.json"

#: The files of NeRF-synthetic scenes: training photos first, then held-out ones in the order in
#: which they are preferred.
SYNTHETIC_NAMES = ("transforms_train.json", "transforms_test.json", "transforms_val.json")

#: Points whose colours are compared with photos, to tell which way up cameras are.
POINTS_COMPARED = 2000

#: nerfstudio's own lists of photos; the split made from them is called after the file.
_SPLIT_LISTS = ("train_filenames", "val_filenames", "test_filenames")


def find_transforms(capture: Path) -> Path | None:
    """The ``transforms.json`` of a capture's folder, or None."""
    path = capture / FILE_NAME
    return path if is_regular(path) else None


def find_synthetic(capture: Path) -> Path | None:
    """The ``transforms_train.json`` of a capture's folder, or None."""
    path = capture / SYNTHETIC_NAMES[0]
    return path if is_regular(path) else None


def is_transforms(path: Path) -> bool:
    """Whether ``path`` is a JSON file, which is read as a transforms file whatever its name."""
    return path.suffix.lower() == ".json" and is_regular(path)


def load(capture: Path, path: Path, faces: int | None = None) -> Scene:
    """The scene of the transforms file ``path``, photos sorted by name; listed photos that don't
    exist are counted in one note.

    faces: perspective views of each equirectangular photo (``camera_model`` EQUIRECTANGULAR); None
    for the default. Raises InputError for broken JSON, values of a wrong type or not finite, poses
    that aren't rigid, paths that leave ``capture``, lens models that can't be mapped, unreadable
    photos, photos that don't fit their cameras, and when fewer than two photos exist.
    """
    return _scene(capture, [path], faces)


def load_synthetic(capture: Path, path: Path, faces: int | None = None) -> Scene:
    """The scene of a folder with ``transforms_train.json`` (``path``) and, if there, ``_test`` and
    ``_val`` beside it: NeRF-synthetic and what Blender add-ons write.

    The split ``transforms`` trains on the first and holds out the test photos, or the validation
    photos where there are none; validation photos beside test ones are left out. Photos with alpha
    are of objects over nothing: alpha is the opacity of what they show (``Photo.opacity``).
    Raises InputError as ``load`` does.
    """
    heldout = [found for name in SYNTHETIC_NAMES[1:] if is_regular(found := capture / name)]
    scene = _scene(capture, [path, *heldout[:1]], faces)
    notes = scene.notes
    for other in heldout[1:]:
        count = len(read_transforms(other)[1])
        notes += (
            f"{other.name} is left out ({counted(count, 'photo')}): {heldout[0].name} is held out",
        )
    splits = scene.splits
    if heldout:
        names = [_photo_names(capture, file) for file in (path, heldout[0])]
        train = tuple(photo.name for photo in scene.photos if photo.name in names[0])
        rest = tuple(p.name for p in scene.photos if p.name in names[1] - names[0])
        splits = {**splits, "transforms": Split("transforms", train, rest)}
    return replace(scene, format="nerf_synthetic", notes=notes, splits=splits)


def _photo_names(capture: Path, path: Path) -> set[str]:
    """Names inside the capture of the photos that a transforms file lists, as far as they are
    usable.
    """
    frames = [frame for frame in read_transforms(path)[1] if isinstance(frame, dict)]
    listed = [name for frame in frames if isinstance(name := frame.get("file_path"), str)]
    found = PhotoNames(capture).find_all(capture, listed, path)
    return {file.relative_to(capture).as_posix() for file in found}


def _scene(capture: Path, files: Sequence[Path], faces: int | None) -> Scene:
    """The scene of the frames of one file, or of those of a training and a held-out one."""
    path = files[0]
    names, masks = PhotoNames(capture), MaskFiles(capture)
    broken: dict[str, str] = {}
    listed: list[_Listed] = []
    count = 0
    for file in files:
        whole, frames = read_transforms(file)
        count += len(frames)
        entries = []
        for number, frame in enumerate(frames):
            try:
                entries.append(_checked_frame(file, f"frame {number}", frame))
            except InputError as error:
                broken[f"{file.name} frame {number}"] = str(error)
        paths = names.find_all(capture, [_file_path(entry) for entry in entries], file)
        listed += [
            _Listed(
                found,
                found.relative_to(capture).as_posix(),
                entry,
                whole,
                _mask(names, capture, entry) or masks.find(found),
            )
            for found, entry in zip(paths, entries, strict=True)
        ]
    listed, doubled = _without_doubles(listed)
    broken |= doubled
    check_broken(broken, count, path)

    lost = tuple(entry.name for entry in listed if not entry.path.is_file())
    notes = left_out_note(lost, len(listed), path)
    notes += renamed_note(
        capture,
        [_file_path(entry.frame) for entry in listed],
        [entry.path for entry in listed],
        path,
    )
    recent = functools.lru_cache(maxsize=2)(read_image)  # panoramas, for their faces
    are_upright = _cameras_are_upright(capture, listed, path)
    views: list[FittedView] = []
    used: list[_Listed] = []
    for entry in listed:
        if not entry.path.is_file():
            continue
        check_may_read(entry.path)
        try:
            views += _views(entry, are_upright, faces or DEFAULT_FACES, recent)
            used.append(entry)
        except InputError as error:
            broken[entry.name] = str(error)
    notes += check_broken(broken, count, path) + _lens_note(used, path)
    photos = tuple(view.photo for view in views)
    whole = read_transforms(path)[0]
    origin = camera_origin([view.camera for view in views])
    points, remarks = _points(capture, whole, origin)
    return Scene(
        name=capture.resolve().name,
        format="transforms_json",
        photos=photos,
        cameras=tuple(to_local(view.camera, origin) for view in views),
        points=points,
        splits=_panorama_splits(listed, photos) or _splits(capture, whole, photos),
        applied_transform=_applied_transform(whole),
        notes=notes + remarks,
        lost_photos=(*lost, *broken),
        origin=origin,
        exact_viewmats=exact_viewmats_of([view.camera for view in views], origin),
    )


# Frames -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Listed:
    """A frame with the file it names: ``name`` is the path inside the capture; ``whole`` is the
    file that lists it, ``mask`` the photo's mask.
    """

    path: Path
    name: str
    frame: TransformsEntry
    whole: TransformsEntry
    mask: Path | None = None


def _checked_frame(path: Path, label: str, frame: object) -> TransformsEntry:
    """A frame that is an object and names a photo."""
    entry = TransformsEntry(path, label, json_object(path, label, frame))
    _file_path(entry)
    return entry


def _file_path(frame: TransformsEntry) -> str:
    file_path = frame.values.get("file_path")
    if not isinstance(file_path, str):
        raise InputError(
            f'{frame.source}: {frame.label} has "file_path" = {shortened(file_path)}; expected the '
            "path of a photo"
        )
    return file_path


def _mask(names: PhotoNames, capture: Path, frame: TransformsEntry) -> Path | None:
    """The mask that a frame names (``mask_path``), or None. Raises InputError if it is absent."""
    if not frame.has("mask_path"):
        return None
    listed = frame.values["mask_path"]
    if not isinstance(listed, str):
        raise frame.error("mask_path", "the path of a mask")
    found = names.find(capture, listed, frame.source)
    if not is_regular(found):
        raise InputError(
            f"{frame.source}: {frame.label} has the mask {listed[:80]}, which does not exist; "
            "expected a picture inside the capture's folder"
        )
    return found


def _without_doubles(listed: Sequence[_Listed]) -> tuple[list[_Listed], dict[str, str]]:
    """The frames sorted by photo, one per photo, and what is wrong with others, by photo: equal
    frames of one photo count once, frames of one photo that differ are all broken.
    """
    first: dict[str, _Listed] = {}
    broken: dict[str, str] = {}
    for entry in listed:
        if first.setdefault(entry.name, entry).frame.values != entry.frame.values:
            where = f"{entry.frame.source}: {entry.frame.label}"
            broken[entry.name] = (
                f"{where}: the photo {entry.name} is listed twice, with other values; expected one "
                "frame per photo"
            )
    good = [entry for name, entry in first.items() if name not in broken]
    return sorted(good, key=lambda entry: entry.name), broken


def _cameras_are_upright(capture: Path, listed: Sequence[_Listed], path: Path) -> bool:
    """Whether the cameras of photos with an EXIF orientation are of upright photos; False without
    points that could tell.
    """
    turned: list[tuple[Photo, Cameras]] = []
    for entry in listed:
        try:
            if entry.path.is_file() and exif_orientation(entry.path) != 1:
                photo = open_photo(entry.path, entry.name)
                turned.append((photo, frame_camera(entry.frame, entry.whole, stored_size(photo))))
        except InputError:  # told when the frame itself is read
            continue
    if not turned:
        return False
    origin = camera_origin([camera for _, camera in turned])
    points, _ = _points(capture, read_transforms(path)[0], origin)
    if points is None or not len(points):
        return False
    chosen = np.linspace(0, len(points) - 1, min(len(points), POINTS_COMPARED)).astype(int)
    xyz, rgb = points.xyz.numpy()[chosen] + np.array(origin), points.rgb.numpy()[chosen]
    return cameras_are_upright(((photo, camera, xyz, rgb) for photo, camera in turned), path)


def _views(
    listed: _Listed, are_upright: bool, faces: int, read: Callable[[Path], np.ndarray]
) -> list[FittedView]:
    """The view of a photo, or those of an equirectangular one's faces."""
    whole = listed.whole
    photo = open_photo(
        listed.path,
        listed.name,
        listed.mask,
        alpha="opacity" if whole.source.name in SYNTHETIC_NAMES else "mask",
    )
    if is_equirectangular(listed.frame, whole):
        photo = replace(photo, read=functools.partial(read, listed.path))
        return panorama_views(photo, torch.from_numpy(frame_viewmat(listed.frame)), faces)
    return [_view(listed, photo, are_upright)]


def _view(listed: _Listed, photo: Photo, are_upright: bool) -> FittedView:
    size = (photo.width, photo.height) if are_upright else stored_size(photo)
    camera = frame_camera(listed.frame, listed.whole, size)
    return fit_camera(photo, camera, listed.whole.source, are_upright)


def _lens_note(listed: Sequence[_Listed], source: Path) -> tuple[str, ...]:
    """One line about photos of a fisheye lens that has no distortion coefficients: calibrated ones
    have some, and the name may be a mistake.
    """
    ideal = [entry for entry in listed if is_ideal_fisheye(entry.frame, entry.whole)]
    if not ideal:
        return ()
    count = f"{len(ideal)} photos have" if len(ideal) > 1 else f"{ideal[0].name} has"
    return (
        f"{source.name}: {count} a fisheye lens without distortion coefficients (k1 to k4) and "
        "are read as of an ideal fisheye, whose radius grows with the angle; write PINHOLE where "
        "straight lines are straight in the photos",
    )


# What stands beside the frames --------------------------------------------------------------------


def _points(
    capture: Path, whole: TransformsEntry, origin: Origin
) -> tuple[SparsePoints | None, tuple[str, ...]]:
    """The points of the PLY file that ``whole`` names, else of ``sparse_pc.ply``; and remarks."""
    listed = whole.values.get("ply_file_path")
    if listed is None:
        path = capture / "sparse_pc.ply"
        if not is_regular(path):
            return None, ()
    elif isinstance(listed, str):
        path = path_inside(capture, listed, whole.source)
        if not path.exists():
            remark = f"{whole.source.name} names {listed[:80]}, which does not exist"
            return None, (f"{remark}: no sparse points",)
    else:
        raise whole.error("ply_file_path", "the path of a PLY file")
    cloud = read_points(path, origin)
    return SparsePoints.without_tracks(cloud.xyz, cloud.rgb), cloud.notes


def _applied_transform(whole: TransformsEntry) -> Float[Tensor, "3 4"] | None:
    """``applied_transform`` times ``applied_scale``: what led from the original world to the
    file's.
    """
    if not whole.has("applied_transform") and not whole.has("applied_scale"):
        return None
    transform = (
        whole.matrix("applied_transform", [(3, 4), (4, 4)])[:3]
        if whole.has("applied_transform")
        else np.eye(3, 4)
    )
    scale = whole.number("applied_scale") if whole.has("applied_scale") else 1.0
    return torch.from_numpy(scale * transform).to(torch.float32)


def _panorama_splits(listed: Sequence[_Listed], photos: tuple[Photo, ...]) -> dict[str, Split]:
    """Splits of whole panoramas, where all photos are faces; the file's own lists name panoramas,
    and are not taken over.
    """
    all_round = all(is_equirectangular(entry.frame, entry.whole) for entry in listed)
    return panorama_splits([photo.name for photo in photos]) if all_round else {}


def _splits(capture: Path, whole: TransformsEntry, photos: tuple[Photo, ...]) -> dict[str, Split]:
    """nerfstudio's train, validation and test lists as one split, if the file has them; photos that
    don't exist are left out.
    """
    if not whole.has("train_filenames"):
        return {}
    existing = {photo.name for photo in photos}
    names: dict[str, list[str]] = {key: [] for key in _SPLIT_LISTS}
    on_disk = PhotoNames(capture)
    for key in _SPLIT_LISTS:
        listed = whole.values.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise whole.error(key, "a list of photos")
        paths = (on_disk.find(capture, name, whole.source) for name in listed)
        names[key] = [
            name for path in paths if (name := path.relative_to(capture).as_posix()) in existing
        ]
    train = tuple(dict.fromkeys(names["train_filenames"]))
    heldout = tuple(
        name
        for name in dict.fromkeys(names["test_filenames"] or names["val_filenames"])
        if name not in train
    )
    return {"transforms": Split("transforms", train, heldout)}
