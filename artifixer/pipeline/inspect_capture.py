"""Capture -> its content and its problems (``Inspection``), for ``artifixer inspect``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import DISTORTION_NAMES, Cameras
from artifixer.pipeline.capture import CaptureChoice
from artifixer.pipeline.inspection import (
    INSPECTION_VERSION,
    Inspection,
    LensGroup,
    PointSummary,
    Range,
    SplitSummary,
)
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.video_files import read_video
from artifixer.scenes import photos, transforms_json
from artifixer.scenes.formats import (
    PROCEDURAL_PREFIX,
    VIDEO,
    check_no_model,
    find_format,
    load_scene,
    masks_note,
    readable,
)
from artifixer.scenes.panorama_faces import check_faces
from artifixer.scenes.photo_files import check_broken, unread_note
from artifixer.scenes.pose_check import check_poses
from artifixer.scenes.scale import observed_depths
from artifixer.scenes.scene import Photo, Scene, SparsePoints
from artifixer.scenes.video_file import VideoConfig

#: Median reprojection error in pixels above which cameras and points are reported as inconsistent.
DOUBTFUL_REPROJECTION = 2.0

#: Range of horizontal fields of view in degrees; outside of it a focal length is probably wrong.
USUAL_FIELD_OF_VIEW = (5.0, 170.0)


def inspect_capture(
    capture: str | CaptureChoice, *, find_poses: bool = False, read_photos: bool = True
) -> Inspection:
    """Inspect a capture: a folder, a transforms file, a video, or ``procedural:SEED``.

    find_poses: run structure from motion if the capture has no poses (minutes). read_photos: decode
    every photo to find damaged ones. Raises InputError for captures that cannot be used at all.
    """
    choice = CaptureChoice(capture) if isinstance(capture, str) else capture
    capture, path = choice.capture, Path(choice.capture)
    check_faces(choice.faces)
    if (
        not find_poses
        and not capture.startswith(PROCEDURAL_PREFIX)
        and not transforms_json.is_transforms(path)
    ):
        with readable(path):
            found, start = find_format(path)
            if not found.has_poses and choice.sparse_model is not None:
                check_no_model(capture, choice.sparse_model)
            if found is VIDEO:
                return _video_without_poses(start)
            if not found.has_poses:
                found_photos = _photos_without_poses(path, start, choice, read_photos)
                return replace(found_photos, format=found.name)
    scene = load_scene(
        capture,
        faces=choice.faces,
        sparse_model=choice.sparse_model,
        ignore_masks=choice.ignore_masks,
    )
    return inspect_scene(scene, read_photos=read_photos)


def inspect_scene(scene: Scene, *, read_photos: bool = True) -> Inspection:
    """Inspect a loaded scene."""
    depths = observed_depths(scene, range(len(scene.photos)))
    points = None if scene.points is None else _point_summary(scene, scene.points)
    problems = [
        *_camera_problems(scene),
        *_point_problems(scene, points),
        *(
            _refused(problem.text) if problem.is_certain else problem.text
            for problem in check_poses(scene, read_photos=read_photos)
        ),
        *(_photo_problems(scene.photos) if read_photos else ()),
    ]
    centers = torch.cat([camera.centers for camera in scene.cameras])
    return Inspection(
        version=INSPECTION_VERSION,
        name=scene.name,
        format=scene.format,
        photos=len(scene.photos),
        lost_photos=scene.lost_photos,
        sizes=_sizes(scene.photos),
        has_poses=True,
        lenses=_lens_groups(scene.cameras),
        camera_spread=float((centers - centers.mean(dim=0)).norm(dim=1).mean()),
        points=points,
        median_depth=float(depths.median()) if len(depths) else None,
        splits=tuple(
            SplitSummary(split.name, len(split.train), len(split.heldout))
            for split in scene.splits.values()
        ),
        notes=scene.notes,
        problems=tuple(problems),
    )


def _refused(problem: str) -> str:
    """Text of a problem that ``run`` and ``reconstruct`` refuse."""
    return f"refused by run and reconstruct: {problem}"


def _photos_without_poses(
    capture: Path, folder: Path, choice: CaptureChoice, read_photos: bool
) -> Inspection:
    """Inspect photos without poses."""
    opened, broken = photos.readable_photos(capture, folder, choice.ignore_masks)
    notes: tuple[str, ...] = (f"there are no poses yet: {_POSES_FOLLOW}",)
    problems = list(_photo_problems(opened)) if read_photos else []
    try:
        notes += check_broken(broken, len(opened) + len(broken), folder / "photos")
    except InputError as error:
        problems.append(_refused(f"too few photos can be read: {error}"))
    notes += unread_note(folder.iterdir()) + masks_note(opened)
    return replace(
        _without_poses(
            capture.resolve().name,
            "photos",
            len(opened),
            _sizes(opened),
            notes,
            tuple(problems),
        ),
        lost_photos=tuple(broken),
    )


def _video_without_poses(path: Path) -> Inspection:
    """Inspect a video."""
    frames, size = 0, "no size"
    for frame in read_video(path):
        frames += 1
        size = f"{frame.shape[1]}x{frame.shape[0]}"
    kept = min(frames, VideoConfig().frames)
    note = (
        f"the video has {counted(frames, 'frame')}, of which {kept} sharp ones become photos; "
        f"there are no poses yet: {_POSES_FOLLOW}"
    )
    problems = () if frames > 1 else (_refused("the video has fewer than 2 frames"),)
    return _without_poses(path.stem, "video", kept, {size: kept}, (note,), problems)


_POSES_FOLLOW = (
    "reconstruct finds them by structure from motion (inspect --find-poses tries it now)"
)


def _without_poses(
    name: str,
    format: str,
    count: int,
    sizes: dict[str, int],
    notes: tuple[str, ...],
    problems: tuple[str, ...],
) -> Inspection:
    return Inspection(
        version=INSPECTION_VERSION,
        name=name,
        format=format,
        photos=count,
        lost_photos=(),
        sizes=sizes,
        has_poses=False,
        lenses=(),
        camera_spread=None,
        points=None,
        median_depth=None,
        splits=(),
        notes=notes,
        problems=problems,
    )


def _sizes(opened: Sequence[Photo]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for photo in opened:
        size = f"{photo.width}x{photo.height}"
        sizes[size] = sizes.get(size, 0) + 1
    return sizes


# Cameras ------------------------------------------------------------------------------------------


def _lens_groups(cameras: Sequence[Cameras]) -> tuple[LensGroup, ...]:
    kinds: dict[tuple[int, int, str], list[Cameras]] = {}
    for camera in cameras:
        kinds.setdefault((camera.width, camera.height, camera.model), []).append(camera)
    return tuple(_lens_group(*kind, members) for kind, members in kinds.items())


def _lens_group(width: int, height: int, model: str, members: Sequence[Cameras]) -> LensGroup:
    Ks = torch.cat([camera.Ks for camera in members])
    distortion = torch.cat([camera.distortion for camera in members])
    used = (distortion != 0).any(dim=0).tolist()
    return LensGroup(
        width=width,
        height=height,
        model=model,
        views=len(members),
        focal_x=_range(Ks[:, 0, 0]),
        focal_y=_range(Ks[:, 1, 1]),
        center_x=_range(Ks[:, 0, 2]),
        center_y=_range(Ks[:, 1, 2]),
        field_of_view=_range(_field_of_view(Ks[:, 0, 0], width, model)),
        distortion={
            name: _range(column)
            for name, column, is_used in zip(DISTORTION_NAMES, distortion.T, used, strict=True)
            if is_used
        },
    )


def _field_of_view(
    focal: Float[Tensor, " views"], width: int, model: str
) -> Float[Tensor, " views"]:
    """Horizontal field of view in degrees, for a principal point at the centre."""
    half = width / 2 / focal
    return torch.rad2deg(2 * (half if model == "fisheye" else torch.atan(half)))


def _range(values: Float[Tensor, " views"]) -> Range:
    return float(values.min()), float(values.max())


def _camera_problems(scene: Scene) -> Iterator[str]:
    centers = torch.cat([camera.centers for camera in scene.cameras])
    if torch.equal(centers, centers[:1].expand_as(centers)):
        yield "all cameras are at the same position: depth cannot be estimated"
    narrow, wide = USUAL_FIELD_OF_VIEW
    odd = [
        photo.name
        for photo, camera in zip(scene.photos, scene.cameras, strict=True)
        if not narrow
        <= float(_field_of_view(camera.Ks[:, 0, 0], camera.width, camera.model))
        <= wide
    ]
    if odd:
        yield (
            f"{_counted(odd)} a field of view outside {narrow:g} to {wide:g} degrees: "
            "is the focal length right?"
        )
    outside = [
        photo.name
        for photo, camera in zip(scene.photos, scene.cameras, strict=True)
        if not (
            0 <= camera.Ks[0, 0, 2] <= camera.width and 0 <= camera.Ks[0, 1, 2] <= camera.height
        )
    ]
    if outside:
        yield f"{_counted(outside)} the optical axis outside the photo"


def _counted(names: Sequence[str]) -> str:
    """Subject and verb of a sentence about one or several photos."""
    return (
        f"{names[0]} has"
        if len(names) == 1
        else f"{counted(len(names), 'photo')} ({names[0]} first) have"
    )


# Points -------------------------------------------------------------------------------------------


def _point_summary(scene: Scene, points: SparsePoints) -> PointSummary:
    observations = points.observed_point.numel()
    errors = _reprojection_errors(scene, points)
    return PointSummary(
        points=len(points),
        observations=observations,
        views_per_point=observations / len(points) if len(points) else 0.0,
        reprojection_error=float(errors.median()) if errors.numel() else None,
    )


def _reprojection_errors(scene: Scene, points: SparsePoints) -> Float[Tensor, " observations"]:
    """Distance in pixels between each observation and the projection of its point; infinite behind
    the camera.
    """
    errors = [torch.zeros(0, dtype=torch.float64)]
    for view, camera in enumerate(scene.cameras):
        of_view = points.observed_view == view
        xyz = points.xyz[points.observed_point[of_view]].to(torch.float64)
        pixels, _, is_imaged = camera.to(dtype=torch.float64).project(xyz)
        distance = (pixels[0] - points.observed_pixel[of_view]).norm(dim=-1)
        errors.append(distance.where(is_imaged[0], torch.inf))
    return torch.cat(errors)


def _point_problems(scene: Scene, points: PointSummary | None) -> Iterator[str]:
    if points is None or not points.points:
        yield "there are no sparse points: the reconstruction starts from random ones"
        return
    if points.reprojection_error is not None and points.reprojection_error > DOUBTFUL_REPROJECTION:
        yield (
            f"sparse points project {points.reprojection_error:.3g} pixels (median) away from "
            "where they were observed: "
            "cameras, photos and points are inconsistent"
        )
    if points.observations and scene.points is not None:
        seen = torch.bincount(scene.points.observed_view, minlength=len(scene.photos))
        blind = [
            photo.name
            for photo, count in zip(scene.photos, seen.tolist(), strict=True)
            if not count
        ]
        if blind:
            yield f"{_counted(blind)} no sparse point in view"


# Photos -------------------------------------------------------------------------------------------


def _photo_problems(opened: Iterable[Photo]) -> Iterator[str]:
    for photo in opened:
        try:
            photo.read()
            if photo.mask is not None and not photo.mask().any():
                yield f"{photo.name}: its mask covers the whole photo, which is then not used"
        except InputError as error:
            yield str(error)
