"""Whether poses that structure from motion found can be right: do the cameras move, and do the
matches agree with the poses?
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, is_regular, reason
from artifixer.runtime.json_io import is_number, read_json, shown, write_json
from artifixer.scenes.match_geometry import shows_no_parallax
from artifixer.scenes.photo_matches import LONGEST_SIDE, MIN_MATCHES, PairMatches
from artifixer.scenes.sfm import Reconstruction

# Does the camera move? ----------------------------------------------------------------------------


#: Upper bounds of pairs and of matches per pair that are tested, and how many pairs it takes.
MAX_PAIRS, MAX_PAIR_MATCHES, MIN_PAIRS = 200, 300, 3

#: Focal lengths are uncertain where nothing but rotation is seen: up to this factor when structure
#: from motion found one, and when it did not; and how many multiples are tried.
FOUND_FOCAL, GUESSED_FOCAL, FOCALS = 1.25, 2.0, 13


def turns_only(database: Path, model: Reconstruction | None) -> bool:
    """Whether a turning camera explains the verified matches of all pairs: structure from motion
    invents positions then, if it finds any.
    """
    pairs = _verified_pairs(database, model)
    if len(pairs) < MIN_PAIRS:
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


def _verified_pairs(database: Path, model: Reconstruction | None) -> list[PairMatches]:
    """Evenly chosen pairs with their verified matches; lenses are the model's where it has them."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        cameras |= dict(model.cameras) if model is not None else {}
        lenses = {image.image_id: cameras[image.camera_id] for image in opened.read_all_images()}
        found = [
            (pycolmap.pair_id_to_image_pair(pair_id), np.reshape(geometry.inlier_matches, (-1, 2)))
            for pair_id, geometry in zip(*opened.read_two_view_geometries(), strict=True)
            if len(geometry.inlier_matches) >= MIN_MATCHES
        ]
        pairs = []
        for (first, second), matches in found[:: -(-len(found) // MAX_PAIRS) or 1]:
            matches = matches[:: -(-len(matches) // MAX_PAIR_MATCHES)].astype(np.int64)
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
