"""One scene -> its training pairs (paper section 4.1, appendix B).

In: a ``Source``, settings, a seed. Out: encoded pairs with their figures, or the error. The output
depends only on these. Runs in a worker process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from artifixer.curation.caption import CaptionConfig, caption_clip, captioner
from artifixer.curation.render_pairs import (
    FlawConfig,
    draw_clip_indices,
    render_pair,
    sized_for_clips,
    spread_clip_indices,
    with_flaws,
)
from artifixer.curation.sources import Source
from artifixer.curation.sparse_splats import (
    SparseConfig,
    SparseFit,
    draw_fit,
    initial_points,
    sparse_splats,
    training_groups,
)
from artifixer.pairs.pair import TrainingPair
from artifixer.pairs.sample_file import encode_sample
from artifixer.pairs.shards import SampleEntry, describe
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.seeds import numpy_generator
from artifixer.scenes.depth_models import metric_depth_model
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scale import (
    METRIC_FACTOR,
    ScaleKind,
    camera_scale,
    point_depths,
    scale_depth_model,
)
from artifixer.scenes.scene import Scene
from artifixer.scenes.view import View, views_of

#: Number of photos for estimating metres per world unit, for Algorithm 1 in metres.
UNIT_PHOTOS = 12


@dataclass(frozen=True)
class CurationConfig:
    """Settings of curation."""

    sizes: tuple[tuple[int, int], ...] = ((1024, 576),)
    """(width, height) of procedural scenes' clips, one at random per scene; multiples of 16.
    Captures keep their aspect ratio: their longest side is the largest here."""
    frames: tuple[int, int] = (81, 81)
    """Shortest and longest clip; lengths are multiples of the video model's temporal factor plus
    one."""
    photos_per_frame: int = 2
    """Photos of a procedural scene per frame of the clip."""
    path_share: tuple[float, float] = (0.45, 1.0)
    """Range of the captured fraction of a procedural scene's camera path."""
    points_per_photo: tuple[int, int] = (15, 50)
    """Range of the sparse points tried per photo of a procedural scene that is captured along its
    whole path."""
    groups: int = 2
    """Number of groups of Algorithm 1, drawn from the two; each gives a pair."""
    normalised_groups: bool = True
    """Whether Algorithm 1 compares normalised translations. If not: metres for the camera scale
    ``metric``, otherwise the capture's own units, as in the printed formula."""
    windows: int = 1
    """Clips per reconstruction. 1: at a random position of the capture. More: evenly spread over
    its whole path."""
    camera_scale: ScaleKind = "median_depth"
    """Kind of the stored camera scale (``scenes/scale.py``)."""
    depth_model: str | None = None
    """Depth model for the kind ``metric`` (``scenes/depth_models.py``)."""
    faces: int | None = None
    """Perspective views of each equirectangular photo; None for the default."""
    sparse_model: int | None = None
    """Number of the COLMAP model, where a capture has several; None for the largest."""
    ignore_masks: bool = False
    """Use whole photos where masks lie beside them."""
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    """Captions of the clips."""
    sparse: SparseConfig = field(default_factory=SparseConfig)
    """Sparse reconstructions."""
    flaws: FlawConfig = field(default_factory=FlawConfig)
    """Flaws of the training photos of procedural scenes."""


@dataclass(frozen=True)
class PairFigures:
    """Figures of one pair."""

    name: str
    """Name of the pair."""
    views: int
    """Number of training views."""
    iterations: int
    """Iterations of the fit."""
    gaussians: int
    """Number of fitted Gaussians."""
    psnr: float
    """PSNR of the renders against the clip, dB, mean over frames."""
    psnr_pooled: float
    """PSNR of the renders against the clip, dB, over all pixels."""
    opaque: float
    """Fraction of pixels with opacity over 0.9."""
    empty: float
    """Fraction of pixels with opacity under 0.1."""


@dataclass(frozen=True)
class MadeScene:
    """Result of a worker: encoded pairs with their index entries and figures, or the error, and the
    duration in seconds.
    """

    samples: tuple[tuple[SampleEntry, bytes], ...]
    figures: tuple[PairFigures, ...]
    seconds: float
    error: str | None = None


def make_scene(
    number: int, source: Source, config: CurationConfig, seed: int, device: str = "cpu"
) -> MadeScene:
    """All pairs of one scene, encoded; the error instead for a scene that cannot be used."""
    started = time.monotonic()
    try:
        pairs = list(scene_pairs(number, source, config, seed, device))
    except (
        InputError,
        RuntimeError,
        AssertionError,
        ValueError,
        ArithmeticError,
        LookupError,
        OSError,
    ) as error:
        # Whatever the error, the worker continues with the next scene; the manifest records it.
        text = (
            " ".join(str(error).split())
            if isinstance(error, InputError)
            else f"{type(error).__name__}: {error}"
        )
        return MadeScene((), (), time.monotonic() - started, text)
    samples = []
    for pair, _ in pairs:
        data = encode_sample(pair)
        samples.append((describe(pair, data), data))
    return MadeScene(
        tuple(samples), tuple(figures for _, figures in pairs), time.monotonic() - started
    )


