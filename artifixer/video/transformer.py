"""The video diffusion transformer: noisy latents and conditions in, velocity out.

In: latents ``[batch channels frames h w]``, noise levels, ``Conditions`` of the same latent frames,
and for roll-outs a ``KVCache`` of earlier blocks and a ``CrossMemory`` of what stays the same. Out:
the velocity, source minus clean latents (paper sections 4.1 and 4.2).

A Wan 2.1 text-to-video transformer with four additions: every layer adds embeddings of opacity and
rays to its tokens, and its text attention has a second branch to reference photos, which shares
queries and output with text and knows cameras by PRoPE; each temporal block may have its own noise
level, under a mask that hides later blocks. Computed in the weights' own type; normalisation,
modulation, residual sums and rotations in float32. Camera matrices are arguments and never state,
so that a layer that is run again for gradient checkpointing sees the cameras of its own call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from artifixer.video.attention import BlockCausalMask, attend, attend_to_first
from artifixer.video.cache import BlockCache, KVCache
from artifixer.video.conditions import Conditions
from artifixer.video.positions import ViewPositions, rope_table, rotate_pairs

Hidden = Float[Tensor, "batch tokens width"]
Heads = Float[Tensor, "batch tokens heads head_width"]

#: Slowest wavelength of the embedding of noise levels, over 2 pi.
TIME_BASE = 10_000.0


@dataclass(frozen=True)
class VideoTransformerConfig:
    """The architecture; flat, as it stands in a model's json file.

    text_width, text_tokens: of the text embedding. frequency_width: of the sinusoids of a noise
    level. spatial_factor, temporal_factor: pixels per latent; patch_size: latents per token along a
    side.
    conditioning_place: where opacity and rays are added: ``before_attention``: to the modulated
    input of self-attention, as the public weights have it; ``after_attention``: to the normed
    tokens that follow self-attention (paper equations 3 and 4 read literally); ``none``: nowhere,
    which leaves Wan 2.1 with references.
    noise_free_skip: the network predicts velocity - noisy latents + opacity * render latents, which
    has no noise in it at sigma 1.
    """

    width: int
    ffn_width: int
    heads: int
    layers: int
    latent_channels: int = 16
    text_width: int = 4096
    text_tokens: int = 512
    frequency_width: int = 256
    patch_size: int = 2
    spatial_factor: int = 8
    temporal_factor: int = 4
    conditioning_place: Literal["before_attention", "after_attention", "none"] = "before_attention"
    noise_free_skip: bool = False
    eps: float = 1e-6

    def __post_init__(self) -> None:
        assert min(self.width, self.heads, self.layers) >= 1, (
            f"{self.layers} layers of width {self.width} with {self.heads} heads"
        )
        assert self.width % self.heads == 0, (
            f"width {self.width} is not a multiple of {self.heads} heads"
        )
        assert self.head_width % 8 == 0, (
            f"heads of {self.head_width} channels, expected a multiple of 8"
        )
        assert self.frequency_width % 2 == 0, f"frequency width {self.frequency_width} is odd"
        places = ("before_attention", "after_attention", "none")
        assert self.conditioning_place in places, (
            f"conditioning place {self.conditioning_place}, expected one of {', '.join(places)}"
        )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def token_pixels(self) -> int:
        """Pixels per token along a side."""
        return self.patch_size * self.spatial_factor

    @property
    def opacity_channels(self) -> int:
        """Opacity values per token."""
        return self.temporal_factor * self.token_pixels**2

    @property
    def ray_channels(self) -> int:
        """Ray values per token."""
        return 6 * self.token_pixels**2


@dataclass(frozen=True)
class LayerMemory:
    """Keys and values of text and references in one layer, PRoPE applied."""

    text_keys: Heads
    text_values: Heads
    reference_keys: Heads | None = None
    reference_values: Heads | None = None


@dataclass(frozen=True)
class CrossMemory:
    """What all calls of one roll-out attend to besides the video, layer by layer. Made by
    ``VideoTransformer.remember``.
    """

    layers: tuple[LayerMemory, ...]

    def with_references_of(self, other: CrossMemory) -> CrossMemory:
        """Own text, and the other memory's references themselves, not a copy."""
        pairs = zip(self.layers, other.layers, strict=True)
        return CrossMemory(
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
    """Embedded text and reference tokens, from which each layer makes its keys and values."""

    text: Hidden
    references: Hidden | None = None
    reference_views: ViewPositions | None = None


@dataclass(frozen=True)
class CallContext:
    """What all layers share in one call of the network.

    opacity, rays: values under each token. rope: table for self-attention. views: target cameras,
    when there are references; use_references: factor on the reference branch; reference_tokens: how
    many reference tokens each sample attends to, None for all.
    """

    opacity: Float[Tensor, "batch tokens opacity_channels"] | None
    rays: Float[Tensor, "batch tokens ray_channels"] | None
    rope: Float[Tensor, "tokens pairs 2"]
    views: ViewPositions | None
    use_references: Float[Tensor, " batch"] | None
    reference_tokens: tuple[int, ...] | None
    mask: BlockCausalMask | None
    cache: BlockCache | None
    backend: str


class VideoTransformer(nn.Module):
    """The network. ``attention_backend``: see ``attend``. ``checkpoint_layers``: run layers again
    in the backward pass to save memory.
    """

    def __init__(self, config: VideoTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.attention_backend = "auto"
        self.checkpoint_layers = False
        width = config.width
        self.patch_embedding = PatchEmbedding(config)
        self.time_embedding = TwoLayers(config.frequency_width, width, width, "silu")
        self.time_modulation = nn.Linear(width, 6 * width)
        self.text_embedding = TwoLayers(config.text_width, width, width, "gelu")
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.modulation = nn.Parameter(torch.empty(1, 2, width))
        self.head = nn.Linear(width, config.latent_channels * config.patch_size**2)

    def forward(
        self,
        noisy_latents: Float[Tensor, "batch channels frames h w"],
        timesteps: Float[Tensor, " batch"] | Float[Tensor, "batch blocks"],
        conditions: Conditions,
        *,
        first_latent_frame: int = 0,
        cache: KVCache | None = None,
        memory: CrossMemory | None = None,
        block_frames: int | None = None,
        source_skip: Float[Tensor, "batch channels frames h w"] | None = None,
    ) -> Float[Tensor, "batch channels frames h w"]:
        """Velocity at the given noise levels, in the type of ``noisy_latents``.

        timesteps: 1000 sigma, one per clip or one per temporal block; rounded to bfloat16, as the
        release does, where matrix products are computed in it: by the type of the weights or by
        autocast, so that sharded and whole weights are trained at the same levels. conditions: of
        exactly these latent frames. first_latent_frame: their place in the roll-out.
        cache: keys and values of earlier blocks; the latents are then one block.
        memory: from ``remember``, for the same text and references.
        block_frames: latent frames per block; every frame then sees its own and earlier blocks
        only. source_skip: latent opacity times render latents, for models with ``noise_free_skip``.
        """
        assert cache is None or block_frames is None, "through a cache the latents are one block"
        frames = noisy_latents.shape[2]
        dtype = self.patch_embedding.weight.dtype
        tokens = self.patch_embedding(noisy_latents.to(dtype))
        rows, columns = tokens.shape[2:4]
        hidden = tokens.flatten(1, 3)

        time, modulation = self._embed_time(
            timesteps.to(_level_dtype(dtype, noisy_latents.device)), dtype
        )
        assert time.shape[1] == 1 or (block_frames or 0) * time.shape[1] == frames, (
            f"{time.shape[1]} noise levels per clip for {frames} latent frames in blocks of "
            f"{block_frames}"
        )
        context = CallContext(
            opacity=self._opacity_values(conditions, first_latent_frame, dtype),
            rays=self._ray_values(conditions, dtype),
            rope=rope_table(
                first_latent_frame, frames, rows, columns, self.config.head_width, hidden.device
            ),
            views=self._target_views(conditions, rows, columns),
            use_references=conditions.use_references,
            reference_tokens=self._reference_tokens(conditions),
            mask=None if block_frames is None else BlockCausalMask(block_frames * rows * columns),
            cache=None if cache is None else cache.open_block(first_latent_frame, frames),
            backend=self.attention_backend,
        )
        cross = self._cross_tokens(conditions) if memory is None else None
        for index, layer in enumerate(self.layers):
            attended = cross if memory is None else memory.layers[index]
            if self.checkpoint_layers and torch.is_grad_enabled():
                hidden = checkpoint(
                    layer, hidden, modulation, attended, context, use_reentrant=False
                )
            else:
                hidden = layer(hidden, modulation, attended, context)

        shift, scale = (self.modulation[:, None] + time[:, :, None]).split(1, dim=2)
        hidden = self.head(_modulated(hidden, shift, scale, self.config.eps))
        velocity = _latents_of_tokens(hidden, (frames, rows, columns), self.config.patch_size).to(
            noisy_latents.dtype
        )
        if self.config.noise_free_skip:
            assert source_skip is not None, "this model needs latent opacity times render latents"
            velocity = velocity + noisy_latents - source_skip
        return velocity

    @torch.no_grad()
    def remember(
        self, conditions: Conditions, layers: Iterable[Layer] | None = None
    ) -> CrossMemory:
        """Keys and values of text and references in all layers, computed once for all calls of a
        roll-out. Without gradients.

        layers: the model's layers in order, where their weights are only present one layer at a
        time (see ``LayerStream``).
        """
        cross = self._cross_tokens(conditions)
        return CrossMemory(tuple(layer.remember(cross) for layer in layers or self._layers()))

    def _layers(self) -> Iterator[Layer]:
        return (cast(Layer, layer) for layer in self.layers)

    def _embed_time(
        self, timesteps: Float[Tensor, " batch"] | Float[Tensor, "batch blocks"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "batch blocks width"], Float[Tensor, "batch blocks 6 width"]]:
        per_block = timesteps if timesteps.ndim == 2 else timesteps[:, None]
        time = self.time_embedding(_sinusoids(per_block, self.config.frequency_width).to(dtype))
        return time, self.time_modulation(F.silu(time)).unflatten(-1, (6, -1))

    def _cross_tokens(self, conditions: Conditions) -> CrossTokens:
        dtype = self.patch_embedding.weight.dtype
        text = self.text_embedding(conditions.text.to(dtype))
        if conditions.reference_latents is None:
            return CrossTokens(text)
        assert conditions.reference_viewmats is not None and conditions.reference_Ks is not None
        tokens = self.patch_embedding(conditions.reference_latents.to(dtype))
        rows, columns = tokens.shape[2:4]
        views = ViewPositions.of_cameras(
            conditions.reference_viewmats,
            conditions.reference_Ks,
            rows,
            columns,
            self.config.head_width,
        )
        return CrossTokens(text, tokens.flatten(1, 3), views)

    def _target_views(
        self, conditions: Conditions, rows: int, columns: int
    ) -> ViewPositions | None:
        if conditions.reference_latents is None:
            return None
        return ViewPositions.of_cameras(
            conditions.viewmats, conditions.Ks, rows, columns, self.config.head_width
        )

    def _reference_tokens(self, conditions: Conditions) -> tuple[int, ...] | None:
        """Reference tokens of each sample that are not padding, which comes last; None where
        nothing is padded.
        """
        if conditions.reference_counts is None or conditions.reference_latents is None:
            return None
        rows, columns = (
            side // self.config.patch_size for side in conditions.reference_latents.shape[3:]
        )
        return tuple(count * rows * columns for count in conditions.reference_counts)

    def _opacity_values(
        self, conditions: Conditions, first_latent_frame: int, dtype: torch.dtype
    ) -> Float[Tensor, "batch tokens opacity_channels"] | None:
        """Opacity of a token's pixels and frames, in the order (row, column, frame); a clip's first
        frame stands for a whole group.
        """
        if self.config.conditioning_place == "none":
            return None
        opacity, factor, side = (
            conditions.opacity.to(dtype),
            self.config.temporal_factor,
            self.config.token_pixels,
        )
        if first_latent_frame == 0:
            opacity = torch.cat([opacity[:, :1].expand(-1, factor - 1, -1, -1), opacity], dim=1)
        assert opacity.shape[1] == factor * conditions.latent_frames, (
            f"opacity of {conditions.opacity.shape[1]} frames"
        )
        cells = opacity.unflatten(1, (-1, factor)).unflatten(3, (-1, side)).unflatten(5, (-1, side))
        return cells.permute(0, 1, 3, 5, 4, 6, 2).flatten(4).flatten(1, 3)

    def _ray_values(
        self, conditions: Conditions, dtype: torch.dtype
    ) -> Float[Tensor, "batch tokens ray_channels"] | None:
        """Moments and directions of the rays of a token's pixels, in the order (component, row,
        column).
        """
        if self.config.conditioning_place == "none":
            return None
        side = self.config.token_pixels
        cells = conditions.rays.to(dtype).unflatten(2, (-1, side)).unflatten(4, (-1, side))
        return cells.permute(0, 1, 2, 4, 6, 3, 5).flatten(4).flatten(1, 3)


class Layer(nn.Module):
    """Self-attention, cross-attention and feed-forward network, each added to the tokens.
    ``index``: its place in the cache.
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
        self.feed_forward = TwoLayers(config.width, config.ffn_width, config.width, "gelu")

    def forward(
        self,
        hidden: Hidden,
        modulation: Float[Tensor, "batch blocks 6 width"],
        cross: CrossTokens | LayerMemory,
        context: CallContext,
    ) -> Hidden:
        parts = (self.modulation + _at_least_float32(modulation)).split(1, dim=2)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = parts

        tokens = _modulated(hidden, shift, scale, self.eps)
        if self.place == "before_attention":
            tokens = self._conditioned(tokens, context)
        hidden = _gated_sum(hidden, self.self_attention(tokens, context, self.index), gate)

        tokens = _layer_norm(hidden, self.eps, self.cross_norm.weight, self.cross_norm.bias).to(
            hidden.dtype
        )
        if self.place == "after_attention":
            tokens = self._conditioned(tokens, context)
        memory = cross if isinstance(cross, LayerMemory) else self.remember(cross)
        hidden = hidden + self.cross_attention(tokens, memory, context)

        tokens = _modulated(hidden, ffn_shift, ffn_scale, self.eps)
        return _gated_sum(hidden, self.feed_forward(tokens), ffn_gate)

    def remember(self, cross: CrossTokens) -> LayerMemory:
        """Keys and values of text and references in this layer."""
        return self.cross_attention.remember(cross)

    def _conditioned(self, tokens: Hidden, context: CallContext) -> Hidden:
        """With what opacity and rays say of each token (paper equations 3 and 4)."""
        assert context.opacity is not None and context.rays is not None
        return tokens + self.opacity_embedding(context.opacity) + self.ray_embedding(context.rays)


class SelfAttention(nn.Module):
    """Attention among the video's tokens, those of earlier blocks included."""

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
        return self.out(attend(q, k, v, context.mask, context.backend).flatten(2))


class CrossAttention(nn.Module):
    """Attention to text and, with the same queries, to reference photos; the two results are summed
    before the shared output.
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

    def forward(self, tokens: Hidden, memory: LayerMemory, context: CallContext) -> Hidden:
        q = _split_heads(self.query_norm(self.query(tokens)), self.heads)
        result = attend(q, memory.text_keys, memory.text_values, backend=context.backend)
        if memory.reference_keys is not None and memory.reference_values is not None:
            assert context.views is not None, "references without target cameras"
            seen = attend_to_first(
                context.views.query(q),
                memory.reference_keys,
                memory.reference_values,
                context.reference_tokens,
                context.backend,
            )
            seen = context.views.result(seen)
            if context.use_references is not None:
                seen = seen * context.use_references.to(seen.dtype)[:, None, None, None]
            result = result + seen
        return self.out(result.flatten(2))

    def remember(self, cross: CrossTokens) -> LayerMemory:
        """Keys and values; those of references in their cameras' positions."""
        text_keys = _split_heads(self.key_norm(self.key(cross.text)), self.heads)
        text_values = _split_heads(self.value(cross.text), self.heads)
        if cross.references is None or cross.reference_views is None:
            return LayerMemory(text_keys, text_values)
        keys = _split_heads(
            self.reference_key_norm(self.reference_key(cross.references)), self.heads
        )
        values = _split_heads(self.reference_value(cross.references), self.heads)
        views = cross.reference_views
        return LayerMemory(
            text_keys, text_values, views.key_or_value(keys), views.key_or_value(values)
        )


class PatchEmbedding(nn.Module):
    """One token per latent frame and patch; the same for the video and for references. A
    convolution's weights, used as a matrix.
    """

    def __init__(self, config: VideoTransformerConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.weight = nn.Parameter(
            torch.empty(
                config.width, config.latent_channels, 1, config.patch_size, config.patch_size
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
        return F.linear(patches, self.weight.flatten(1), self.bias)


class TwoLayers(nn.Module):
    """Linear, activation, linear. activation: ``silu``, or ``gelu`` in its tanh form."""

    def __init__(
        self, width_in: int, width_between: int, width_out: int, activation: Literal["silu", "gelu"]
    ) -> None:
        super().__init__()
        self.first = nn.Linear(width_in, width_between)
        self.second = nn.Linear(width_between, width_out)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*batch width_in"]) -> Float[Tensor, "*batch width_out"]:
        between = self.first(x)
        return self.second(
            F.silu(between) if self.activation == "silu" else F.gelu(between, approximate="tanh")
        )


def _level_dtype(weights: torch.dtype, device: torch.device) -> torch.dtype:
    """The type that noise levels are rounded to: bfloat16 where matrix products are computed in it,
    else float32.

    Sharded weights are float32 at rest and cast when they are gathered; whole ones are cast by
    autocast. Their own type alone would let the number of processes decide what level a network is
    trained at.
    """
    computes_in = (
        torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weights
    )
    return torch.bfloat16 if computes_in == torch.bfloat16 else torch.float32


def _sinusoids(timesteps: Float[Tensor, "*batch"], width: int) -> Float[Tensor, "*batch width"]:
    """Cosines, then sines, of a noise level at geometric frequencies; float32."""
    steps = torch.arange(width // 2, device=timesteps.device, dtype=torch.float32)
    angles = timesteps.float()[..., None] * torch.exp(-math.log(TIME_BASE) / (width // 2) * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _modulated(
    hidden: Hidden,
    shift: Float[Tensor, "batch blocks 1 width"],
    scale: Float[Tensor, "batch blocks 1 width"],
    eps: float,
) -> Hidden:
    """Normed tokens times 1 + scale plus shift, those of each block with its own."""
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
    return x.unflatten(-1, (heads, -1))


def _latents_of_tokens(
    patches: Float[Tensor, "batch tokens values"], grid: tuple[int, int, int], patch_size: int
) -> Float[Tensor, "batch channels frames h w"]:
    """Tokens' values, ordered (row, column, channel) within a patch, put back in their places."""
    cells = patches.unflatten(2, (patch_size, patch_size, -1)).unflatten(1, grid)
    return cells.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)
