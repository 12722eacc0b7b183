"""The camera scale by metric depth models: each class that gives metres, with small random weights,
and what is refused.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes import procedural
from artifixer.scenes.depth_models import (
    METRIC_CLASSES,
    MOGE_2,
    default_depth_model,
    metric_depth_model,
)
from artifixer.scenes.scale import (
    METRIC_FACTOR,
    ScaleKind,
    camera_scale,
    check_scale_options,
    observed_depths,
    point_depths,
    scale_depth_model,
)
from artifixer.scenes.scene import Scene

NAME = "procedural:3:frames=4,width=64,height=48,points_per_photo=40"


@pytest.fixture(scope="module")
def scene() -> Scene:
    return procedural.load(NAME)


def test_the_median_depth_is_that_of_the_sparse_points(scene: Scene) -> None:
    scale = camera_scale("median_depth", point_depths(scene, (0, 3)))
    assert (scale.value, scale.kind, scale.is_guess) == (
        1 / float(observed_depths(scene, (0, 3)).median()),
        "median_depth",
        False,
    )


def test_a_given_scale_is_taken_whatever_the_views_say(scene: Scene) -> None:
    assert camera_scale("metric", [], given=0.03).value == 0.03
    with pytest.raises(InputError, match="camera scale -1: expected a positive finite number"):
        camera_scale("metric", [], given=-1)


def test_metres_without_a_depth_model_are_a_guess_that_says_what_to_do(scene: Scene) -> None:
    scale = camera_scale("metric", point_depths(scene, (0, 3)))
    assert scale.is_guess
    depth = float(observed_depths(scene, (0, 3)).median())
    assert scale.value == pytest.approx(METRIC_FACTOR * 3 / depth)
    assert "--depth-model" in scale.advice


@pytest.mark.parametrize("metres", [1.0, 3.5])
def test_a_perfect_depth_network_finds_the_unit_of_length(scene: Scene, metres: float) -> None:
    """Exact depth of the pixels' centres times the unit; points lie beside the centres, which the
    median forgives.
    """
    world = procedural.world_of(scene)

    def depth(photo: np.ndarray, camera: Cameras) -> np.ndarray:
        exact = procedural.render_world(world, camera, samples=1).depth[0].numpy()
        return metres * np.where(np.isfinite(exact), exact, np.nan)

    scale = camera_scale("metric", point_depths(scene, (0, 3)), depth_model=depth)
    assert scale.value == pytest.approx(METRIC_FACTOR * metres, rel=0.02)
    without_tracks = replace(
        scene, points=type(scene.points).without_tracks(scene.points.xyz, scene.points.rgb)
    )
    scale = camera_scale("metric", point_depths(without_tracks, (0, 3)), depth_model=depth)
    assert scale.value == pytest.approx(METRIC_FACTOR * metres, rel=0.1), (
        "hidden points are projected too"
    )


@pytest.mark.parametrize("kind", ["median_depth", "metric"])
def test_views_without_a_known_depth_are_refused(scene: Scene, kind: str) -> None:
    with pytest.raises(InputError, match="have no depth"):
        camera_scale(
            kind,
            point_depths(replace(scene, points=None), (0, 3)),
            depth_model=lambda photo, camera: photo[..., 0],
        )


BACKBONE = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
    "reshape_hidden_states": False,
}


def _depth_anything(folder: Path) -> None:
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
        DPTImageProcessorPil,
    )

    config = DepthAnythingConfig(
        backbone_config=Dinov2Config.from_dict(
            BACKBONE | {"image_size": 518, "out_indices": [1, 2]}
        ),
        reassemble_hidden_size=12,
        patch_size=14,
        reassemble_factors=[1, 0.5],
        neck_hidden_sizes=[6, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type="metric",
        max_depth=20,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    size = {"height": 70, "width": 70}
    DPTImageProcessorPil(size=size, ensure_multiple_of=14, keep_aspect_ratio=True).save_pretrained(
        folder
    )


def _depth_pro(folder: Path) -> None:
    from transformers import DepthProConfig, DepthProForDepthEstimation

    vit = {"model_type": "dinov2", "image_size": 28, **BACKBONE}
    config = DepthProConfig(
        fusion_hidden_size=8,
        patch_size=28,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[6, 6],
        scaled_images_ratios=[0.5, 1.0],
        scaled_images_overlap_ratios=[0.0, 0.2],
        scaled_images_feature_dims=[8, 6],
        image_model_config=vit,
        patch_model_config=vit,
        fov_model_config=vit,
        use_fov_model=False,
    )
    DepthProForDepthEstimation(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "DepthProImageProcessor",
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(
        json.dumps(processor | {"size": {"height": 56, "width": 56}})
    )


def _zoe_depth(folder: Path) -> None:
    from transformers import (
        BeitConfig,
        ZoeDepthConfig,
        ZoeDepthForDepthEstimation,
        ZoeDepthImageProcessorPil,
    )

    backbone = BeitConfig(
        image_size=64,
        patch_size=16,
        hidden_size=12,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=24,
        use_relative_position_bias=True,
        reshape_hidden_states=False,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = ZoeDepthConfig(
        backbone_config=backbone,
        backbone_hidden_size=12,
        neck_hidden_sizes=[6, 8, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=4,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.1, "max_depth": 10.0, "name": "rooms"}],
    )
    ZoeDepthForDepthEstimation(config).save_pretrained(folder)
    ZoeDepthImageProcessorPil(
        size={"height": 64, "width": 64}, ensure_multiple_of=16
    ).save_pretrained(folder)


MAKERS = {
    "DepthAnythingForDepthEstimation": _depth_anything,
    "DepthProForDepthEstimation": _depth_pro,
    "ZoeDepthForDepthEstimation": _zoe_depth,
}


def test_every_class_that_gives_metres_is_tried() -> None:
    assert set(MAKERS) == set(METRIC_CLASSES)


@pytest.fixture(scope="module", params=METRIC_CLASSES)
def saved_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A depth model with small random weights, as its class saves it."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    MAKERS[request.param](folder)
    return folder


def test_a_metric_depth_model_gives_metres_per_pixel_and_a_scale(
    scene: Scene, saved_model: Path
) -> None:
    depth = metric_depth_model(str(saved_model))
    metres = depth(scene.photos[0].read(), scene.cameras[0])
    assert metres.shape == (48, 64)
    assert np.isfinite(metres).all()
    assert (metres >= 0).all()
    scale = camera_scale(
        "metric",
        point_depths(scene, (0, 3)),
        depth_model=lambda photo, camera: depth(photo, camera) + 1e-3,
    )
    assert scale.value > 0
    assert (scale.kind, scale.is_guess) == ("metric", False)


def test_depth_pro_sees_twice_as_far_through_twice_the_focal_length(
    scene: Scene, tmp_path: Path
) -> None:
    """Its network gives inverse depth for a focal length of the image's width, so the camera's own
    one scales it.
    """
    torch.manual_seed(0)
    _depth_pro(tmp_path)
    depth, camera = metric_depth_model(str(tmp_path)), scene.cameras[0]
    longer = replace(camera, Ks=camera.Ks * torch.tensor([[2.0, 2, 1], [2, 2, 1], [1, 1, 1]]))
    near, far = (depth(scene.photos[0].read(), view) for view in (camera, longer))
    is_inside = (far < 9e3) & (near > 1e-3)  # within the range of inverse depths
    assert is_inside.any()
    assert np.allclose(far[is_inside], 2 * near[is_inside], rtol=1e-4)


def test_a_model_of_relative_depth_is_refused(tmp_path: Path) -> None:
    _depth_anything(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(
        path.read_text().replace(
            '"depth_estimation_type": "metric"', '"depth_estimation_type": "relative"'
        )
    )
    with pytest.raises(InputError, match="gives relative depth"):
        metric_depth_model(str(tmp_path))


def test_a_class_that_is_not_known_to_give_metres_is_refused_by_name(tmp_path: Path) -> None:
    """DPT's depth is relative, and nothing in its config says so."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "dpt", "architectures": ["DPTForDepthEstimation"]})
    )
    with pytest.raises(
        InputError,
        match="DPTForDepthEstimation is not known to give metres; expected one of DepthAnything",
    ):
        metric_depth_model(str(tmp_path))


