"""Adapter files: what is written is applied, and nothing that does not fit changes a weight."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.runtime.seeds import generator
from artifixer.video.adapter import apply_adapter, linear_layers, save_adapter
from artifixer.video.checkpoints.ours import save_model
from artifixer.video.checkpoints.tensor_files import save_tensors
from artifixer.video.model_files import load_model
from tests.video.made_models import made_model

LAYER, OTHER = "layers.0.self_attention.query", "head"


def made_factors(rank: int = 3) -> dict[str, tuple[Tensor, Tensor]]:
    layers, random = linear_layers(made_model().transformer), generator(0, "factors")
    return {
        name: (
            torch.randn(rank, layers[name].in_features, generator=random),
            torch.randn(layers[name].out_features, rank, generator=random),
        )
        for name in (LAYER, OTHER)
    }


def test_the_product_of_the_factors_is_added_to_the_named_layers_alone(tmp_path: Path) -> None:
    model, before, factors = made_model(), made_model(), made_factors()
    save_adapter(tmp_path / "adapter.safetensors", factors)
    apply_adapter(model.transformer, tmp_path / "adapter.safetensors")
    old = before.transformer.state_dict()
    for name, tensor in model.transformer.state_dict().items():
        layer = name.removesuffix(".weight")
        change = factors[layer][1] @ factors[layer][0] if layer in factors else 0
        assert torch.equal(tensor, old[name] + change), name


def test_a_model_is_loaded_with_its_adapter_in_any_dtype(tmp_path: Path) -> None:
    save_model(tmp_path / "model", made_model())
    save_adapter(tmp_path / "adapter.safetensors", made_factors())
    loaded = [
        load_model(tmp_path / "model", dtype=dtype, adapter=tmp_path / "adapter.safetensors")
        for dtype in (torch.float32, torch.bfloat16)
    ]
    weights = [model.transformer.get_parameter(f"{LAYER}.weight") for model in loaded]
    assert not torch.equal(weights[0], load_model(tmp_path / "model").transformer.head.weight)
    # bfloat16 weights are rounded before and after the sum
    torch.testing.assert_close(weights[1].float(), weights[0], rtol=2**-7, atol=2**-7)
    assert weights[1].dtype == torch.bfloat16


def test_equal_factors_give_equal_bytes(tmp_path: Path) -> None:
    factors = made_factors()
    save_adapter(tmp_path / "a.safetensors", factors)
    save_adapter(tmp_path / "b.safetensors", dict(reversed(factors.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


A = torch.zeros(3, 48)
B = torch.zeros(48, 3)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no tensors"),
        ({"nowhere.lora_A": A, "nowhere.lora_B": B}, "nowhere is no linear layer"),
        ({f"{LAYER}.weight": A}, f"{LAYER}.weight is no linear layer"),
        ({f"{LAYER}.lora_A": A}, f"{LAYER}.lora_B is missing"),
        ({f"{LAYER}.lora_B": B}, f"{LAYER}.lora_A is missing"),
        ({f"{LAYER}.lora_A": A[:, :40], f"{LAYER}.lora_B": B}, "lora_A is 3x40; .*48 inputs"),
        ({f"{LAYER}.lora_A": A, f"{LAYER}.lora_B": B[:, :2]}, "lora_B is 48x2"),
        ({f"{LAYER}.lora_A": A[:0], f"{LAYER}.lora_B": B[:, :0]}, "rank of 1 to 48"),
        (
            {f"{LAYER}.lora_A": A.expand(99, 3, 48)[:, 0], f"{LAYER}.lora_B": torch.zeros(48, 99)},
            "rank of 1 to 48",
        ),
        ({f"{LAYER}.lora_A": A * torch.nan, f"{LAYER}.lora_B": B}, "not finite"),
        ({f"{LAYER}.lora_A": A.to(torch.int64), f"{LAYER}.lora_B": B}, "int64"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(
    tensors: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    path, model = tmp_path / "adapter.safetensors", made_model()
    save_tensors(path, tensors)
    before = {name: tensor.clone() for name, tensor in model.transformer.state_dict().items()}
    with pytest.raises(InputError, match=message) as refusal:
        apply_adapter(model.transformer, path)
    assert str(path) in str(refusal.value)
    after = model.transformer.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_pickle_is_refused_whatever_its_name(tmp_path: Path) -> None:
    for name, message in (("adapter.pt", "expected a .safetensors"), ("a.safetensors", "damaged")):
        (tmp_path / name).write_bytes(pickle.dumps({LAYER: 1}))
        with pytest.raises(InputError, match=message):
            apply_adapter(made_model().transformer, tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        apply_adapter(made_model().transformer, tmp_path / "none.safetensors")
