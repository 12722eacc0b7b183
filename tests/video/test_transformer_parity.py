"""The network against tensors of the public release: outputs and activations, sizes from the
manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from artifixer.video.checkpoints.loading import load_into
from artifixer.video.checkpoints.release_names import our_name
from artifixer.video.checkpoints.tensor_files import open_tensors
from artifixer.video.conditions import Conditions
from artifixer.video.transformer import VideoTransformer
from artifixer.video.transformer_layers import Layer
from tests.video.parity_cases import (
    cases_of,
    exact_products,
    manifest_of,
    read_case,
    transformer_config,
)

#: Float32 sums in another order; the oracle itself repeats to 1e-6.
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with exact_products(request.param):
        yield request.param


@pytest.fixture(scope="module")
def network(parity_folder: Path, device: str) -> VideoTransformer:
    with torch.device("meta"):
        transformer = VideoTransformer(transformer_config(manifest_of(parity_folder)))
    load_into(
        transformer,
        open_tensors(parity_folder / "weights_transformer.safetensors").renamed(our_name),
    )
    return transformer.eval().to(device)


def conditions_of(tensors: dict[str, Tensor], references: bool = True) -> Conditions:
    return Conditions(
        opacity=tensors["opacity"],
        rays=tensors["camera_rays"],
        viewmats=tensors["w2cs"],
        Ks=tensors["Ks"],
        text=tensors["text"],
        reference_latents=tensors["neighbor_latents"] if references else None,
        reference_viewmats=tensors["neighbor_w2cs"] if references else None,
        reference_Ks=tensors["neighbor_Ks"] if references else None,
    )


def timesteps_of(tensors: dict[str, Tensor]) -> Tensor:
    """The release lists one level per sample and block in one row."""
    batch = tensors["hidden_states"].shape[0]
    levels = tensors["timestep"]
    return levels if len(levels) == batch else levels.view(batch, -1)


def recorded(network: VideoTransformer) -> tuple[dict[str, list[Tensor]], list[Any]]:
    """What passes through the named parts in the calls that follow, under the oracle's names; and
    the hooks, to be removed.
    """
    seen: dict[str, list[Tensor]] = {}

    def note(name: str, value: Tensor) -> None:
        seen.setdefault(name, []).append(value)

    def output_of(module: nn.Module, name: str) -> Any:
        return module.register_forward_hook(lambda _, inputs, output: note(name, output))

    hooks = [
        output_of(network.patch_embedding, "patch_embedding"),
        output_of(network.time_embedding, "temb"),
        output_of(network.time_modulation, "timestep_proj"),
        output_of(network.text_embedding, "text"),
    ]
    for index, layer in enumerate(network.layers):
        assert isinstance(layer, Layer)
        hooks.append(
            layer.self_attention.register_forward_pre_hook(
                lambda _, inputs, i=index: note(f"block{i}_attn1_in", inputs[0])
            )
        )
        hooks.append(output_of(layer.self_attention, f"block{index}_attn1"))
        hooks.append(output_of(layer.cross_attention, f"block{index}_attn2"))
        hooks.append(output_of(layer, f"block{index}"))
    return seen, hooks


def assert_close(actual: Tensor, expected: Tensor, what: str) -> None:
    assert actual.shape == expected.shape, (
        f"{what}: {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    )
    error = (actual.cpu() - expected.cpu()).abs().max().item()
    assert error <= TOLERANCE, f"{what}: off by {error:.2e}"


def test_outputs_are_those_of_the_release(
    parity_folder: Path, device: str, network: VideoTransformer
):
    for case in cases_of(parity_folder, "a", ["out"]):
        tensors = read_case(parity_folder, case, device)
        block_frames = manifest_of(parity_folder)["cases"][case]["meta"].get("frames_per_block")
        with torch.no_grad():
            velocity = network(
                tensors["hidden_states"],
                timesteps_of(tensors),
                conditions_of(tensors),
                block_frames=block_frames,
            )
        assert_close(velocity, tensors["out"], case)


def test_without_references_as_the_release(
    parity_folder: Path, device: str, network: VideoTransformer
):
    """No references, or their contribution times zero, as two ways to the same output."""
    for case in cases_of(parity_folder, "a", ["out_no_neighbors", "out_ignore_neighbors"]):
        tensors = read_case(parity_folder, case, device)
        batch = tensors["hidden_states"].shape[0]
        unused = Conditions(
            **{**vars(conditions_of(tensors)), "use_references": torch.zeros(batch, device=device)}
        )
        for name, conditions in (
            ("out_no_neighbors", conditions_of(tensors, references=False)),
            ("out_ignore_neighbors", unused),
        ):
            with torch.no_grad():
                velocity = network(tensors["hidden_states"], timesteps_of(tensors), conditions)
            assert_close(velocity, tensors[name], f"{case} {name}")


def test_activations_are_those_of_the_release(
    parity_folder: Path, device: str, network: VideoTransformer
):
    for case in cases_of(parity_folder, "a", ["act_patch_embedding"]):
        tensors = read_case(parity_folder, case, device)
        expected = {
            name.removeprefix("act_"): value
            for name, value in tensors.items()
            if name.startswith("act_")
        }
        seen, hooks = recorded(network)
        with torch.no_grad():
            network(tensors["hidden_states"], timesteps_of(tensors), conditions_of(tensors))
        for hook in hooks:
            hook.remove()
        seen["patch_embedding"], seen["patch_embedding_neighbors"] = (
            [tokens.movedim(-1, 1)] for tokens in seen["patch_embedding"]
        )
        for name in ("temb", "timestep_proj"):
            seen[name] = [seen[name][0].flatten(0, 1)]
        for name, value in expected.items():
            assert len(seen[name]) == 1, name
            assert_close(seen[name][0], value, f"{case} {name}")
        assert len(expected) == 5 + 4 * len(network.layers), (
            f"{case}: activations compared: {sorted(expected)}"
        )
