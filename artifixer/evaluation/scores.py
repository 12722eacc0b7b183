"""The figures of one method in one scene, and their summary over scenes.

In: held-out views one at a time (photo, prediction, mask, opacity). Out: ``SceneScores``: figures
of every view by metric profile, sums of squared errors over all, opaque and empty pixels, and the
features behind FID and KD, which are pooled over all scenes.

Masked profiles leave out views without a mask, as the published evaluations do, and views of which
no pixel counts. A mean over views is None when one of them lacks the figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from artifixer.evaluation.profiles import (
    PROFILES,
    Networks,
    Profile,
    as_float,
    blacked_out,
    score,
    st_lpips,
)
from artifixer.imaging.perceptual import KD_CROPS, frechet_distance, kernel_distance
from artifixer.imaging.quality import (
    RegionErrors,
    SquaredError,
    squared_differences,
)
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, read_whole, reason, write_bytes
from artifixer.runtime.json_io import as_object, is_number, read_json, to_json, write_json
from artifixer.runtime.stopping import stop_if_requested

#: Regions of pixels with a pooled PSNR, by the opacity of the render that the generator gets.
REGIONS = ("all", "opaque", "empty")

#: Bytes of the features of a scene's frames at most, for the reader of a stored file.
MOST_FEATURE_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class View:
    """One held-out view, pixels of one size.

    photo: its name. prediction_path, truth_path, mask_path: files, for the record; "" without one.
    mask: pixels that count, for masked profiles. depth: of the method's render, for the profile
    ``nerfbusters``, which counts nothing beyond ``NERFBUSTERS_DEPTH``. opacity: of the render that
    the generator gets, 0 to 255, the same for all methods of a scene. own_opacity: of the method's
    render, [0,1].
    """

    photo: str
    truth: UInt8[np.ndarray, "height width 3"]
    prediction: UInt8[np.ndarray, "height width 3"]
    prediction_path: str
    truth_path: str
    mask: Bool[np.ndarray, "height width"] | None = None
    mask_path: str = ""
    opacity: UInt8[np.ndarray, "height width"] | None = None
    own_opacity: Float[np.ndarray, "any any2"] | None = None
    depth: Float[np.ndarray, "height width"] | None = None


#: Depth beyond which Nerfbusters' own metrics count nothing, units of its reconstruction.
NERFBUSTERS_DEPTH = 2.0


@dataclass(frozen=True)
class ViewScore:
    """The record of one view. figures: by profile. squared, values: sums of squared 8-bit errors
    and how many values, by ``REGIONS``. own_opacity: mean of the method's own, or None.
    """

    photo: str
    prediction: str
    truth: str
    mask: str | None
    width: int
    height: int
    figures: Mapping[str, Mapping[str, float | None]]
    st_lpips: float | None
    squared: tuple[int, ...]
    values: tuple[int, ...]
    own_opacity: float | None


@dataclass(frozen=True)
class SceneScores:
    """One method in one scene. features: rows for FID by profile, and for KD, of predictions and of
    photos: ``fid_{profile}_{ours,theirs}``, ``kd_{ours,theirs}``.
    """

    views: tuple[ViewScore, ...]
    features: Mapping[str, Float[np.ndarray, "rows features"]]


def score_scene(
    views: Iterable[View],
    profiles: Sequence[str],
    networks: Networks,
    done: Callable[[int], None] = lambda count: None,
) -> SceneScores:
    """Score the views, which are read once. done: gets the number of views so far. Raises
    ``Stopped`` between views after SIGTERM.
    """
    scored: list[ViewScore] = []
    features: dict[str, list[np.ndarray]] = {}
    for view in views:
        stop_if_requested("while scoring frames")
        scored.append(_view_score(view, profiles, networks, features))
        done(len(scored))
    return SceneScores(
        tuple(scored), {name: np.concatenate(rows) for name, rows in features.items()}
    )


def _view_score(
    view: View, profiles: Sequence[str], networks: Networks, features: dict[str, list[np.ndarray]]
) -> ViewScore:
    figures: dict[str, dict[str, float | None]] = {}
    for name in profiles:
        profile = PROFILES[name]
        mask = _mask(profile, view)
        if profile.masking != "none" and (mask is None or not mask.any()):
            continue
        figures[name] = score(profile, view.prediction, view.truth, mask, networks)
        if networks.inception is not None and profile.has_fid:
            _add_inception(features, name, view, mask, networks)
    if networks.content is not None:
        for side, pixels in (("ours", view.prediction), ("theirs", view.truth)):
            rows = networks.content(as_float(pixels, networks.device)).cpu().numpy()
            features.setdefault(f"kd_{side}", []).append(rows)
    squared, values = _region_sums(view)
    height, width = view.truth.shape[:2]
    return ViewScore(
        view.photo,
        view.prediction_path,
        view.truth_path,
        view.mask_path or None,
        width,
        height,
        figures,
        st_lpips(view.prediction, view.truth, networks),
        squared,
        values,
        None if view.own_opacity is None else float(np.mean(view.own_opacity)),
    )


def _mask(profile: Profile, view: View) -> Bool[np.ndarray, "height width"] | None:
    if profile.masking == "none" or view.mask is None:
        return None
    if profile.masking == "mean" and view.depth is not None:
        return view.mask & (view.depth < NERFBUSTERS_DEPTH)
    return view.mask


def _add_inception(
    features: dict[str, list[np.ndarray]],
    name: str,
    view: View,
    mask: Bool[np.ndarray, "height width"] | None,
    networks: Networks,
) -> None:
    assert networks.inception is not None
    for side, pixels in (("ours", view.prediction), ("theirs", view.truth)):
        image = as_float(pixels, networks.device)
        if mask is not None:
            image = blacked_out(image, mask)
        rows = networks.inception(image).cpu().numpy()
        features.setdefault(f"fid_{name}_{side}", []).append(rows)


def _region_sums(view: View) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Squared errors and how many values, by ``REGIONS``; nothing in regions without an opacity."""
    errors = RegionErrors()
    frame, truth = (
        torch.from_numpy(np.ascontiguousarray(pixels)) for pixels in (view.prediction, view.truth)
    )
    if view.opacity is None:
        errors.pooled.add(
            squared_differences(frame, truth), torch.ones(truth.shape[:2], dtype=torch.bool)
        )
    else:
        errors.add(frame, truth, torch.from_numpy(np.ascontiguousarray(view.opacity)))
    regions = (errors.pooled, errors.opaque, errors.empty)
    return tuple(region.total for region in regions), tuple(region.values for region in regions)


