"""Channel concatenation: the render's latents beside the noisy ones (paper section 5.4)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.training.initial_model import initial_model, with_concatenation
from artifixer.video.checkpoints.ours import save_model
from artifixer.video.config_json import flat_config, read_config
from artifixer.video.flow import source_latents
from artifixer.video.model import ModelConfig
from artifixer.video.model_files import convert_model, load_model
from artifixer.video.sample import BlockInput, SampleConfig, keyed_noise, sample_blocks
from artifixer.video.teacher import TeacherConfig, sample_bidirectional
from artifixer.video.transformer import VideoTransformer
from tests.video.made_conditions import made_conditions
from tests.video.made_models import SMALL, made_model

#: Float32 sums in another order, through two layers.
TOLERANCE = 2e-5

CONCATENATION = replace(
    SMALL,
    name="concatenation",
    transformer=replace(SMALL.transformer, concatenate_render=True),
    source="noise",
)


def latents(seed: int, frames: int = 2, config: ModelConfig = SMALL) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, config.transformer.latent_channels, frames, 4, 4, generator=generator)


def network_of(config: ModelConfig) -> VideoTransformer:
    return made_model(config).transformer


def test_the_config_is_written_read_and_checked(tmp_path: Path) -> None:
    model = made_model(CONCATENATION)
    save_model(tmp_path / "m", model)
    assert read_config(tmp_path / "m" / "config.json") == CONCATENATION
    assert flat_config(CONCATENATION)["transformer_concatenate_render"] is True
    loaded = load_model(tmp_path / "m", "cpu", torch.float32)
    weight = loaded.transformer.patch_embedding.weight
    assert weight.shape[1] == 2 * SMALL.transformer.latent_channels
    assert torch.equal(weight, model.transformer.patch_embedding.weight)
    with pytest.raises(AssertionError, match="starts at noise where the render is concatenated"):
        replace(CONCATENATION, source="mixing")
    text = (tmp_path / "m" / "config.json").read_text()
    (tmp_path / "m" / "config.json").write_text(text.replace('"noise"', '"direct"'))
    with pytest.raises(InputError, match="starts at noise where the render is concatenated"):
        read_config(tmp_path / "m" / "config.json")


def test_models_without_it_read_as_before(tmp_path: Path) -> None:
    save_model(tmp_path / "m", made_model(SMALL))
    path = tmp_path / "m" / "config.json"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if "concatenate_render" not in line]
    assert len(kept) == len(lines) - 1
    path.write_text("\n".join(kept))
    assert read_config(path) == SMALL


def test_the_release_format_cannot_hold_it(tmp_path: Path) -> None:
    save_model(tmp_path / "m", made_model(CONCATENATION))
    with pytest.raises(InputError, match="not of the public release's architecture"):
        convert_model(str(tmp_path / "m"), tmp_path / "m.pt")


def test_the_render_reaches_the_velocity_through_its_channels_alone() -> None:
    network, conditions = network_of(CONCATENATION), made_conditions(SMALL, 2, 16, 16, references=1)
    level = torch.tensor([500.0])
    with torch.no_grad():
        velocity = network(latents(1), level, conditions, render_latents=latents(2))
        other = network(latents(1), level, conditions, render_latents=latents(3))
    assert velocity.shape == latents(1).shape
    assert (velocity - other).abs().max() > 0.01
    with pytest.raises(AssertionError, match="needs the render's latents"):
        network(latents(1), level, conditions)


@pytest.mark.parametrize("skips", [False, True])
def test_from_mixing_weights_it_starts_with_their_prediction(skips: bool, tmp_path: Path) -> None:
    """New channels have zero weights; of the skip, the part of the render is not there."""
    config = replace(SMALL, transformer=replace(SMALL.transformer, noise_free_skip=skips))
    wanted = replace(
        CONCATENATION,
        transformer=replace(config.transformer, concatenate_render=True),
    )
    mixing = made_model(config)
    save_model(tmp_path / "m", mixing)
    started = initial_model(wanted, tmp_path / "m", 0, "cpu")
    assert started.config.transformer == wanted.transformer and started.config.source == "noise"
    assert started.transformer.patch_embedding.weight.shape[1] == 12
    conditions, level, skip = (
        made_conditions(SMALL, 2, 16, 16, references=1),
        torch.tensor([700.0]),
        latents(4),
    )
    with torch.no_grad():
        before = mixing.transformer(latents(1), level, conditions, source_skip=skip)
        after = started.transformer(latents(1), level, conditions, render_latents=latents(2))
    expected = before + skip if skips else before
    torch.testing.assert_close(after, expected, atol=TOLERANCE, rtol=0)


def test_the_other_way_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "m", made_model(CONCATENATION))
    with pytest.raises(InputError, match="concatenate_render is True, the recipe has False"):
        initial_model(SMALL, tmp_path / "m", 0, "cpu")


def test_the_flow_starts_at_noise() -> None:
    noise, opacity = latents(1), torch.ones(1, 1, 2, 4, 4)
    assert torch.equal(source_latents(latents(2), opacity, noise, "noise"), noise)
    assert CONCATENATION.in_mode("generate").source == "noise"


@pytest.mark.parametrize("sampler", ["blocks", "teacher"])
def test_both_samplers_show_the_render_to_the_network(sampler: str) -> None:
    network, conditions = network_of(CONCATENATION), made_conditions(SMALL, 2, 16, 16, references=1)
    made = []
    for seed in (2, 3):
        if sampler == "blocks":
            config = SampleConfig(2, 2, 6, 2, source="noise")
            blocks = [BlockInput(0, latents(seed), conditions)]
            (clean,) = sample_blocks(network, blocks, config, keyed_noise(0))
        else:
            teacher = TeacherConfig(steps=3, guidance=1.0, source="noise")
            clean = sample_bidirectional(
                network, latents(seed), conditions, teacher, keyed_noise(0)
            )
        made.append(clean)
    assert (made[0] - made[1]).abs().max() > 0.01


def test_widened_weights_keep_every_other_tensor() -> None:
    model = made_model(SMALL)
    wide = with_concatenation(model).transformer.state_dict()
    for name, value in model.transformer.state_dict().items():
        if name != "patch_embedding.weight":
            assert torch.equal(wide[name], value), name
