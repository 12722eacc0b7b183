"""Layer streaming for models larger than the GPU: layers are kept in host memory and copied to the
device ahead of their use.

In: layers of a model in host memory, all of the same shapes. While a layer computes, the next ones
are copied into a few slots on the device that all layers share. On a CPU the same copies happen
within host memory, with bit-identical results. Inference only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class _Slot:
    """Device memory for one layer. ``layer``: index of the layer that it holds or is being filled
    with. ``filled``, ``free``: CUDA events.
    """

    tensors: dict[str, Tensor]
    layer: int | None = None
    filled: Any = None
    free: Any = None


class LayerStream:
    """Streams ``layers`` to ``device`` until ``close``; the layers' own tensors stay in host
    memory.

    Layers must have the same tensors by name, shape and dtype. Hooks put a layer's weights on the
    device for ``forward``; layers may run out of order, but then wait for their copy. Other methods
    of a layer need ``with stream.layer(index)``.
    """

    def __init__(
        self, layers: Iterable[nn.Module], device: torch.device | str, ahead: int = 1
    ) -> None:
        """ahead: number of layers that are prefetched; needs device memory for ``ahead + 1``
        layers.
        """
        assert ahead >= 1, f"{ahead} layers ahead"
        self.layers, self.device = list(layers), torch.device(device)
        self._is_cuda = self.device.type == "cuda"
        self._host = [_host_tensors(layer, pin=self._is_cuda) for layer in self.layers]
        kinds = [
            {name: (value.shape, value.dtype) for name, value in host.items()}
            for host in self._host
        ]
        assert all(kind == kinds[0] for kind in kinds), (
            "layers of different shapes cannot share slots"
        )
        self._slots = [
            _Slot(
                {
                    name: torch.empty_like(value, device=self.device)
                    for name, value in self._host[0].items()
                }
            )
            for _ in range(min(ahead + 1, len(self.layers)))
        ]
        self._copies = torch.cuda.Stream(self.device) if self._is_cuda else None
        self._hooks = [
            hook
            for index, layer in enumerate(self.layers)
            for hook in (
                layer.register_forward_pre_hook(lambda *_, index=index: self._enter(index)),
                layer.register_forward_hook(
                    lambda *_, index=index: self._leave(index), always_call=True
                ),
            )
        ]

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """The layer with its weights on the device, for calls other than ``forward``."""
        self._enter(index)
        try:
            yield self.layers[index]
        finally:
            self._leave(index)

    def in_turn(self) -> Iterator[Any]:
        """All layers in order, each with its weights on the device until the next iteration."""
        for index in range(len(self.layers)):
            with self.layer(index) as layer:
                yield layer

    def close(self) -> None:
        """Stop streaming and free the device memory."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._slots = [], []

    def _enter(self, index: int) -> None:
        assert not torch.is_grad_enabled(), "streamed layers are for inference: use torch.no_grad()"
        wanted = [(index + step) % len(self.layers) for step in range(len(self._slots))]
        slot = self._fetch(index, wanted)
        if slot.filled is not None:
            torch.cuda.current_stream(self.device).wait_event(slot.filled)
        for name, tensor in _named_tensors(self.layers[index]):
            tensor.data = slot.tensors[name]
        for following in wanted[1:]:
            self._fetch(following, wanted)

    def _leave(self, index: int) -> None:
        for slot in self._slots:
            if self._is_cuda and slot.layer == index:
                slot.free = torch.cuda.current_stream(self.device).record_event()
        for name, tensor in _named_tensors(self.layers[index]):
            tensor.data = self._host[index][name]

    def _fetch(self, index: int, wanted: list[int]) -> _Slot:
        """The slot of a layer, which is filled asynchronously if it does not hold the layer yet;
        evicts a layer that is not ``wanted``.
        """
        held = [slot for slot in self._slots if slot.layer == index]
        if held:
            return held[0]
        slot = next(slot for slot in self._slots if slot.layer not in wanted)
        slot.layer = index
        if self._copies is None:
            for name, value in self._host[index].items():
                slot.tensors[name].copy_(value)
            return slot
        with torch.cuda.stream(self._copies):
            if slot.free is not None:
                self._copies.wait_event(slot.free)
            for name, value in self._host[index].items():
                slot.tensors[name].copy_(value, non_blocking=True)
            slot.filled = self._copies.record_event()
        return slot


def _named_tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from layer.named_parameters()
    yield from layer.named_buffers()


def _host_tensors(layer: nn.Module, pin: bool) -> dict[str, Tensor]:
    """The layer's tensors in host memory. pin: replace them by page-locked copies, for transfers
    concurrent with computation.
    """
    tensors = {}
    for name, tensor in _named_tensors(layer):
        assert tensor.device.type == "cpu", f"{name} lies on {tensor.device}, expected host memory"
        if pin:
            tensor.data = tensor.data.pin_memory()
        tensors[name] = tensor.data
    return tensors
