"""A video of a place -> ``Scene``: sharp frames, evenly spread over the video, are kept as photos
and get poses by structure from motion.

The video is decoded twice, frame by frame: once to measure sharpness, once to keep what was
chosen::

    WORK/video-KEY/images/00042.png    the chosen frames, called after their number in the video
                                       (appear at once, when complete)
    WORK/video-KEY/sfm-KEY/...         structure from motion, see ``photos.py``

KEY follows from the video's content and ``VideoConfig``.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from artifixer.imaging.resize import fit_size, resize_photo
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import write_png
from artifixer.runtime.stopping import stop_at_once
from artifixer.runtime.video_files import read_video
from artifixer.scenes import panoramas, photos
from artifixer.scenes.panoramas import PanoramaConfig
from artifixer.scenes.scene import Scene
from artifixer.scenes.sfm import SfmConfig

#: File endings taken for videos, lower case.
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")

#: Sharpness is measured on copies of this many pixels on the longest side: compression noise is
#: smaller than their pixels.
SHARPNESS_SIDE = 320


@dataclass(frozen=True)
class VideoConfig:
    """Which frames become photos."""

    frames: int = 80
    """Maximum number of frames, spread over the whole video."""

    longest_side: int = 1920
    """Maximum length of the longest side in pixels; larger frames are reduced."""

    panorama_frames: int = 40
    """``frames`` for equirectangular videos, whose frames become several views each."""

    panorama_side: int = 3840
    """``longest_side`` for equirectangular videos."""

    sfm: SfmConfig = field(default_factory=lambda: SfmConfig(exhaustive_photos=24))
    """Settings of structure from motion. Frames are matched with their neighbours in time; only a
    few evenly spaced ones are matched exhaustively."""


def is_video(path: Path) -> bool:
    """Whether ``path`` is a file with a video's ending."""
    return (
        path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and is_regular(path)
    )


def find_video(capture: Path) -> Path | None:
    """The only video in a capture's folder, or None."""
    videos = [path for path in capture.iterdir() if is_video(path)]
    return videos[0] if len(videos) == 1 else None


def load(
    path: Path,
    work_folder: Path | None = None,
    config: VideoConfig = VideoConfig(),
    log: Callable[[str], None] = lambda text: None,
    faces: int | None = None,
) -> Scene:
    """The scene of a video file; photos are called ``images/00042.png``.

    faces: perspective views of each equirectangular frame; None for the default where the video is
    recognised as one of all directions. work_folder: keeps frames and poses for the next time; None
    keeps the frames in memory.
    log: gets one line per step.
    Raises InputError for videos that cannot be read to their end, of fewer than two frames, and
    when structure from motion fails.
    """
    if work_folder is not None:
        return _scene(path, work_folder, config, log, faces)
    with tempfile.TemporaryDirectory() as temporary:
        scene = _scene(path, Path(temporary), config, log, faces)
        return scene.with_photos([photo.in_memory() for photo in scene.photos], scene.cameras)


def sharp_frames(sharpness: Sequence[float], count: int) -> list[int]:
    """Positions of ``count`` frames: the sharpest of each of ``count`` equal parts of the video;
    all where there are no more.
    """
    if len(sharpness) <= count:
        return list(range(len(sharpness)))
    borders = [part * len(sharpness) // count for part in range(count + 1)]
    return [
        start + int(np.argmax(sharpness[start:end])) for start, end in itertools.pairwise(borders)
    ]


def frame_sharpness(frame: UInt8[np.ndarray, "height width 3"]) -> float:
    """Mean squared difference of neighbouring grey values of a reduced copy: blur lowers it."""
    height, width = frame.shape[:2]
    grey = resize_photo(frame, *fit_size(width, height, SHARPNESS_SIDE)).mean(axis=2)
    return float(np.square(np.diff(grey, axis=0)).mean() + np.square(np.diff(grey, axis=1)).mean())


def _scene(
    path: Path,
    work_folder: Path,
    config: VideoConfig,
    log: Callable[[str], None],
    faces: int | None,
) -> Scene:
    stage = work_folder / f"video-{fingerprint(config, path)[:16]}"
    try:
        return _staged_scene(path, stage, config, log, faces)
    except InputError as error:  # of files that the user does not know of
        text = str(error)
        for inner in (stage / "images", stage):
            text = text.replace(f"{inner}:", f"{path}:")
        raise InputError(text) from error


def _staged_scene(
    path: Path,
    stage: Path,
    config: VideoConfig,
    log: Callable[[str], None],
    faces: int | None,
) -> Scene:
    folder = stage / "images"
    if not folder.is_dir():
        with stop_at_once():
            _keep_frames(path, stage, folder, config, log)
    if faces is not None or panoramas.find_panoramas(stage) is not None:
        panorama = PanoramaConfig() if faces is None else PanoramaConfig(faces=faces)
        scene = panoramas.load(stage, folder, stage, panorama, log)
    else:
        scene = photos.load(stage, folder, stage, config.sfm, log)
    return replace(scene, name=path.stem, format="video")


def _keep_frames(
    path: Path, stage: Path, folder: Path, config: VideoConfig, log: Callable[[str], None]
) -> None:
    """Writes the chosen frames into ``folder``, which exists only when they are all there."""
    log(f"video: looking for sharp frames in {path.name}")
    frames, side = config.frames, config.longest_side
    sharpness: list[float] = []
    for frame in read_video(path):
        if not sharpness and frame.shape[1] == 2 * frame.shape[0]:
            frames, side = config.panorama_frames, config.panorama_side
        sharpness.append(frame_sharpness(frame))
    if len(sharpness) < 2:
        raise InputError(
            f"{path}: the video has {counted(len(sharpness), 'frame')}; expected at least 2"
        )
    chosen = set(sharp_frames(sharpness, frames))
    log(f"video: keeping {len(chosen)} of {len(sharpness)} frames")
    stage.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=stage) as scratch:
        unfinished = Path(scratch) / "images"
        unfinished.mkdir()
        for number, frame in enumerate(read_video(path)):
            if number in chosen:
                height, width = frame.shape[:2]
                write_png(
                    unfinished / f"{number:05d}.png",
                    resize_photo(frame, *fit_size(width, height, side)),
                )
        unfinished.rename(folder)
