"""Quality of variants: running sums against one pass over all pixels, and the content of
metrics.json.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from artifixer.evaluation.evaluate import (
    VARIANT_TITLES,
    HeldoutView,
    PerceptualMetrics,
    evaluate,
    metrics_content,
)
from artifixer.imaging.metrics import psnr, ssim
from artifixer.imaging.perceptual import Lpips
from artifixer.runtime.json_io import write_json

#: Integer sums against the same in float64, and float32 means of a few thousand values.
EXACT, FLOAT32 = 1e-9, 1e-4

#: Large enough for the networks.
NOISE = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def made_views(count: int = 3, seed: int = 0) -> list[HeldoutView]:
    """Views of different sizes whose errors grow, with all opacities."""
    generator = np.random.default_rng(seed)
    views = []
    for number in range(count):
        height, width = 20 + 4 * number, 30
        truth = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        noise = generator.integers(-10 * (number + 1), 10 * (number + 1) + 1, truth.shape)
        prediction = np.clip(truth + noise, 0, 255).astype(np.uint8)
        views.append(
            HeldoutView(
                f"{number}.jpg",
                truth,
                prediction,
                generator.integers(0, 256, (height, width), dtype=np.uint8),
            )
        )
    return views


class MeanDifference(Lpips):
    def __init__(self) -> None:
        pass

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs().mean()


def pooled(views: list[HeldoutView], low: float, high: float) -> float:
    """PSNR over all pixels whose opacity lies in (low, high), gathered in one array."""
    errors = []
    for view in views:
        opacity = view.opacity / 255.0
        errors.append(
            ((view.truth / 255.0 - view.prediction / 255.0) ** 2)[
                (opacity > low) & (opacity < high)
            ].ravel()
        )
    return -10 * math.log10(np.concatenate(errors).mean())


def test_pooled_values_equal_one_pass_over_all_pixels() -> None:
    views = made_views()
    quality = evaluate(iter(views))
    assert quality.psnr_pooled == pytest.approx(pooled(views, -1, 2), abs=EXACT)
    assert quality.psnr_opaque == pytest.approx(pooled(views, 0.9, 2), abs=EXACT)
    assert quality.psnr_empty == pytest.approx(pooled(views, -1, 0.1), abs=EXACT)


def test_means_are_means_of_the_views() -> None:
    views = made_views()
    quality = evaluate(views)
    pairs = [
        (torch.tensor(view.prediction) / 255, torch.tensor(view.truth) / 255) for view in views
    ]
    assert quality.psnr == pytest.approx(
        np.mean([float(psnr(*pair)) for pair in pairs]), abs=FLOAT32
    )
    assert quality.ssim == pytest.approx(
        np.mean([float(ssim(*pair)) for pair in pairs]), abs=FLOAT32
    )
    assert [view.photo for view in quality.per_view] == ["0.jpg", "1.jpg", "2.jpg"]
    assert quality.per_view[0].psnr > quality.per_view[1].psnr > quality.per_view[2].psnr


def test_views_are_read_once_and_one_at_a_time() -> None:
    """A generator may give up each view as soon as the next is asked for."""
    alive: list[int] = []

    def stream() -> Iterator[HeldoutView]:
        for view in made_views(4):
            alive.append(1)
            assert len(alive) == 1, "the next view was asked for before the last was counted"
            yield view
            alive.pop()

    assert len(evaluate(stream()).per_view) == 4


def test_equal_images_are_infinite_and_null_in_the_file(tmp_path: Path) -> None:
    view = made_views(1)[0]
    quality = evaluate([replace(view, prediction=view.truth)])
    assert quality.psnr == quality.psnr_pooled == math.inf
    write_json(tmp_path / "metrics.json", metrics_content({"3dgut": quality}, ["a"], ["0.jpg"]))
    assert json.loads((tmp_path / "metrics.json").read_text())["variants"]["3dgut"]["psnr"] is None


def test_nothing_to_average_is_none() -> None:
    view = made_views(1)[0]
    half = evaluate([replace(view, opacity=np.full_like(view.opacity, 128))])
    assert half.psnr_opaque is None and half.psnr_empty is None and half.psnr_pooled is not None
    none = evaluate([])
    assert none.psnr is None and none.psnr_pooled is None and none.per_view == ()


def test_lpips_is_a_number_exactly_where_its_network_is() -> None:
    """Where it is absent there is a reason and no number."""
    perceptual = PerceptualMetrics.load()
    large = replace(made_views(1)[0], truth=NOISE, prediction=NOISE, opacity=NOISE[..., 0])
    quality = evaluate([large], perceptual)
    assert (quality.lpips_vgg01 is None) == (perceptual.vgg01 is None)
    assert (quality.lpips_alex is None) == (perceptual.alex is None)
    assert len(perceptual.notes) == (perceptual.vgg01 is None) + (perceptual.alex is None)


def test_lpips_averages_what_its_network_says() -> None:
    """A stand-in for the network: the mean absolute difference."""
    views = made_views()
    quality = evaluate(views, PerceptualMetrics(vgg01=MeanDifference()))
    expected = [np.abs(view.truth / 255.0 - view.prediction / 255.0).mean() for view in views]
    assert quality.lpips_vgg01 == pytest.approx(np.mean(expected), abs=FLOAT32)
    assert quality.lpips_alex is None and quality.per_view[1].lpips_alex is None


def test_metrics_file_has_the_agreed_structure(tmp_path: Path) -> None:
    quality = evaluate(made_views())
    write_json(
        tmp_path / "metrics.json",
        metrics_content(
            dict.fromkeys(VARIANT_TITLES, quality), ["t.jpg"], ["0.jpg", "1.jpg", "2.jpg"]
        ),
    )
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert set(content) == {"gains", "variants", "views"}
    assert set(content["gains"]) == set(VARIANT_TITLES) - {"3dgut", "input"}
    assert set(content["variants"]) == set(VARIANT_TITLES)
    assert content["views"] == {"train": ["t.jpg"], "heldout": ["0.jpg", "1.jpg", "2.jpg"]}
    for variant in content["variants"].values():
        assert set(variant) == {
            "psnr",
            "ssim",
            "lpips_vgg01",
            "lpips_alex",
            "psnr_pooled",
            "psnr_opaque",
            "psnr_empty",
            "per_view",
        }
        assert variant["lpips_vgg01"] is None and variant["psnr"] == pytest.approx(quality.psnr)
        assert [view["photo"] for view in variant["per_view"]] == ["0.jpg", "1.jpg", "2.jpg"]


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(AssertionError, match="unknown variants"):
        metrics_content({"best": evaluate([])}, [], [])


def test_masked_pixels_count_in_no_figure() -> None:
    """Other predictions where photos are masked, and no figure moves; a view without any other
    pixel is none.
    """
    views = made_views()
    masked, changed = [], []
    for view in views:
        mask = np.full(view.opacity.shape, 255, np.uint8)
        mask[:, 20:] = 0
        masked.append(replace(view, mask=mask))
        wrong = view.prediction.copy()
        wrong[:, 20:] = 0
        changed.append(replace(view, prediction=wrong, mask=mask))
    assert evaluate(masked) == evaluate(changed)
    cut = [
        replace(
            view,
            truth=view.truth[:, :20],
            prediction=view.prediction[:, :20],
            opacity=view.opacity[:, :20],
        )
        for view in views
    ]
    assert evaluate(masked).psnr == pytest.approx(evaluate(cut).psnr, abs=1e-5)
    assert evaluate(masked).psnr_empty == evaluate(cut).psnr_empty
    none = replace(views[0], mask=np.zeros(views[0].opacity.shape, np.uint8))
    assert evaluate([none, *masked]) == evaluate(masked)
