"""The variants of the paper's Table 4 are trained by the same stages, with one source each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_job import pairs as pairs
from test_job import small_recipe

from artifixer.pairs.loader import open_pairs
from artifixer.recipes.train import RECIPES, REPRODUCE_FLOW, with_source
from artifixer.training.job import run_training
from artifixer.training.recipe import TrainingJob, TrainingRecipe
from artifixer.video.model_files import load_model


def recipe_of(source: str) -> TrainingRecipe:
    """All stages in two or three steps."""
    base = small_recipe()
    model = replace(base.model, source="mixing")
    flow = replace(base.bidirectional, source="mixing", mixing_fraction=0.0, second_fraction=0.0)
    small = replace(base, model=model, bidirectional=flow, diffusion_forcing=flow)
    forcing = replace(base.self_forcing, mixing_fraction=0.0)
    return with_source(replace(small, self_forcing=forcing), source)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["direct", "noise"])
def test_all_stages_train_from_one_autoencoder(pairs, tmp_path: Path, source: str) -> None:
    opened, recipe = open_pairs(pairs), recipe_of(source)
    autoencoder, teacher, causal, student = (tmp_path / name for name in "atcs")
    run_training(TrainingJob("autoencoder", small_recipe(), opened), autoencoder)
    run_training(TrainingJob("bidirectional", recipe, opened, autoencoder), teacher)
    run_training(TrainingJob("diffusion_forcing", recipe, opened, teacher), causal)
    run_training(TrainingJob("self_forcing", recipe, opened, causal, teacher), student)
    before, after = (load_model(path / "model", "cpu", torch.float32) for path in (causal, student))
    assert after.config.source == source
    weights = [model.transformer.patch_embedding.weight for model in (before, after)]
    channels = after.config.transformer.latent_channels
    assert weights[0].shape[1] == channels * (2 if source == "noise" else 1)
    assert not torch.equal(*weights)
    if source == "noise":
        assert float(weights[0][:, channels:].abs().max()) > 0, "zeros before the first step"


def test_truncated_schedules_differ_in_nothing_but_the_source() -> None:
    names = ("paper-diagnostic", "paper-diagnostic-direct", "paper-diagnostic-concatenation")
    for name, source in zip(names, ("mixing", "direct", "noise"), strict=True):
        recipe = RECIPES[name]
        stages = ("bidirectional", "diffusion_forcing", "self_forcing")
        steps = [recipe.loop(stage).steps for stage in stages]
        assert steps == [10_000, 2_000, 600]
        assert recipe.model.source == source
        back = with_source(recipe, "mixing")
        assert back == RECIPES["paper-diagnostic"]
    assert with_source(RECIPES["reproduce-concatenation"], "mixing") == RECIPES["reproduce"]
    assert RECIPES["reproduce-direct"].bidirectional == replace(REPRODUCE_FLOW, source="direct")
