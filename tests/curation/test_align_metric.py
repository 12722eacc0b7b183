"""The scale stored with a pair: the median depth, or metres by a depth network."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from artifixer.curation.align_metric import camera_scale, depth_network
from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes import procedural
from artifixer.scenes.scale import METRIC_FACTOR, median_depth_scale
from artifixer.scenes.scene import Scene

NAME = "procedural:3:frames=4,width=64,height=48,points_per_photo=40"


@pytest.fixture(scope="module")
def scene() -> Scene:
    return procedural.load(NAME)


def test_the_median_depth_is_that_of_run(scene: Scene) -> None:
    assert camera_scale(scene, (0, 3), "median_depth") == median_depth_scale(scene, (0, 3))


@pytest.mark.parametrize("metres", [1.0, 3.5])
def test_a_perfect_depth_network_finds_the_unit_of_length(scene: Scene, metres: float) -> None:
    """Exact depth of the pixels' centres times the unit; points lie beside the centres, which the median forgives."""
    world = procedural.world_of(scene)

    def depth(photo: np.ndarray, camera: Cameras) -> np.ndarray:
        exact = procedural.render_world(world, camera, samples=1).depth[0].numpy()
        return metres * np.where(np.isfinite(exact), exact, np.nan)

    assert camera_scale(scene, (0, 3), "metric", depth) == pytest.approx(METRIC_FACTOR * metres, rel=0.02)


def test_metric_needs_a_network_and_tracks(scene: Scene) -> None:
    with pytest.raises(InputError, match="needs a depth network"):
        camera_scale(scene, (0, 3), "metric")
    with pytest.raises(InputError, match="sparse points with tracks"):
        camera_scale(replace(scene, points=None), (0, 3), "metric", lambda photo, camera: photo[..., 0])


@pytest.fixture(scope="module")
def saved_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Depth Anything with random weights and two small layers."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    folder = tmp_path_factory.mktemp("depth")
    backbone = Dinov2Config.from_dict(
        {
            "hidden_size": 12,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 14,
            "image_size": 518,
            "out_indices": [1, 2],
            "reshape_hidden_states": False,
        }
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=12,
        patch_size=14,
        reassemble_factors=[1, 0.5],
        neck_hidden_sizes=[6, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type="metric",
        max_depth=20,
    )
    torch.manual_seed(0)
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    return folder


def test_a_depth_model_of_transformers_gives_metres_per_pixel(scene: Scene, saved_network: Path) -> None:
    depth = depth_network(str(saved_network))
    metres = depth(scene.photos[0].read(), scene.cameras[0])
    assert metres.shape == (48, 64)
    assert (metres > 0).all()
    assert (metres < 20).all()
    assert camera_scale(scene, (0, 3), "metric", depth) > 0


def test_a_model_of_relative_depth_is_refused(saved_network: Path, tmp_path: Path) -> None:
    shutil.copytree(saved_network, tmp_path / "relative")
    path = tmp_path / "relative" / "config.json"
    path.write_text(path.read_text().replace('"depth_estimation_type": "metric"', '"depth_estimation_type": "relative"'))
    with pytest.raises(InputError, match="gives relative depth"):
        depth_network(str(tmp_path / "relative"))


def test_an_absent_depth_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"depth model .*absent"):
        depth_network(str(tmp_path / "absent"))
