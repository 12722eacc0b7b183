"""Which loader reads a capture: the table of formats in probe order, and ``load_scene``.

A capture is a folder, a ``transforms.json`` under any name, a video, or ``procedural:SEED``. To add
a format, write a file beside this one and add a line to ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.scenes import (
    colmap,
    colmap_folders,
    panoramas,
    photos,
    split_file,
    transforms_json,
    video_file,
)
from artifixer.scenes.panorama_faces import check_faces
from artifixer.scenes.panoramas import PanoramaConfig
from artifixer.scenes.photo_files import unread_note
from artifixer.scenes.pose_conventions import PoseConvention
from artifixer.scenes.scene import Photo, Scene
from artifixer.scenes.wide_lenses import check_lenses

PROCEDURAL = "procedural"
PROCEDURAL_PREFIX = f"{PROCEDURAL}:"


@dataclass(frozen=True)
class LoadOptions:
    """Options of the loaders."""

    work_folder: Path | None = None
    """Folder that caches the results of structure from motion; None to write nothing."""

    log: Callable[[str], None] = lambda text: None
    """Receives one line per step of structure from motion."""

    faces: int | None = None
    """Number of perspective views per equirectangular photo; None for the default number, for
    photos that are recognised as equirectangular."""

    sparse_model: int | None = None
    """Number of the COLMAP model; None for the largest."""

    ignore_masks: bool = False
    """Whether masks and alpha channels are ignored."""

    @property
    def panoramas(self) -> PanoramaConfig:
        """Settings for equirectangular photos."""
        return PanoramaConfig() if self.faces is None else PanoramaConfig(faces=self.faces)


@dataclass(frozen=True)
class Format:
    """One way to store a capture.

    name: what ``Scene.format`` says.
    looks_for: what makes a folder this format, for the message when nothing fits.
    find: given the capture's folder, returns the file or folder that ``load`` starts from, or None
    when it isn't this format. load: makes the scene from the capture's folder and what ``find``
    returned.
    poses: what the poses in its files are, as written there; None for a format without poses, which
    the program finds itself; this takes minutes.
    """

    name: str
    looks_for: str
    find: Callable[[Path], Path | None]
    load: Callable[[Path, Path, LoadOptions], Scene]
    poses: PoseConvention | None

    @property
    def has_poses(self) -> bool:
        """Whether poses are part of it."""
        return self.poses is not None


VIDEO = Format(
    "video",
    f"one video ({', '.join(video_file.VIDEO_SUFFIXES)})",
    video_file.find_video,
    lambda capture, path, options: video_file.load(
        path, options.work_folder, log=options.log, faces=options.faces
    ),
    poses=None,
)

#: Probed in this order. COLMAP comes before transforms.json because its points know which photos
#: saw them; nerfstudio's copy of a COLMAP model comes after, because there the transforms.json
#: beside it is what the user works with.
FORMATS = (
    Format(
        "colmap",
        "a COLMAP model in sparse/0, sparse or the folder itself",
        colmap_folders.find_model,
        lambda capture, model, options: _colmap(capture, model, options),
        poses="world_to_camera_opencv",
    ),
    Format(
        "transforms_json",
        transforms_json.FILE_NAME,
        transforms_json.find_transforms,
        lambda capture, path, options: transforms_json.load(capture, path, options.faces),
        poses="camera_to_world_opengl",
    ),
    Format(
        "nerf_synthetic",
        transforms_json.SYNTHETIC_NAMES[0],
        transforms_json.find_synthetic,
        lambda capture, path, options: transforms_json.load_synthetic(capture, path, options.faces),
        poses="camera_to_world_opengl",
    ),
    Format(
        "colmap",
        "a COLMAP model in colmap/sparse/0",
        colmap_folders.find_nerfstudio_model,
        lambda capture, model, options: _colmap(capture, model, options),
        poses="world_to_camera_opencv",
    ),
    Format(
        "panoramas",
        "at least 2 equirectangular photos in images or the folder itself",
        panoramas.find_panoramas,
        lambda capture, folder, options: panoramas.load(
            capture,
            folder,
            options.work_folder,
            options.panoramas,
            options.log,
            options.ignore_masks,
        ),
        poses=None,
    ),
    Format(
        "photos",
        "at least 2 photos in images or the folder itself",
        photos.find_photos,
        lambda capture, folder, options: _photos(capture, folder, options),
        poses=None,
    ),
    VIDEO,
)


def find_format(capture: Path) -> tuple[Format, Path]:
    """The format of a capture (a folder or a video) and where its loader starts.

    Raises InputError when it is missing or of no known format.
    """
    if video_file.is_video(capture):
        return VIDEO, capture
    expected = (
        f"a capture's folder, a transforms file (.json), a video "
        f"({', '.join(video_file.VIDEO_SUFFIXES)}) or {PROCEDURAL_PREFIX}SEED"
    )
    if is_regular(capture):
        raise InputError(f"{capture}: is a file of another kind; expected {expected}")
    if not capture.is_dir():
        raise InputError(f"{capture}: no such folder or file; expected {expected}")
    for entry in FORMATS:
        start = entry.find(capture)
        if start is not None:
            return entry, start
    models = colmap_folders.models_in(capture)
    if models:
        raise InputError(
            f"{capture}: holds {counted(len(models), 'COLMAP model')} and no photos; expected the "
            f"capture's folder, {capture.resolve().parent}, or one model, {models[0]}"
        )
    raise InputError(
        f"{capture}: no known capture format{_what_is_there(capture)}; looked for "
        f"{'; '.join(entry.looks_for for entry in FORMATS)}"
    )


def _what_is_there(capture: Path) -> str:
    """What a folder holds instead of a capture that can be read, for a message."""
    folders = [folder for folder in (capture / "images", capture) if folder.is_dir()]
    remarks = unread_note(path for folder in folders for path in folder.iterdir())
    videos = sum(video_file.is_video(path) for path in capture.iterdir())
    if videos > 1:
        remarks += (f"{counted(videos, 'video')}, expected one",)
    return f" ({'; '.join(remarks)})" if remarks else ""


def pose_convention(name: str) -> PoseConvention | None:
    """What the poses in the files of a format are; None where they were found or made here.

    name: what ``Scene.format`` says.
    """
    if name == PROCEDURAL:
        return None
    found = [entry.poses for entry in FORMATS if entry.name == name]
    assert found, f"{name}: no format of FORMATS"
    return found[0]


def brings_poses(capture: str | Path) -> bool:
    """Whether loading the capture needs no structure from motion. Raises InputError as
    ``find_format`` does.
    """
    if str(capture).startswith(PROCEDURAL_PREFIX):
        return True
    path = Path(capture)
    with readable(path):
        return transforms_json.is_transforms(path) or find_format(path)[0].has_poses


def load_scene(
    capture: str | Path,
    *,
    work_folder: Path | None = None,
    log: Callable[[str], None] = lambda text: None,
    faces: int | None = None,
    sparse_model: int | None = None,
    ignore_masks: bool = False,
) -> Scene:
    """The scene of a capture: a folder in one of ``FORMATS``, a transforms file, a video, or
    ``procedural:SEED``.

    work_folder, log, faces, sparse_model, ignore_masks: see ``LoadOptions``.
    Raises InputError when the capture is missing or of no known format, and for whatever is wrong
    inside it.
    """
    check_faces(faces)
    options = LoadOptions(work_folder, log, faces, sparse_model, ignore_masks)
    if str(capture).startswith(PROCEDURAL_PREFIX):
        from artifixer.scenes import procedural

        check_no_model(capture, sparse_model)
        return procedural.load(str(capture))
    path = Path(capture)
    with readable(path):
        if transforms_json.is_transforms(path):
            check_no_model(capture, sparse_model)
            scene = transforms_json.load(path.parent, path, faces)
            return _with_splits(path.parent, _masks_chosen(scene, options))
        entry, start = find_format(path)
        if entry.name != "colmap":
            check_no_model(capture, sparse_model)
        folder = path if path.is_dir() else path.parent
        return _with_splits(folder, _masks_chosen(entry.load(path, start, options), options))


@contextmanager
def readable(capture: Path) -> Iterator[None]:
    """Turn errors of the operating system while a capture is read (permissions, invalid names) into
    an ``InputError``.
    """
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else capture
        raise InputError(
            f"{where}: cannot be read ({error.strerror or error}); expected a readable capture"
        ) from error


def _colmap(capture: Path, model: Path, options: LoadOptions) -> Scene:
    """The COLMAP model that the user chose, or ``model``."""
    if options.sparse_model is not None:
        model = colmap_folders.numbered_model(capture, model, options.sparse_model)
    return colmap.load(capture, model)


def check_no_model(capture: str | Path, number: int | None) -> None:
    """Raises InputError for a number of a COLMAP model where none is read."""
    if number is not None:
        raise InputError(
            f"--sparse-model {number}: {capture} is not read from a COLMAP model; expected none"
        )


def _masks_chosen(scene: Scene, options: LoadOptions) -> Scene:
    """The scene without masks where the user wants whole photos; else with a note on them."""
    if not options.ignore_masks:
        return replace(scene, notes=scene.notes + masks_note(scene.photos))
    masked = sum(photo.mask is not None for photo in scene.photos)
    if not masked:
        return scene
    whole = [replace(photo, mask=None) for photo in scene.photos]
    notes = (f"masks of {masked} of {len(scene.photos)} photos are ignored",)
    return replace(scene.with_photos(whole, scene.cameras), notes=scene.notes + notes)


def masks_note(photos: Sequence[Photo]) -> tuple[str, ...]:
    """One line about masks; empty where there are none."""
    masked = sum(photo.mask is not None for photo in photos)
    if not masked:
        return ()
    return (
        f"masks of {masked} of {len(photos)} photos: masked pixels count neither in fits nor in "
        "metrics (--ignore-masks uses whole photos)",
    )


def _photos(capture: Path, folder: Path, options: LoadOptions) -> Scene:
    """Photos without poses; read as panoramas when the user asks for faces."""
    if options.faces is not None:
        return panoramas.load(
            capture,
            folder,
            options.work_folder,
            options.panoramas,
            options.log,
            options.ignore_masks,
        )
    return photos.load(
        capture, folder, options.work_folder, log=options.log, ignore_masks=options.ignore_masks
    )


def _with_splits(folder: Path, scene: Scene) -> Scene:
    """The scene with the splits of the capture's own ``splits.json``, if it has one. Raises
    InputError for lenses that cannot be rendered.
    """
    check_lenses(scene)
    path = folder / split_file.FILE_NAME
    if not is_regular(path):
        return scene
    own = split_file.read_splits(path, [photo.name for photo in scene.photos], scene.lost_photos)
    return replace(scene, splits={**scene.splits, **own})
