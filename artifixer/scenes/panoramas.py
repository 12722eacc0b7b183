"""Equirectangular photos (360 degree cameras) -> ``Scene``: each panorama becomes a rig of
perspective views that share its centre.

Poses come from structure from motion on the rigs: intrinsics and relative poses of a panorama's
faces are known exactly and stay so, only the panoramas' own poses are looked for. The result is an
ordinary capture, kept in the work folder and reused for the same photos::

    WORK/panorama-KEY/images/0001.jpg/face_3.png   the faces
    WORK/panorama-KEY/masks/0001.jpg/face_3.png    those of masks, where the capture has any:
                                                   black is not looked at
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

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.panorama import FACE_RIGS, FaceRig, sample_panorama
from artifixer.imaging.resize import resize_photo
from artifixer.runtime.errors import InputError
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import image_size, read_image, write_png
from artifixer.runtime.stopping import handlers_kept, stop_at_once
from artifixer.scenes import colmap
from artifixer.scenes.mask_files import MaskFiles
from artifixer.scenes.photo_files import FittedView
from artifixer.scenes.photos import (
    SfmConfig,
    kept_agreement,
    match_pairs,
    photo_names,
    photo_pairs,
    quiet_colmap,
    temporary_if_none,
)
from artifixer.scenes.scene import Photo, Scene, Split

#: Faces of a panorama where the user chooses no other number.
DEFAULT_FACES = 8

#: Panoramas are looked at on copies of this width to tell whether they are any.
PROBE_WIDTH = 512

#: In a panorama the two side borders differ by no more than this many times what neighbouring
#: columns differ by (plus two grey values), and a pole, which one row shows all along, varies by no
#: more than this share of the whole picture's standard deviation.
SEAM_FACTOR, POLE_SHARE = 3.0, 0.35

#: Bytes of a file that are searched for the note of 360 degree cameras and apps (XMP of "Photo
#: Sphere").
XMP_BYTES = 128 * 1024

#: Every 8th panorama is held out, every 4th where they are few: with all its faces.
HELDOUT_EVERY = (8, 4)


@dataclass(frozen=True)
class PanoramaConfig:
    """faces: number of perspective views per panorama, a key of ``FACE_RIGS``. largest_face: their
    side in pixels, at most.

    least_unmasked: faces with a smaller share of pixels outside the mask are left out. sfm: for the
    faces.
    """

    faces: int = DEFAULT_FACES
    largest_face: int = 1920
    least_unmasked: float = 0.1
    sfm: SfmConfig = field(
        default_factory=lambda: SfmConfig(
            longest_side=1200, features=2048, exhaustive_photos=24, neighbours=4
        )
    )


def check_faces(faces: int | None) -> None:
    """Raises ``InputError`` for a number of faces that there is no rig for."""
    if faces is not None and faces not in FACE_RIGS:
        raise InputError(
            f"--faces {faces}: expected {', '.join(map(str, FACE_RIGS))} views per panorama"
        )


def is_panorama(path: Path) -> bool:
    """Whether a photo is equirectangular: twice as wide as high, and its file says so, or its
    borders meet and its poles are points.
    """
    width, height = image_size(path)
    return width == 2 * height and (_says_panorama(path) or looks_equirectangular(read_image(path)))


def are_panoramas(paths: Sequence[Path]) -> bool:
    """Whether all photos (at least one) have a panorama's shape, and the first and the middle one
    are panoramas.
    """
    sizes = [image_size(path) for path in paths]
    return all(width == 2 * height for width, height in sizes) and all(
        is_panorama(path) for path in (paths[0], paths[len(paths) // 2])
    )


def looks_equirectangular(photo: UInt8[np.ndarray, "height width 3"]) -> bool:
    """Whether the picture's left and right border show the same, and its first and last row a
    single point each.
    """
    width = min(PROBE_WIDTH, photo.shape[1])
    small = resize_photo(photo, width, max(2, width // 2)).astype(np.float64).mean(axis=2)
    neighbours = np.abs(np.diff(small, axis=1)).mean()
    seam = np.abs(small[:, 0] - small[:, -1]).mean()
    poles = max(small[0].std(), small[-1].std())
    return bool(seam <= SEAM_FACTOR * neighbours + 2 and poles <= POLE_SHARE * small.std() + 2)


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


def load(
    capture: Path,
    folder: Path,
    work_folder: Path | None = None,
    config: PanoramaConfig = PanoramaConfig(),
    say: Callable[[str], None] = lambda text: None,
    ignore_masks: bool = False,
) -> Scene:
    """The scene of the panoramas in ``folder``; photos are called ``images/0001.jpg/face_3.png``.

    work_folder: keeps faces and poses for the next time; None leaves nothing behind and keeps the
    faces in memory. say: gets one line per step. ignore_masks: use whole panoramas. Raises
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
            say(f"panoramas: {config.faces} perspective views of each of {len(names)}")
            _write_faces(folder, names, masks, stage, config)
        if not (stage / "model").is_dir():
            with stop_at_once():  # minutes, and an interrupted database continues
                _reconstruct(folder, names, stage, config, say)
        scene = colmap.load(stage, stage / "model")
        agreement = kept_agreement(stage, stage / "model", config.sfm.epipolar_pixels)
        if work_folder is None:
            scene = scene.with_photos([photo.in_memory() for photo in scene.photos], scene.cameras)
    found = {panorama_of(photo.name) for photo in scene.photos}
    lost = [name for name in names if f"images/{name}" not in found]
    notes = [
        *scene.notes,
        f"{len(names)} equirectangular photos, read as {config.faces} perspective views each",
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


def panorama_views(photo: Photo, viewmat: Float[Tensor, "4 4"], faces: int) -> list[FittedView]:
    """The faces of one panorama with a known world_to_camera. Pixels are computed when a face is
    read.

    Raises ``InputError`` for a photo that is not twice as wide as high.
    """
    check_faces(faces)
    if photo.width != 2 * photo.height:
        raise InputError(
            f"{photo.path or photo.name}: {photo.width}x{photo.height} pixels, expected 2:1 for an "
            "equirectangular photo"
        )
    rig = FACE_RIGS[faces]
    size = min(rig.size(photo.width), PanoramaConfig().largest_face)
    cameras = rig.cameras(viewmat, size)
    views = []
    for face in range(len(rig)):

        def sample(pixels: np.ndarray, face: int = face) -> np.ndarray:
            layer = pixels if pixels.ndim == 3 else pixels[..., None]
            sampled = sample_panorama(layer, rig.directions(face, size))
            return (
                sampled
                if pixels.ndim == 3
                else np.where(sampled[..., 0] >= 128, 255, 0).astype(np.uint8)
            )

        view = photo.with_layers(
            sample, name=face_name(photo.name, face), width=size, height=size, path=None
        )
        views.append(FittedView(view, cameras[face], np.eye(2, 3)))
    return views


def face_name(panorama: str, face: int) -> str:
    """The name of a panorama's face as a photo."""
    return f"{panorama}/face_{face}.png"


def panorama_of(name: str) -> str:
    """The panorama that a face belongs to."""
    return name.rpartition("/")[0]


def panorama_splits(names: Sequence[str]) -> dict[str, Split]:
    """Splits that hold out whole panoramas: their faces stand at one place, and a held-out face
    beside a training one would prove little.

    They carry the names of the usual splits, which count photos, and take their places.
    """
    panoramas = sorted({panorama_of(name) for name in names})
    splits = {}
    for every in HELDOUT_EVERY:
        heldout = set(panoramas[::every])
        train = tuple(name for name in names if panorama_of(name) not in heldout)
        if train:
            splits[f"every_{every}"] = Split(
                f"every_{every}",
                train,
                tuple(name for name in names if panorama_of(name) in heldout),
            )
    return splits


def find_masks(capture: Path, folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The masks of panoramas by name, as ``mask_files`` finds those of photos."""
    masks = MaskFiles(capture)
    found = ((name, masks.find(folder / name)) for name in names)
    return {name: mask for name, mask in found if mask is not None}


# Faces --------------------------------------------------------------------------------------------


def _says_panorama(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(XMP_BYTES)
    return b"ProjectionType" in head and b"equirectangular" in head


def _readable_panoramas(paths: Sequence[Path]) -> bool:
    """False where a photo is damaged: the loader of photos says so."""
    try:
        return are_panoramas(paths)
    except InputError:
        return False


def _write_faces(
    folder: Path,
    names: Sequence[str],
    masks: Mapping[str, Path],
    stage: Path,
    config: PanoramaConfig,
) -> None:
    """Faces and their masks; the folder ``images`` appears when they are all there."""
    rig = FACE_RIGS[config.faces]
    stage.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=stage) as scratch:
        for name in names:
            panorama = read_image(folder / name)
            height, width = panorama.shape[:2]
            if width != 2 * height:
                raise InputError(
                    f"{folder / name}: {width}x{height} pixels, expected 2:1 for an "
                    "equirectangular photo"
                )
            mask = read_image(masks[name])[..., :1] if name in masks else None
            if mask is not None and mask.shape[1] != 2 * mask.shape[0]:
                raise InputError(
                    f"{masks[name]}: {mask.shape[1]}x{mask.shape[0]} pixels, expected 2:1 as the "
                    "panorama's"
                )
            size = min(rig.size(width), config.largest_face)
            for face in range(len(rig)):
                directions = rig.directions(face, size)
                if mask is not None:
                    seen = np.where(
                        sample_panorama(mask, directions)[..., 0] >= 128, 255, 0
                    ).astype(np.uint8)
                    if (seen > 0).mean() < config.least_unmasked:
                        continue
                    write_png(Path(scratch) / "masks" / face_name(name, face), seen)
                write_png(
                    Path(scratch) / "images" / face_name(name, face),
                    sample_panorama(panorama, directions),
                )
        for kind in ("masks", "images"):
            if (Path(scratch) / kind).is_dir():
                if (stage / kind).is_dir():  # of a process that was killed between the two
                    (stage / kind).rename(Path(scratch) / f"earlier {kind}")
                (Path(scratch) / kind).rename(stage / kind)


# Structure from motion ----------------------------------------------------------------------------


def _reconstruct(
    folder: Path,
    names: Sequence[str],
    stage: Path,
    config: PanoramaConfig,
    say: Callable[[str], None],
) -> None:
    """Features, matches between panoramas and the model of the rigs, into ``stage``."""
    import pycolmap

    rig, sfm = FACE_RIGS[config.faces], config.sfm
    links = _link(stage, names, len(rig))
    database = stage / "database.db"
    with quiet_colmap(), tempfile.TemporaryDirectory(dir=stage) as scratch:
        pycolmap.set_random_seed(sfm.seed)
        say(f"structure from motion: features of {len(links)} views")
        if not database.is_file():
            # The images are entered first and at once: features arrive in the order in which
            # threads finish.
            unfinished = Path(scratch) / "database.db"
            _enter(unfinished, folder, stage, names, links, rig)
            unfinished.rename(database)
        _extract(database, stage, list(links.values()), sfm)
        pairs = list(_face_pairs(names, links, len(rig), sfm))
        say(f"structure from motion: matching {len(pairs)} pairs of views")
        match_pairs(database, pairs, stage / "pairs.txt", sfm)
        say("structure from motion: poses")
        model = _map(database, stage / "photos", Path(scratch), sfm)
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
    names: Sequence[str],
    links: Mapping[tuple[str, int], str],
    rig: FaceRig,
) -> None:
    """Cameras, images and the rig into a new database."""
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
    cameras: list[pycolmap.RigConfigCamera] = []
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


def _extract(database: Path, stage: Path, links: Sequence[str], config: SfmConfig) -> None:
    import pycolmap

    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.max_image_size = config.longest_side
    options.sift.max_num_features = config.features
    reader = pycolmap.ImageReaderOptions()
    if (stage / "photo_masks").is_dir():
        reader.mask_path = stage / "photo_masks"
    pycolmap.extract_features(
        database, stage / "photos", list(links), reader_options=reader, extraction_options=options
    )


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


def _map(database: Path, folder: Path, scratch: Path, config: SfmConfig):  # type: ignore[no-untyped-def]  # pycolmap.Reconstruction | None
    """The largest model: only the poses of the rigs and the points are free. One thread: sums of
    several depend on their order.
    """
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 2
    options.num_threads = options.mapper.num_threads = 1
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = (
        config.seed
    )
    options.ba_refine_focal_length = options.ba_refine_principal_point = (
        options.ba_refine_extra_params
    ) = False
    options.ba_refine_sensor_from_rig = False
    options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = (
        False
    )
    models = pycolmap.incremental_mapping(database, folder, scratch, options)
    return max(
        models.values(),
        key=lambda model: (model.num_reg_frames(), model.num_points3D()),
        default=None,
    )
