"""All backends of attention that can run here give the plain formula's values and gradients."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.video.attention import BACKENDS, BlockCausalMask, attend, attend_to_first

#: Float32 sums in another order, and half precision on CUDA.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}

HAS_FLASH = any(importlib.util.find_spec(name) for name in ("flash_attn_interface", "flash_attn"))


def can_run(backend: str, device: str) -> bool:
    if device == "cpu":
        return backend not in ("flash", "flex")
    return backend != "flash" or HAS_FLASH


def heads(tokens: int, seed: int, device: str, dtype: torch.dtype) -> Tensor:
    """As a linear layer's output cut into heads: [batch tokens heads width]."""
    values = torch.randn(2, tokens, 3 * 16, generator=torch.Generator().manual_seed(seed))
    return values.to(device, dtype).unflatten(-1, (3, 16)).requires_grad_()


def values_and_gradients(
    backend: str, keys: int, mask: BlockCausalMask | None, device: str, dtype: torch.dtype
) -> list[Tensor]:
    q, k, v = (heads(tokens, seed, device, dtype) for seed, tokens in enumerate((30, keys, keys)))
    out = attend(q, k, v, mask, backend)
    weights = torch.sin(torch.arange(out.numel(), device=device).view(out.shape))
    return [out, *torch.autograd.grad((out.float() * weights).sum(), (q, k, v))]


@pytest.mark.parametrize("backend", ["auto", *(name for name in BACKENDS if name != "plain")])
@pytest.mark.parametrize(
    ("keys", "block"),
    [(30, None), (44, None), (30, 10), (30, 12)],
    ids=["self", "cross", "blocks", "short last block"],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_backends_are_twins(backend: str, keys: int, block: int | None, device: str):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if not can_run(backend, device):
        pytest.skip(f"{backend} does not run on {device} here")
    dtype = torch.bfloat16 if backend == "flash" else torch.float32
    mask = None if block is None else BlockCausalMask(block)
    actual = values_and_gradients(backend, keys, mask, device, dtype)
    expected = values_and_gradients("plain", keys, mask, device, torch.float32)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.float(), other, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("backend", [name for name in BACKENDS if can_run(name, "cpu")])
def test_samples_that_see_fewer_keys_have_the_bits_that_they_have_without_the_others(backend: str):
    q, k, v = (
        heads(tokens, seed, "cpu", torch.float32) for seed, tokens in enumerate((30, 44, 44))
    )
    together = attend_to_first(q, k, v, (44, 20), backend)
    assert torch.equal(together[:1], attend(q[:1], k[:1], v[:1], backend=backend))
    assert torch.equal(together[1:], attend(q[1:], k[1:, :20], v[1:, :20], backend=backend))
    (gradient,) = torch.autograd.grad(together.sum(), v)
    assert gradient[1, :20].any() and not gradient[1, 20:].any()
    assert torch.equal(
        attend_to_first(q, k, v, (44, 44), backend), attend(q, k, v, backend=backend)
    )


def test_later_blocks_change_nothing_and_earlier_ones_do():
    q, k, v = (heads(30, seed, "cpu", torch.float32).detach() for seed in range(3))
    mask = BlockCausalMask(10)
    before = attend(q, k, v, mask)
    later, earlier = v.clone(), v.clone()
    later[:, 20:] += 1
    earlier[:, :10] += 1
    assert torch.equal(attend(q, k, later, mask)[:, :20], before[:, :20])
    assert (attend(q, k, later, mask)[:, 20:] - before[:, 20:]).abs().min() > 0
    assert (attend(q, k, earlier, mask) - before).abs().min() > 0


def test_a_named_backend_is_used_or_refused():
    q = torch.zeros(1, 2, 1, 8)
    with pytest.raises(
        InputError, match="attention backend fast: unknown, expected auto, plain, sdpa"
    ):
        attend(q, q, q, backend="fast")
    with pytest.raises(InputError, match="attention backend flex: on cpu, expected CUDA"):
        attend(q, q, q, backend="flex")
    if not HAS_FLASH:
        with pytest.raises(InputError, match="attention backend flash: neither"):
            attend(q, q, q, backend="flash")
