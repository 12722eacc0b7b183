"""Weights on disk: there and back, and every way a file can be wrong."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from artifixer.runtime.errors import InputError
from artifixer.video.checkpoints.loading import check_tensors, load_into
from artifixer.video.checkpoints.tensor_files import StoredTensors, open_tensors, save_tensors
from artifixer.video.config_json import read_flat_json
from artifixer.video.initialise import initial_added_layer


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(3, 4, generator=generator),
        "bias": torch.randn(3, generator=generator).to(torch.bfloat16),
        "scalar": torch.tensor(7),
    }


def shapes(**names: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return names


def linear() -> nn.Linear:
    with torch.device("meta"):
        return nn.Linear(4, 3)


def test_saved_tensors_are_read_back_and_by_the_safetensors_library(tmp_path: Path):
    from safetensors.torch import load_file

    save_tensors(tmp_path / "a.safetensors", tensors())
    stored = open_tensors(tmp_path / "a.safetensors")
    for name, tensor in load_file(tmp_path / "a.safetensors").items():
        assert torch.equal(tensor, tensors()[name])
        assert torch.equal(stored.read(name), tensor)
        assert stored.read(name).dtype == tensor.dtype
        assert stored.shapes[name] == tuple(tensor.shape)
    save_tensors(tmp_path / "b.safetensors", dict(reversed(tensors().items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_saving_converts_floats_only(tmp_path: Path):
    save_tensors(tmp_path / "a.safetensors", tensors(), torch.bfloat16)
    stored = open_tensors(tmp_path / "a.safetensors")
    assert torch.equal(stored.read("weight"), tensors()["weight"].to(torch.bfloat16))
    assert stored.read("scalar") == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_fills_a_module_without_values(tmp_path: Path, dtype: torch.dtype):
    values = {"weight": torch.randn(3, 4).to(dtype), "bias": torch.randn(3).to(dtype)}
    torch.save(values, tmp_path / "a.pt")
    stored = open_tensors(tmp_path / "a.pt")
    kept, converted = linear(), linear()
    load_into(kept, stored)
    load_into(converted, stored, dtype=torch.float32)
    assert kept.weight.dtype == dtype
    assert torch.equal(kept.weight, values["weight"])
    assert torch.equal(converted.bias, values["bias"].float())
    assert converted.weight.requires_grad


def test_a_tensor_of_the_right_type_is_used_where_it_lies(tmp_path: Path):
    torch.save({"weight": torch.randn(3, 4), "bias": torch.randn(3)}, tmp_path / "a.pt")
    stored = open_tensors(tmp_path / "a.pt")
    module = linear()
    load_into(module, stored, dtype=torch.float32)
    assert module.weight.data_ptr() == stored.read("weight").data_ptr()


def test_shards_are_one_table(tmp_path: Path):
    save_tensors(tmp_path / "part-1.safetensors", {"weight": tensors()["weight"]})
    save_tensors(tmp_path / "part-2.safetensors", {"bias": tensors()["bias"]})
    save_tensors(tmp_path / "part-3.safetensors", {"left": tensors()["bias"]})
    index = '{"weight_map": {"weight": "part-1.safetensors", "bias": "part-2.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(index)
    stored = open_tensors(tmp_path)
    assert stored.shapes == shapes(weight=(3, 4), bias=(3,))
    assert torch.equal(stored.read("bias"), tensors()["bias"])
    (tmp_path / "part-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"part-2\.safetensors: does not exist"):
        open_tensors(tmp_path)


def test_a_misfit_names_three_of_a_kind_and_counts_all():
    stored = StoredTensors(
        Path("w.pt"), {"weight": (3, 5), **{f"extra{i}": (1,) for i in range(5)}}, torch.zeros
    )
    with pytest.raises(InputError) as caught:
        check_tensors(stored, {"weight": (3, 4), "bias": (3,)})
    message = str(caught.value)
    assert message.startswith("w.pt: 6 tensors do not fit the model's 2: 1 missing: bias; ")
    assert (
        "5 unexpected: extra0, extra1, extra2, ...; 1 of another shape: weight is 3x5 instead of "
        "3x4" in message
    )


def test_only_added_layers_may_be_missing():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reference_key, self.reference_value, self.query = (
                nn.Linear(4, 4) for _ in range(3)
            )

    with torch.device("meta"):
        attention = Attention()
    whole = {"query.weight": torch.ones(4, 4), "query.bias": torch.ones(4)}
    stored = StoredTensors(
        Path("w"), {name: tuple(value.shape) for name, value in whole.items()}, whole.__getitem__
    )
    with pytest.raises(InputError, match=r"4 missing: reference_key\.weight"):
        load_into(attention, stored)
    load_into(attention, stored, added=torch.Generator().manual_seed(0))
    assert not attention.reference_value.weight.any()
    assert not attention.reference_value.bias.any()
    # one over the root of the width bounds torch's usual start
    assert 0.3 < attention.reference_key.weight.abs().max() <= 0.5
    part = StoredTensors(Path("w"), {"query.bias": (4,)}, whole.__getitem__)
    with pytest.raises(InputError, match=r"1 missing: query\.weight"):
        load_into(attention, part, added=torch.Generator())


def test_added_layers_start_as_in_the_paper():
    generator = torch.Generator().manual_seed(0)
    assert not initial_added_layer("layers.0.opacity_embedding.weight", (4, 8), generator).any()
    assert not initial_added_layer("layers.0.ray_embedding.bias", (4,), generator).any()
    assert (
        initial_added_layer("layers.0.cross_attention.reference_key_norm.weight", (4,), generator)
        == 1
    ).all()


class _Command:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path):
    torch.save({"weight": torch.zeros(1), "extra": _Command(tmp_path / "ran")}, tmp_path / "zip.pt")
    (tmp_path / "legacy.pt").write_bytes(pickle.dumps(_Command(tmp_path / "ran")))
    for name in ("zip.pt", "legacy.pt"):
        with pytest.raises(InputError, match=rf"{name}: .*(may run code|damaged)"):
            open_tensors(tmp_path / name)
    with pytest.raises(InputError, match="may run code"):
        open_tensors(tmp_path / "zip.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, share: float):
    values = {"weight": torch.zeros(1000)}
    path = tmp_path / f"a.{suffix}"
    torch.save(values, path) if suffix == "pt" else save_tensors(path, values)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="truncated or damaged"):
        open_tensors(path)


@pytest.mark.parametrize(
    "value", [{"model": {"weight": torch.zeros(1)}}, [torch.zeros(1)], {"step": 3}]
)
def test_checkpoints_of_another_layout_are_refused(tmp_path: Path, value: object):
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(InputError, match="expected a plain table of names and tensors"):
        open_tensors(tmp_path / "a.pt")


def test_absent_weights_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="does not exist"):
        open_tensors(tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds no safetensors files"):
        open_tensors(tmp_path)


def test_nested_configurations_are_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"width": 3, "vae": {"base_dim": 4}}')
    with pytest.raises(InputError, match='"vae" is an object'):
        read_flat_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[3]")
    with pytest.raises(InputError, match="list, expected a JSON object"):
        read_flat_json(tmp_path / "config.json")
