"""Structure from motion by COLMAP (pycolmap, on the CPU): the steps that photos and panoramas
share.

SIFT features, pairwise matching with epipolar verification, incremental mapping. Random seeds are
fixed, and whatever would depend on the order of threads runs in one, so the same photos give the
same poses on the same machine.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from artifixer.runtime.files import write_bytes

if TYPE_CHECKING:
    import pycolmap

    IncrementalPipelineOptions = pycolmap.IncrementalPipelineOptions
    Reconstruction = pycolmap.Reconstruction
else:  # functions import pycolmap when they need it: that takes a while
    IncrementalPipelineOptions = Reconstruction = Any


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


@contextmanager
def temporary_if_none(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


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


def extract_features(
    database: Path, folder: Path, names: Sequence[str], config: SfmConfig, masks: Path
) -> None:
    """Features of images that the database knows, outside their masks if the folder ``masks``
    exists.
    """
    import pycolmap

    reader = pycolmap.ImageReaderOptions()
    if masks.is_dir():
        reader.mask_path = masks
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.max_image_size = config.longest_side
    options.sift.max_num_features = config.features
    pycolmap.extract_features(
        database, folder, list(names), reader_options=reader, extraction_options=options
    )


def match_pairs(
    database: Path, pairs: Sequence[tuple[str, str]], list_file: Path, config: SfmConfig
) -> None:
    """Matches of the pairs, verified. Each pair's estimate starts from the seed by itself, so the
    number of threads and the order in which pairs finish change nothing (measured: the same bytes
    with 1 to 8 threads and with random delays at every lock).
    """
    import pycolmap

    write_bytes(list_file, "".join(f"{first} {second}\n" for first, second in pairs).encode())
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = list_file
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = config.seed
    pycolmap.match_image_pairs(database, matching, pairing, verification)


def mapping_options(config: SfmConfig) -> IncrementalPipelineOptions:
    """Options of incremental mapping in one thread: sums of several depend on their order."""
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 2
    options.num_threads = options.mapper.num_threads = 1
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = (
        config.seed
    )
    return options


def largest_model(
    database: Path,
    folder: Path,
    scratch: Path,
    options: IncrementalPipelineOptions,
    size: Callable[[Reconstruction], int],
) -> Reconstruction | None:
    """The model of the largest ``size`` that incremental mapping finds, of equal ones that with the
    most points; None without any.
    """
    import pycolmap

    models = pycolmap.incremental_mapping(database, folder, scratch, options)
    return max(models.values(), key=lambda model: (size(model), model.num_points3D()), default=None)
