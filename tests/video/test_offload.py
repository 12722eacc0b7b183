"""Layer streaming gives the bits of the resident layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from artifixer.video.offload import LayerStream

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    ),
]


def five_layers() -> nn.ModuleList:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(5))
    for number, layer in enumerate(layers):
        layer[1].running_mean += number  # buffers travel too
    return layers.eval()


def run(layers: nn.ModuleList, device: str) -> torch.Tensor:
    values = torch.randn(3, 8, generator=torch.Generator().manual_seed(1)).to(device)
    for layer in layers:
        values = layer(values)
    return values.cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_streamed_layers_give_the_same_bits(device: str, ahead: int):
    with torch.no_grad():
        expected = run(five_layers().to(device), device)
        layers = five_layers()
        stream = LayerStream(layers, device, ahead)
        for _ in range(3):
            assert torch.equal(run(layers, device), expected)
        stream.close()
        assert torch.equal(run(layers, "cpu"), run(five_layers(), "cpu"))


@pytest.mark.parametrize("device", DEVICES)
def test_device_memory_is_that_of_the_slots_and_layers_stay_in_host_memory(device: str):
    layers = five_layers()
    host = [parameter.data_ptr() for parameter in layers.parameters()]
    with torch.no_grad():
        stream = LayerStream(layers, device, ahead=1)
        run(layers, device)
    assert len(stream._slots) == 2
    assert all(parameter.device.type == "cpu" for parameter in layers.parameters())
    if device == "cpu":
        assert [parameter.data_ptr() for parameter in layers.parameters()] == host


def test_any_order_and_other_methods():
    layers, expected = five_layers(), five_layers()
    stream = LayerStream(layers, "cpu")
    values = torch.ones(2, 8)
    with torch.no_grad():
        for index in (3, 0, 0, 4, 2, 1):
            assert torch.equal(layers[index](values), expected[index](values))
            with stream.layer(index) as layer:
                assert torch.equal(layer[0].forward(values), expected[index][0](values))


def test_a_failing_layer_leaves_its_weights_in_place():
    layers = five_layers()
    LayerStream(layers, "cpu")
    before = layers[0][0].weight.data_ptr()
    with torch.no_grad(), pytest.raises(RuntimeError):
        layers[0](torch.ones(2, 3))
    assert layers[0][0].weight.data_ptr() == before


def test_gradients_are_refused():
    layers = five_layers()
    LayerStream(layers, "cpu")
    with pytest.raises(AssertionError, match="inference"):
        layers[0](torch.ones(2, 8))
