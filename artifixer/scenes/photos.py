"""A folder of photos without poses -> ``Scene``, by structure from motion (COLMAP through pycolmap,
on the CPU).

SIFT features, pairwise matching with epipolar verification, incremental mapping with SIMPLE_RADIAL
cameras; cameras keep their distortion, photos stay as they are. The result is an ordinary COLMAP
model, kept in the work folder and reused for the same photos::

    WORK/sfm-KEY/photos/         links to the photos under plain names (COLMAP's lists of pairs know
                                 no spaces)
    WORK/sfm-KEY/database.db     features and matches; an interrupted run continues with them
    WORK/sfm-KEY/model/          the finished model (appears at once, when it is complete)
    WORK/sfm-KEY/agreement.json  how well matches and poses agree, so that the database is not read
                                 again

KEY follows from the photos' contents and ``SfmConfig``. Random seeds are fixed, and whatever would
depend on the order of threads runs in one, so the same photos give the same poses on the same
machine.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, is_regular, reason, write_bytes
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import (
    exif_orientation,
    image_format,
    opened_image,
    read_image,
    write_png,
)
from artifixer.runtime.json_io import is_number, read_json, shown, write_json
from artifixer.runtime.stopping import handlers_kept, stop_at_once
from artifixer.runtime.system import link_or_copy
from artifixer.scenes import colmap
from artifixer.scenes.mask_files import MaskFiles, is_mask
from artifixer.scenes.photo_files import (
    PHOTO_SUFFIXES,
    check_broken,
    check_may_read,
    open_photo,
    stored_size,
    unread_note,
)
from artifixer.scenes.photo_matches import LEAST_MATCHES, LONGEST_SIDE, PairMatches
from artifixer.scenes.pose_check import shows_no_parallax
from artifixer.scenes.scene import Photo, Scene

if TYPE_CHECKING:
    import pycolmap


#: Formats of photos that COLMAP reads, and the file endings by which it knows them.
COLMAP_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif"}

#: EXIF orientations that mirror.
MIRRORED_ORIENTATIONS = (2, 4, 5, 7)


@dataclass(frozen=True)
class SfmConfig:
    """Settings of structure from motion.

    longest_side: photos are reduced to this many pixels for feature detection; poses and points
    refer to the full photo. features: SIFT features per photo, at most.
    exhaustive_photos: up to this many photos all pairs are matched; beyond it neighbours by name,
    and all pairs of evenly spaced ones. neighbours: distance in the sorted list up to which photos
    are matched in long captures.
    epipolar_pixels, least_agreement: poses are doubtful when fewer than this share of the verified
        matches lie within that many pixels of the epipolar lines that the poses imply. Low
        reprojection errors alone do not prove poses right: they are computed from the matches that
        agree.
    """

    longest_side: int = 1600
    features: int = 4096
    exhaustive_photos: int = 150
    neighbours: int = 10
    epipolar_pixels: float = 2.0
    least_agreement: float = 0.6
    seed: int = 0


def find_photos(capture: Path) -> Path | None:
    """The folder of two or more photos in a capture (``images/`` or the capture), or None."""
    return next(
        (
            folder
            for folder in (capture / "images", capture)
            if len(list(itertools.islice(_photos_in(folder), 2))) == 2
        ),
        None,
    )


def photo_names(folder: Path) -> list[str]:
    """Photos in ``folder`` and, for a folder called ``images``, in the folders inside it; paths
    relative to it, sorted.
    """
    return sorted(path.relative_to(folder).as_posix() for path in _photos_in(folder))


def load(
    capture: Path,
    folder: Path,
    work_folder: Path | None = None,
    config: SfmConfig = SfmConfig(),
    say: Callable[[str], None] = lambda text: None,
    ignore_masks: bool = False,
) -> Scene:
    """The scene of the photos in ``folder`` (as ``find_photos`` returns it).

    work_folder: keeps database and model for the next time; None computes in a temporary folder.
    say: gets one line per step. ignore_masks: look for features also where photos are masked.
    Photos that are no images are left out with a note. Raises InputError when too few are images
    (see ``check_broken``) and when poses are found for no more than half of the photos.
    """
    photos, broken = readable_photos(capture, folder, ignore_masks)
    names = [photo.name for photo in photos]
    unusable = check_broken(broken, len(names) + len(broken), folder / "photos")
    masks = [] if ignore_masks else _mask_files(capture, folder, names)
    with handlers_kept():
        import pycolmap  # noqa: F401 - its log installs a handler for SIGTERM, which prints a stack trace and kills
    with temporary_if_none(work_folder) as work:
        files = [(name, folder / name) for name in names]
        choices = [*([masks] if masks else []), *(["masks ignored"] if ignore_masks else [])]
        stage = work / f"sfm-{fingerprint(config, files, *choices)[:16]}"
        model_folder = stage / "model"
        if not model_folder.is_dir():
            with stop_at_once():  # minutes, and an interrupted database continues
                _reconstruct(folder, photos, stage, config, say)
        turned = [folder / photo.name for photo in photos if _is_copied(photo)]
        scene = colmap.load(capture, model_folder, turned)
        agreement = kept_agreement(stage, model_folder, config.epipolar_pixels)

    prefix = folder.relative_to(capture)
    registered = {photo.name for photo in scene.photos}
    lost = tuple(
        name for name in ((prefix / name).as_posix() for name in names) if name not in registered
    )
    notes = scene.notes + unusable + unread_note(folder.iterdir())
    if lost:
        notes += (
            f"no pose was found for {len(lost)} of {len(names)} photos, they are left out: "
            f"{', '.join(lost)}",
        )
    if agreement < config.least_agreement:
        notes += (
            f"the poses are doubtful: only {agreement:.0%} of the matches lie within "
            f"{config.epipolar_pixels:g} pixels of where the poses "
            "predict them (repeating texture or moving objects?)",
        )
    damaged = tuple((prefix / name).as_posix() for name in broken)
    return replace(scene, format="photos", notes=notes, lost_photos=(*lost, *damaged))


def readable_photos(
    capture: Path, folder: Path, ignore_masks: bool = False
) -> tuple[list[Photo], dict[str, str]]:
    """The photos in ``folder`` with their masks, called after their paths in it, and what is wrong
    with those that are no readable image.

    Raises InputError for files that the system does not let be read.
    """
    masks = MaskFiles(capture)
    photos, broken = [], {}
    for name in photo_names(folder):
        path = folder / name
        check_may_read(path)
        try:
            photo = open_photo(path, name, None if ignore_masks else masks.find(path))
        except InputError as error:
            broken[name] = str(error)
        else:
            photos.append(replace(photo, mask=None) if ignore_masks else photo)
    return photos, broken


def _mask_files(capture: Path, folder: Path, names: Sequence[str]) -> list[tuple[str, Path]]:
    masks = MaskFiles(capture)
    found = ((name, masks.find(folder / name)) for name in names)
    return [(name, mask) for name, mask in found if mask is not None]


def _photos_in(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return iter(())
    inside = folder.rglob("*") if folder.name == "images" else folder.iterdir()
    return (
        path
        for path in inside
        if path.suffix.lower() in PHOTO_SUFFIXES
        and not path.name.startswith(".")
        and not is_mask(path, folder.parent if folder.name == "images" else folder)
        and is_regular(path)
    )


@contextmanager
def temporary_if_none(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


# Structure from motion ----------------------------------------------------------------------------


def _reconstruct(
    folder: Path,
    photos: Sequence[Photo],
    stage: Path,
    config: SfmConfig,
    say: Callable[[str], None],
) -> None:
    """Features, matches and model of the photos, into ``stage``."""
    import pycolmap

    stage.mkdir(parents=True, exist_ok=True)
    names = [photo.name for photo in photos]
    links = _link(photos, stage)
    groups = _camera_groups(photos)
    database = stage / "database.db"
    with quiet_colmap(), tempfile.TemporaryDirectory(dir=stage) as scratch:
        pycolmap.set_random_seed(config.seed)
        say(f"structure from motion: features of {len(names)} photos")
        _extract(
            database,
            stage / "photos",
            [[links[name] for name in group] for group in groups],
            config,
            stage / "masks",
        )
        pairs = photo_pairs(len(names), config)
        say(f"structure from motion: matching {len(pairs)} pairs of photos")
        match_pairs(
            database,
            [(links[names[a]], links[names[b]]) for a, b in pairs],
            stage / "pairs.txt",
            config,
        )
        say("structure from motion: poses")
        model = _map(database, stage / "photos", Path(scratch), config)
        count = 0 if model is None else model.num_reg_images()
        if _turns_only(database, model):
            raise InputError(
                f"{folder}: no parallax: turning the camera explains all matches, so the photos "
                "are taken from one place (or are the same photo) and depth cannot be told; "
                "expected photos from different places"
            )
        if model is None or count * 2 <= len(names):
            _check_readable(folder, names)
            raise InputError(
                f"{folder}: structure from motion found poses for {count} of {len(names)} photos; "
                "expected more than half. "
                "Add photos that overlap their neighbours by two thirds, sharp and without moving "
                "objects, or bring poses "
                "(a COLMAP model or transforms.json)"
            )
        original = {link: name for name, link in links.items()}
        for image in model.images.values():
            image.name = original[image.name]
        finished = Path(scratch) / "model"
        finished.mkdir()
        model.write_binary(finished)
        finished.rename(stage / "model")


def _link(photos: Sequence[Photo], stage: Path) -> dict[str, str]:
    """Links in ``stage/photos`` to all photos, or upright copies of those that COLMAP does not read
    rightly, and their masks in ``stage/masks``; returns their names by the photos' names.
    """
    short = {}
    for number, photo in enumerate(photos):
        assert photo.path is not None, f"{photo.name} has no file"
        copied = _is_copied(photo)
        suffix = ".png" if copied else COLMAP_SUFFIXES[image_format(photo.path)]
        short[photo.name] = link = f"{number:06d}{suffix}"
        place = stage / "photos" / link
        place.parent.mkdir(parents=True, exist_ok=True)
        if not copied:
            place.unlink(missing_ok=True)
            link_or_copy(photo.path, place)
        elif not is_regular(place):
            write_png(place, photo.read())
        if photo.mask is not None:
            write_png(stage / "masks" / f"{link}.png", photo.mask())
    return short


def _is_copied(photo: Photo) -> bool:
    """Whether COLMAP gets an upright copy of a photo: it does not read all formats, sees mirrored
    photos as they are stored, which no camera can take, and needs masks that lie as the photo does.
    """
    assert photo.path is not None, f"{photo.name} has no file"
    orientation = exif_orientation(photo.path)
    return (
        image_format(photo.path) not in COLMAP_SUFFIXES
        or orientation in MIRRORED_ORIENTATIONS
        or (photo.mask is not None and orientation != 1)
    )


def _camera_groups(photos: Sequence[Photo]) -> list[list[str]]:
    """Photos that share a camera: those of one folder, one size as COLMAP sees them and one focal
    length in EXIF.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    for photo in photos:
        assert photo.path is not None, f"{photo.name} has no file"
        size = (photo.width, photo.height) if _is_copied(photo) else stored_size(photo)
        key = (Path(photo.name).parent, size, _exif_focal_length(photo.path))
        groups.setdefault(key, []).append(photo.name)
    return list(groups.values())


