"""``--from-splats``: splats of the capture's world are taken whatever their quality, others
refused.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from artifixer.pipeline.capture import CaptureChoice, LoadedCapture, load_capture
from artifixer.pipeline.same_frame import check_same_frame
from artifixer.runtime.errors import InputError
from artifixer.splats.initial import InitialConfig, seen_points, splats_at
from artifixer.splats.splats import Splats


@pytest.fixture(scope="module")
def capture() -> LoadedCapture:
    return load_capture(CaptureChoice("procedural:5", size="96"), None)


@pytest.fixture(scope="module")
def room() -> LoadedCapture:
    """Cameras that turn in the middle of a room: near them little changes with its size."""
    return load_capture(CaptureChoice("procedural:3", size="96"), None)


@pytest.fixture(scope="module")
def splats(capture: LoadedCapture) -> Splats:
    return _blobs(capture)


def _blobs(capture: LoadedCapture) -> Splats:
    """Not fitted at all: blobs at the capture's points, as poor as splats can be."""
    points = capture.scene.points
    assert points is not None
    extent = float(points.xyz.std(dim=0).norm())
    config = InitialConfig(opacity=0.9)
    return splats_at(seen_points(points, capture.training, 1), 1, extent, config)


def _moved(splats: Splats, factor: float = 1.0, shift: float = 0.0) -> Splats:
    about = splats.means.median(dim=0).values
    means = (splats.means - about) * factor + about + torch.tensor([shift, 0.0, 0.0])
    return replace(splats, means=means, log_scales=splats.log_scales + math.log(factor))


def test_poor_splats_of_the_right_world_are_taken(capture, splats):
    """The same call refuses them where they are moved out of sight."""
    check_same_frame(splats, capture, "--from-splats a.ply", "cpu")
    far = replace(splats, means=splats.means + 1000)
    with pytest.raises(InputError, match="not in the same frame"):
        check_same_frame(far, capture, "--from-splats a.ply", "cpu")


@pytest.mark.parametrize("factor", [0.5, 2.0, 0.01, 100.0])
def test_another_scale_is_refused(capture, splats, factor):
    """A scene of half the size was taken at 14.6 dB."""
    with pytest.raises(InputError, match=r"^--from-splats a\.ply: .*not in the same frame"):
        check_same_frame(_moved(splats, factor), capture, "--from-splats a.ply", "cpu")


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (0.9, "not in the same (frame or )?scale"),
        (1.25, r"not in the same scale: scaled by 0\.8 about .* more like the photos"),
    ],
)
def test_a_slightly_different_size_is_refused(room, factor, message):
    """A room of 1.25 times the size was taken at 16.7 dB."""
    splats = _blobs(room)
    check_same_frame(splats, room, "a.ply", "cpu")
    centre = torch.cat([room.scene.cameras[i].centers for i in room.training]).mean(dim=0)
    means = (splats.means - centre) * factor + centre
    scaled = replace(splats, means=means, log_scales=splats.log_scales + math.log(factor))
    with pytest.raises(InputError, match=message):
        check_same_frame(scaled, room, "a.ply", "cpu")


def test_another_place_is_refused(capture, splats):
    spread = float((splats.means - splats.means.median(dim=0).values).norm(dim=1).median())
    with pytest.raises(InputError, match="not in the same frame"):
        check_same_frame(_moved(splats, shift=spread), capture, "a.ply", "cpu")


def test_the_mirrored_world_is_refused(capture, splats):
    mirrored = replace(splats, means=splats.means * torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(InputError, match="not in the same frame"):
        check_same_frame(mirrored, capture, "a.ply", "cpu")


def test_photos_that_are_all_alike_are_compared_by_psnr(capture, splats):
    first = capture.scene.photos[capture.training[0]]
    cameras = (capture.scene.cameras[capture.training[0]],) * len(capture.scene.photos)
    same = tuple(replace(first, name=photo.name) for photo in capture.scene.photos)
    alike = replace(capture, scene=replace(capture.scene, photos=same, cameras=cameras))
    away = replace(splats, means=splats.means + 1e4)
    with pytest.raises(InputError, match="dB, expected at least 12 dB"):
        check_same_frame(away, alike, "a.ply", "cpu")
