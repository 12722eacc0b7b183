"""``SceneScores`` on disk: a JSON file, and a safetensors file with the features of FID and KD."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from artifixer.evaluation.profiles import PROFILES
from artifixer.evaluation.scores import REGIONS, SceneScores, ViewScore
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, read_whole, reason, write_bytes
from artifixer.runtime.json_io import as_object, is_number, read_json, to_json, write_json

#: Maximum size in bytes of a features file that is read.
MAX_FEATURE_BYTES = 4 * 1024**3


def write_scores(path: Path, scores: SceneScores) -> None:
    """Write ``path`` (JSON) and, where there are features, a .safetensors file beside it."""
    if scores.features:
        from safetensors.numpy import save

        write_bytes(path.with_suffix(".safetensors"), save(dict(scores.features)))
    write_json(path, {"views": [_to_json(view) for view in scores.views]})


def read_scores(path: Path) -> SceneScores:
    """Read what ``write_scores`` wrote. Raises InputError for damaged files."""
    content = as_object(read_json(path), path)
    listed = content.get("views")
    if not isinstance(listed, list) or not listed:
        raise InputError(f'{path}: has no list "views"; delete it to compute it again')
    try:
        views = tuple(_from_json(entry) for entry in listed)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: no scores of views ({str(error)[:80]}); delete it to compute it again"
        ) from error
    features = path.with_suffix(".safetensors")
    return SceneScores(views, _read_features(features) if features.exists() else {})


def _read_features(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = load(read_whole(path, "features of frames", MAX_FEATURE_BYTES))
    except (SafetensorError, *PARSER_ERRORS) as error:
        raise InputError(
            f"{path}: no readable features ({reason(error)}); delete it to compute it again"
        ) from error
    for name, rows in found.items():
        if rows.ndim != 2 or rows.dtype != np.float32 or not np.isfinite(rows).all():
            raise InputError(
                f"{path}: {name[:40]} holds no features; delete it to compute it again"
            )
    return found


def _to_json(view: ViewScore) -> dict[str, Any]:
    """JSON has no infinity: a PSNR of equal images is written as text."""
    content = to_json(asdict(view))
    for profile, figures in view.figures.items():
        for name, value in figures.items():
            if value is not None and math.isinf(value):
                content["figures"][profile][name] = "infinite"
    assert isinstance(content, dict)
    return content


def _from_json(entry: Mapping[str, Any]) -> ViewScore:
    figures = {
        str(profile): {str(name): _number(value) for name, value in values.items()}
        for profile, values in entry["figures"].items()
        if profile in PROFILES
    }
    texts = [entry[name] for name in ("photo", "prediction", "truth")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a name is not text")
    mask = entry["mask"]
    sums = [entry["squared"], entry["values"]]
    if not all(
        isinstance(each, list) and len(each) == len(REGIONS) and all(type(n) is int for n in each)
        for each in sums
    ):
        raise TypeError("sums are not whole numbers")
    return ViewScore(
        texts[0],
        texts[1],
        texts[2],
        mask if isinstance(mask, str) else None,
        int(entry["width"]),
        int(entry["height"]),
        figures,
        _number(entry["st_lpips"]),
        tuple(sums[0]),
        tuple(sums[1]),
        _number(entry["own_opacity"]),
    )


def _number(value: object) -> float | None:
    if value is None:
        return None
    if value == "infinite":
        return math.inf
    if not is_number(value, 1e12):
        raise TypeError("a figure is text, not a number")
    return float(value)