def _exif_focal_length(path: Path) -> tuple[str, ...]:
    """Focal length and its 35 mm equivalent as EXIF tells them, as text: they are only compared,
    and files hold words there too.
    """
    from PIL import Image
    from PIL.ExifTags import IFD

    with opened_image(path) as image:
        try:
            lens = Image.Image.getexif(image).get_ifd(IFD.Exif)
        except PARSER_ERRORS:  # damaged EXIF says nothing, and the pixels may be good
            return ()
    return tuple(str(lens.get(tag, 0)) for tag in (0x920A, 0xA405))


def _extract(
    database: Path, folder: Path, groups: Sequence[Sequence[str]], config: SfmConfig, masks: Path
) -> None:
    """Cameras, images and features outside the masks, where there are any. The images are entered
    first: features arrive in the order in which threads finish.
    """
    import pycolmap

    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "SIMPLE_RADIAL"
    with pycolmap.Database.open(database) as opened:
        known = {image.name for image in opened.read_all_images()}
    for group in groups:
        if not known.issuperset(group):
            pycolmap.import_images(
                database, folder, pycolmap.CameraMode.SINGLE, list(group), reader
            )
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.max_image_size = config.longest_side
    options.sift.max_num_features = config.features
    if masks.is_dir():
        reader.mask_path = masks
    pycolmap.extract_features(
        database,
        folder,
        [name for group in groups for name in group],
        reader_options=reader,
        extraction_options=options,
    )


