"""Capture, split and size as the user chooses them -> a loaded scene; identity of a capture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from artifixer.runtime.errors import InputError
from artifixer.scenes.formats import PROCEDURAL_PREFIX, load_scene, readable
from artifixer.scenes.identity import capture_fingerprint
from artifixer.scenes.pose_check import check_poses
from artifixer.scenes.resize_scene import resize_scene
from artifixer.scenes.scene import Scene, Split
from artifixer.scenes.splits import choose_split

#: By default every 8th photo is held out, as is usual in the field, and every 4th of captures with
#: fewer photos than ``SMALL_CAPTURE``.
DEFAULT_SPLIT = "every_8"
SMALL_CAPTURE_SPLIT = "every_4"
SMALL_CAPTURE = 16

#: Folder of resized photos in a run folder.
CACHE = "cache"


@dataclass(frozen=True)
class CaptureChoice:
    """A capture, its split and the size of its photos. At most one of ``split``, ``views``,
    ``train_list`` and ``all_views`` is given.
    """

    capture: str
    """A folder, a video file, or ``procedural:SEED``."""
    split: str | None = None
    """A named split."""
    views: int | None = None
    """Train on this many photos."""
    train_list: Path | None = None
    """A file with the names of the training photos."""
    all_views: bool = False
    """Train on all photos."""
    size: str | None = None
    """Longest side in pixels or ``WxH``; None keeps the photos' own size."""
    faces: int | None = None
    """Number of perspective views per equirectangular photo; None for the default number, for
    photos that are recognised as equirectangular."""
    sparse_model: int | None = None
    """Which COLMAP model to use when a capture has several; None for the largest."""
    ignore_masks: bool = False
    """Whether masks and alpha channels are ignored."""


@dataclass(frozen=True)
class LoadedCapture:
    """A loaded and resized scene with its split."""

    scene: Scene
    """Photos and cameras at the chosen size."""
    split: Split
    """Names of the training and held-out photos."""
    training: tuple[int, ...]
    """Indices of the training photos in ``scene.photos``, ascending."""
    heldout: tuple[int, ...]
    """Indices of the held-out photos, ascending."""


def identify(capture: str) -> dict[str, str]:
    """The identity of a capture: name of its folder, and names and content of its files
    (``scenes/identity``).

    Raises ``InputError`` when the path does not exist.
    """
    if capture.startswith(PROCEDURAL_PREFIX):
        return {"capture": capture}
    root = Path(capture)
    if not root.exists():
        raise InputError(
            f"{capture}: does not exist, expected a capture folder, a video or "
            f"{PROCEDURAL_PREFIX}SEED"
        )
    with readable(root):
        return {"capture": root.resolve().name, "files": capture_fingerprint(root)}


def check_output(capture: str, out: Path) -> None:
    """Raise ``InputError`` when results would be written into the capture, which would change its
    identity.
    """
    root = Path(capture).resolve()
    if (
        not capture.startswith(PROCEDURAL_PREFIX)
        and root.is_dir()
        and out.resolve().is_relative_to(root)
    ):
        raise InputError(
            f"--out {out}: lies inside the capture {capture}; expected a folder beside it"
        )


def load_capture(
    choice: CaptureChoice,
    work_folder: Path | None,
    cache_folder: Path | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> LoadedCapture:
    """Load the capture, choose its split, and resize photos and cameras.

    work_folder: for structure from motion, if the capture has no poses. cache_folder: for resized
    photos. Nothing is written if they are None. log: receives a line per step of structure from
    motion.
    """
    scene = load_scene(
        choice.capture,
        work_folder=work_folder,
        log=log,
        faces=choice.faces,
        sparse_model=choice.sparse_model,
        ignore_masks=choice.ignore_masks,
    )
    scene = _with_checked_poses(scene, choice.capture)
    split = _split(scene, choice)
    scene = resize_scene(scene, choice.size, cache_folder)
    positions = {photo.name: position for position, photo in enumerate(scene.photos)}
    return LoadedCapture(
        scene, split, _indices(split.train, positions), _indices(split.heldout, positions)
    )


def _with_checked_poses(scene: Scene, capture: str) -> Scene:
    """The scene with a note for each possible problem of its poses. Raises ``InputError`` if they
    certainly have another convention.
    """
    problems = check_poses(scene)
    for problem in problems:
        if problem.is_certain:
            raise InputError(f"{capture}: {problem.text}")
    return replace(scene, notes=(*scene.notes, *(problem.text for problem in problems)))


def _split(scene: Scene, choice: CaptureChoice) -> Split:
    chosen = [
        choice.split is not None,
        choice.views is not None,
        choice.train_list is not None,
        choice.all_views,
    ]
    if sum(chosen) > 1:
        raise InputError(
            "--split, --views, --train-list and --all-views exclude each other: give one of them"
        )
    name = choice.split
    if not any(chosen):
        name = DEFAULT_SPLIT if len(scene.photos) >= SMALL_CAPTURE else SMALL_CAPTURE_SPLIT
    return choose_split(
        scene,
        name=name,
        views=choice.views,
        train_list=choice.train_list,
        all_views=choice.all_views,
    )


def _indices(names: Sequence[str], positions: dict[str, int]) -> tuple[int, ...]:
    return tuple(sorted(positions[name] for name in names))
