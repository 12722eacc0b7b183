"""COLMAP models -> ``Scene``.

A model is ``cameras``, ``images`` and ``points3D`` (``.bin`` or ``.txt``) in ``sparse/0``,
``sparse`` or the capture's folder itself (``colmap_folders.py``); photos lie in ``images/`` or in
the capture's folder. Newer COLMAP adds ``rigs`` and ``frames``; ``images`` still holds every pose,
so they are not needed.
COLMAP's conventions are ours: world_to_camera, OpenCV axes, first pixel centre at 0.5.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8

from artifixer.geometry.cameras import DISTORTION_NAMES, Cameras
from artifixer.geometry.local_origin import Origin, camera_origin, points_to_local, to_local
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.scenes.colmap_files import read_model
from artifixer.scenes.colmap_folders import other_models_note, photo_home
from artifixer.scenes.colmap_lenses import LENSES
from artifixer.scenes.colmap_model import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints
from artifixer.scenes.mask_files import MaskFiles
from artifixer.scenes.photo_files import (
    FittedView,
    cameras_are_upright,
    check_broken,
    check_may_read,
    fit_camera,
    left_out_note,
    no_photos,
    open_photo,
)
from artifixer.scenes.photo_names import PhotoNames, renamed_note, unlisted_note
from artifixer.scenes.point_cloud import read_points
from artifixer.scenes.scene import Photo, Scene, SparsePoints, exact_viewmats_of

#: Folders of a capture that photos of a model may lie in, in the order of preference among equally
#: complete ones.
_PHOTO_FOLDERS = ("images", ".", "input", "images_2", "images_4", "images_8")


class _ObservingView(NamedTuple):
    """A view of the scene, and the model's image, which lists the points that it observes."""

    image: ColmapImage
    fitted: FittedView


#: Points whose colours are compared with the photos where no photo lists the points that it shows.
POINTS_COMPARED = 2000


def load(capture: Path, model_folder: Path, upright: Collection[Path] | None = None) -> Scene:
    """The scene of the COLMAP model in ``model_folder``, photos sorted by name.

    Photos keep the names that they have inside the capture (``images/0001.jpg``). upright: photos
    whose cameras describe the upright pixels (after EXIF), where the caller knows. Raises
    InputError for truncated or inconsistent files, lens models that ``Cameras`` doesn't know,
    unreadable photos and photos that don't fit their cameras.
    """
    model = read_model(model_folder)
    source = model.images_file
    images = sorted(model.images, key=lambda image: image.name)
    listed = [image.name for image in images]
    broken = dict(model.broken)
    check_broken(broken, len(images) + len(broken), source)
    home = photo_home(capture, model_folder)
    top = capture
    if capture == model_folder and home != capture:
        capture = home  # the model's own folder was given
    names = PhotoNames(capture)
    roots = [
        home / folder
        for folder in _PHOTO_FOLDERS
        if folder in ("images", ".") or (home / folder).is_dir()
    ]
    in_roots = [names.find_all(root, listed, source) for root in roots]
    counts = [sum(map(is_regular, paths)) for paths in in_roots]
    if not any(counts):
        if not images:
            raise no_photos(source)
        raise InputError(
            f"{source}: none of the {len(images)} listed photos (first: {images[0].name}) is in "
            f"{home / 'images'} or {home}"
        )
    paths = in_roots[int(np.argmax(counts))]
    lost = tuple(_relative(capture, path) for path in paths if not is_regular(path))
    notes = left_out_note(lost, len(images), source)
    notes += other_models_note(top, model_folder)
    notes += renamed_note(capture, listed, paths, source)

    masks = MaskFiles(capture)
    views: list[FittedView] = []
    observing: list[_ObservingView] = []
    opened: list[tuple[ColmapImage, Photo, Cameras]] = []
    for image, path in zip(images, paths, strict=True):
        if not path.is_file():
            continue
        check_may_read(path)
        try:
            photo = open_photo(path, path.relative_to(capture).as_posix(), masks.find(path))
            camera = to_cameras(model.cameras[image.camera_id], image, source)
            opened.append((image, photo, camera))
        except InputError as error:
            broken[image.name] = str(error)
    are_upright = upright is None and cameras_are_upright(
        ((photo, camera, *_observed(model, image)) for image, photo, camera in opened), source
    )
    for image, photo, camera in opened:
        try:
            is_upright = are_upright or photo.path in (upright or ())
            views.append(fit_camera(photo, camera, source, is_upright))
            observing.append(_ObservingView(image, views[-1]))
        except InputError as error:
            broken[image.name] = str(error)
    notes += check_broken(broken, len(images) + len(model.broken), source) + model.notes
    if are_upright:
        notes += (
            f"{source.name}: photos have an EXIF orientation, and their cameras describe the "
            "upright photos",
        )
    out = names.find_all(roots[int(np.argmax(counts))], [*model.broken], source)
    found = [path for path in (*paths, *out) if is_regular(path)]
    notes += unlisted_note(capture, found, source)
    place = dict(zip((*listed, *model.broken), (*paths, *out), strict=True))
    lost += tuple(_relative(capture, place[name]) for name in broken)
    origin = camera_origin([view.camera for view in views])
    points, remarks = _points(model, observing, origin)
    photos: tuple[Photo, ...] = tuple(view.photo for view in views)
    cameras = tuple(to_local(view.camera, origin) for view in views)
    return Scene(
        capture.resolve().name,
        "colmap",
        photos,
        cameras,
        points,
        notes=notes + remarks,
        lost_photos=lost,
        origin=origin,
        exact_viewmats=exact_viewmats_of([view.camera for view in views], origin),
    )


