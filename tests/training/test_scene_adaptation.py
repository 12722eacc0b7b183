"""Scene adaptation: adapters trained on leave-one-out pairs, for small models and for the
architecture of the released ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_pairs import made_pair

from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.errors import Stopped
from artifixer.runtime.seeds import generator
from artifixer.training import loop
from artifixer.training.checkpoint import latest_checkpoint
from artifixer.training.scene_adaptation import (
    Adaptation,
    AdaptationConfig,
    adapt,
    add_adapter,
    visited_levels,
)
from artifixer.video.adapter import apply_adapter, linear_layers, save_adapter
from artifixer.video.checkpoints.tensor_files import open_tensors
from artifixer.video.model import Model, ModelConfig
from artifixer.video.model_zoo import NAMED_MODELS
from artifixer.video.vae import VaeConfig
from tests.video.made_conditions import made_conditions
from tests.video.made_models import SMALL, made_model


def released(name: str) -> ModelConfig:
    """The architecture and settings of a named model, as small as tests need it."""
    config = NAMED_MODELS[name].config
    assert config is not None
    network = replace(
        config.transformer,
        width=48,
        ffn_width=64,
        heads=2,
        layers=2,
        text_width=8,
        text_tokens=4,
        frequency_width=16,
    )
    return replace(config, transformer=network, vae=VaeConfig(base_dim=4, num_res_blocks=1))


MODELS: dict[str, Callable[[], Model]] = {
    "small": lambda: made_model(replace(SMALL, source="direct", steps=1)),
    "1.3b": lambda: made_model(released("1.3b")),
    "14b": lambda: made_model(released("14b")),
}


def left_out_pairs(count: int = 3) -> list[TrainingPair]:
    return [
        replace(made_pair(seed, height=16, width=32).clip(seed, 1), camera_scale_kind="metric")
        for seed in range(count)
    ]


def adapted(model: Model, folder: Path, **settings: Any) -> Adaptation:
    config = AdaptationConfig(**{"steps": 4, "latent_frames": 1} | settings)
    return adapt(model, left_out_pairs(), config, model.config.sampling(), 0, folder)


@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_is_trained_and_the_network_with_it_is_the_trained_one(
    name: str, tmp_path: Path
) -> None:
    model, fresh = MODELS[name](), MODELS[name]()
    result = adapted(model, tmp_path)
    layers = [each for each in linear_layers(fresh.transformer) if "attention" in each]
    assert result.steps == 4 and list(result.factors) == layers and len(layers) == 20
    assert any(bool(b.any()) for _, b in result.factors.values())
    save_adapter(tmp_path / "adapter.safetensors", result.factors)
    apply_adapter(fresh.transformer, tmp_path / "adapter.safetensors")
    factor = fresh.config.vae.spatial_factor
    latents = torch.randn(
        1, fresh.config.vae.z_dim, 2, 16 // factor, 32 // factor, generator=generator(0, "latents")
    )
    inputs = (latents, torch.tensor([900.0]), made_conditions(fresh.config, 2, 32, 16, 1))
    with torch.no_grad():
        ours, theirs = model.transformer(*inputs), fresh.transformer(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert not torch.allclose(ours, MODELS[name]().transformer(*inputs), atol=1e-3)


def test_the_same_steps_and_seed_give_the_same_adapter_and_the_loss_falls(tmp_path: Path) -> None:
    losses: list[float] = []
    config = AdaptationConfig(steps=40, learning_rate=3e-3, mirror=False)
    first, again = (
        adapt(
            model,
            left_out_pairs(1),
            config,
            model.config.sampling(),
            0,
            tmp_path / folder,
            lambda step, loss: losses.append(loss),
        )
        for folder, model in (("a", MODELS["small"]()), ("b", MODELS["small"]()))
    )
    assert losses[:40] == losses[40:] and losses[39] < 0.8 * losses[0]
    for name, (a, b) in first.factors.items():
        assert torch.equal(a, again.factors[name][0]) and torch.equal(b, again.factors[name][1])


def test_a_stopped_adaptation_continues_to_the_same_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = adapted(MODELS["small"](), tmp_path / "whole")
    steps = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requested", lambda: next(steps))
        with pytest.raises(Stopped, match="adapt stopped after step 2"):
            adapted(MODELS["small"](), tmp_path / "stopped")
    continued = adapted(MODELS["small"](), tmp_path / "stopped")
    assert continued.steps == 4
    for name, (a, b) in whole.factors.items():
        assert torch.equal(a, continued.factors[name][0])
        assert torch.equal(b, continued.factors[name][1])


def test_a_checkpoint_holds_the_adapter_and_nothing_else_of_the_network(tmp_path: Path) -> None:
    adapted(MODELS["small"](), tmp_path)
    checkpoint = latest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    (part,) = checkpoint.glob("*.safetensors")
    layers = [name for name in linear_layers(MODELS["small"]().transformer) if "attention" in name]
    names = [name for name in open_tensors(part).shapes if name.startswith("modules.")]
    assert len(names) == 2 * len(layers) and {n[-2:] for n in names} == {"/A", "/B"}


def test_a_time_limit_ends_the_training_and_the_steps_are_known(tmp_path: Path) -> None:
    result = adapted(MODELS["small"](), tmp_path / "a", steps=None, minutes=0.02)
    assert 1 <= result.steps <= 160
    few = adapted(MODELS["small"](), tmp_path / "b", steps=None, minutes=60.0, max_steps=5)
    assert few.steps == 5


def test_only_the_factors_are_trained_and_start_without_effect() -> None:
    model, before = MODELS["small"](), MODELS["small"]()
    factors = add_adapter(model.transformer, 4, seed=0)
    trained = {id(value) for value in model.transformer.parameters() if value.requires_grad}
    assert trained == {id(value) for pair in factors.values() for value in pair}
    for name, (a, b) in factors.items():
        layer = linear_layers(before.transformer)[name]
        assert a.shape == (4, layer.in_features) and b.shape == (layer.out_features, 4)
        assert bool(a.any()) and not b.any()


def test_the_levels_are_those_that_the_sampler_visits() -> None:
    for steps in (1, 2, 4):
        sampling = replace(released("1.3b").sampling(), steps=steps)
        sigmas = sampling.schedule.sigmas[list(visited_levels(sampling))]
        assert torch.equal(sigmas, sampling.schedule.few_step_sigmas(steps))
    adaptive = replace(released("1.3b").sampling(), steps="adaptive")
    each = [visited_levels(replace(adaptive, steps=steps)) for steps in (1, 2, 3, 4)]
    assert set(visited_levels(adaptive)) == {level for levels in each for level in levels}
