"""Metres by depth networks: every known class end to end with a small random network, the
processors' own arithmetic, and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from depth_models import PROCESSORS, save_depth_model

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes import procedural
from artifixer.scenes.metric_depth import METRIC_CLASSES, MOGE_2, check_depth_model, default_depth_model, metric_depth
from artifixer.scenes.scale import METRIC_FACTOR, camera_scale, observed_metres_per_unit, sparse_observations
from artifixer.scenes.scene import Scene

NAME = "procedural:3:frames=4,width=64,height=48,points_per_photo=40"

#: float32 arithmetic in another order.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def scene() -> Scene:
    return procedural.load(NAME)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_depth_model(kind, tmp_path_factory.mktemp(kind)) for kind in PROCESSORS}


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    yield
    metric_depth.cache_clear()


@pytest.mark.parametrize("kind", METRIC_CLASSES)
def test_every_known_class_gives_metres_per_pixel_and_a_scale(scene: Scene, saved: dict[str, Path], kind: str) -> None:
    photo, camera = scene.photos[0].read(), scene.cameras[0]
    metres = metric_depth(str(saved[kind]))(photo, camera)
    assert metres.shape == (48, 64) and metres.dtype == np.float32
    assert np.isfinite(metres).mean() > 0.3 and (metres > 0).all()
    assert metres[np.isfinite(metres)].std() > 0
    other = metric_depth(str(saved[kind]))(np.ascontiguousarray(photo[:, ::-1]), camera)
    assert not np.array_equal(metres, other)  # it looks at the photo
    scale = camera_scale("metric", sparse_observations(scene, (0, 3)), depth_model=str(saved[kind]))
    assert scale.kind == "metric" and str(saved[kind]) in scale.source and scale.warning is None
    assert scale.value == pytest.approx(
        METRIC_FACTOR * observed_metres_per_unit(sparse_observations(scene, (0, 3)), metric_depth(str(saved[kind])))
    )


def test_depth_pro_knows_the_cameras_focal_length(scene: Scene, saved: dict[str, Path]) -> None:
    """Twice the focal length: the same picture is of things twice as far away."""
    photo, camera = scene.photos[0].read(), scene.cameras[0]
    depth = metric_depth(str(saved["depth_pro"]))
    longer = Cameras.pinhole(camera.viewmats, camera.Ks * torch.tensor([2.0, 2, 1])[:, None], camera.width, camera.height)
    assert np.allclose(depth(photo, longer), 2 * depth(photo, camera), rtol=ROUNDING)


def test_depth_pro_is_its_processors_formula(scene: Scene, saved: dict[str, Path]) -> None:
    """At the focal length that the network guesses, by hand: normalised to [-1,1], resized, depth =
    focal / (width x prediction)."""
    from transformers import DepthProForDepthEstimation

    photo, camera = scene.photos[0].read(), scene.cameras[0]
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 127.5 - 1
    pixels = torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear")
    with torch.no_grad():
        found = DepthProForDepthEstimation.from_pretrained(saved["depth_pro"]).eval()(pixel_values=pixels)
    focal = 0.5 * 64 / float(torch.tan(0.5 * torch.deg2rad(found.field_of_view[0])))
    inverse = torch.nn.functional.interpolate(found.predicted_depth[None], (48, 64), mode="bilinear")[0, 0] * 64 / focal
    guessed = Cameras.pinhole(camera.viewmats, torch.tensor([[[focal, 0, 32], [0, focal, 24], [0, 0, 1]]]), 64, 48)
    metres = metric_depth(str(saved["depth_pro"]))(photo, guessed)
    assert np.allclose(metres.clip(max=1e4), 1 / inverse.clamp(1e-4, 1e4), rtol=ROUNDING)


def test_zoedepths_border_is_cut_off_again(scene: Scene, saved: dict[str, Path], tmp_path: Path) -> None:
    """By hand: a border of int(3 sqrt(side / 2)) pixels, predicted with the photo."""
    from transformers import ZoeDepthForDepthEstimation, ZoeDepthImageProcessorPil

    photo, camera = scene.photos[0].read(), scene.cameras[0]
    processor = ZoeDepthImageProcessorPil(**{k: v for k, v in PROCESSORS["zoedepth"].items() if k != "image_processor_type"})
    with torch.no_grad():
        network = ZoeDepthForDepthEstimation.from_pretrained(saved["zoedepth"]).eval()
        found = network(**processor(images=photo, return_tensors="pt")).predicted_depth
    padded = torch.nn.functional.interpolate(found[None], (48 + 28, 64 + 32), mode="bicubic")[0, 0]
    assert np.allclose(metric_depth(str(saved["zoedepth"]))(photo, camera), padded[14:-14, 16:-16], rtol=ROUNDING)


def test_torchvision_is_not_needed(saved: dict[str, Path], tmp_path: Path) -> None:
    """In a process that has none."""
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import numpy as np, torch\n"
        "from artifixer.geometry.cameras import Cameras\n"
        "from artifixer.scenes.metric_depth import metric_depth\n"
        "camera = Cameras.pinhole(torch.eye(4)[None], torch.tensor([[[40.0, 0, 32], [0, 40, 24], [0, 0, 1]]]), 64, 48)\n"
        "photo = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)\n"
        "print([metric_depth(name)(photo, camera).shape for name in sys.argv[1:]])"
    )
    names = [str(saved[kind]) for kind in METRIC_CLASSES]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *names], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str([(48, 64)] * 3), done.stderr


# --------------------------------------------------------------------------------------------------
# ----------------------- refusals


@pytest.mark.parametrize(("kind", "named"), [("dpt", "DPTForDepthEstimation"), ("glpn", "GLPNForDepthEstimation")])
def test_a_network_that_is_not_known_to_give_metres_is_refused_by_name(saved: dict[str, Path], kind: str, named: str) -> None:
    with pytest.raises(InputError, match=f"{named} is not known to predict metres; expected MoGe-2 .* Depth Anything V2 metric"):
        metric_depth(str(saved[kind]))


@pytest.mark.parametrize("change", [{"depth_estimation_type": "relative"}, {}])
def test_relative_depth_anything_is_refused(saved: dict[str, Path], tmp_path: Path, change: dict[str, str]) -> None:
    """Also one whose config does not say: older ones are relative."""
    content = json.loads((saved["depth_anything"] / "config.json").read_text())
    del content["depth_estimation_type"]
    (tmp_path / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match="predicts relative depth; expected"):
        check_depth_model(str(tmp_path))


@pytest.mark.parametrize("content", ['{"model_type": "bert"}', '{"model_type": "unheard_of"}', "{", None])
def test_what_is_no_depth_network_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"depth model .*expected MoGe-2"):
        metric_depth(str(tmp_path))


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}')
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    with pytest.raises(InputError, match="depth model"):
        metric_depth(str(tmp_path))
    assert not (tmp_path / "was_run").exists()


def test_an_absent_processor_or_weights_are_named(saved: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((saved["depth_anything"] / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"depth model .*cannot be loaded"):
        metric_depth(str(tmp_path))


# --------------------------------------------------------------------------------------------------
# --------------------------- MoGe-2

#: A package of the same interface: what is documented of ``moge.model.v2``. Depth grows with the
#: row; the first row is sky.
MOGE = """
import torch
class MoGeModel(torch.nn.Module):
    @classmethod
    def from_pretrained(cls, name):
        network = cls()
        network.scale_head = None if "moge-1" in name else torch.nn.Linear(1, 1)
        return network
    def infer(self, image):
        assert image.dtype == torch.float32 and image.shape[0] == 3 and 0.3 < image.max() <= 1
        depth = (1.0 + torch.arange(image.shape[1]))[:, None].expand(image.shape[1:]).clone()
        mask = depth > 1
        return {"depth": torch.where(mask, depth, torch.inf), "mask": mask}
