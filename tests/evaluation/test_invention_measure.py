"""The measure of invented content on clips whose right answers are known, and its controls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from artifixer.evaluation.invention import (
    BASELINE_METHODS,
    BETTER,
    COLUMNS,
    CONTROLS,
    InventionMeasure,
    InventionNetworks,
    MeasuredClip,
    discarded_figures,
    dots_control,
    empty_warps,
    noise_control,
    warp_errors,
)
from artifixer.geometry.cameras import Cameras
from artifixer.imaging import invention
from artifixer.imaging.perceptual import ContentFeatures, load_st_lpips
from artifixer.imaging.perceptual_networks import EfficientNetLite0

WIDTH, HEIGHT, FOCAL, DEPTH = 96, 64, 80.0, 2.0

#: Pixels per frame by which the wall moves in the picture.
SHIFT = 4


def wall(offset: float, phase: float = 0.0) -> torch.Tensor:
    """What a camera sees of a wall at ``DEPTH`` that has moved by ``offset`` pixels."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    x = columns + offset
    waves = np.stack(
        [np.sin(x / 7 + phase), np.cos(rows / 5 + x / 11 + phase), np.sin(rows / 9 + phase)], -1
    )
    return torch.from_numpy((127.5 + 90 * waves).round().astype(np.uint8))


def made_clip(frames: int = 4, has_depth: bool = True) -> MeasuredClip:
    """A sideways flight past a wall; the right third of every render is empty."""
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    cameras = []
    for index in range(frames):
        viewmat = torch.eye(4)
        viewmat[0, 3] = -index * SHIFT * DEPTH / FOCAL
        cameras.append(Cameras.pinhole(viewmat[None], K[None], WIDTH, HEIGHT))
    truth = torch.stack([wall(index * SHIFT) for index in range(frames)])
    opacity = torch.full((frames, HEIGHT, WIDTH), 255, dtype=torch.uint8)
    opacity[:, :, 56:] = 0
    renders = torch.where(opacity[..., None] > 0, truth, torch.zeros_like(truth))
    depths = np.full((frames, HEIGHT, WIDTH), DEPTH, np.float32) if has_depth else None
    return MeasuredClip("wall", truth, renders, opacity, cameras, depths)


def measured(
    clip: MeasuredClip, networks: InventionNetworks | None = None, **frames: torch.Tensor
) -> dict:
    measure = InventionMeasure(8, networks)
    measure.begin(clip)
    for name, candidate in frames.items():
        measure.add(name, candidate)
    return measure.rows()


def test_the_truth_is_perfect():
    clip = made_clip()
    distance, reason = load_st_lpips()
    figures = measured(clip, InventionNetworks(distance), truth=clip.truth)["truth"]
    assert tuple(figures) == COLUMNS
    for name in ("psnr_mean", "psnr_opaque", "psnr_empty", "psnr_hard"):
        assert figures[name] == 60
    for name in ("ssim", "ssim_opaque", "ssim_empty", "ssim_pooled", "seam", "stability"):
        assert figures[name] == pytest.approx(1)
    if distance is not None:
        assert figures["st_lpips_band"] == figures["st_lpips_empty"] == 0, reason
    assert figures["kd_empty"] is None


def test_a_texture_that_stays_in_the_picture_has_a_known_warp_error():
    """Frames that do not move with the wall: the error of each pair is that of the picture against
    itself ``SHIFT`` pixels aside, in the pixels that are empty in both."""
    clip = made_clip(frames=3)
    still = clip.truth[:1].expand_as(clip.truth).contiguous()
    warps = empty_warps(clip)
    assert [(pair.target, pair.source) for pair, _ in warps] == [(1, 0), (2, 1), (2, 0)]
    for pair, where in warps:
        shift = SHIFT * (pair.target - pair.source)
        # the wall's point at column x of the target is at x + shift of the source
        assert not where[:, :56].any() and not where[:, WIDTH - shift :].any()
        assert where[:, 56 : WIDTH - shift].all()
        picture = still[0].float() / 255
        expected = (picture[:, 56 : WIDTH - shift] - picture[:, 56 + shift :]).abs().mean()
        assert float(warp_errors(still, pair)[where].mean()) == pytest.approx(
            float(expected), abs=2e-3
        )
        assert float(warp_errors(clip.truth, pair)[where].mean()) < 4e-3  # 8-bit rounding
    rows = measured(clip, still=still)
    assert rows["still"]["stability"] > 10


def test_stability_needs_depth_and_three_frames():
    for clip in (made_clip(has_depth=False), made_clip(frames=2)):
        assert empty_warps(clip) == []
        assert measured(clip, truth=clip.truth)["truth"]["stability"] is None


def test_the_sky_is_in_no_warp():
    clip = made_clip()
    sky = clip.depths.copy()
    sky[:, :20] = np.inf
    for _, where in empty_warps(replace(clip, depths=sky)):
        assert not where[:20].any() and where[20:].any()


def test_the_baselines_and_controls_keep_opaque_pixels():
    clip = made_clip()
    opaque = clip.opacity == 255
    filled = {name: clip.filled(fill) for name, fill in BASELINE_METHODS.items()}
    filled |= {name: control(clip) for name, control in CONTROLS.items()}
    assert set(filled) == {"telea", "ns", "push_pull", "noise", "dots"}
    for name, frames in filled.items():
        assert torch.equal(frames[opaque], clip.truth[opaque]), name
        assert not torch.equal(frames, clip.renders), name
    assert not torch.equal(noise_control(clip, 0), noise_control(clip, 1))
    assert torch.equal(noise_control(clip, 3), noise_control(clip, 3))
    assert not torch.equal(dots_control(clip, 0), dots_control(clip, 1))


