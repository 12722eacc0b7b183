"""The layers of the video transformer: self-attention, cross-attention to text and reference
photos, feed-forward network (paper section 4.1).

In: tokens, the modulation of their noise levels, text and reference tokens or their cached keys and
values. Out: tokens. Computed in the weights' dtype; normalisation, modulation, residual sums and
rotations in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from artifixer.video.attention import BlockCausalMask, attend, attend_to_first
from artifixer.video.cache import BlockCache
from artifixer.video.positions import ViewPositions, rotate_pairs
from artifixer.video.transformer_config import VideoTransformerConfig

Hidden = Float[Tensor, "batch tokens width"]

Heads = Float[Tensor, "batch tokens heads head_width"]

TextHeads = Float[Tensor, "batch text_tokens heads head_width"]

ReferenceHeads = Float[Tensor, "batch reference_tokens heads head_width"]


@dataclass(frozen=True)
class LayerCrossCache:
    """Keys and values of text and references in one layer, PRoPE applied."""

    text_keys: TextHeads
    text_values: TextHeads
    reference_keys: ReferenceHeads | None = None
    reference_values: ReferenceHeads | None = None


@dataclass(frozen=True)
class CrossAttentionCache:
    """Keys and values of text and references in all layers, for all calls of one rollout. Returned
    by ``VideoTransformer.cross_attention_cache``.
    """

    layers: tuple[LayerCrossCache, ...]

    def with_references_of(self, other: CrossAttentionCache) -> CrossAttentionCache:
        """This cache with the references of another one, which are not copied."""
        pairs = zip(self.layers, other.layers, strict=True)
        return CrossAttentionCache(
            tuple(
                replace(
                    own,
                    reference_keys=theirs.reference_keys,
                    reference_values=theirs.reference_values,
                )
                for own, theirs in pairs
            )
        )


@dataclass(frozen=True)
class CrossTokens:
    """Embedded text and reference tokens, the input of each layer's keys and values."""

    text: Float[Tensor, "batch text_tokens width"]
    references: Float[Tensor, "batch reference_tokens width"] | None = None
    reference_views: ViewPositions | None = None


@dataclass(frozen=True)
class CallContext:
    """The input that all layers share in one call of the network."""

    opacity: Float[Tensor, "batch tokens opacity_channels"] | None
    """Opacity values of each token; None for ``conditioning_place`` ``none``."""

    rays: Float[Tensor, "batch tokens ray_channels"] | None
    """Ray values of each token; None for ``conditioning_place`` ``none``."""

    rope: Float[Tensor, "tokens pairs 2"]
    """RoPE table of self-attention."""

    views: ViewPositions | None
    """Target cameras; None without references."""

    use_references: Float[Tensor, " batch"] | None
    """Factor on the reference branch; None for 1."""

    reference_tokens: tuple[int, ...] | None
    """Number of reference tokens that each sample attends to; None for all."""

    mask: BlockCausalMask | None
    """Mask of self-attention; None for full attention."""

    cache: BlockCache | None
    """Keys and values of earlier blocks."""

    backend: str
    """Backend of ``attend``."""


class Layer(nn.Module):
    """Self-attention, cross-attention and feed-forward network, each added to the tokens. index: of
    the layer in the key-value cache.
    """

    def __init__(self, config: VideoTransformerConfig, index: int) -> None:
        super().__init__()
        self.index, self.eps, self.place = index, config.eps, config.conditioning_place
        self.modulation = nn.Parameter(torch.empty(1, 6, config.width))
        if self.place != "none":
            self.opacity_embedding = nn.Linear(config.opacity_channels, config.width)
            self.ray_embedding = nn.Linear(config.ray_channels, config.width)
        self.self_attention = SelfAttention(config)
        self.cross_norm = nn.LayerNorm(config.width, config.eps)
        self.cross_attention = CrossAttention(config)
        self.feed_forward = MLP(config.width, config.ffn_width, config.width, "gelu")

    def forward(
        self,
        hidden: Hidden,
        modulation: Float[Tensor, "batch blocks 6 width"],
        cross: CrossTokens | LayerCrossCache,
        context: CallContext,
    ) -> Hidden:
        parts = (self.modulation + _at_least_float32(modulation)).split(1, dim=2)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = parts

        tokens = modulated(hidden, shift, scale, self.eps)
        if self.place == "before_attention":
            tokens = self._conditioned(tokens, context)
        hidden = _gated_sum(hidden, self.self_attention(tokens, context, self.index), gate)

        tokens = _layer_norm(hidden, self.eps, self.cross_norm.weight, self.cross_norm.bias).to(
            hidden.dtype
        )
        if self.place == "after_attention":
            tokens = self._conditioned(tokens, context)
        cached = cross if isinstance(cross, LayerCrossCache) else self.keys_and_values(cross)
        hidden = hidden + self.cross_attention(tokens, cached, context)

        tokens = modulated(hidden, ffn_shift, ffn_scale, self.eps)
        return _gated_sum(hidden, self.feed_forward(tokens), ffn_gate)

    def keys_and_values(self, cross: CrossTokens) -> LayerCrossCache:
        """Keys and values of text and references in this layer."""
        return self.cross_attention.keys_and_values(cross)

    def _conditioned(self, tokens: Hidden, context: CallContext) -> Hidden:
        """Tokens plus the embeddings of opacity and rays (paper equations 3 and 4)."""
        assert context.opacity is not None and context.rays is not None
        conditioned: Tensor = (
            tokens + self.opacity_embedding(context.opacity) + self.ray_embedding(context.rays)
        )
        return conditioned


