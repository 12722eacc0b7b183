"""Trajectories: camera paths from keyframes, and suggested paths into under-observed space.

In: keyframes with the time from each to the next, or splats with the captured cameras. Out: frames
of a path for ``--path FILE``. Suggested views are near captured cameras, have a mean opacity of 20
to 80 %, and can be reached without passing through a surface.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.camera_file import CameraFrame, write_cameras
from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.geometry.local_origin import WORLD, Origin
from artifixer.geometry.paths import alike, focus_point, short_order, timed
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.imaging.resize import fit_size
from artifixer.runtime.errors import InputError
from artifixer.scenes.camera_path_file import read_camera_path
from artifixer.scenes.foreign_paths import gaussian_cameras, nerfstudio_path
from artifixer.splats.render import render
from artifixer.splats.splats import Splats

PathFormat = Literal["artifixer", "nerfstudio", "3dgs"]

#: Maximum size of an uploaded path file in bytes; maximum number of frames of a path.
MAX_BYTES, MAX_FRAMES = 16 << 20, 2000

#: Range of the mean opacity of suggested views: below it a view is mostly empty, above it mostly
#: observed.
MIN_SEEN, MAX_SEEN = 0.2, 0.8

#: Number of suggested keyframes; offsets from the captured cameras, relative to the scene's
#: distance; number of captured cameras that are tried; longest side of the renders in pixels;
#: minimum distance between path and surfaces, relative to the scene's distance.
SUGGESTED, STEPS, TRIED, PROBE_SIZE, CLEARANCE = 6, (0.25, 0.5, 0.8), 12, 48, 0.05


@dataclass(frozen=True)
class Keyframe:
    """A view of the path."""

    camera: Cameras
    """A single view."""

    seconds: float = 2.0
    """Time to the next keyframe; unused for the last one."""

    photo: str | None = None
    """Name of the photo taken with this camera."""


@dataclass(frozen=True)
class Trajectory:
    """An immutable camera path; every edit returns a new one."""

    keyframes: tuple[Keyframe, ...] = ()
    """Keyframes in order."""

    fps: float = 12.0
    """Frames per second."""

    def added(self, keyframe: Keyframe) -> Trajectory:
        """With a keyframe appended."""
        return replace(self, keyframes=(*self.keyframes, keyframe))

    def removed(self, index: int) -> Trajectory:
        """Without a keyframe."""
        return replace(self, keyframes=self.keyframes[:index] + self.keyframes[index + 1 :])

    def moved(self, index: int, by: int) -> Trajectory:
        """With a keyframe moved by ``by`` places, limited to the ends."""
        keyframes = list(self.keyframes)
        keyframe = keyframes.pop(index)
        keyframes.insert(min(max(0, index + by), len(keyframes)), keyframe)
        return replace(self, keyframes=tuple(keyframes))

    def replaced(self, index: int, keyframe: Keyframe) -> Trajectory:
        """With a keyframe replaced."""
        keyframes = list(self.keyframes)
        keyframes[index] = keyframe
        return replace(self, keyframes=tuple(keyframes))

    def frames(self) -> list[CameraFrame]:
        """The frames of the path, all with the size and lens of the first keyframe; empty without
        keyframes.
        """
        if not self.keyframes:
            return []
        keys = alike([keyframe.camera for keyframe in self.keyframes])
        counts = [max(1, round(key.seconds * self.fps)) for key in self.keyframes[:-1]]
        while sum(counts) >= MAX_FRAMES:
            counts = [max(1, count // 2) for count in counts]
        path = timed(keys, counts)
        return [
            CameraFrame(path.cameras[i], None if stop is None else self.keyframes[stop].photo)
            for i, stop in enumerate(path.stops)
        ]


def path_bytes(
    trajectory: Trajectory, kind: PathFormat = "artifixer", origin: Origin = WORLD
) -> bytes:
    """The content of a path file. origin: origin that the cameras are relative to."""
    frames = trajectory.frames()
    if kind == "nerfstudio":
        return json.dumps(nerfstudio_path(frames, trajectory.fps, origin)).encode()
    if kind == "3dgs":
        return json.dumps(gaussian_cameras(frames, origin)).encode()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "path.json"
        write_cameras(file, frames, origin=origin)
        return file.read_bytes()


def loaded(content: bytes, name: str, fps: float, origin: Origin = WORLD) -> Trajectory:
    """A trajectory, relative to ``origin``, from a path file in any readable format; at most about
    25 of its frames become keyframes.

    name: of the file in messages. Raises ``InputError`` for other files.
    """
    if len(content) > MAX_BYTES:
        raise InputError(f"{name[:80]}: {len(content)} bytes; expected at most {MAX_BYTES}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "path.json"
        file.write_bytes(content)
        try:
            frames = read_camera_path(file, origin)
        except InputError as error:
            raise InputError(str(error).replace(str(file), name[:80])) from None
    step = max(1, -(-(len(frames) - 1) // 24))
    chosen = sorted({*range(0, len(frames), step), len(frames) - 1})
    gaps = [after - before for before, after in itertools.pairwise(chosen)] + [step]
    return Trajectory(
        tuple(
            Keyframe(frames[i].camera, gap / fps, frames[i].photo)
            for i, gap in zip(chosen, gaps, strict=True)
        ),
        fps,
    )


@dataclass(frozen=True)
class Suggestion:
    """A suggested path."""

    keyframes: tuple[Keyframe, ...]
    """Keyframes in order; empty if nothing was found."""

    notes: tuple[str, ...] = field(default=())
    """The reason why nothing was found."""


def suggest(
    splats: Splats, frames: Sequence[CameraFrame], distance: float, seconds: float = 2.0
) -> Suggestion:
    """A path into under-observed space, near the captured cameras.

    distance: typical distance of the content, world units. seconds: time between keyframes.
    """
    if not frames:
        return Suggestion((), ("there are no captured cameras",))
    views = alike([frame.camera for frame in frames])
    starts = views[torch.linspace(0, len(views) - 1, min(TRIED, len(views))).round().long()]
    small = starts.resized(*fit_size(views.width, views.height, PROBE_SIZE))
    # for a single view, a point in front of it at the typical distance
    focus = (
        focus_point(views)
        if len(views) > 1
        else views.centers[0] + distance * views.viewmats[0, 2, :3]
    )
    candidates = []
    for index in range(len(small)):
        for pose in _around(small[index], focus, distance):
            view = replace(small[index], viewmats=invert_rigid(pose)[None])
            if not _is_free(splats, small[index].centers[0], pose[:3, 3], small[index], distance):
                continue
            seen = float(_opacity(splats, view).mean())
            if MIN_SEEN <= seen <= MAX_SEEN:
                full = replace(starts[index], viewmats=view.viewmats)
                candidates.append((abs(seen - 0.5 * (MIN_SEEN + MAX_SEEN)), full))
    if not candidates:
        return Suggestion((), ("all views nearby are well observed or empty",))
    candidates.sort(key=lambda candidate: candidate[0])
    apart: list[Cameras] = []
    for _, view in candidates:
        if all(float((view.centers - other.centers).norm()) > 0.15 * distance for other in apart):
            apart.append(view)
    chosen = concatenate(apart[: 2 * SUGGESTED])
    ordered = [chosen[i] for i in short_order(chosen, distance)]
    kept = [ordered[0]]
    for view in ordered[1:]:
        if len(kept) < SUGGESTED and _is_free(
            splats, kept[-1].centers[0], view.centers[0], small[0], distance
        ):
            kept.append(view)
    return Suggestion(tuple(Keyframe(view, seconds) for view in kept))


def _around(
    camera: Cameras, focus: Float[Tensor, " 3"], distance: float
) -> list[Float[Tensor, "4 4"]]:
    """camera_to_world of views around a captured one (right, left, below, above, behind, in front),
    directed at the same point or with the same orientation.
    """
    pose = camera.camera_to_world[0]
    right, down, forward = pose[:3, 0], pose[:3, 1], pose[:3, 2]
    poses = []
    for step in STEPS:
        for direction in (right, -right, down, -down, -forward, forward):
            eye = pose[:3, 3] + step * distance * direction
            poses.append(look_at(eye, focus, -down))
            straight = pose.clone()
            straight[:3, 3] = eye
            poses.append(straight)
    return poses


def _is_free(
    splats: Splats,
    start: Float[Tensor, " 3"],
    end: Float[Tensor, " 3"],
    like: Cameras,
    distance: float,
) -> bool:
    """Whether the straight line between two positions is free: the depth of a narrow view from one
    to the other shows no surface in between.
    """
    length = float((end - start).norm())
    if length < 1e-6 * distance:
        return True
    side = 9
    # the view is as wide at the end as the clearance on both sides
    focal = 0.5 * side * length / (CLEARANCE * distance)
    K = torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
    up = -like.viewmats[0, 1, :3]
    view = Cameras.pinhole(invert_rigid(look_at(start, end, up))[None], K[None], side, side)
    with torch.no_grad():
        found = render(splats, view.to(splats.means.device), near=1e-3 * distance)
    surface = found.depth[found.opacity > 0.5]
    return not len(surface) or float(surface.min()) > length + CLEARANCE * distance


def _opacity(splats: Splats, view: Cameras) -> Tensor:
    with torch.no_grad():
        return render(splats, view.to(splats.means.device)).opacity