def test_the_controls_lose_what_is_worth_believing():
    """Dots on the token grid have tiles, noise has no stability; neither is near the truth."""
    clip = made_clip()
    frames = {name: clip.filled(fill) for name, fill in BASELINE_METHODS.items()}
    frames |= {name: control(clip) for name, control in CONTROLS.items()}
    rows = measured(clip, **frames)
    assert rows["dots"]["tile_ratio"] > 2
    assert rows["noise"]["stability"] > 2 * rows["push_pull"]["stability"]
    out = discarded_figures(rows)
    for name in ("psnr_empty", "psnr_pooled", "ssim_empty", "tile_ratio", "stability"):
        assert name not in out


def test_tiles_over_the_render_are_no_tiles_of_empty_places():
    clip = made_clip()
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    tiles = (20 * ((rows // 8 + columns // 8) % 2))[..., None] * (clip.opacity[..., None] > 0)
    tiled = (clip.truth.int() + tiles).clamp(0, 255).to(torch.uint8)
    rows_of = measured(clip, truth=clip.truth, tiled=tiled)
    assert rows_of["truth"]["tile_ratio_shown"] == pytest.approx(1, abs=0.1)
    assert rows_of["tiled"]["tile_ratio_shown"] > 1.5
    assert rows_of["tiled"]["tile_ratio"] == rows_of["truth"]["tile_ratio"]


def test_a_figure_that_a_control_wins_is_discarded():
    rows = {
        "telea": {"st_lpips_empty": 0.58, "psnr_empty": 14.0, "seam": 0.5, "kd_empty": None},
        "ours": {"st_lpips_empty": 0.40, "psnr_empty": 15.0, "seam": 1.5, "kd_empty": None},
        "noise": {"st_lpips_empty": 0.45, "psnr_empty": 11.0, "seam": 4.0, "kd_empty": None},
        "dots": {"st_lpips_empty": 0.70, "psnr_empty": 12.0, "seam": 0.95, "kd_empty": None},
    }
    # ours is a model that draws noise itself: it saves no figure
    assert discarded_figures(rows) == ("st_lpips_empty", "seam")
    del rows["noise"], rows["dots"]
    assert discarded_figures(rows) == ()


def test_rounding_at_the_borders_of_regions_is_no_win():
    rows = {"render": {"psnr_opaque": 20.0}, "noise": {"psnr_opaque": 20.0 + 1e-4}}
    assert discarded_figures(rows) == ()
    rows["noise"]["psnr_opaque"] = 21.0
    assert discarded_figures(rows) == ("psnr_opaque",)


def test_the_difference_of_two_seeds_is_measured_where_it_is():
    distance, reason = load_st_lpips()
    if distance is None:
        pytest.skip(reason)
    clip = made_clip()
    measure = InventionMeasure(8, InventionNetworks(distance))
    measure.begin(clip)
    measure.add("noise", noise_control(clip, 0), noise_control(clip, 1))
    measure.add("same", noise_control(clip, 0), noise_control(clip, 0))
    rows = measure.rows()
    assert rows["noise"]["seeds_empty"] > 0.01 and rows["noise"]["seeds_opaque"] == 0
    assert rows["same"]["seeds_empty"] == rows["same"]["seeds_opaque"] == 0
    assert not {"seeds_empty", "seeds_opaque"} & set(BETTER)


def test_noise_outside_the_band_does_not_enter_it():
    distance, reason = load_st_lpips()
    if distance is None:
        pytest.skip(reason)
    clip = made_clip()
    far = clip.truth.clone()
    far[:, :, 56 + invention.BAND :] = 0
    near = clip.truth.clone()
    near[:, :, 56 : 56 + invention.BAND] = 0
    rows = measured(clip, InventionNetworks(distance), far=far, near=near)
    assert rows["far"]["st_lpips_band"] == 0 and rows["far"]["st_lpips_empty"] > 0.1
    assert rows["near"]["st_lpips_band"] > 0.05


def test_kd_compares_crops_that_are_mostly_empty(monkeypatch):
    """With a network of random weights: nothing between equal sets but what the unbiased estimate
    leaves, much more for black crops; and too few crops are named."""
    torch.manual_seed(0)
    network = EfficientNetLite0(width=8)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    features = ContentFeatures(network)
    clip = made_clip()
    black = clip.renders

    def run() -> InventionMeasure:
        measure = InventionMeasure(8, InventionNetworks(features=features, notes=("said before",)))
        measure.begin(clip)
        measure.add("truth", clip.truth)
        measure.add("black", black)
        return measure

    few = run()
    assert few.rows()["truth"]["kd_empty"] is None
    assert few.notes()[0] == "said before"
    assert few.notes()[1].startswith("kd not computed: 4 crops of 48 pixels are at least 60%")
    monkeypatch.setattr("artifixer.evaluation.invention.KD_CROPS", 4)
    enough = run()
    rows = enough.rows()
    assert enough.notes() == ("said before",)
    assert rows["truth"]["kd_empty"] < rows["black"]["kd_empty"]


def test_absent_networks_are_absent_figures():
    clip = made_clip()
    figures = measured(clip, render=clip.renders)["render"]
    for name in ("st_lpips_band", "st_lpips_empty", "kd_empty", "seeds_empty"):
        assert figures[name] is None
    assert figures["psnr_opaque"] == 60