def _relative(capture: Path, path: Path) -> str:
    """The name of a photo inside the capture; as it is for one that is listed elsewhere and not
    found.
    """
    return path.relative_to(capture).as_posix() if path.is_relative_to(capture) else path.as_posix()


# Cameras ------------------------------------------------------------------------------------------


def to_cameras(camera: ColmapCamera, image: ColmapImage, source: Path) -> Cameras:
    """One image's camera as a batch of one, in float64.

    Raises InputError for lens models that can't be mapped; ``source`` is named in the message.
    """
    lens = LENSES[camera.model]
    if lens.model is None:
        known = ", ".join(name for name, entry in LENSES.items() if entry.model is not None)
        raise InputError(
            f"{source}: camera {image.camera_id} has the lens model {camera.model}, which cannot "
            f"be mapped; expected one of {known}. "
            "Undistort the photos first (colmap image_undistorter)"
        )
    value = dict(zip(lens.parameters, camera.parameters, strict=True))
    fx, fy = value.get("fx", value.get("f", 0.0)), value.get("fy", value.get("f", 0.0))
    viewmat = np.eye(4)
    viewmat[:3, :3] = _rotation(image.quaternion)
    viewmat[:3, 3] = image.translation
    K = np.array([[fx, 0, value["cx"]], [0, fy, value["cy"]], [0, 0, 1]])
    distortion = np.array([value.get(name, 0.0) for name in DISTORTION_NAMES])
    one_view = [
        torch.from_numpy(array[None].astype(np.float64)) for array in (viewmat, K, distortion)
    ]
    return Cameras(one_view[0], one_view[1], camera.width, camera.height, lens.model, one_view[2])


def _rotation(quaternion: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of a quaternion (wxyz), normalised first."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


# Points -------------------------------------------------------------------------------------------


def _observed(
    model: ColmapModel, image: ColmapImage
) -> tuple[Float[np.ndarray, "points 3"], UInt8[np.ndarray, "points 3"]]:
    """Positions and colours of the points that an image observes; of some of all points if the
    model has no observations.
    """
    ids = image.point_ids[image.point_ids >= 0]
    if model.points is None:
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    if len(model.points.track_row):
        rows = np.flatnonzero(np.isin(model.points.ids, ids))
    else:
        rows = np.arange(0, len(model.points.ids), 1 + len(model.points.ids) // POINTS_COMPARED)
    return model.points.xyz[rows], model.points.rgb[rows]


def _points(
    model: ColmapModel, views: Sequence[_ObservingView], origin: Origin
) -> tuple[SparsePoints | None, tuple[str, ...]]:
    """The model's points, else those of ``points3D.ply`` beside it, relative to
    ``origin``; and remarks on them."""
    beside = model.folder / "points3D.ply"
    if (model.points is None or not len(model.points.ids)) and is_regular(beside):
        cloud = read_points(beside, origin)
        points = SparsePoints.without_tracks(cloud.xyz, cloud.rgb)
        remark = f"{counted(len(points), 'point')} of {beside.name}, which tells no observations"
        return points, (remark, *cloud.notes)
    if model.points is None:
        return None, (f"{model.folder} has no points3D file: no sparse points",)
    points = _sparse_points(model.points, views, origin)
    if points.has_tracks:
        return points, ()
    return points, (f"{model.folder}: no photo observes a sparse point",)


def _sparse_points(
    points: ColmapPoints, views: Sequence[_ObservingView], origin: Origin
) -> SparsePoints:
    """Points relative to ``origin`` with their observations. views: the scene's, in its order."""
    by_id = np.argsort(points.ids, kind="stable")
    point_rows, view_rows, pixels = (
        [np.zeros(0, np.int64)],
        [np.zeros(0, np.int64)],
        [np.zeros((0, 2))],
    )
    for view, (image, fitted) in enumerate(views):
        observing = image.point_ids >= 0
        point_rows.append(
            by_id[np.searchsorted(points.ids, image.point_ids[observing], sorter=by_id)]
        )
        view_rows.append(np.full(observing.sum(), view))
        pixels.append(
            image.keypoints[observing] @ fitted.pixel_map[:, :2].T + fitted.pixel_map[:, 2]
        )
    return SparsePoints(
        xyz=points_to_local(points.xyz, origin),
        rgb=torch.from_numpy(points.rgb),
        observed_point=torch.from_numpy(np.concatenate(point_rows)),
        observed_view=torch.from_numpy(np.concatenate(view_rows)),
        observed_pixel=torch.from_numpy(np.concatenate(pixels)).to(torch.float32),
    )