def photo_pairs(count: int, config: SfmConfig) -> list[tuple[int, int]]:
    """Which photos to match, as positions in the sorted list."""
    if count <= config.exhaustive_photos:
        return list(itertools.combinations(range(count), 2))
    reach = [
        *range(1, config.neighbours + 1),
        *itertools.takewhile(lambda d: d < count, (2**k for k in range(4, 32))),
    ]
    near = {(first, first + distance) for distance in reach for first in range(count - distance)}
    spaced = np.unique(
        np.linspace(0, count - 1, config.exhaustive_photos).round().astype(int)
    ).tolist()
    return sorted(near | set(itertools.combinations(spaced, 2)))


def match_pairs(
    database: Path, pairs: Sequence[tuple[str, str]], list_file: Path, config: SfmConfig
) -> None:
    import pycolmap

    write_bytes(list_file, "".join(f"{first} {second}\n" for first, second in pairs).encode())
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = list_file
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = config.seed
    pycolmap.match_image_pairs(database, matching, pairing, verification)


def _map(
    database: Path, folder: Path, scratch: Path, config: SfmConfig
) -> pycolmap.Reconstruction | None:
    """The largest model that incremental mapping finds, or None. One thread: sums of several depend
    on their order.
    """
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 2
    options.num_threads = options.mapper.num_threads = 1
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = (
        config.seed
    )
    models = pycolmap.incremental_mapping(database, folder, scratch, options)
    return max(
        models.values(),
        key=lambda model: (model.num_reg_images(), model.num_points3D()),
        default=None,
    )


