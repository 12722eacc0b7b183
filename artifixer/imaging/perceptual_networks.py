"""The networks of ST-LPIPS and KD, compatible with the weight files of third-party packages.

In: planes ``[images 3 height width]`` in [0,1] and a state dict. Out: distances, feature vectors.
Only the weights are read, with ``weights_only=True``; the packages are never imported.

``ShiftTolerantAlexNet``  Ghildyal and Liu 2022: AlexNet whose strided layers are a convolution or a
    pooling of stride 1 and a blur of stride 2, under the distance of LPIPS.
``EfficientNetLite0``  Tan and Le 2019 without squeeze-and-excitation and with ReLU6; features are
    the last layer before the classifier, averaged over the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

#: Channel means and standard deviations of EfficientNet's training photos.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

#: Epsilon of TensorFlow's batch norm, with which the weights were trained.
BATCH_NORM_EPSILON = 1e-3

#: Added to the norm of a feature vector, as when the weights were trained.
NORM_EPSILON = 1e-10

#: Convolutions of the shift-tolerant AlexNet by name, with their padding.
_PADDINGS = {"slice1.0": 2, "slice2.5": 2, "slice3.9": 1, "slice4.11": 1, "slice5.13": 1}


class ShiftTolerantAlexNet(nn.Module):
    """Perceptual distance of image pairs, robust to shifts of a few pixels."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, values in weights.items():
            self.register_buffer(name.replace(".", "_"), values.to(torch.float32))

    @staticmethod
    def shapes(width: int = 64) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights; ``width``: channels of the first layer."""
        channels = [width, 3 * width, 6 * width, 4 * width, 4 * width]
        kernels = [11, 5, 3, 3, 3]
        shapes: dict[str, tuple[int, ...]] = {
            "scaling_layer.shift": (1, 3, 1, 1),
            "scaling_layer.scale": (1, 3, 1, 1),
        }
        for index, name in enumerate(_PADDINGS):
            before = 3 if index == 0 else channels[index - 1]
            shapes[f"net.{name}.weight"] = (channels[index], before, kernels[index], kernels[index])
            shapes[f"net.{name}.bias"] = (channels[index],)
            shapes[f"lin{index}.model.1.weight"] = (1, channels[index], 1, 1)
        for name, count in (("slice1.1", 0), ("slice2.4", 0), ("slice3.8", 1)):
            shapes[f"net.{name}.filt"] = (channels[count], 1, 3, 3)
        return shapes

    def forward(
        self,
        prediction: Float[Tensor, "images 3 height width"],
        target: Float[Tensor, "images 3 height width"],
    ) -> Float[Tensor, " images"]:
        """One distance per pair; 0 for equal images."""
        total = prediction.new_zeros(prediction.shape[0])
        pairs = zip(self._features(prediction), self._features(target), strict=True)
        for index, (ours, theirs) in enumerate(pairs):
            squared = (_unit(ours) - _unit(theirs)).square()
            weights = self._values(f"lin{index}.model.1.weight")
            total = total + F.conv2d(squared, weights).mean(dim=(1, 2, 3))
        return total

    def _features(self, images: Tensor) -> list[Tensor]:
        shift, scale = (self._values(f"scaling_layer.{name}") for name in ("shift", "scale"))
        first = F.relu(
            self._blurred(self._convolved((2 * images - 1 - shift) / scale, "slice1.0"), "slice1.1")
        )
        second = F.relu(self._convolved(self._pooled(first, "slice2.4"), "slice2.5"))
        third = F.relu(self._convolved(self._pooled(second, "slice3.8"), "slice3.9"))
        fourth = F.relu(self._convolved(third, "slice4.11"))
        return [first, second, third, fourth, F.relu(self._convolved(fourth, "slice5.13"))]

    def _convolved(self, images: Tensor, name: str) -> Tensor:
        weight, bias = (self._values(f"net.{name}.{kind}") for kind in ("weight", "bias"))
        return F.conv2d(images, weight, bias, padding=_PADDINGS[name])

    def _blurred(self, images: Tensor, name: str) -> Tensor:
        padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
        filters = self._values(f"net.{name}.filt")
        return F.conv2d(padded, filters, stride=2, groups=images.shape[1])

    def _pooled(self, images: Tensor, name: str) -> Tensor:
        return self._blurred(F.max_pool2d(images, 3, 1), name)

    def _values(self, name: str) -> Tensor:
        values: Tensor = getattr(self, name.replace(".", "_"))
        return values


class _Stage(NamedTuple):
    """Blocks of one resolution: number, kernel size, stride of the first, expansion, channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """Image features; parameters are named as in the weight file, whose classifier is omitted.

    width: channels of the stem, 32 in the weight file; the other channels scale with it.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, width, 3, stride=2, bias=False)
        self._bn0 = _batch_norm(width)
        blocks, before = [], width
        for stage in _STAGES:
            channels = stage.channels * width // 32
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(_Block(before, channels, stage.kernel, stride, stage.expansion))
                before = channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(before, 40 * width, 1, bias=False)
        self._bn1 = _batch_norm(40 * width)
        self.eval()

    @torch.no_grad()
    def forward(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images features"]:
        """images: [0,1]; the network was trained at 224x224."""
        mean, deviation = (
            images.new_tensor(values)[:, None, None]
            for values in (IMAGENET_MEAN, IMAGENET_DEVIATION)
        )
        x = F.relu6(self._bn0(_same_size(self._conv_stem, (images - mean) / deviation)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))


class _Block(nn.Module):
    """An inverted residual block: expand, depthwise convolution, project; with a skip connection
    where the shapes are equal.
    """

    def __init__(
        self, before: int, channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        inner = before * expansion
        self._expands = expansion != 1
        if self._expands:
            self._expand_conv = nn.Conv2d(before, inner, 1, bias=False)
            self._bn0 = _batch_norm(inner)
        self._depthwise_conv = nn.Conv2d(
            inner, inner, kernel, stride=stride, groups=inner, bias=False
        )
        self._bn1 = _batch_norm(inner)
        self._project_conv = nn.Conv2d(inner, channels, 1, bias=False)
        self._bn2 = _batch_norm(channels)
        self._adds = stride == 1 and before == channels

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = F.relu6(self._bn1(_same_size(self._depthwise_conv, y)))
        y = self._bn2(self._project_conv(y))
        result: Tensor = x + y if self._adds else y
        return result


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON)


def _same_size(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution with TensorFlow's SAME padding: the output has ``ceil(side / stride)`` pixels,
    and an odd padding is larger at the end.
    """
    padding = []
    for axis in (1, 0):  # F.pad begins with the last axis
        kernel, stride = convolution.kernel_size[axis], convolution.stride[axis]
        side = x.shape[2 + axis]
        missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        padding += [missing // 2, missing - missing // 2]
    result: Tensor = convolution(F.pad(x, padding))
    return result


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + NORM_EPSILON)
