"""Depth in metres per pixel of a photo, by a pretrained depth network on the user's disk or in the
hub's cache.

In: the network's folder or hub name, a photo, its camera. Out: camera z in metres. MoGe-2 runs
through its own package ``moge``; Depth Anything V2 (metric), Depth Pro and ZoeDepth through
transformers, each with the preprocessing of its own image processor. Other networks are refused by
name: most of them predict relative depth, which cannot be told from metres by its values. Nothing
here needs torchvision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError

#: A photo and its camera -> camera z in metres per pixel; infinite in the sky, NaN where unknown.
MetricDepth = Callable[[UInt8[np.ndarray, "height width 3"], Cameras], Float[np.ndarray, "height width"]]

#: The network of the public release (interop: Ruicheng Wang et al., MoGe-2).
MOGE_2 = "Ruicheng/moge-2-vitl-normal"

#: Networks of transformers that predict metres: ``model_type`` of config.json -> class.
METRIC_CLASSES = {
    "depth_anything": "DepthAnythingForDepthEstimation",
    "depth_pro": "DepthProForDepthEstimation",
    "zoedepth": "ZoeDepthForDepthEstimation",
}

#: What a message suggests.
EXPECTED = (
    "expected MoGe-2 (package moge), Depth Anything V2 metric (such as depth-anything/Depth-Anything-V2-Metric-Indoor-Base-hf), "
    "Depth Pro (apple/DepthPro-hf) or ZoeDepth (Intel/zoedepth-nyu-kitti), by folder or hub name"
)

#: Depth Pro's image processor cuts depth to this range, metres; here what is farther is sky.
DEPTH_PRO_RANGE = (1e-4, 1e4)

#: ZoeDepth's image processor reflects a border of int(sqrt(side / 2) * this) pixels around the
#: photo.
ZOEDEPTH_BORDER = 3


def default_depth_model() -> str | None:
    """MoGe-2 when its package is installed, else None."""
    return MOGE_2 if find_spec("moge") is not None else None


def check_depth_model(name: str) -> None:
    """Raise ``InputError`` when the network is not there or is none that predicts metres. Reads its
    configuration only."""
    if _is_moge(name):
        if find_spec("moge") is None:
            raise InputError(f"depth model {name}: MoGe-2 needs the package moge, which is not installed")
        return
    _metric_class(name)


@functools.lru_cache(maxsize=1)
def metric_depth(name: str, device: str = "cpu") -> MetricDepth:
    """The network, loaded; the last one is kept.

    name: a folder, a ``.pt`` file of MoGe-2, or a hub name. Raises ``InputError`` when it cannot be
    loaded or predicts no metres.
    """
    check_depth_model(name)
    if _is_moge(name):
        return _moge(name, device)
    make = {"depth_anything": _depth_anything, "depth_pro": _depth_pro, "zoedepth": _zoedepth}[_metric_class(name)]
    return make(name, device)


def _metric_class(name: str) -> str:
    """``model_type`` of a network of transformers that predicts metres; ``InputError`` for all
    others."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES

    with _refused(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    kind = str(config.model_type)
    if kind not in METRIC_CLASSES:
        named = MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES.get(kind, f"a {kind} model")
        raise InputError(f"depth model {name}: {named} is not known to predict metres; {EXPECTED}")
    if kind == "depth_anything" and config.depth_estimation_type != "metric":
        raise InputError(
            f"depth model {name}: its config.json says that this Depth Anything predicts {config.depth_estimation_type} depth; {EXPECTED}"
        )
    return kind


# Networks -----------------------------------------------------------------------------------------
# ------------------------------------


def _depth_anything(name: str, device: str) -> MetricDepth:
    processor, network = _processor(name), _network(name, device)

    def depth(photo: UInt8[np.ndarray, "height width 3"], camera: Cameras) -> Float[np.ndarray, "height width"]:
        with torch.no_grad():
            metres = network(**processor(images=photo, return_tensors="pt").to(device)).predicted_depth
        return _resized(metres, photo.shape[:2], "bicubic")

    return depth


def _zoedepth(name: str, device: str) -> MetricDepth:
    """The border that the processor adds is predicted with the photo and cut off again."""
    processor, network = _processor(name), _network(name, device)

    def depth(photo: UInt8[np.ndarray, "height width 3"], camera: Cameras) -> Float[np.ndarray, "height width"]:
        height, width = photo.shape[:2]
        rows, columns = (int(np.sqrt(side / 2) * ZOEDEPTH_BORDER) if processor.do_pad else 0 for side in (height, width))
        with torch.no_grad():
            metres = network(**processor(images=photo, return_tensors="pt").to(device)).predicted_depth
        padded = _resized(metres, (height + 2 * rows, width + 2 * columns), "bicubic")
        return padded[rows : rows + height, columns : columns + width]

    return depth


def _depth_pro(name: str, device: str) -> MetricDepth:
    """Its image processor exists for torchvision alone, so its preprocessing is done here with the
    values of preprocessor_config.json: colours are normalised, then resized without antialiasing.
    The network predicts inverse depth at a focal length of one image width; the camera's focal
    length takes the place of the one that the network would guess from the photo."""
    from transformers.image_processing_base import ImageProcessingMixin

    network = _network(name, device)
    with _refused(name):
        settings, _ = ImageProcessingMixin.get_image_processor_dict(name)
    size = settings.get("size", {"height": 1536, "width": 1536})
    mean, deviation = (torch.tensor(settings.get(key, [0.5] * 3))[:, None, None] for key in ("image_mean", "image_std"))

    def depth(photo: UInt8[np.ndarray, "height width 3"], camera: Cameras) -> Float[np.ndarray, "height width"]:
        pixels = (torch.from_numpy(np.array(photo)).permute(2, 0, 1).to(torch.float32) / 255 - mean) / deviation
        pixels = interpolate(pixels[None], size=(size["height"], size["width"]), mode="bilinear", align_corners=False)
        with torch.no_grad():
            inverse = network(pixel_values=pixels.to(device)).predicted_depth
        inverse = _resized(inverse * (camera.width / float(camera.Ks[0, 0, 0])), photo.shape[:2], "bilinear")
        nearest, farthest = DEPTH_PRO_RANGE
        with np.errstate(divide="ignore"):
            return np.where(inverse * farthest > 1, 1 / inverse, np.inf).clip(min=nearest).astype(np.float32)

    return depth


def _moge(name: str, device: str) -> MetricDepth:
    from moge.model.v2 import MoGeModel

    with _refused(name):
        network: Any = MoGeModel.from_pretrained(name).to(device).eval()
    if getattr(network, "scale_head", None) is None:
        raise InputError(f"depth model {name}: this MoGe predicts no metres; expected MoGe-2, such as {MOGE_2}")

    def depth(photo: UInt8[np.ndarray, "height width 3"], camera: Cameras) -> Float[np.ndarray, "height width"]:
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).to(device, torch.float32) / 255
        with torch.no_grad():
            found = network.infer(pixels)
        metres = torch.where(found["mask"].bool(), found["depth"], torch.inf)  # outside of the mask is sky, or unknown
        return metres.to("cpu", torch.float32).numpy()

    return depth


