"""Equirectangular photos (360 degree cameras): how they are recognised, and the perspective views
(faces) that they are cut into.

The faces of a panorama share its centre; ``FACE_RIGS`` says how they lie.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.panorama import FACE_RIGS, sample_panorama
from artifixer.imaging.resize import resize_photo
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import image_size, read_image, write_png
from artifixer.scenes.mask_files import MaskFiles
from artifixer.scenes.photo_files import FittedView
from artifixer.scenes.scene import Photo, Split

#: Faces of a panorama where the user chooses no other number.
DEFAULT_FACES = 8

#: Side of a face in pixels, at most.
LARGEST_FACE = 1920

#: Splits hold out every 8th or every 4th panorama, with all its faces.
HELDOUT_INTERVALS = (8, 4)


def check_faces(faces: int | None) -> None:
    """Raises ``InputError`` for a number of faces that there is no rig for."""
    if faces is not None and faces not in FACE_RIGS:
        raise InputError(
            f"--faces {faces}: expected {', '.join(map(str, FACE_RIGS))} views per panorama"
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
    size = min(rig.size(photo.width), LARGEST_FACE)
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
            sample,
            name=face_name(photo.name, face),
            width=size,
            height=size,
            path=None,
            orientation=1,
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
    for every in HELDOUT_INTERVALS:
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


def write_faces(
    folder: Path,
    names: Sequence[str],
    masks: Mapping[str, Path],
    stage: Path,
    faces: int,
    largest_face: int,
    min_unmasked_fraction: float,
) -> None:
    """Write the faces of all panoramas and their masks into ``stage``; the folder ``images``
    appears when they are complete.

    largest_face: maximum side in pixels. min_unmasked_fraction: faces with a smaller fraction of
    pixels outside the mask are left out. Raises ``InputError`` for photos and masks that are not
    twice as wide as high.
    """
    rig = FACE_RIGS[faces]
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
            size = min(rig.size(width), largest_face)
            for face in range(len(rig)):
                directions = rig.directions(face, size)
                if mask is not None:
                    seen = np.where(
                        sample_panorama(mask, directions)[..., 0] >= 128, 255, 0
                    ).astype(np.uint8)
                    if (seen > 0).mean() < min_unmasked_fraction:
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


# Is it a panorama? --------------------------------------------------------------------------------


#: Width of the reduced copy on which panoramas are recognised.
PROBE_WIDTH = 512

#: Upper bounds in a panorama: the difference of the left and right border in units of the mean
#: difference of neighbouring columns (plus two grey values), and the standard deviation of the
#: first and last row, which show one pole each, as a fraction of the whole picture's.
SEAM_FACTOR, POLE_FRACTION = 3.0, 0.35

#: Bytes of a file that are searched for the note of 360 degree cameras and apps (XMP of "Photo
#: Sphere").
XMP_BYTES = 128 * 1024


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
    return bool(seam <= SEAM_FACTOR * neighbours + 2 and poles <= POLE_FRACTION * small.std() + 2)


def _says_panorama(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(XMP_BYTES)
    return b"ProjectionType" in head and b"equirectangular" in head