# Files --------------------------------------------------------------------------------------------


def write_scores(path: Path, scores: SceneScores) -> None:
    """``path`` (JSON), and beside it the features where there are any."""
    if scores.features:
        from safetensors.numpy import save

        write_bytes(path.with_suffix(".safetensors"), save(dict(scores.features)))
    write_json(path, {"views": [_to_json(view) for view in scores.views]})


def read_scores(path: Path) -> SceneScores:
    """The scores that ``write_scores`` wrote. Raises InputError for damaged files."""
    content = as_object(read_json(path), path)
    listed = content.get("views")
    if not isinstance(listed, list) or not listed:
        raise InputError(f'{path}: has no list "views"; delete it to have it made again')
    try:
        views = tuple(_from_json(entry) for entry in listed)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: no scores of views ({str(error)[:80]}); delete it to have it made again"
        ) from error
    features = path.with_suffix(".safetensors")
    return SceneScores(views, _read_features(features) if features.exists() else {})


def _read_features(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = load(read_whole(path, "features of frames", MOST_FEATURE_BYTES))
    except (SafetensorError, *PARSER_ERRORS) as error:
        raise InputError(
            f"{path}: no readable features ({reason(error)}); delete it to have it made again"
        ) from error
    for name, rows in found.items():
        if rows.ndim != 2 or rows.dtype != np.float32 or not np.isfinite(rows).all():
            raise InputError(f"{path}: {name[:40]} holds no features; delete it")
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
        raise TypeError("a name is no text")
    mask = entry["mask"]
    sums = [entry["squared"], entry["values"]]
    if not all(
        isinstance(each, list) and len(each) == len(REGIONS) and all(type(n) is int for n in each)
        for each in sums
    ):
        raise TypeError("sums are no whole numbers")
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
        raise TypeError("text where a figure belongs")
    return float(value)


# Summaries ----------------------------------------------------------------------------------------


def summarise(
    scenes: Mapping[str, SceneScores], networks_missing: Mapping[str, str]
) -> dict[str, Any]:
    """The figures of one method over all scenes, as ``results.json`` has them.

    ``frames``: means over all frames pooled; ``scenes``: means of the scenes' means; both by
    profile. ``pooled``: PSNR of pooled squared errors by region. ``fid``: by profile; ``kd``:
    x1000.
    """
    profiles = [
        name
        for name in PROFILES
        if any(name in view.figures for scores in scenes.values() for view in scores.views)
    ]
    everything = [view for scores in scenes.values() for view in scores.views]
    per_scene = {name: _means(scores.views, profiles) for name, scores in scenes.items()}
    return {
        "frames": _means(everything, profiles),
        "scenes": _mean_of_means(list(per_scene.values())),
        "per_scene": per_scene,
        "pooled": _pooled(everything),
        "views": len(everything),
        "masked_views": {
            name: sum(name in view.figures for view in everything)
            for name in profiles
            if PROFILES[name].masking != "none"
        },
        "fid": {
            name: _fid(scenes, name, networks_missing)
            for name in profiles
            if PROFILES[name].has_fid
        },
        "kd": _kd(scenes, networks_missing),
    }


def _means(views: Sequence[ViewScore], profiles: Sequence[str]) -> dict[str, Any]:
    means: dict[str, Any] = {}
    for name in profiles:
        scored = [view.figures[name] for view in views if name in view.figures]
        if scored:
            means[name] = {
                figure.name: mean([each.get(figure.name) for each in scored])
                for figure in PROFILES[name].figures
            }
    means["st_lpips"] = mean([view.st_lpips for view in views])
    means["pooled"] = _pooled(views)
    return means


def _mean_of_means(scenes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"st_lpips": mean([scene["st_lpips"] for scene in scenes])}
    for name in PROFILES:
        there = [scene[name] for scene in scenes if name in scene]
        if there:
            found[name] = {figure: mean([scene[figure] for scene in there]) for figure in there[0]}
    return found


def _pooled(views: Sequence[ViewScore]) -> dict[str, float | None]:
    return {
        region: SquaredError(
            sum(view.squared[position] for view in views),
            sum(view.values[position] for view in views),
        ).psnr()
        for position, region in enumerate(REGIONS)
    }


def _fid(
    scenes: Mapping[str, SceneScores], profile: str, missing: Mapping[str, str]
) -> dict[str, Any]:
    sets = _pooled_features(scenes, f"fid_{profile}")
    if sets is None or len(sets[0]) < 2:
        reason = missing.get("fid", "fewer than two images")
        return {"value": None, "why": reason, "images": 0 if sets is None else len(sets[0])}
    return {"value": frechet_distance(*sets), "images": len(sets[0])}


def _kd(scenes: Mapping[str, SceneScores], missing: Mapping[str, str]) -> dict[str, Any]:
    sets = _pooled_features(scenes, "kd")
    if sets is None:
        return {"value": None, "why": missing.get("kd", "no features"), "crops": 0}
    crops = len(sets[0])
    if crops < KD_CROPS:
        return {
            "value": None,
            "why": f"kd not computed: {crops} crops, at least {KD_CROPS} are needed",
            "crops": crops,
        }
    return {"value": 1000 * kernel_distance(*sets), "crops": crops}


def _pooled_features(
    scenes: Mapping[str, SceneScores], name: str
) -> tuple[torch.Tensor, torch.Tensor] | None:
    sides = []
    for side in ("ours", "theirs"):
        rows = [scores.features.get(f"{name}_{side}") for scores in scenes.values()]
        there = [each for each in rows if each is not None]
        if not there:
            return None
        sides.append(torch.from_numpy(np.concatenate(there)))
    return sides[0], sides[1]


def mean(values: Sequence[float | None]) -> float | None:
    """None when there is no value, or one is None."""
    known = [value for value in values if value is not None]
    if not known or len(known) != len(values):
        return None
    return math.fsum(known) / len(known) if all(map(math.isfinite, known)) else math.inf