class SelfAttention(nn.Module):
    """Self-attention of the video's tokens, including cached earlier blocks."""

    def __init__(self, config: VideoTransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(config.width, config.width) for _ in range(4)
        )
        self.query_norm, self.key_norm = (nn.RMSNorm(config.width, config.eps) for _ in range(2))

    def forward(self, tokens: Hidden, context: CallContext, layer: int) -> Hidden:
        q = rotate_pairs(
            _split_heads(self.query_norm(self.query(tokens)), self.heads), context.rope
        )
        k = rotate_pairs(_split_heads(self.key_norm(self.key(tokens)), self.heads), context.rope)
        v = _split_heads(self.value(tokens), self.heads)
        if context.cache is not None:
            k, v = context.cache.extend(layer, k, v)
        attended: Tensor = self.out(attend(q, k, v, context.mask, context.backend).flatten(2))
        return attended


class CrossAttention(nn.Module):
    """Attention to text and, with the same queries, to reference photos; the two results are summed
    before the shared output projection.
    """

    def __init__(self, config: VideoTransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(config.width, config.width) for _ in range(4)
        )
        self.query_norm, self.key_norm = (nn.RMSNorm(config.width, config.eps) for _ in range(2))
        self.reference_key, self.reference_value = (
            nn.Linear(config.width, config.width) for _ in range(2)
        )
        self.reference_key_norm = nn.RMSNorm(config.width, config.eps)

    def forward(self, tokens: Hidden, cached: LayerCrossCache, context: CallContext) -> Hidden:
        q = _split_heads(self.query_norm(self.query(tokens)), self.heads)
        result = attend(q, cached.text_keys, cached.text_values, backend=context.backend)
        if cached.reference_keys is not None and cached.reference_values is not None:
            assert context.views is not None, "references without target cameras"
            seen = attend_to_first(
                context.views.query(q),
                cached.reference_keys,
                cached.reference_values,
                context.reference_tokens,
                context.backend,
            )
            seen = context.views.result(seen)
            if context.use_references is not None:
                seen = seen * context.use_references.to(seen.dtype)[:, None, None, None]
            result = result + seen
        attended: Tensor = self.out(result.flatten(2))
        return attended

    def keys_and_values(self, cross: CrossTokens) -> LayerCrossCache:
        """Keys and values; those of references with PRoPE of their cameras."""
        text_keys = _split_heads(self.key_norm(self.key(cross.text)), self.heads)
        text_values = _split_heads(self.value(cross.text), self.heads)
        if cross.references is None or cross.reference_views is None:
            return LayerCrossCache(text_keys, text_values)
        keys = _split_heads(
            self.reference_key_norm(self.reference_key(cross.references)), self.heads
        )
        values = _split_heads(self.reference_value(cross.references), self.heads)
        views = cross.reference_views
        return LayerCrossCache(
            text_keys, text_values, views.key_or_value(keys), views.key_or_value(values)
        )


class PatchEmbedding(nn.Module):
    """One token per latent frame and patch, for the video and for references, which have the first
    ``latent_channels`` only where renders are concatenated. The weights have the shape of a
    convolution and are applied as a matrix.
    """

    def __init__(self, config: VideoTransformerConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.weight = nn.Parameter(
            torch.empty(
                config.width, config.input_channels, 1, config.patch_size, config.patch_size
            )
        )
        self.bias = nn.Parameter(torch.empty(config.width))

    def forward(
        self, latents: Float[Tensor, "batch channels frames h w"]
    ) -> Float[Tensor, "batch frames rows columns width"]:
        side = self.patch_size
        assert latents.shape[3] % side == 0 and latents.shape[4] % side == 0, (
            f"latents {tuple(latents.shape)} in patches of {side}"
        )
        patches = (
            latents.unflatten(4, (-1, side))
            .unflatten(3, (-1, side))
            .permute(0, 2, 3, 5, 1, 4, 6)
            .flatten(4)
        )
        weight = self.weight[:, : latents.shape[1]]  # absent channels count as zeros
        return F.linear(patches, weight.flatten(1), self.bias)


class MLP(nn.Module):
    """Linear, activation, linear. activation: ``silu``, or ``gelu`` with the tanh approximation."""

    def __init__(
        self, width_in: int, width_between: int, width_out: int, activation: Literal["silu", "gelu"]
    ) -> None:
        super().__init__()
        self.first = nn.Linear(width_in, width_between)
        self.second = nn.Linear(width_between, width_out)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*batch width_in"]) -> Float[Tensor, "*batch width_out"]:
        between = self.first(x)
        result: Tensor = self.second(
            F.silu(between) if self.activation == "silu" else F.gelu(between, approximate="tanh")
        )
        return result


def modulated(
    hidden: Hidden,
    shift: Float[Tensor, "batch blocks 1 width"],
    scale: Float[Tensor, "batch blocks 1 width"],
    eps: float,
) -> Hidden:
    """Normed tokens times (1 + scale) plus shift, with the modulation of each block."""
    normed = _layer_norm(hidden, eps).unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift, normed, 1 + scale).flatten(1, 2).to(hidden.dtype)


def _gated_sum(
    hidden: Hidden, update: Hidden, gate: Float[Tensor, "batch blocks 1 width"]
) -> Hidden:
    """hidden + gate * update."""
    blocks = (gate.shape[1], -1)
    wide_hidden, wide_update = (
        _at_least_float32(part).unflatten(1, blocks) for part in (hidden, update)
    )
    return torch.addcmul(wide_hidden, wide_update, gate).flatten(1, 2).to(hidden.dtype)


def _layer_norm(
    hidden: Hidden, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> Hidden:
    wide = _at_least_float32(hidden)
    weight, bias = (None if part is None else part.to(wide.dtype) for part in (weight, bias))
    return F.layer_norm(wide, wide.shape[-1:], weight, bias, eps)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _split_heads(x: Hidden, heads: int) -> Heads:
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split
