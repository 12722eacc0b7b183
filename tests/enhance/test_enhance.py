"""Renders -> frames: any length and size, streaming, cancelling, and what each input changes."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from artifixer.enhance.enhance import EnhanceConfig, EnhanceReport, enhance
from artifixer.enhance.render_scale import sampled_depths
from artifixer.enhance.sources import RendersInMemory
from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes.view import View
from artifixer.splats.render import Renders
from artifixer.splats.render_folder import read_render_folder, to_uint8, write_render_folder
from artifixer.video.checkpoints.ours import save_model
from artifixer.video.model import Model, ModelConfig
from artifixer.video.model_files import load_model
from tests.textured_wall import blurred, camera, wall
from tests.unchecked import unchecked
from tests.video.made_models import SMALL, WAN_LIKE, made_model

WIDTH, HEIGHT = 20, 14

#: Steps of 8 bit: float32 on a GPU may use TF32 in convolutions, and a rollout adds up.
GPU_TOLERANCE = 3

#: Steps of 8 bit, mean over all pixels: bfloat16 has 8 bits too, and uses them in every layer.
HALF_PRECISION_TOLERANCE = 4


def made_cameras(
    views: int, width: int = WIDTH, height: int = HEIGHT, moves: bool = True
) -> Cameras:
    K = (
        torch.tensor([[18.0, 0, width / 2], [0, 18, height / 2], [0, 0, 1]])
        .expand(views, 3, 3)
        .clone()
    )
    viewmats = torch.eye(4).repeat(views, 1, 1)
    if moves:
        viewmats[:, 0, 3] = 0.05 * torch.arange(views)
    return Cameras.pinhole(viewmats, K, width, height)


def made_renders(
    views: int,
    width: int = WIDTH,
    height: int = HEIGHT,
    opacity: float | None = None,
    seed: int = 0,
) -> Renders:
    random = torch.Generator().manual_seed(seed)
    alpha = torch.rand(views, height, width, generator=random)
    if opacity is not None:
        alpha.fill_(opacity)
    rgb = torch.rand(views, height, width, 3, generator=random)
    return Renders(rgb, alpha, torch.full((views, height, width), 2.0))


def first_views(renders: Renders, count: int) -> Renders:
    return Renders(renders.rgb[:count], renders.opacity[:count], renders.depth[:count])


def made_references(count: int, value: int = 90) -> list[View]:
    photo = np.full((HEIGHT, WIDTH, 3), value, np.uint8)
    photo[::2] += 80
    return [View.of_pixels(made_cameras(count)[index], photo + index) for index in range(count)]


def frames_of(
    model: Model,
    renders: object,
    cameras: Cameras,
    references: list[View] | None = None,
    report: EnhanceReport | None = None,
    **config: object,
) -> np.ndarray:
    blocks = list(
        enhance(renders, cameras, references or [], model, EnhanceConfig(**config), report)
    )
    assert [block.first_index for block in blocks] == [
        0,
        *np.cumsum([len(block.frames) for block in blocks])[:-1],
    ]
    frames = np.concatenate([block.frames for block in blocks])
    assert (
        frames.shape == (len(cameras), cameras.height, cameras.width, 3)
        and frames.dtype == np.uint8
    )
    return frames


@pytest.fixture(scope="module")
def model() -> Model:
    return made_model()


@pytest.fixture(scope="module")
def plain_frames(model: Model) -> np.ndarray:
    """Three blocks: 5 and 8 frames, and 4 of the last."""
    return frames_of(model, made_renders(17), made_cameras(17), made_references(2))


# --------------------------------------------------------------------------------------------------
# length and size


@pytest.mark.parametrize("views", [1, 2, 5, 6])
def test_any_number_of_frames(model: Model, views: int) -> None:
    frames_of(model, made_renders(views), made_cameras(views))


def test_frames_do_not_depend_on_what_comes_later(model: Model, plain_frames: np.ndarray) -> None:
    shorter = frames_of(
        model, first_views(made_renders(17), 13), made_cameras(13), made_references(2)
    )
    assert np.array_equal(shorter, plain_frames[:13])


def test_the_last_block_is_filled_with_the_last_frame(model: Model) -> None:
    renders, cameras = made_renders(7), made_cameras(13, moves=False)
    repeated = torch.arange(13).clamp(max=6)
    filled = Renders(renders.rgb[repeated], renders.opacity[repeated], renders.depth[repeated])
    assert np.array_equal(
        frames_of(model, renders, cameras[:7]), frames_of(model, filled, cameras)[:7]
    )


@pytest.mark.parametrize(("width", "height"), [(16, 16), (33, 9), (5, 40)])
def test_any_size(model: Model, width: int, height: int) -> None:
    report = EnhanceReport()
    frames_of(model, made_renders(2, width, height), made_cameras(2, width, height), report=report)
    assert report.width % SMALL.grid == report.height % SMALL.grid == 0
    assert abs(report.width - width) <= SMALL.grid / 2 or report.width == SMALL.grid


def test_a_model_on_wans_autoencoder() -> None:
    frames_of(made_model(WAN_LIKE), made_renders(6), made_cameras(6), made_references(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [SMALL, WAN_LIKE], ids=["small", "wan"])
def test_half_precision_on_a_cpu(config: ModelConfig, dtype: torch.dtype, tmp_path: Path) -> None:
    """Every part of a rollout in the weights' type, with references, partial opacity and a full
    window: near the frames of float32.
    """
    save_model(tmp_path, made_model(config))
    inputs = made_renders(25), made_cameras(25), made_references(2)
    wide, narrow = (load_model(tmp_path, dtype=chosen) for chosen in (torch.float32, dtype))
    assert narrow.dtype == narrow.transformer.head.weight.dtype == dtype
    difference = frames_of(narrow, *inputs, steps=1).astype(float) - frames_of(
        wide, *inputs, steps=1
    )
    assert 0 < np.abs(difference).mean() < HALF_PRECISION_TOLERANCE
    # random weights read rounded noise levels as quite other ones
    assert frames_of(narrow, *inputs, steps=4).std() > 1


@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_strength_is_the_share_of_the_changes_in_opaque_parts(model: Model, opacity: float) -> None:
    renders = made_renders(9, opacity=opacity)
    whole, half, none = (
        frames_of(model, renders, made_cameras(9), made_references(2), strength=share).astype(float)
        for share in (1.0, 0.5, 0.0)
    )
    shown = (renders.rgb * 255).round().numpy()
    assert np.abs(whole - shown).mean() > 1
    if opacity:
        assert np.abs(none - shown).max() <= 1  # both are rounded to 8 bit
        assert np.abs(half - (whole + none) / 2).max() <= 1
    else:
        assert np.array_equal(whole, none) and np.array_equal(whole, half)


# --------------------------------------------------------------------------------------------------
# the same bits


def test_memory_and_disk_give_the_same_frames(model: Model, tmp_path: Path) -> None:
    renders, cameras = made_renders(6), made_cameras(6)
    single = [
        Renders(renders.rgb[i : i + 1], renders.opacity[i : i + 1], renders.depth[i : i + 1])
        for i in range(6)
    ]
    write_render_folder(tmp_path, [(CameraFrame(cameras[i]), single[i]) for i in range(6)])
    assert np.array_equal(
        frames_of(model, renders, cameras), frames_of(model, read_render_folder(tmp_path), cameras)
    )


def test_threads_and_streamed_layers_change_nothing(model: Model, plain_frames: np.ndarray) -> None:
    inputs = made_renders(17), made_cameras(17), made_references(2)
    before = threading.active_count()
    assert np.array_equal(frames_of(model, *inputs, overlap=True), plain_frames)
    assert threading.active_count() == before
    streamed = made_model(offload=True)
    assert streamed.stream is not None
    assert np.array_equal(frames_of(streamed, *inputs), plain_frames)


def test_the_seed_decides(model: Model, plain_frames: np.ndarray) -> None:
    inputs = made_renders(17), made_cameras(17), made_references(2)
    assert np.array_equal(frames_of(model, *inputs), plain_frames)
    assert not np.array_equal(frames_of(model, *inputs, seed=1), plain_frames)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_frames_of_the_cpu(
    model: Model, plain_frames: np.ndarray, tmp_path: Path
) -> None:
    save_model(tmp_path, model)
    inputs = made_renders(17), made_cameras(17), made_references(2)
    for offload in (False, True):
        ours = frames_of(load_model(tmp_path, "cuda", torch.float32, offload), *inputs)
        assert np.abs(ours.astype(int) - plain_frames).max() <= GPU_TOLERANCE
    report = EnhanceReport()
    frames_of(load_model(tmp_path, "cuda"), *inputs, report=report)
    assert 0 < report.network_seconds < report.seconds and report.peak_memory > 0


# --------------------------------------------------------------------------------------------------
# streaming


class CountedRenders:
    """A source that remembers which frames were read."""

    def __init__(self, renders: Renders) -> None:
        self._source = RendersInMemory(renders)
        self.read: set[int] = set()

    def __len__(self) -> int:
        return len(self._source)

    def rgb(self, index: int) -> np.ndarray:
        self.read.add(index)
        return self._source.rgb(index)

    def opacity(self, index: int) -> np.ndarray:
        return self._source.opacity(index)

    def depth(self, index: int) -> np.ndarray | None:
        return None


def test_the_first_block_comes_before_the_second_is_read(model: Model) -> None:
    source = CountedRenders(made_renders(40))
    blocks = enhance(source, made_cameras(40), [], model)
    assert source.read <= {0}
    assert len(next(blocks).frames) == 5
    assert source.read == set(range(5))
    assert len(next(blocks).frames) == 8
    assert source.read == set(range(13))


def test_with_threads_reading_is_a_few_blocks_ahead(model: Model) -> None:
    source = CountedRenders(made_renders(100))
    blocks = enhance(source, made_cameras(100), [], model, EnhanceConfig(overlap=True))
    next(blocks)
    assert max(source.read) < 5 + 8 * 6
    blocks.close()


@pytest.mark.parametrize("overlap", [False, True])
def test_closing_cancels(overlap: bool) -> None:
    model, source, report = made_model(), CountedRenders(made_renders(60)), EnhanceReport()
    before = threading.active_count()
    blocks = enhance(source, made_cameras(60), [], model, EnhanceConfig(overlap=overlap), report)
    next(blocks)
    blocks.close()
    assert len(source.read) < 60
    assert threading.active_count() == before
    assert not model.transformer._forward_hooks and not model.transformer._forward_pre_hooks
    assert report.network_seconds > 0


def test_the_readers_gradient_setting_is_its_own(model: Model) -> None:
    for _ in enhance(made_renders(6), made_cameras(6), [], model):
        assert torch.is_grad_enabled()


def test_the_report(model: Model) -> None:
    report = EnhanceReport()
    frames_of(model, made_renders(17), made_cameras(17), report=report, steps=3)
    assert (report.blocks, report.network_calls) == (3, 9)
    assert 0 < report.first_frame_seconds < report.seconds
    assert 0 < report.network_seconds < report.seconds
    assert report.peak_memory > 1e7
    assert (report.camera_scale, report.camera_scale_source) == (0.5, "median depth of the renders")


@pytest.mark.parametrize(("opacity", "calls"), [(1.0, 1), (0.0, 4)])
def test_adaptive_steps_follow_the_opacity(model: Model, opacity: float, calls: int) -> None:
    report = EnhanceReport()
    frames_of(
        model, made_renders(5, opacity=opacity), made_cameras(5), report=report, steps="adaptive"
    )
    assert report.network_calls == calls


class StoreInMemory:
    def __init__(self, known: dict[int, torch.Tensor] | None = None) -> None:
        self.known, self.saved = known or {}, {}

    def load(self, block: int) -> torch.Tensor | None:
        return self.known.get(block)

    def save(self, block: int, noisy_latents: torch.Tensor) -> None:
        self.saved[block] = noisy_latents.clone()


@pytest.mark.parametrize("steps", [1, 3, "adaptive"])
def test_a_repeated_rollout_calls_the_network_once_on_known_blocks(
    model: Model, steps: int | str
) -> None:
    inputs = (
        made_renders(17),
        made_cameras(17),
        made_references(2),
        model,
        EnhanceConfig(steps=steps),
    )

    def run(store: StoreInMemory) -> tuple[np.ndarray, int]:
        report = EnhanceReport()
        return np.concatenate(
            [block.frames for block in enhance(*inputs, report, store)]
        ), report.network_calls

    first = StoreInMemory()
    expected, calls = run(first)
    assert sorted(first.saved) == [0, 1, 2]
    again = StoreInMemory({block: first.saved[block] for block in (0, 1)})
    frames, fewer_calls = run(again)
    assert np.array_equal(frames, expected)
    assert fewer_calls == calls - 2 * (calls // 3 - 1)
    assert torch.equal(again.saved.pop(2), first.saved[2]) and not again.saved
    first.saved[0] += 1
    assert not np.array_equal(run(StoreInMemory(first.saved))[0], expected)


# --------------------------------------------------------------------------------------------------
# what inputs do


def test_dropped_inputs_have_no_effect_and_others_have(model: Model) -> None:
    cameras = made_cameras(6)
    usual = frames_of(model, made_renders(6), cameras, made_references(2))

    def dropping(kind: str, renders: Renders | None = None, value: int = 90) -> np.ndarray:
        return frames_of(
            model, renders or made_renders(6), cameras, made_references(2, value), drop=(kind,)
        )

    assert np.array_equal(dropping("renders"), dropping("renders", made_renders(6, seed=5)))
    assert not np.array_equal(dropping("renders"), usual)
    assert np.array_equal(dropping("references"), frames_of(model, made_renders(6), cameras))
    assert np.array_equal(dropping("references"), dropping("references", value=10))
    assert not np.array_equal(dropping("references"), usual)
    assert np.array_equal(
        frames_of(
            model, made_renders(6), cameras, made_references(2), drop=("text",), prompt="a house"
        ),
        usual,
    )


def without_velocity(**changes: object) -> Model:
    """A model that changes nothing: its clean latents are those of the render."""
    model = made_model(replace(SMALL, source="direct", steps=1, **changes))
    model.transformer.head.weight.zero_()
    model.transformer.head.bias.zero_()
    return model


@pytest.mark.parametrize("opacity", [1.0, 0.6, 0.0])
def test_the_residual_brings_back_the_render_where_it_is_opaque(opacity: float) -> None:
    model, renders, cameras = without_velocity(), made_renders(7, opacity=opacity), made_cameras(7)
    plain = frames_of(model, renders, cameras).astype(float)
    ours = frames_of(model, renders, cameras, keep_residual=True).astype(float)
    shown = RendersInMemory(renders)
    truth = np.stack([shown.rgb(index) for index in range(7)]).astype(float)
    alpha = shown.opacity(0)[0, 0] / 255
    inside = (plain > 0) & (plain < 255)  # beyond, the decoder's frames were clamped
    # plain frames are rounded
    assert np.abs(ours - (plain + alpha**2 * (truth - plain)))[inside].max() <= 1
    if opacity == 1:
        assert np.array_equal(ours, truth)
    assert np.array_equal(frames_of(without_velocity(keep_residual=True), renders, cameras), ours)


def test_a_direct_model_generates_by_opacity_mixing() -> None:
    """The same weights: with noise where renders are empty, in the steps of that mode, as a mixing
    model of these steps would.
    """
    model = made_model(replace(SMALL, source="direct", steps=1, generate_steps=3))
    inputs = made_renders(6), made_cameras(6), made_references(1)
    report = EnhanceReport()
    generated = frames_of(model, *inputs, report=report, mode="generate")
    assert report.network_calls == 2 * 3
    assert np.array_equal(
        generated, frames_of(made_model(replace(SMALL, source="mixing", steps=3)), *inputs)
    )
    assert not np.array_equal(generated, frames_of(model, *inputs, mode="generate", seed=1))
    improved = frames_of(model, *inputs)
    assert np.array_equal(improved, frames_of(model, *inputs, seed=1))  # nothing is drawn
    assert not np.array_equal(improved, frames_of(model, *inputs, mode="generate", steps=1))


def test_camera_scale(model: Model, plain_frames: np.ndarray) -> None:
    inputs = made_renders(17), made_cameras(17), made_references(2)
    # the renders' depth is 2
    assert np.array_equal(frames_of(model, *inputs, camera_scale=0.5), plain_frames)
    assert not np.array_equal(frames_of(model, *inputs, camera_scale=3.0), plain_frames)
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="camera scale"):
            enhance(*inputs, model, EnhanceConfig(camera_scale=scale))


def test_median_depth_ignores_emptiness() -> None:
    renders = made_renders(30)
    renders.depth[:, :10] = math.nan
    renders.depth[:, 11] = -1
    views = sampled_depths(RendersInMemory(renders), made_cameras(30))
    assert torch.cat([view.depths for view in views]).median() == 2
    assert all((view.pixels % 1 == 0.5).all() for view in views), (
        "pixels are named by their centres"
    )
    renders.depth.fill_(math.nan)
    assert sampled_depths(RendersInMemory(renders), made_cameras(30)) == []


def test_warnings_are_there_before_the_first_frame() -> None:
    report = EnhanceReport()
    enhance(
        CountedRenders(made_renders(3)), made_cameras(3), [], made_model(WAN_LIKE), report=report
    )
    no_references, no_depth = report.warnings
    assert "no reference photos; model wan-like was trained with them" in no_references
    assert "the renders have no depth" in no_depth
    assert "--depth-model" in no_depth
    assert "guessed from where the cameras look" in report.camera_scale_source
    report = EnhanceReport()
    enhance(made_renders(3), made_cameras(3), made_references(1), made_model(), report=report)
    enhance(
        made_renders(3),
        made_cameras(3),
        [],
        made_model(),
        EnhanceConfig(drop=("references",)),
        report,
    )
    assert report.warnings == []


# --------------------------------------------------------------------------------------------------
# bad input


def test_bad_input_is_refused_at_once(model: Model) -> None:
    broken = made_cameras(3)
    broken.viewmats[1, 0, 3] = math.nan
    with unchecked():
        other_opacity = replace(made_renders(3), opacity=torch.ones(2, HEIGHT, WIDTH))
    for renders, cameras, config, message in (
        (made_renders(3), made_cameras(4), EnhanceConfig(), "3 renders for 4 cameras"),
        (
            made_renders(3),
            made_cameras(3, width=30),
            EnhanceConfig(),
            "20x14 pixels; its camera says 30x14",
        ),
        (
            other_opacity,
            made_cameras(3),
            EnhanceConfig(),
            "opacity: 2 of 20x14",
        ),
        (made_renders(3), broken, EnhanceConfig(), "target camera 1: not finite"),
        (
            made_renders(3),
            made_cameras(3),
            EnhanceConfig(prompt="a house"),
            "takes no text; models that do",
        ),
    ):
        with pytest.raises(InputError, match=message):
            enhance(renders, cameras, [], model, config)


def test_the_embedded_model_takes_detail_of_the_reference_photos():
    """Renders are blurred views of a textured wall, which two references show sharply."""
    target, others = camera(), (camera(-0.4), camera(0.3, 0.2))
    truth, depth = wall(target)
    sharp, blurry = (to_uint8(picture).numpy() for picture in (truth, blurred(truth)))
    renders = Renders(blurred(truth)[None], torch.ones_like(depth)[None], depth[None])
    views = [View.of_pixels(other, to_uint8(wall(other)[0]).numpy()) for other in others]
    model = load_model("tiny")

    def difference(config: EnhanceConfig) -> float:
        """Root mean square error, relative to the render's."""
        (block,) = enhance(renders, target, views, model, config)
        inner = (slice(20, -20), slice(20, -20))
        errors = (
            (picture[inner].astype(float) - sharp[inner]).std()
            for picture in (block.frames[0], blurry)
        )
        return next(errors) / next(errors)

    assert difference(EnhanceConfig()) < 0.8
    assert difference(EnhanceConfig(drop=("references",))) == pytest.approx(1, abs=0.01)
    renders.depth[:] = torch.nan
    assert difference(EnhanceConfig()) == pytest.approx(1, abs=0.01)
