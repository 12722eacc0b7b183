"""Live rollouts: the same frames as ``enhance`` gives, block by block; jumps, sizes, cancelling."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from artifixer.enhance.enhance import EnhanceConfig, enhance
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import invert_rigid
from artifixer.scenes.view import View
from artifixer.splats.render import render
from artifixer.splats.render_folder import to_uint8
from artifixer.splats.splats import Splats
from artifixer.video.model import Model
from artifixer.video.model_files import load_model
from artifixer.video.rollout import RenderedFrames
from artifixer.viewer.live_repair import Flight, Generator, LiveRollout, RepairSettings
from artifixer.viewer.motion import between, is_jump, window_camera
from tests import textured_wall

SIZE = 48


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("tiny")


@pytest.fixture(scope="module")
def splats() -> Splats:
    random = torch.Generator().manual_seed(3)
    count = 60
    return Splats(
        torch.randn(count, 3, generator=random) * 0.5 + torch.tensor([-0.5, 0.0, 3.0]),
        torch.randn(count, 4, generator=random),
        torch.full((count, 3), -1.6),
        torch.full((count,), 2.0),
        torch.rand(count, 1, 3, generator=random),
    )


def view(x: float, size: int = SIZE) -> Cameras:
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = x
    return window_camera(pose, 0.9, size, size)


def test_a_live_rollout_gives_the_frames_of_enhance(model: Model, splats: Splats) -> None:
    cameras = between(view(0.0), view(0.5), 13)  # 2 blocks of 2 latent frames: 5 + 8
    with torch.no_grad():
        renders = render(splats, cameras)
    blocks = enhance(renders, cameras, (), model, EnhanceConfig(camera_scale=0.4))
    expected = np.concatenate([block.frames for block in blocks])
    settings = RepairSettings(block_frames=2, references=0)
    rollout = LiveRollout(Generator(model, (), 0.4), cameras[0], settings, None)
    made, first = [], 0
    while first < len(cameras):
        part = slice(first, first + rollout.next_frames)
        rgb, opacity = (
            (maps[part].clamp(0, 1) * 255).round() / 255 for maps in (renders.rgb, renders.opacity)
        )
        first += rollout.next_frames
        for frames in rollout.extend(
            RenderedFrames(rgb, opacity, renders.depth[part]), cameras[part]
        ):
            made.append((frames.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    assert [len(frames) for frames in made] == [1, 4, 4, 4], "a latent frame at a time"
    assert np.array_equal(np.concatenate(made), expected)


@pytest.mark.parametrize("block", [1, 3, 7])
def test_every_block_size_follows_the_camera(model: Model, splats: Splats, block: int) -> None:
    flight, generator = Flight(), Generator(model, (), 0.4)
    settings = RepairSettings(block_frames=block, references=0, size=32)
    counts = []
    for x in (0.0, 0.1):
        counts.append(len(list(move(flight, generator, splats, x, settings))))
    assert counts == [1 + 4 * (block - 1), 4 * block]
    assert flight.rollouts == 1


def move(
    flight: Flight,
    generator: Generator,
    splats: Splats,
    x: float,
    settings: RepairSettings,
    cancelled: bool = False,
) -> list[np.ndarray]:
    now = time.monotonic()
    frames = flight.move(generator, splats, view(x), settings, 3.0, now, lambda: cancelled)
    return [frame.pixels for frame in frames]


def test_a_jump_begins_a_new_rollout(model: Model, splats: Splats) -> None:
    flight, generator = Flight(), Generator(model, (), 0.4)
    settings = RepairSettings(references=0, size=32)
    for x, rollouts in ((0.0, 1), (0.1, 1), (9.0, 2), (9.1, 2)):
        move(flight, generator, splats, x, settings)
        assert flight.rollouts == rollouts, x


def test_other_settings_begin_a_new_rollout(model: Model, splats: Splats) -> None:
    flight, generator = Flight(), Generator(model, (), 0.4)
    move(flight, generator, splats, 0.0, RepairSettings(references=0, size=32))
    move(flight, generator, splats, 0.0, RepairSettings(references=0, size=32, seed=1))
    assert flight.rollouts == 2


def test_leaving_ends_a_block_at_its_next_latent_frame(model: Model, splats: Splats) -> None:
    flight, generator = Flight(), Generator(model, (), 0.4)
    settings = RepairSettings(block_frames=4, references=0, size=32)
    assert len(move(flight, generator, splats, 0.0, settings, cancelled=True)) == 1
    assert flight.rollout is None, "the decoder has lost its place"
    assert len(move(flight, generator, splats, 0.0, settings)) == 13


def test_the_view_at_rest_is_larger_and_in_more_steps(model: Model, splats: Splats) -> None:
    settings = RepairSettings(references=0, size=32, still_size=48, still_steps=3)
    flight, generator = Flight(), Generator(model, (), 0.4)
    now = time.monotonic()
    (frame,) = flight.rest(generator, splats, view(0.0), settings, now, lambda: False)
    assert frame.is_still
    assert frame.steps == 3
    assert frame.pixels.shape == (48, 48, 3)
    with torch.no_grad():
        plain = render(splats, view(0.0)).opacity[0].numpy()
    change = np.abs(frame.pixels.astype(float) - frame.render).mean(axis=-1)
    assert change[plain < 0.1].mean() > 4 * change[plain > 0.95].mean()


def test_memory_does_not_grow_with_the_way(model: Model, splats: Splats) -> None:
    import psutil

    flight, generator = Flight(), Generator(model, (), 0.4)
    settings = RepairSettings(references=0, size=32)
    process, sizes = psutil.Process(), []
    for step in range(60):
        move(flight, generator, splats, 0.05 * (step % 7), settings)
        if step % 20 == 19:
            sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[0] < 30 * 2**20, sizes


def test_cameras_between_end_at_the_last_and_are_even() -> None:
    turned = view(1.0)
    angle = torch.tensor(0.4, dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 0] = pose[2, 2] = angle.cos()
    pose[0, 2], pose[2, 0] = angle.sin(), -angle.sin()
    pose[0, 3] = 1
    turned = window_camera(pose, 0.9, SIZE, SIZE)
    path = between(view(0.0), turned, 5)
    assert torch.equal(path.viewmats[-1], turned.viewmats[0])
    steps = torch.cat([view(0.0).centers, path.centers]).diff(dim=0).norm(dim=1)
    assert torch.allclose(steps, torch.full((5,), 0.2), atol=1e-5)
    assert torch.allclose(path.viewmats @ invert_rigid(path.viewmats), torch.eye(4), atol=1e-5)


def test_a_quick_hand_is_no_jump_and_a_click_is_one() -> None:
    assert not is_jump(view(0.0), view(0.5), 3.0, 8)
    assert is_jump(view(0.0), view(4.0), 3.0, 8)


def test_an_ended_rollout_is_freed_at_once(model: Model, splats: Splats) -> None:
    """Its caches are tens of megabytes, and the garbage collector may not come for minutes."""
    flight, generator = Flight(), Generator(model, (), 0.4)
    settings = RepairSettings(references=0, size=32, still_size=32)
    gc.collect()
    gc.disable()
    try:
        move(flight, generator, splats, 0.0, settings)
        for _ in flight.rest(generator, splats, view(0.0), settings, 0.0, lambda: False):
            pass
        move(flight, generator, splats, 0.0, replace(settings, seed=1))
        living = [each for each in gc.get_objects() if type(each) is LiveRollout]
        assert living == [flight.rollout]
    finally:
        gc.enable()


@pytest.mark.parametrize("is_still", [True, False])
def test_only_the_view_at_rest_takes_the_detail_of_photos(is_still: bool) -> None:
    """The detail takes as long as the rest of a frame."""
    target = textured_wall.camera()
    truth, depth = textured_wall.wall(target)
    blurry = textured_wall.blurred(truth)
    photos = [
        View.of_pixels(other, to_uint8(textured_wall.wall(other)[0]).numpy())
        for other in (textured_wall.camera(-0.4), textured_wall.camera(0.3, 0.2))
    ]
    generator = Generator(load_model("tiny"), photos, 0.4)
    settings = RepairSettings(block_frames=1)
    rollout = LiveRollout(generator, target, settings, None, is_still)
    renders = RenderedFrames(blurry[None], torch.ones(1, *depth.shape), depth[None])
    (frame,) = rollout.extend(renders, target)
    change = float((frame[0] - blurry).abs().max())
    assert change > 0.05 if is_still else change < 0.01
