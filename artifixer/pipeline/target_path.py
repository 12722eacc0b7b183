"""The target cameras of a run: ``--path`` -> frames in the order of the video.

The path depends on the capture alone and not on the splats, so that it is known in advance and does
not change with the reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.paths import (
    CameraPath,
    alike,
    focus_point,
    orbit,
    spline,
    tour,
    typical_distance,
)
from artifixer.imaging.resize import fit_size, multiple_of_16
from artifixer.pipeline.capture import LoadedCapture
from artifixer.pipeline.render import PATHS
from artifixer.runtime.errors import InputError
from artifixer.scenes.camera_path_file import read_camera_path
from artifixer.scenes.scene import Photo

#: Maximum differences between cameras that count as equal: of rotation entries and relative
#: positions, and of relative intrinsics.
SAME_POSE, SAME_LENS = 1e-4, 1e-3


def target_frames(
    capture: LoadedCapture, path: str | None, size: str | None = None, orbit_frames: int = 120
) -> list[CameraFrame]:
    """The frames of a path, of one size and lens model; a frame at the camera of a photo has the
    photo's name.

    path: one of ``PATHS`` or a camera file. None: ``tour`` through the held-out cameras, or
    ``spline`` if there are none. size: for the cameras of a file. orbit_frames: number of frames of
    an orbit. Raises ``InputError`` for an unknown path or unusable file, and if all target cameras
    are those of training photos.
    """
    scene, chosen = capture.scene, path or default_path(capture)
    if chosen not in PATHS:
        if not Path(chosen).exists():
            raise InputError(
                f"--path {chosen}: neither one of {', '.join(PATHS)} nor a file of cameras"
            )
        first = scene.photos[0]
        known = read_camera_path(Path(chosen), scene.origin, (first.width, first.height))
        frames = [_resized(frame, size) for frame in known]
        views = alike([frame.camera for frame in frames])
        frames = [CameraFrame(views[index], frame.photo) for index, frame in enumerate(frames)]
    else:
        indices = (
            capture.heldout if chosen in ("heldout", "tour") else tuple(range(len(scene.photos)))
        )
        if chosen == "tour" and not indices:
            indices = capture.training
        if not indices:
            raise _nothing_to_enhance(f"--path {chosen}: no photo is held out")
        views = alike([scene.cameras[i] for i in indices])
        names = [scene.photos[i].name for i in indices]
        frames = [
            CameraFrame(camera, None if stop is None else names[stop])
            for camera, stop in _followed(capture, chosen, views, orbit_frames)
        ]
    frames = [CameraFrame(frame.camera, _photo_at(frame, capture)) for frame in frames]
    trained = {scene.photos[i].name for i in capture.training}
    if all(frame.photo in trained for frame in frames):
        raise _nothing_to_enhance(
            f"--path {chosen}: all target cameras ({len(frames)}) are those of training photos"
        )
    return frames


def default_path(capture: LoadedCapture) -> str:
    """The default of ``--path``."""
    return "tour" if capture.heldout else "spline"


def heldout_frames(
    frames: Sequence[CameraFrame], capture: LoadedCapture
) -> list[tuple[int, Photo]]:
    """(index of the frame, photo) of the held-out photos on the path, in the capture's order."""
    found: dict[str | None, int] = {}
    for index, frame in enumerate(frames):
        found.setdefault(frame.photo, index)
    photos = (capture.scene.photos[i] for i in capture.heldout)
    return [(found[photo.name], photo) for photo in photos if photo.name in found]


def render_frames(frames: Sequence[CameraFrame]) -> list[CameraFrame]:
    """The frames at the nearest size that the video model accepts."""
    return [
        CameraFrame(
            frame.camera.resized(*multiple_of_16(frame.camera.width, frame.camera.height)),
            frame.photo,
        )
        for frame in frames
    ]


def capture_distance(capture: LoadedCapture) -> float:
    """Typical distance of the scene's content from the cameras in world units, from the sparse
    points or else from the point that the cameras look at.
    """
    views = alike(capture.scene.cameras)
    points = capture.scene.points
    distance = typical_distance(views, points.xyz) if points is not None and len(points) else None
    if distance is None:
        distance = float((views.centers - focus_point(views)).norm(dim=1).median())
    return distance if distance > 0 else 1.0


def _followed(
    capture: LoadedCapture, path: str, views: Cameras, orbit_frames: int
) -> Iterator[tuple[Cameras, int | None]]:
    """Cameras of a named path, each with the index of the view at this camera or None."""
    match path:
        case "heldout":
            found = CameraPath(views, tuple(range(len(views))))
        case "tour":
            found = tour(views, capture_distance(capture))
        case "spline":
            found = spline(views, capture_distance(capture))
        case _:
            found = orbit(views, orbit_frames)
    for index, stop in enumerate(found.stops):
        yield found.cameras[index], stop


def _photo_at(frame: CameraFrame, capture: LoadedCapture) -> str | None:
    """The name of the frame's photo if the capture has an equal camera for it, otherwise None."""
    scene = capture.scene
    matches = [index for index, photo in enumerate(scene.photos) if photo.name == frame.photo]
    if not matches:
        return None
    there = scene.cameras[matches[0]]
    here = frame.camera.resized(there.width, there.height)
    turn = (here.viewmats[0, :3, :3] - there.viewmats[0, :3, :3]).abs().max()
    shift = (here.centers - there.centers).norm() / (1e-6 + there.centers.norm())
    lens = ((here.Ks - there.Ks).abs() / there.Ks.abs().clamp(min=1)).max()
    bend = (here.distortion - there.distortion).abs().max()
    is_same = (
        here.model == there.model
        and max(float(turn), float(shift)) <= SAME_POSE
        and max(float(lens), float(bend)) <= SAME_LENS
    )
    return frame.photo if is_same else None


def _nothing_to_enhance(reason: str) -> InputError:
    return InputError(
        f"{reason}, so there is nothing to enhance; give --path tour, spline, orbit or a camera "
        "file, or another split"
    )


def _resized(frame: CameraFrame, size: str | None) -> CameraFrame:
    return CameraFrame(
        frame.camera.resized(*fit_size(frame.camera.width, frame.camera.height, size)), frame.photo
    )