# Loading ------------------------------------------------------------------------------------------
# ------------------------------------


def _is_moge(name: str) -> bool:
    """A ``.pt`` file, a folder that holds ``model.pt`` without a config.json, or a hub name with
    MoGe in it."""
    path = Path(name)
    if path.is_dir():
        return (path / "model.pt").is_file() and not (path / "config.json").is_file()
    return path.suffix == ".pt" or (not path.exists() and "moge" in path.name.lower())


def _processor(name: str) -> Any:
    """The network's own image processor, in the version that runs on Pillow and NumPy."""
    from transformers import AutoImageProcessor

    with _refused(name):
        return AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)


def _network(name: str, device: str) -> Any:
    from transformers import AutoModelForDepthEstimation

    with _refused(name):
        return AutoModelForDepthEstimation.from_pretrained(name, trust_remote_code=False).to(device).eval()


@contextmanager
def _refused(name: str) -> Iterator[None]:
    """What libraries say about a network that they cannot load, in one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"depth model {name}: cannot be loaded: {lines[0]}; {EXPECTED}") from error


def _resized(values: Float[Tensor, "1 rows columns"], size: tuple[int, ...], mode: str) -> Float[np.ndarray, "height width"]:
    resized = interpolate(values[:, None].to(torch.float32), size=tuple(size), mode=mode, align_corners=False)[0, 0]
    return np.asarray(resized.cpu().numpy())
