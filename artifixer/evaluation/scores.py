"""The figures of one method on the held-out views of one scene.

In: a stream of held-out views. Out: ``SceneScores``: for each view its figures by metric profile
and sums of squared errors over all, opaque and empty pixels; and the features behind FID and KD,
which are pooled over all scenes (``summary``).

Masked profiles leave out views without a mask, as the published evaluations do, and views in which
no pixel counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

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
from artifixer.imaging.quality import RegionErrors, squared_differences
from artifixer.runtime.stopping import stop_if_requested

#: Regions with a pooled PSNR, by the opacity of the model's input render.
REGIONS = ("all", "opaque", "empty")

#: Depth beyond which Nerfbusters' own metrics ignore pixels, in units of its reconstruction.
NERFBUSTERS_DEPTH = 2.0


@dataclass(frozen=True)
class BenchmarkView:
    """One held-out photo and the frame of a method, of the same size."""

    photo: str
    """Name of the photo."""

    truth: UInt8[np.ndarray, "height width 3"]

    prediction: UInt8[np.ndarray, "height width 3"]

    prediction_path: str
    """File, for the record; "" without one, as for the paths below."""

    truth_path: str

    mask: Bool[np.ndarray, "height width"] | None = None
    """Pixels that count in masked profiles."""

    mask_path: str = ""

    opacity: UInt8[np.ndarray, "height width"] | None = None
    """Opacity of the model's input render, the same for all methods of a scene."""

    own_opacity: Float[np.ndarray, "any any2"] | None = None
    """Opacity of the method's own render, [0,1]."""

    depth: Float[np.ndarray, "height width"] | None = None
    """Depth of the method's own render: the profile ``nerfbusters`` ignores pixels beyond
    ``NERFBUSTERS_DEPTH``."""


@dataclass(frozen=True)
class ViewScore:
    """The record of one view."""

    photo: str
    """Name of the photo."""

    prediction: str
    """File of the frame; "" without one."""

    truth: str
    """File of the photo."""

    mask: str | None
    """File of the mask."""

    width: int
    height: int

    figures: Mapping[str, Mapping[str, float | None]]
    """Figures by name, by profile."""

    st_lpips: float | None

    squared: tuple[int, ...]
    """Sums of squared 8-bit errors, by ``REGIONS``."""

    values: tuple[int, ...]
    """Numbers of values (pixels times channels) in these sums."""

    own_opacity: float | None
    """Mean opacity of the method's own render."""


@dataclass(frozen=True)
class SceneScores:
    """One method in one scene."""

    views: tuple[ViewScore, ...]

    features: Mapping[str, Float[np.ndarray, "rows features"]]
    """Features for FID (``fid_{profile}_{ours,theirs}``) and KD (``kd_{ours,theirs}``); ``ours`` of
    the frames, ``theirs`` of the photos."""


def score_scene(
    views: Iterable[BenchmarkView],
    profiles: Sequence[str],
    networks: Networks,
    done: Callable[[int], None] = lambda count: None,
) -> SceneScores:
    """Score the views; the iterable is read once. profiles: names. done: is called with the number
    of views so far.

    Raises ``Stopped`` between views after SIGTERM.
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
    view: BenchmarkView,
    profiles: Sequence[str],
    networks: Networks,
    features: dict[str, list[np.ndarray]],
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


def _mask(profile: Profile, view: BenchmarkView) -> Bool[np.ndarray, "height width"] | None:
    if profile.masking == "none" or view.mask is None:
        return None
    if profile.masking == "mean" and view.depth is not None:
        return view.mask & (view.depth < NERFBUSTERS_DEPTH)
    return view.mask


def _add_inception(
    features: dict[str, list[np.ndarray]],
    name: str,
    view: BenchmarkView,
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


def _region_sums(view: BenchmarkView) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Squared errors and numbers of values by ``REGIONS``; opaque and empty have none without an
    opacity.
    """
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