def _check_readable(folder: Path, names: Sequence[str]) -> None:
    """Raises InputError for the first photo whose pixels can't be read: COLMAP only leaves such
    photos out.
    """
    for name in names:
        read_image(folder / name)


@contextmanager
def quiet_colmap() -> Iterator[None]:
    """Without COLMAP's log: what matters in it becomes a note or an error here."""
    import pycolmap

    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


# Does the camera move? ----------------------------------------------------------------------------

#: Pairs and matches of each that are looked at, and how many pairs it takes.
MOST_PAIRS, MOST_PAIR_MATCHES, LEAST_PAIRS = 200, 300, 3

#: Focal lengths are uncertain where nothing but rotation is seen: up to this factor when structure
#: from motion found one, and when it did not; and how many multiples are tried.
FOUND_FOCAL, GUESSED_FOCAL, FOCALS = 1.25, 2.0, 13


def _turns_only(database: Path, model: pycolmap.Reconstruction | None) -> bool:
    """Whether a turning camera explains the verified matches of all pairs: structure from motion
    invents positions then, if it finds any.
    """
    pairs = _verified_pairs(database, model)
    if len(pairs) < LEAST_PAIRS:
        return False
    most = GUESSED_FOCAL if model is None else FOUND_FOCAL
    return any(
        shows_no_parallax([_with_focal_factor(pair, factor) for pair in pairs])
        for factor in np.geomspace(1 / most, most, FOCALS).tolist()
    )


def _with_focal_factor(pair: PairMatches, factor: float) -> PairMatches:
    return replace(
        pair,
        first_plane=pair.first_plane / factor,
        second_plane=pair.second_plane / factor,
        focal=pair.focal * factor,
    )


