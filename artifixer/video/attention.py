"""Attention of the video model: one function with several equivalent backends.

In: queries, keys and values ``[batch tokens heads width]`` and optionally a block-causal mask. Out:
attention outputs in the same layout. ``auto`` uses PyTorch's fused kernels, which on CUDA include
FlashAttention; a backend that is named explicitly is never replaced by another.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from artifixer.runtime.errors import InputError

Queries = Float[Tensor, "batch queries heads width"]
Keys = Float[Tensor, "batch keys heads width"]


@dataclass(frozen=True)
class BlockCausalMask:
    """A query attends to the keys of its own and of all earlier blocks of ``block_tokens`` tokens;
    queries and keys are of the same tokens.
    """

    block_tokens: int

    def dense(self, tokens: int, device: torch.device | str) -> Bool[Tensor, "tokens tokens"]:
        """True where a query (row) attends to a key (column)."""
        block = torch.arange(tokens, device=device) // self.block_tokens
        return block[:, None] >= block[None]


def attend(
    q: Queries, k: Keys, v: Keys, mask: BlockCausalMask | None = None, backend: str = "auto"
) -> Queries:
    """softmax(q k^T / sqrt(width)) v per head.

    backend: one of ``BACKENDS`` or ``auto``; ``InputError`` for a name that is none of them or
    whose library is absent.
    """
    if backend == "auto":
        backend = "sdpa" if mask is None else "sdpa_by_block"
    if backend not in BACKENDS:
        raise InputError(
            f"attention backend {backend}: unknown, expected auto, {', '.join(BACKENDS)}"
        )
    return BACKENDS[backend](q, k, v, mask)


def attend_to_first(
    q: Queries, k: Keys, v: Keys, counts: Sequence[int] | None, backend: str = "auto"
) -> Queries:
    """``attend``, where each sample of the batch attends to only the first ``counts`` of its keys;
    None for all keys.

    One call per sample: this works with every backend, and a sample's bits do not depend on the
    padding.
    """
    if counts is None or all(count == k.shape[1] for count in counts):
        return attend(q, k, v, backend=backend)
    assert len(counts) == len(q) and min(counts) >= 1, f"{counts} keys for a batch of {len(q)}"
    samples = zip(q.split(1), k.split(1), v.split(1), counts, strict=True)
    return torch.cat(
        [
            attend(query, key[:, :count], value[:, :count], backend=backend)
            for query, key, value, count in samples
        ]
    )


def attend_plainly(q: Queries, k: Keys, v: Keys, mask: BlockCausalMask | None) -> Queries:
    """The formula in plain PyTorch, in the inputs' dtype: the reference of all other backends."""
    logits = torch.einsum("bqhw,bkhw->bhqk", q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = logits.masked_fill(~mask.dense(q.shape[1], q.device), -math.inf)
    return torch.einsum("bhqk,bkhw->bqhw", logits.softmax(dim=-1), v)


def attend_sdpa(q: Queries, k: Keys, v: Keys, mask: BlockCausalMask | None) -> Queries:
    """PyTorch's fused kernels on any device; a mask is passed as a dense boolean tensor."""
    dense = None if mask is None else mask.dense(q.shape[1], q.device)
    out = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=dense
    )
    return out.transpose(1, 2)


def attend_sdpa_by_block(q: Queries, k: Keys, v: Keys, mask: BlockCausalMask | None) -> Queries:
    """One call per block with the keys that it attends to: masked keys cost nothing, and kernels
    without mask support can be used.
    """
    return _by_block(attend_sdpa, q, k, v, mask)


def attend_flash(q: Queries, k: Keys, v: Keys, mask: BlockCausalMask | None) -> Queries:
    """FlashAttention 3 or 2, whichever is installed; CUDA, half precision only. Block by block
    under a mask.
    """
    return _by_block(lambda q, k, v, _: _flash()(q, k, v), q, k, v, mask)


def attend_flex(q: Queries, k: Keys, v: Keys, mask: BlockCausalMask | None) -> Queries:
    """PyTorch's flex attention, compiled at first use; CUDA only."""
    if q.device.type != "cuda":
        raise InputError(f"attention backend flex: on {q.device}, expected CUDA")
    block_mask = None if mask is None else _flex_mask(mask, q.shape[1], q.device)
    return _compiled_flex()(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=block_mask
    ).transpose(1, 2)


#: A new backend is a function and a line in this table; the equivalence test includes it.
BACKENDS: dict[str, Callable[[Queries, Keys, Keys, BlockCausalMask | None], Queries]] = {
    "plain": attend_plainly,
    "sdpa": attend_sdpa,
    "sdpa_by_block": attend_sdpa_by_block,
    "flash": attend_flash,
    "flex": attend_flex,
}


def _by_block(
    attend_block: Callable[[Queries, Keys, Keys, None], Queries],
    q: Queries,
    k: Keys,
    v: Keys,
    mask: BlockCausalMask | None,
) -> Queries:
    if mask is None:
        return attend_block(q, k, v, None)
    ends = range(mask.block_tokens, q.shape[1] + mask.block_tokens, mask.block_tokens)
    blocks = q.split(mask.block_tokens, dim=1)
    return torch.cat(
        [
            attend_block(block, k[:, :end], v[:, :end], None)
            for block, end in zip(blocks, ends, strict=True)
        ],
        dim=1,
    )


@functools.cache
def _flash() -> Callable[[Queries, Keys, Keys], Queries]:
    try:
        from flash_attn_interface import flash_attn_func
    except ImportError:
        try:
            from flash_attn import flash_attn_func
        except ImportError:
            raise InputError(
                "attention backend flash: neither flash_attn_interface nor flash_attn is installed"
            ) from None

    def run(q: Queries, k: Keys, v: Keys) -> Queries:
        out = flash_attn_func(q, k, v)
        # some versions also return the log-sum-exp
        values: Tensor = out[0] if isinstance(out, tuple) else out
        return values

    return run


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@functools.lru_cache(maxsize=8)
def _flex_mask(mask: BlockCausalMask, tokens: int, device: torch.device) -> object:
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query // mask.block_tokens >= key // mask.block_tokens

    return create_block_mask(sees, B=None, H=None, Q_LEN=tokens, KV_LEN=tokens, device=device)