def test_an_absent_depth_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"depth model .*absent"):
        metric_depth_model(str(tmp_path / "absent"))


def test_moge_without_its_package_is_one_line(tmp_path: Path) -> None:
    if importlib.util.find_spec("moge") is not None:
        pytest.skip("the package moge is installed")
    with pytest.raises(InputError, match="the package moge is not installed"):
        metric_depth_model("Ruicheng/moge-2-vitl-normal")


# A package with MoGe-2's interface as its documentation gives it: what the network is asked, and
# metres of its own. The published package and weights are not here.
MOGE_PACKAGE = """
import torch

class MoGeModel:
    def __init__(self, name):
        self.name, self.scale_head = name, None if "relative" in name else torch.nn.Identity()

    @classmethod
    def from_pretrained(cls, name):
        if "absent" in name:
            raise OSError(f"{name} is not in the cache\\nand no network")
        return cls(name)

    def eval(self):
        return self

    def to(self, device):
        return self

    def infer(self, image, fov_x=None, use_fp16=True):
        assert image.shape == (3, 48, 64) and 0 <= image.min() and image.max() <= 1
        assert not use_fp16, "on a CPU"
        depth = torch.full(image.shape[1:], float(fov_x))
        depth[0] = torch.inf
        mask = torch.ones_like(depth, dtype=torch.bool)
        mask[1] = False
        return {"depth": depth, "mask": mask}
"""


