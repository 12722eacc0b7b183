"""Estimates of memory: exact parts, figures known from outside, and what a refusal suggests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from artifixer.runtime.errors import InputError
from artifixer.video import memory_estimate as memory_estimate_module
from artifixer.video import model_zoo
from artifixer.video.cache import RingCache
from artifixer.video.checkpoints.ours import save_model
from artifixer.video.memory_estimate import MemoryPlan, check_memory, memory_estimate, part_rows
from artifixer.video.model_zoo import NAMED_MODELS
from tests.video.made_models import SMALL, made_model


def test_the_estimate_of_weights_and_caches_is_exact() -> None:
    model = made_model()
    estimate = memory_estimate(SMALL, MemoryPlan(64, 32, references=3, dtype=torch.float32))
    assert estimate.transformer == sum(
        value.nbytes for value in model.transformer.state_dict().values()
    )
    assert estimate.vae == sum(value.nbytes for value in model.vae.network.state_dict().values())
    tokens, sizes = 8 * 4, SMALL.transformer
    cache = RingCache(
        sizes.layers,
        (1, tokens, sizes.heads, sizes.head_width),
        SMALL.window_frames,
        SMALL.sink_frames,
    )
    assert estimate.window == cache.bytes()
    assert estimate.references == 3 * tokens * 2 * sizes.layers * sizes.width * 4


def test_release_sized_estimates_are_those_known_from_outside() -> None:
    config = NAMED_MODELS["14b"].config
    assert config is not None
    estimate = memory_estimate(config, MemoryPlan(960, 544, references=6))
    assert estimate.transformer / 1e9 == pytest.approx(33.8, abs=0.05)
    assert estimate.window / 1e9 == pytest.approx(35.1, abs=0.05)
    assert estimate.references / 6e9 == pytest.approx(1.67, abs=0.01)


def test_a_model_that_does_not_fit_is_refused_with_what_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "tiny", made_model())
    monkeypatch.setattr(model_zoo, "embedded_folder", lambda name: tmp_path / name)
    config = NAMED_MODELS["14b"].config
    assert config is not None
    plan = MemoryPlan(1024, 576)
    total = memory_estimate(config, plan).total
    assert sum(value for _, value in part_rows(memory_estimate(config, plan))) == total
    cuda = torch.device("cuda")
    monkeypatch.setattr(memory_estimate_module, "free_memory", lambda device: 80_000_000_000)
    with pytest.raises(InputError) as caught:
        check_memory(config, plan, cuda)
    needed = total + memory_estimate_module.CUDA_OVERHEAD
    message = str(caught.value)
    assert (
        f"14b at 1024x576 with 6 references needs {needed / 1e9:.3g} GB (weights 34.1 GB, window "
        "cache 39.6 GB" in message
    )
    assert (
        f"cuda has 80 GB free: {(needed - 80e9) / 1e9:.3g} GB too much; what would fit: --offload, "
        "renders of " in message
    )
    assert message.endswith("--model tiny, --model 1.3b")
    monkeypatch.setattr(memory_estimate_module, "free_memory", lambda device: needed)
    check_memory(config, plan, cuda)
    tiny = memory_estimate(SMALL, plan).total + memory_estimate_module.CUDA_OVERHEAD
    for free, fitting in (
        (tiny, "what would fit: --model tiny"),
        (tiny - 1, "nothing known would fit"),
    ):
        monkeypatch.setattr(memory_estimate_module, "free_memory", lambda device, free=free: free)
        with pytest.raises(InputError, match=f"{fitting}$"):
            check_memory(config, plan, cuda)
