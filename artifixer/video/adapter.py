"""Low-rank adapters of the video transformer (LoRA, Hu et al. 2021), as scene adaptation trains
them; not in the paper.

In: ``adapter.safetensors``, for some of the network's linear layers the pair ``NAME.lora_A``
``[rank inputs]`` and ``NAME.lora_B`` ``[outputs rank]``, float32. Out: the network with weights W +
B A. Any scale is part of B, so that the file needs no further settings. Nothing is unpickled;
names, shapes and values are checked before a weight changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from artifixer.runtime.errors import InputError
from artifixer.video.checkpoints.loading import is_finite
from artifixer.video.checkpoints.tensor_files import (
    StoredTensors,
    open_tensors,
    save_tensors,
    shape_text,
)
from artifixer.video.transformer import VideoTransformer

#: Name of the file in a run folder.
ADAPTER_FILE = "adapter.safetensors"

_A, _B = ".lora_A", ".lora_B"


def save_adapter(path: Path, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Write the (A, B) of layers by the layers' names; equal values give equal bytes."""
    tensors = {f"{name}{_A}": a for name, (a, _) in factors.items()}
    tensors |= {f"{name}{_B}": b for name, (_, b) in factors.items()}
    save_tensors(path, tensors, torch.float32)


def apply_adapter(transformer: VideoTransformer, path: Path) -> None:
    """Add the adapter in a file to the network's weights, in place.

    The sum is computed in float32 and rounded once to the weights' dtype. Raises ``InputError``
    naming the first tensor that does not fit, before any weight changes.
    """
    factors = _checked(transformer, path)
    for name, (a, b) in factors.items():
        weight = transformer.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        change = b.to(weight.device) @ a.to(weight.device)
        weight.data = (weight.data.to(torch.float32) + change).to(weight.dtype)


def linear_layers(transformer: VideoTransformer) -> dict[str, nn.Linear]:
    """The layers that an adapter may change, by name."""
    return {
        name: module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
    }


def _checked(transformer: VideoTransformer, path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The (A, B) of every layer in the file; ``InputError`` unless they fit the network."""
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: expected a .safetensors file")
    stored, layers = open_tensors(path), linear_layers(transformer)
    names = sorted({name.removesuffix(_A).removesuffix(_B) for name in stored.shapes})
    if not names:
        raise InputError(f"{path}: holds no tensors, expected an adapter")
    for name in names:
        _check_layer(stored, name, layers.get(name))
    return {name: (_read(stored, name + _A), _read(stored, name + _B)) for name in names}


def _check_layer(stored: StoredTensors, name: str, layer: nn.Linear | None) -> None:
    """Raise ``InputError`` unless both factors of a layer are there with the layer's shapes."""
    if layer is None:
        raise InputError(
            f"{stored.path}: {name[:120]} is no linear layer of this model; expected an adapter "
            "that was trained for it"
        )
    shapes = [stored.shapes.get(name + part) for part in (_A, _B)]
    rank = shapes[0][0] if shapes[0] else 0
    expected = ((rank, layer.in_features), (layer.out_features, rank))
    limit = max(layer.in_features, layer.out_features)
    for part, shape, wanted in zip((_A, _B), shapes, expected, strict=True):
        if shape is None or tuple(shape) != wanted or not 1 <= rank <= limit:
            found = "missing" if shape is None else shape_text(shape)
            raise InputError(
                f"{stored.path}: {name}{part} is {found}; the layer has {layer.in_features} inputs "
                f"and {layer.out_features} outputs, expected a rank of 1 to {limit}"
            )


def _read(stored: StoredTensors, name: str) -> Tensor:
    tensor = stored.read(name)
    if not tensor.is_floating_point() or not is_finite(tensor):
        raise InputError(
            f"{stored.path}: {name} is {tensor.dtype} or holds values that are not finite; "
            "expected numbers"
        )
    return tensor.to(torch.float32)