@pytest.fixture
def moge_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if importlib.util.find_spec("moge") is not None:
        pytest.skip("the package moge is installed")
    folder = tmp_path / "packages" / "moge" / "model"
    folder.mkdir(parents=True)
    for part in (folder.parent, folder):
        (part / "__init__.py").touch()
    (folder / "v2.py").write_text(MOGE_PACKAGE)
    monkeypatch.syspath_prepend(str(folder.parent.parent))
    metric_depth_model.cache_clear()
    yield
    metric_depth_model.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "moge"]:
        del sys.modules[name]


def test_moge_is_the_default_where_its_package_is_installed(
    scene: Scene, moge_package: None
) -> None:
    assert default_depth_model() == MOGE_2
    assert scale_depth_model("metric", None, None, None) == MOGE_2
    assert scale_depth_model("metric", None, None, "another") == "another"
    metres = metric_depth_model(MOGE_2)(scene.photos[0].read(), scene.cameras[0])
    assert np.isnan(metres[:2]).all(), "sky, and what the mask leaves out"
    field = 2 * math.degrees(math.atan(32 / float(scene.cameras[0].Ks[0, 0, 0])))
    assert metres[2:] == pytest.approx(np.full((46, 64), field))


def test_a_moge_without_metres_and_one_that_is_not_there_are_refused(moge_package: None) -> None:
    with pytest.raises(InputError, match=r"this MoGe gives depth up to a scale, not metres"):
        metric_depth_model("moge-2-relative")
    with pytest.raises(InputError, match=r"moge-2-absent is not in the cache; expected MoGe-2"):
        metric_depth_model("moge-2-absent")


def test_without_moge_there_is_no_default() -> None:
    if importlib.util.find_spec("moge") is not None:
        pytest.skip("the package moge is installed")
    assert default_depth_model() is None


@pytest.mark.parametrize(
    ("kind", "given", "name", "message"),
    [
        ("metric", 0.0, None, "--camera-scale 0: expected a positive finite number"),
        ("metric", 1.0, "some", "--depth-model some: --camera-scale 1 is given too"),
        ("median_depth", None, "some", "--depth-model some: model eye wants translations over"),
        ("metric", None, "/nowhere/at/all", "depth model /nowhere/at/all: "),
    ],
)
def test_options_that_do_not_fit_are_refused(
    kind: ScaleKind, given: float | None, name: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_scale_options(kind, given, name, "eye")
