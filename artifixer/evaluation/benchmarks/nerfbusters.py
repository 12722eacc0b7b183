"""Nerfbusters: a training and an evaluation video per scene, distinguished by file names, scored
inside public visibility masks.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from artifixer.evaluation.benchmarks.lists import data
from artifixer.evaluation.benchmarks.masks import find_visibility_masks
from artifixer.evaluation.benchmarks.prepared import frames_by_photo, write_capture
from artifixer.evaluation.benchmarks.scene import (
    BenchmarkScene,
    Options,
    check_photos,
    photo_bytes,
    prepared_scene,
    size_caveat,
)
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import as_object, read_json


def is_training_name(name: str) -> bool:
    """Whether a photo belongs to the training video: ``frame_00001.png``, or
    ``image_train_000001.png`` as renamed by Difix.
    """
    return bool(re.fullmatch(r"frame_\d+\.png", name)) or "_train_" in name


def open_nerfbusters(root: Path, name: str, options: Options, work: Path) -> BenchmarkScene:
    """``nerfbusters``: split by file names; masks where ``options`` name their folder."""
    folder, entry = (
        root / name if (root / name).is_dir() else root,
        data("nerfbusters")["scenes"][name],
    )
    path = folder / "transforms.json"
    whole = as_object(read_json(path), path)
    content = frames_by_photo(whole, str(path))
    names = list(content)
    train = sorted(photo for photo in names if is_training_name(photo))
    heldout = sorted(photo for photo in names if not is_training_name(photo))
    if not train or not heldout:
        raise InputError(
            f"{path}: {len(train)} training and {counted(len(heldout), 'evaluation photo')}, "
            "expected frame_00001.png and frame_1_00001.png"
        )
    photos = {photo: folder / entry["folder"] / photo for photo in names}
    check_photos(photos)
    masks = find_visibility_masks(options.masks, name, heldout, photos[heldout[0]])
    caveats = size_caveat(photos[names[0]], entry["size"])
    if not masks:
        caveats += ("no visibility masks (--masks): the published table is masked",)
    write_capture(
        work,
        whole | {"frames": [content[photo] for photo in names]},
        {photo: functools.partial(photo_bytes, path) for photo, path in photos.items()},
    )
    return prepared_scene(name, work, names, train, heldout, masks, caveats)