"""


@pytest.fixture
def moge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "moge" / "model").mkdir(parents=True)
    for name in ("moge/__init__.py", "moge/model/__init__.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "moge" / "model" / "v2.py").write_text(MOGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "moge"]:
        del sys.modules[name]


@pytest.mark.usefixtures("moge")
def test_moge_is_the_default_where_it_is_installed(scene: Scene) -> None:
    assert default_depth_model() == MOGE_2
    metres = metric_depth(MOGE_2)(scene.photos[0].read(), scene.cameras[0])
    assert np.isinf(metres[0]).all() and (metres[1:, 0] == np.arange(2, 49)).all()
    observed = sparse_observations(scene, (0, 3))
    unknown = replace(observed, metres_per_unit=None)
    scale = camera_scale("metric", unknown, may_assume=False)
    assert MOGE_2 in scale.source and scale.warning is None
    assert camera_scale("metric", observed).source == "the capture knows its unit in metres"
    with pytest.raises(InputError, match="predicts no metres"):
        metric_depth("somewhere/moge-1-vitl")


@pytest.mark.skipif(default_depth_model() is not None, reason="the package moge is installed")
def test_moge_without_its_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    for name in (MOGE_2, "weights/moge.pt", str(tmp_path)):
        with pytest.raises(InputError, match="needs the package moge"):
            check_depth_model(name)