def scene_pairs(
    number: int, source: Source, config: CurationConfig, seed: int, device: str = "cpu"
) -> Iterator[tuple[TrainingPair, PairFigures]]:
    """The pairs of one scene: clips of its path, rendered from the splats of each group."""
    rng = numpy_generator(seed, f"scene {source.identity}")
    frames = _clip_length(config.frames, rng)
    scene, captured = _load(source, frames, config, rng)
    if config.windows == 1:
        clips: tuple[tuple[int, ...], ...] = (draw_clip_indices(captured, frames, rng),)
    else:
        clips = spread_clip_indices(captured, frames, config.windows, rng)
    name = scale_depth_model(config.camera_scale, None, scene.metres_per_unit, config.depth_model)
    depth_model = None if name is None else metric_depth_model(name, device)
    metres, unit = scene.metres_per_unit, 1.0
    if not config.normalised_groups and config.camera_scale == "metric":
        some = sorted(
            {
                captured[round(position)]
                for position in np.linspace(0, len(captured) - 1, UNIT_PHOTOS)
            }
        )
        views = point_depths(scene, some)
        found = camera_scale("metric", views, depth_model=depth_model, metres_per_unit=metres)
        unit = found.value / METRIC_FACTOR
    groups = training_groups(scene, captured, normalise=config.normalised_groups, unit=unit)
    if not groups:
        raise InputError(
            f"{source.name}: {counted(len(captured), 'photo')}; no group of Algorithm 1 has two"
        )
    groups = tuple(groups[index] for index in rng.permutation(len(groups))[: config.groups])
    describe_clip = captioner(config.caption, device)
    for position, group in enumerate(groups):
        fit = draw_fit(config.sparse, rng)
        training = tuple(sorted(group[: fit.views]))
        true = views_of(scene, training)
        fitted = with_flaws(true, config.flaws, rng) if source.is_procedural else true
        points = initial_points(scene, training, fit.config)
        splats = sparse_splats(fitted, points, fit.config, int(rng.integers(2**31)), device)
        # flawed photos with the true cameras: the model sees what the fit saw
        references = [
            View(view.camera, flawed.photo) for view, flawed in zip(true, fitted, strict=True)
        ]
        scale = camera_scale(
            config.camera_scale,
            point_depths(scene, training),
            depth_model=depth_model,
            metres_per_unit=metres,
        )
        if scale.is_guess:
            raise InputError(
                f"{source.name}: the length of a metre in world units is unknown; expected a "
                "metric depth model, or camera scale median_depth"
            )
        for window, clip in enumerate(clips):
            name = (
                f"{number:06d}_{position}"
                if len(clips) == 1
                else f"{number:06d}_{position}_{window}"
            )
            pair = render_pair(name, scene, clip, references, splats, scale)
            # The other group's pair of this clip is described from other frames (paper section 4.1,
            # appendix B).
            pair = replace(
                pair, caption=caption_clip(pair.clean_frames, describe_clip, subset=position)
            )
            yield pair, _figures(pair, fit, len(splats))


def _load(
    source: Source, frames: int, config: CurationConfig, rng: np.random.Generator
) -> tuple[Scene, range]:
    """The scene at the size of its clips, and which of its photos count as captured."""
    if not source.is_procedural:
        scene = load_scene(
            source.name,
            faces=config.faces,
            sparse_model=config.sparse_model,
            ignore_masks=config.ignore_masks,
        )
        scene = sized_for_clips(scene, max(max(size) for size in config.sizes))
        return scene, range(len(scene.photos))
    width, height = config.sizes[rng.integers(len(config.sizes))]
    share = rng.uniform(*config.path_share)
    photos = config.photos_per_frame * frames
    path = int(photos / share)
    points = max(1, round(share * rng.uniform(*config.points_per_photo)))
    scene = load_scene(
        f"{source.name}:frames={path},width={width},height={height},points_per_photo={points}"
    )
    first = int(rng.integers(path - photos + 1))
    return scene, range(first, first + photos)


def _clip_length(limits: tuple[int, int], rng: np.random.Generator) -> int:
    """A length from shortest to longest in steps of the video model's temporal factor."""
    shortest, longest = limits
    steps = (longest - shortest) // 4
    return shortest + 4 * int(rng.integers(steps + 1))


def _figures(pair: TrainingPair, fit: SparseFit, gaussians: int) -> PairFigures:
    error = (
        (pair.renders.to(torch.float32) - pair.clean_frames.to(torch.float32))
        .div(255)
        .square()
        .mean(dim=(1, 2, 3))
        .clamp(min=1e-6)
    )
    opacity = pair.opacity.to(torch.float32) / 255
    return PairFigures(
        name=pair.name,
        views=pair.views,
        iterations=fit.config.iterations,
        gaussians=gaussians,
        psnr=round(float(-10 * error.log10().mean()), 3),
        psnr_pooled=round(float(-10 * error.mean().log10()), 3),
        opaque=round(float((opacity > 0.9).float().mean()), 4),
        empty=round(float((opacity < 0.1).float().mean()), 4),
    )
