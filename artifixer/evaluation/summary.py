"""The figures of one method over all scenes of an evaluation.

A mean over views is None when one of them lacks the figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from artifixer.evaluation.profiles import PROFILES
from artifixer.evaluation.scores import REGIONS, SceneScores, ViewScore
from artifixer.imaging.perceptual import KD_CROPS, frechet_distance, kernel_distance
from artifixer.imaging.quality import SquaredError
from artifixer.runtime.counts import counted


def summarise(
    scenes: Mapping[str, SceneScores], networks_missing: Mapping[str, str]
) -> dict[str, Any]:
    """The figures of one method over all scenes, as ``results.json`` has them.

    ``frames``: means over the frames of all scenes; ``scenes``: means of the scenes' means; both by
    profile. ``pooled``: PSNR of the squared error pooled over all frames, by region. ``fid``: by
    profile. ``kd``: times 1000. networks_missing: by figure, why its network is missing.
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


def mean(values: Sequence[float | None]) -> float | None:
    """The mean; None without values or when one of them is None."""
    known = [value for value in values if value is not None]
    if not known or len(known) != len(values):
        return None
    return math.fsum(known) / len(known) if all(map(math.isfinite, known)) else math.inf


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
            "why": f"kd not computed: {counted(crops, 'crop')}, at least {KD_CROPS} are needed",
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
