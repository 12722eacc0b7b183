"""Operations that PyTorch's FLOP counter lacks on a CPU, and products unknown to it."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    conv_flop_count,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

Shape = tuple[int, ...]

#: Parts of the names of operations that are matrix products.
PRODUCT_NAMES = re.compile(r"conv|attention|linear|matmul|mm$|mm_")


class OverlookedProducts(TorchDispatchMode):
    """Records the names of operations that look like a product and are unknown to the counter:
    kernels differ by device and version.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        if (
            packet not in flop_registry
            and packet not in CPU_OPERATIONS
            and PRODUCT_NAMES.search(str(packet))
        ):
            self.names.add(str(packet))
        return func(*args, **(kwargs or {}))


def _cpu_attention(
    query: Shape, key: Shape, value: Shape, *_: object, out_shape: object = None, **__: object
) -> int:
    return sdpa_flop_count(query, key, value)


def _cpu_attention_backward(
    gradient: Shape,
    query: Shape,
    key: Shape,
    value: Shape,
    *_: object,
    out_shape: object = None,
    **__: object,
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def _cpu_convolution(
    pixels: Shape, weights: Shape, *_: object, out_shape: Shape, **__: object
) -> int:
    return conv_flop_count(list(pixels), list(weights), list(out_shape))


#: Operations unknown to PyTorch's counter on a CPU: fused attention, and the convolutions of Wan's
#: autoencoder without gradients.
CPU_OPERATIONS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
    torch.ops.aten.mkldnn_convolution: _cpu_convolution,
}
