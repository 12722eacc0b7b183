"""Equirectangular photos (360 degree cameras) -> ``Scene``: each panorama becomes a rig of
perspective views that share its centre.

Poses come from structure from motion on the rigs: intrinsics and relative poses of a panorama's
faces are known exactly and stay so, only the panoramas' own poses are looked for. The result is an
ordinary capture, kept in the work folder and reused for the same photos::

    WORK/panorama-KEY/images/0001.jpg/face_3.png   the faces
    WORK/panorama-KEY/masks/0001.jpg/face_3.png    those of masks, where the capture has any:
                                                   black is ignored
    WORK/panorama-KEY/photos/, database.db, model/ as in ``photos.py``

Masks are for what moves with the camera, its operator or a tripod: ``masks/0001.png`` beside the
photos for one panorama, ``mask.png`` for all. Nothing is matched there, and faces that show little
else are left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from artifixer.geometry.panorama import FACE_RIGS, FaceRig
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import image_size
from artifixer.runtime.stopping import handlers_kept, stop_at_once
from artifixer.scenes import colmap
from artifixer.scenes.panorama_faces import (
    DEFAULT_FACES,
    LARGEST_FACE,
    are_panoramas,
    check_faces,
    face_name,
    find_masks,
    panorama_of,
    panorama_splits,
    write_faces,
)
from artifixer.scenes.photos import photo_names
from artifixer.scenes.scene import Scene
from artifixer.scenes.sfm import (
    IncrementalPipelineOptions,
    SfmConfig,
    extract_features,
    largest_model,
    mapping_options,
    match_pairs,
    photo_pairs,
    quiet_colmap,
    temporary_if_none,
)
from artifixer.scenes.sfm_checks import kept_agreement


@dataclass(frozen=True)
class PanoramaConfig:
    """Settings of structure from motion on panoramas."""

    faces: int = DEFAULT_FACES
    """Number of perspective views per panorama, a key of ``FACE_RIGS``."""

    largest_face: int = LARGEST_FACE
    """Maximum side of a face in pixels."""

    min_unmasked_fraction: float = 0.1
    """Faces with a smaller fraction of pixels outside the mask are left out."""

    sfm: SfmConfig = field(
        default_factory=lambda: SfmConfig(
            longest_side=1200, features=2048, exhaustive_photos=24, neighbours=4
        )
    )
    """Settings for the faces."""


def find_panoramas(capture: Path) -> Path | None:
    """The folder of at least two panoramas in a capture (``images/`` or the capture itself), or
    None; other photos are not among them.
    """
    for folder in (capture / "images", capture):
        names = photo_names(folder)
        if len(names) >= 2:
            paths = [folder / name for name in names]
            return folder if paths and _readable_panoramas(paths) else None
    return None


def _readable_panoramas(paths: Sequence[Path]) -> bool:
    """False where a photo is damaged: the loader of photos says so."""
    try:
        return are_panoramas(paths)
    except InputError:
        return False


def load(
    capture: Path,
    folder: Path,
    work_folder: Path | None = None,
    config: PanoramaConfig = PanoramaConfig(),
    log: Callable[[str], None] = lambda text: None,
    ignore_masks: bool = False,
) -> Scene:
    """The scene of the panoramas in ``folder``; photos are called ``images/0001.jpg/face_3.png``.

    work_folder: keeps faces and poses for the next time; None leaves nothing behind and keeps the
    faces in memory. log: gets one line per step. ignore_masks: use whole panoramas. Raises
    ``InputError`` for unreadable photos and masks, and when poses are found for no more than half
    of the panoramas.
    """
    check_faces(config.faces)
    names = photo_names(folder)
    masks = {} if ignore_masks else find_masks(capture, folder, names)
    with handlers_kept():
        import pycolmap  # noqa: F401 - its log installs a handler for SIGTERM, which prints a stack trace and kills
    with temporary_if_none(work_folder) as work:
        key = fingerprint(
            config,
            [(name, folder / name) for name in names],
            [(name, path) for name, path in masks.items()],
        )
        stage = work / f"panorama-{key[:16]}"
        if not (stage / "images").is_dir():
            log(f"panoramas: {config.faces} perspective views of each of {len(names)}")
            write_faces(
                folder,
                names,
                masks,
                stage,
                config.faces,
                config.largest_face,
                config.min_unmasked_fraction,
            )
        if not (stage / "model").is_dir():
            with stop_at_once():  # minutes, and an interrupted database continues
                _reconstruct(folder, names, stage, config, log)
        scene = colmap.load(stage, stage / "model")
        agreement = kept_agreement(stage, stage / "model", config.sfm.epipolar_pixels)
        if work_folder is None:
            scene = scene.with_photos([photo.in_memory() for photo in scene.photos], scene.cameras)
    found = {panorama_of(photo.name) for photo in scene.photos}
    lost = [name for name in names if f"images/{name}" not in found]
    notes = [
        *scene.notes,
        f"{counted(len(names), 'equirectangular photo')}, read as {config.faces} perspective "
        "views each",
    ]
    if masks:
        notes.append(f"masks of {len(masks)} of {len(names)} panoramas: nothing is matched there")
    if lost:
        notes.append(
            f"no pose was found for {len(lost)} of {len(names)} panoramas, they are left out: "
            f"{', '.join(lost)}"
        )
    if agreement < config.sfm.least_agreement:
        notes.append(
            f"the poses are doubtful: only {agreement:.0%} of the matches lie where the poses "
            "predict them"
        )
    return replace(
        scene,
        name=capture.resolve().name,
        format="panoramas",
        splits=panorama_splits([photo.name for photo in scene.photos]),
        notes=tuple(notes),
        lost_photos=(*scene.lost_photos, *lost),
    )


# Structure from motion ----------------------------------------------------------------------------


def _reconstruct(
    folder: Path,
    names: Sequence[str],
    stage: Path,
    config: PanoramaConfig,
    log: Callable[[str], None],
) -> None:
    """Features, matches between panoramas and the model of the rigs, into ``stage``."""
    import pycolmap

    rig, sfm = FACE_RIGS[config.faces], config.sfm
    links = _link(stage, names, len(rig))
    database = stage / "database.db"
    with quiet_colmap(), tempfile.TemporaryDirectory(dir=stage) as scratch:
        pycolmap.set_random_seed(sfm.seed)
        log(f"structure from motion: features of {len(links)} views")
        if not database.is_file():
            # The images are entered first and at once: features arrive in the order in which
            # threads finish.
            unfinished = Path(scratch) / "database.db"
            _enter(unfinished, folder, stage, links, rig)
            unfinished.rename(database)
        extract_features(
            database, stage / "photos", list(links.values()), sfm, stage / "photo_masks"
        )
        pairs = list(_face_pairs(names, links, len(rig), sfm))
        log(f"structure from motion: matching {counted(len(pairs), 'pair')} of views")
        match_pairs(database, pairs, stage / "pairs.txt", sfm)
        log("structure from motion: poses")
        model = largest_model(
            database,
            stage / "photos",
            Path(scratch),
            _rig_options(sfm),
            lambda model: model.num_reg_frames(),
        )
        count = 0 if model is None else model.num_reg_frames()
        if model is None or count * 2 <= len(names):
            raise InputError(
                f"{folder}: structure from motion found poses for {count} of {len(names)} "
                "panoramas; expected more than half. Take them "
                "closer to each other, or bring poses (transforms.json with camera_model "
                "EQUIRECTANGULAR)"
            )
        original = {link: face_name(*key) for key, link in links.items()}
        for image in model.images.values():
            image.name = original[image.name]
        finished = Path(scratch) / "model"
        finished.mkdir()
        model.write_binary(finished)
        finished.rename(stage / "model")


def _link(stage: Path, names: Sequence[str], faces: int) -> dict[tuple[str, int], str]:
    """Links ``photos/face_3/000001.png`` to all faces, and ``masks`` likewise as COLMAP calls them;
    returns their names.
    """
    links = {}
    for number, name in enumerate(names):
        for face in range(faces):
            if not (stage / "images" / face_name(name, face)).is_file():
                continue
            links[name, face] = link = f"face_{face}/{number:06d}.png"
            for kind, place in (
                ("images", stage / "photos" / link),
                ("masks", stage / "photo_masks" / f"{link}.png"),
            ):
                target = stage / kind / face_name(name, face)
                if target.is_file():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.unlink(missing_ok=True)
                    place.symlink_to(target.resolve())
    return links


def _enter(
    database: Path,
    folder: Path,
    stage: Path,
    links: Mapping[tuple[str, int], str],
    rig: FaceRig,
) -> None:
    """Write cameras, images and the rig into a new database."""
    import pycolmap

    sizes = {name: image_size(stage / "images" / face_name(name, face))[0] for name, face in links}
    if len(set(sizes.values())) > 1:
        raise InputError(
            f"{folder}: panoramas of different sizes "
            f"({', '.join(map(str, sorted(set(sizes.values()))))} pixel faces)"
        )
    K = rig.K(next(iter(sizes.values())))
    with pycolmap.Database.open(database):
        pass  # made empty
    cameras: list[Any] = []  # pycolmap.RigConfigCamera
    for face in range(len(rig)):
        listed = [link for (_, own), link in links.items() if own == face]
        if not listed:
            continue
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = "PINHOLE"
        reader.camera_params = ",".join(
            repr(float(value)) for value in (K[0, 0], K[1, 1], K[0, 2], K[1, 2])
        )
        pycolmap.import_images(
            database, stage / "photos", pycolmap.CameraMode.SINGLE, listed, reader
        )
        # The first face that is there is the reference; the others are placed relative to it.
        reference = (
            rig.rotations[int(cameras[0].image_prefix[5:-1])] if cameras else rig.rotations[face]
        )
        rotation = (rig.rotations[face] @ reference.mT).numpy()
        placed = (
            None
            if not cameras
            else pycolmap.Rigid3d(np.concatenate([rotation, np.zeros((3, 1))], axis=1))
        )
        entry = pycolmap.RigConfigCamera()
        entry.ref_sensor, entry.image_prefix = not cameras, f"face_{face}/"
        if placed is not None:
            entry.cam_from_rig = placed
        cameras.append(entry)
    config = pycolmap.RigConfig()
    config.cameras = cameras
    with pycolmap.Database.open(database) as opened:
        pycolmap.apply_rig_config([config], opened)


def _face_pairs(
    names: Sequence[str], links: Mapping[tuple[str, int], str], faces: int, config: SfmConfig
) -> Iterator[tuple[str, str]]:
    """Every face of a panorama with every face of the panoramas that it is matched with; never two
    of one panorama.
    """
    for first, second in photo_pairs(len(names), config):
        for a in range(faces):
            for b in range(faces):
                if (names[first], a) in links and (names[second], b) in links:
                    yield links[names[first], a], links[names[second], b]


def _rig_options(config: SfmConfig) -> IncrementalPipelineOptions:
    """Only the poses of the rigs and the points are free."""
    options = mapping_options(config)
    options.ba_refine_focal_length = options.ba_refine_principal_point = (
        options.ba_refine_extra_params
    ) = False
    options.ba_refine_sensor_from_rig = False
    options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = (
        False
    )
    return options
