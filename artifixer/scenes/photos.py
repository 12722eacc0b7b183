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
from dataclasses import replace
from pathlib import Path

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, is_regular
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import (
    image_format,
    opened_image,
    read_image,
    write_png,
)
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
from artifixer.scenes.scene import Photo, Scene
from artifixer.scenes.sfm import (
    SfmConfig,
    extract_features,
    largest_model,
    mapping_options,
    match_pairs,
    photo_pairs,
    quiet_colmap,
    temporary_if_none,
)
from artifixer.scenes.sfm_checks import kept_agreement, turns_only

#: Formats of photos that COLMAP reads, and the file endings by which it knows them.
COLMAP_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif"}

#: EXIF orientations that mirror.
MIRRORED_ORIENTATIONS = (2, 4, 5, 7)


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
    config: SfmConfig | None = None,
    log: Callable[[str], None] = lambda text: None,
    ignore_masks: bool = False,
) -> Scene:
    """The scene of the photos in ``folder`` (as ``find_photos`` returns it).

    work_folder: keeps database and model for the next time; None computes in a temporary folder.
    log: gets one line per step. ignore_masks: look for features also where photos are masked.
    Photos that are no images are left out with a note. Raises InputError when too few are images
    (see ``check_broken``) and when poses are found for no more than half of the photos.
    """
    config = config or SfmConfig()
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
                _reconstruct(folder, photos, stage, config, log)
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


# Structure from motion ----------------------------------------------------------------------------


def _reconstruct(
    folder: Path,
    photos: Sequence[Photo],
    stage: Path,
    config: SfmConfig,
    log: Callable[[str], None],
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
        log(f"structure from motion: features of {len(names)} photos")
        _extract(
            database,
            stage / "photos",
            [[links[name] for name in group] for group in groups],
            config,
            stage / "masks",
        )
        pairs = photo_pairs(len(names), config)
        log(f"structure from motion: matching {counted(len(pairs), 'pair')} of photos")
        match_pairs(
            database,
            [(links[names[a]], links[names[b]]) for a, b in pairs],
            stage / "pairs.txt",
            config,
        )
        log("structure from motion: poses")
        model = largest_model(
            database,
            stage / "photos",
            Path(scratch),
            mapping_options(config),
            lambda model: model.num_reg_images(),
        )
        count = 0 if model is None else model.num_reg_images()
        if turns_only(database, model):
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
    orientation = photo.orientation
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
    extract_features(database, folder, [name for group in groups for name in group], config, masks)


def _check_readable(folder: Path, names: Sequence[str]) -> None:
    """Raises InputError for the first photo whose pixels can't be read: COLMAP only leaves such
    photos out.
    """
    for name in names:
        read_image(folder / name)