def _verified_pairs(database: Path, model: pycolmap.Reconstruction | None) -> list[PairMatches]:
    """Evenly chosen pairs with their verified matches; lenses are the model's where it has them."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        cameras |= dict(model.cameras) if model is not None else {}
        lenses = {image.image_id: cameras[image.camera_id] for image in opened.read_all_images()}
        found = [
            (pycolmap.pair_id_to_image_pair(pair_id), np.reshape(geometry.inlier_matches, (-1, 2)))
            for pair_id, geometry in zip(*opened.read_two_view_geometries(), strict=True)
            if len(geometry.inlier_matches) >= LEAST_MATCHES
        ]
        pairs = []
        for (first, second), matches in found[:: -(-len(found) // MOST_PAIRS) or 1]:
            matches = matches[:: -(-len(matches) // MOST_PAIR_MATCHES)].astype(np.int64)
            first_plane, second_plane = (
                np.asarray(
                    lenses[image].cam_from_img(
                        opened.read_keypoints(image)[matches[:, side], :2].astype(np.float64)
                    )
                )
                for side, image in enumerate((first, second))
            )
            lens = lenses[second]
            focal = lens.mean_focal_length() * LONGEST_SIDE / max(lens.width, lens.height)
            pairs.append(PairMatches(first, second, first_plane, second_plane, focal))
    return pairs


# Are the poses right? -----------------------------------------------------------------------------


def kept_agreement(stage: Path, model_folder: Path, tolerance: float) -> float:
    """``epipolar_agreement``, computed once. Raises InputError when the stage's files are not those
    that COLMAP wrote.
    """
    path = stage / "agreement.json"
    if not is_regular(path):
        try:
            write_json(
                path,
                {"agreement": epipolar_agreement(stage / "database.db", model_folder, tolerance)},
            )
        except PARSER_ERRORS as error:
            raise InputError(
                f"{stage}: damaged ({reason(error)}); delete this folder to have the poses "
                "computed again"
            ) from error
    content = read_json(path)
    agreement = content.get("agreement") if isinstance(content, dict) else None
    if not is_number(agreement, 1):
        raise InputError(
            f'{path}: "agreement" is {shown(agreement)}, expected a number from 0 to 1; delete it '
            "to have it computed again"
        )
    return agreement


def epipolar_agreement(database: Path, model_folder: Path, tolerance: float) -> float:
    """Share of the verified matches between registered photos that lie within ``tolerance`` pixels
    of the model's epipolar lines.
    """
    import pycolmap

    model = pycolmap.Reconstruction(model_folder)
    close = total = 0
    with pycolmap.Database.open(database) as opened:
        cameras = {
            image_id: model.cameras[model.images[image_id].camera_id]
            for image_id in model.reg_image_ids()
        }
        poses = {image_id: model.images[image_id].cam_from_world() for image_id in cameras}
        rays = {
            image_id: np.asarray(
                camera.cam_from_img(opened.read_keypoints(image_id)[:, :2].astype(np.float64))
            )
            for image_id, camera in cameras.items()
        }
        for pair_id, geometry in zip(*opened.read_two_view_geometries(), strict=True):
            first, second = pycolmap.pair_id_to_image_pair(pair_id)
            matches = np.reshape(np.asarray(geometry.inlier_matches, np.int64), (-1, 2))
            if first in cameras and second in cameras:
                relative = (poses[second] * poses[first].inverse()).matrix()
                distance = _epipolar_distance(
                    relative, rays[first][matches[:, 0]], rays[second][matches[:, 1]]
                )
                close += int((distance * cameras[second].mean_focal_length() <= tolerance).sum())
                total += len(matches)
    return close / total if total else 0.0


def _epipolar_distance(relative: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distance of the rays ``second`` ``[n 2]`` from the epipolar lines of ``first`` at focal
    length 1; ``relative`` ``[3 4]`` maps camera 1 to camera 2."""
    rotation, translation = relative[:, :3], relative[:, 3]
    lines = np.cross(
        translation, np.concatenate([first, np.ones((len(first), 1))], axis=1) @ rotation.T
    )
    offset = (lines[:, :2] * second).sum(axis=1) + lines[:, 2]
    distances: np.ndarray = np.abs(offset) / np.maximum(np.linalg.norm(lines[:, :2], axis=1), 1e-12)
    return distances
