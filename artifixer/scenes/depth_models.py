"""Metric depth models: a photo and its camera -> depth in metres per pixel, for ``scenes/scale.py``
(paper section 4.1, data curation).

MoGe-2 where its package is installed, which the paper uses; else the depth models of transformers
that give metres: Depth Anything V2 (metric), Depth Pro and ZoeDepth, each with the image processor
stored beside its weights. Every other class is refused by name, since most depth models (DPT, Depth
Anything's relative weights) give depth up to an unknown scale and shift.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.runtime.extras import needs_extra
from artifixer.runtime.files import PARSER_ERRORS, reason
from artifixer.runtime.json_io import as_object, read_json

#: A photo and its camera (one view of the photo's size) -> camera z in metres per pixel, NaN where
#: unknown.
MetricDepth = Callable[
    [UInt8[np.ndarray, "height width 3"], Cameras], Float[np.ndarray, "height width"]
]

#: MoGe-2, which the paper's metric scale is from.
MOGE_2 = "Ruicheng/moge-2-vitl-normal"

#: Classes of transformers whose output is in metres.
METRIC_CLASSES = (
    "DepthAnythingForDepthEstimation",
    "DepthProForDepthEstimation",
    "ZoeDepthForDepthEstimation",
)

#: ZoeDepth pads a side of n pixels by this times sqrt(n / 2).
ZOE_PADDING = 3.0

#: Upper bound on the side of a network's input in pixels, and on any other integer in its
#: processor's settings.
LARGEST_SIDE = 4096

#: Depth Pro's canonical inverse depth is cut to this range, 1/m.
INVERSE_DEPTH_RANGE = (1e-4, 1e4)


def default_depth_model() -> str | None:
    """MoGe-2 where its package is installed, else None."""
    return MOGE_2 if importlib.util.find_spec("moge") is not None else None


@functools.cache
def metric_depth_model(name: str, device: str = "cpu") -> MetricDepth:
    """The depth model of a folder or hub name, such as
    ``depth-anything/Depth-Anything-V2-Metric-Indoor-Base-hf``.

    A name with ``moge`` in it goes to MoGe's own package. Raises ``InputError`` when the model
    cannot be loaded, or is of a class that does not give metres.
    """
    class_name = check_depth_model(name)
    if class_name is None:
        return _checked(name, _moge(name, device))
    return _checked(name, _of_transformers(name, class_name, device))


def check_depth_model(name: str) -> str | None:
    """Class of a depth model of transformers, None for MoGe-2; reads settings, no weights.

    Raises ``InputError`` when the model is not there, its package is not installed, or it is of a
    class that does not give metres.
    """
    if _is_moge(name):
        if importlib.util.find_spec("moge") is None:
            raise InputError(
                f"depth model {name}: the package moge is not installed; install it, or name a "
                "metric model of transformers"
            )
        return None
    with needs_extra("wan", f"depth model {name}"):
        from transformers import AutoConfig
    # imported here, because every loader of captures imports this module
    from artifixer.video.checkpoints.pretrained import (
        check_numbers,
        check_pretrained,
        check_settings_files,
    )

    if Path(name).is_dir():
        check_settings_files(Path(name))
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # its validation raises errors of its own
        raise InputError(f"depth model {name}: {reason(error)}") from error
    classes = config.architectures or [type(config).__name__]
    named = classes[0] if isinstance(classes, list) else classes
    if not isinstance(named, str) or named not in METRIC_CLASSES:
        expected = f"expected one of {', '.join(METRIC_CLASSES)}"
        raise InputError(
            f"depth model {name}: {str(named)[:60]} is not known to give metres; {expected}"
        )
    if getattr(config, "depth_estimation_type", "metric") != "metric":
        raise InputError(f"depth model {name}: gives relative depth; expected a metric one")
    if Path(name).is_dir():
        check_pretrained(Path(name))
        settings = Path(name) / "preprocessor_config.json"
        if settings.exists():
            check_numbers(settings, as_object(read_json(settings), settings), LARGEST_SIDE, {})
    return named


def _is_moge(name: str) -> bool:
    return "moge" in Path(name).name.lower()


def _checked(name: str, model: MetricDepth) -> MetricDepth:
    """The model with an ``InputError`` where its files do not fit each other, which shows when it
    computes.
    """

    def depth(
        photo: UInt8[np.ndarray, "height width 3"], camera: Cameras
    ) -> Float[np.ndarray, "height width"]:
        try:
            metres = model(photo, camera)
        except PARSER_ERRORS as error:
            raise InputError(
                f"depth model {name}: its configuration does not fit its weights ({reason(error)})"
            ) from error
        if metres.shape != photo.shape[:2]:
            raise InputError(
                f"depth model {name}: gives depth of {metres.shape} for a photo of "
                f"{photo.shape[:2]}"
            )
        return metres

    return depth


def _of_transformers(name: str, class_name: str, device: str) -> MetricDepth:
    with needs_extra("wan", f"depth model {name}"):
        import transformers
    from artifixer.video.checkpoints.loading import is_finite

    try:
        # Weights in safetensors alone, and no code that a folder brings.
        network: Any = getattr(transformers, class_name).from_pretrained(
            name, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # safetensors and transformers raise errors of their own
        raise InputError(f"depth model {name}: {reason(error)}") from error
    broken = next(
        (key for key, tensor in network.state_dict().items() if not is_finite(tensor)), None
    )
    if broken is not None:
        raise InputError(
            f"depth model {name}: {broken} holds values that are not finite, expected numbers"
        )
    network = network.eval().to(device)
    if class_name == "DepthProForDepthEstimation":
        return _depth_pro(network, _processor_settings(name))
    processor = _pil_processor(name, class_name)

    def depth(
        photo: UInt8[np.ndarray, "height width 3"], camera: Cameras
    ) -> Float[np.ndarray, "height width"]:
        inputs = processor(images=photo, return_tensors="pt").to(device)
        with torch.no_grad():
            outputs = network(**inputs)
        if class_name.startswith("Zoe"):
            return _without_padding(
                outputs.predicted_depth, photo.shape[0], photo.shape[1], processor.do_pad
            )
        (result,) = processor.post_process_depth_estimation(outputs, target_sizes=[photo.shape[:2]])
        return _at_size(result["predicted_depth"], *photo.shape[:2])

    return depth


def _pil_processor(name: str, class_name: str) -> Any:
    """The processor beside the weights, in its variant that needs no torchvision."""
    from transformers import DPTImageProcessorPil, ZoeDepthImageProcessorPil

    kind = ZoeDepthImageProcessorPil if class_name.startswith("Zoe") else DPTImageProcessorPil
    try:
        return kind.from_pretrained(name)
    except Exception as error:  # its validation raises errors of its own
        raise InputError(
            f"depth model {name}: preprocessor_config.json: {reason(error)}"
        ) from error


def _processor_settings(name: str) -> dict[str, Any]:
    """``preprocessor_config.json`` of a folder or hub name."""
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(name, "preprocessor_config.json")
        settings = read_json(path)
        return {key: settings[key] for key in ("size", "image_mean", "image_std")}
    except PARSER_ERRORS as error:
        raise InputError(
            f"depth model {name}: preprocessor_config.json: {reason(error)}"
        ) from error


def _depth_pro(network: Any, settings: dict[str, Any]) -> MetricDepth:
    """Depth Pro without its processor, which exists for torchvision alone. The camera's focal
    length takes the place of its estimate.

    The network gives inverse depth for a camera whose focal length equals the image's width
    (Bochkovskii et al. 2024, section 3).
    """
    try:
        size = (int(settings["size"]["height"]), int(settings["size"]["width"]))
        mean, deviation = (
            torch.tensor(settings[key], dtype=torch.float32).reshape(3, 1, 1)
            for key in ("image_mean", "image_std")
        )
    except PARSER_ERRORS as error:
        raise InputError(f"depth model: preprocessor_config.json: {reason(error)}") from error

    def depth(
        photo: UInt8[np.ndarray, "height width 3"], camera: Cameras
    ) -> Float[np.ndarray, "height width"]:
        height, width = photo.shape[:2]
        pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].to(torch.float32) / 255
        pixels = torch.nn.functional.interpolate(
            (pixels - mean) / deviation, size=size, mode="bilinear"
        )
        with torch.no_grad():
            canonical = network(pixel_values=pixels.to(network.device)).predicted_depth
        inverse = _at_size(canonical * (width / float(camera.Ks[0, 0, 0])), height, width)
        return 1 / inverse.clip(*INVERSE_DEPTH_RANGE)

    return depth


def _without_padding(
    depth: Float[torch.Tensor, "1 h w"], height: int, width: int, is_padded: bool
) -> Float[np.ndarray, "height width"]:
    """What ZoeDepth's processor does after the network, which needs torchvision there: it pads
    photos by reflection before.
    """
    rows, columns = (
        int(math.sqrt(side / 2) * ZOE_PADDING) if is_padded else 0 for side in (height, width)
    )
    padded = torch.nn.functional.interpolate(
        depth[None].float(),
        size=(height + 2 * rows, width + 2 * columns),
        mode="bicubic",
        align_corners=False,
    )
    return padded[0, 0, rows : rows + height, columns : columns + width].cpu().numpy()


def _moge(name: str, device: str) -> MetricDepth:
    """MoGe-2 by its own package (``moge``); pixels outside its mask and the sky are NaN."""
    from moge.model.v2 import MoGeModel

    try:
        network = MoGeModel.from_pretrained(name).eval().to(device)
    except Exception as error:  # the hub and pickles raise errors of their own
        raise InputError(
            f"depth model {name}: {reason(error)}; expected MoGe-2, such as {MOGE_2}"
        ) from error
    if getattr(network, "scale_head", None) is None:
        raise InputError(
            f"depth model {name}: this MoGe gives depth up to a scale, not metres; expected "
            f"MoGe-2, such as {MOGE_2}"
        )

    def depth(
        photo: UInt8[np.ndarray, "height width 3"], camera: Cameras
    ) -> Float[np.ndarray, "height width"]:
        pixels = torch.from_numpy(photo).permute(2, 0, 1).to(device, torch.float32) / 255
        field = math.degrees(2 * math.atan(photo.shape[1] / (2 * float(camera.Ks[0, 0, 0]))))
        with torch.no_grad():
            # Half precision, its default, is for GPUs.
            output = network.infer(pixels, fov_x=field, use_fp16=device.startswith("cuda"))
        metres = torch.where(
            output["mask"].bool() & output["depth"].isfinite(), output["depth"], torch.nan
        )
        return metres.float().cpu().numpy()

    return depth


def _at_size(
    depth: Float[torch.Tensor, ...], height: int, width: int
) -> Float[np.ndarray, "height width"]:
    planes = depth.reshape(1, 1, *depth.shape[-2:]).float()
    if planes.shape[-2:] != (height, width):
        planes = torch.nn.functional.interpolate(planes, size=(height, width), mode="bilinear")
    return planes[0, 0].cpu().numpy()
