"""The video diffusion transformer: noisy latents and conditions in, velocity out.

In: latents ``[batch channels frames h w]``, noise levels, ``Conditions`` of the same latent frames,
and for rollouts a ``KVCache`` of earlier blocks and a ``CrossAttentionCache`` of text and
references. Out: the velocity, source minus clean latents (paper sections 4.1 and 4.2).

A Wan 2.1 text-to-video transformer with additions: every layer adds embeddings of opacity and rays
to its tokens; cross-attention has a second branch to reference photos, which shares queries and
output projection with text and encodes cameras by PRoPE; each temporal block may have its own noise
level, under a block-causal mask. Computed in the weights' dtype; normalisation, modulation,
residual sums and rotations in float32. Camera matrices are arguments and not state, so that a layer
that is recomputed for activation checkpointing uses the cameras of its own call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from artifixer.video.attention import BlockCausalMask
from artifixer.video.cache import KVCache
from artifixer.video.conditions import Conditions
from artifixer.video.positions import ViewPositions, rope_table
from artifixer.video.transformer_config import VideoTransformerConfig
from artifixer.video.transformer_layers import (
    MLP,
    CallContext,
    CrossAttentionCache,
    CrossTokens,
    Layer,
    PatchEmbedding,
    modulated,
)

#: Longest wavelength of the embedding of noise levels, over 2 pi.
TIME_BASE = 10_000.0


class VideoTransformer(nn.Module):
    """The network.

    attention_backend: see ``attend``. checkpoint_layers: recompute layers in the backward pass to
    save memory. streamed_layers: iterates over the layers where only one layer's weights are
    present at a time (``LayerStream``, sharded weights); None where all are.
    """

    def __init__(self, config: VideoTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.attention_backend = "auto"
        self.checkpoint_layers = False
        self.streamed_layers: Callable[[], Iterator[Any]] | None = None
        width = config.width
        self.patch_embedding = PatchEmbedding(config)
        self.time_embedding = MLP(config.frequency_width, width, width, "silu")
        self.time_modulation = nn.Linear(width, 6 * width)
        self.text_embedding = MLP(config.text_width, width, width, "gelu")
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
        cross_attention_cache: CrossAttentionCache | None = None,
        block_frames: int | None = None,
        source_skip: Float[Tensor, "batch channels frames h w"] | None = None,
    ) -> Float[Tensor, "batch channels frames h w"]:
        """Velocity at the given noise levels, in the dtype of ``noisy_latents``.

        timesteps: 1000 sigma, one per clip or one per temporal block; rounded to bfloat16, as in
        the release, where matrix products are in bfloat16, by the weights' dtype or by autocast, so
        that sharded and replicated weights are trained at the same levels. conditions: of exactly
        these latent frames. first_latent_frame: index of the first one in the rollout. cache: keys
        and values of earlier blocks; the latents must be one block. cross_attention_cache: from
        ``cross_attention_cache``, for the same text and references. block_frames: latent frames per
        block of a block-causal mask; None for no mask. source_skip: latent opacity times render
        latents, for models with ``noise_free_skip``.
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
        cross = self._cross_tokens(conditions) if cross_attention_cache is None else None
        for index, layer in enumerate(self.layers):
            attended = (
                cross if cross_attention_cache is None else cross_attention_cache.layers[index]
            )
            if self.checkpoint_layers and torch.is_grad_enabled():
                hidden = checkpoint(
                    layer, hidden, modulation, attended, context, use_reentrant=False
                )
            else:
                hidden = layer(hidden, modulation, attended, context)

        shift, scale = (self.modulation[:, None] + time[:, :, None]).split(1, dim=2)
        hidden = self.head(modulated(hidden, shift, scale, self.config.eps))
        velocity = _latents_of_tokens(hidden, (frames, rows, columns), self.config.patch_size).to(
            noisy_latents.dtype
        )
        if self.config.noise_free_skip:
            assert source_skip is not None, "this model needs latent opacity times render latents"
            velocity = velocity + noisy_latents - source_skip
        return velocity

    @torch.no_grad()
    def cross_attention_cache(self, conditions: Conditions) -> CrossAttentionCache:
        """Keys and values of text and references in all layers, without gradients; computed once
        for all calls of a rollout.
        """
        cross = self._cross_tokens(conditions)
        return CrossAttentionCache(tuple(layer.keys_and_values(cross) for layer in self._layers()))

    def _layers(self) -> Iterator[Layer]:
        if self.streamed_layers is not None:
            return self.streamed_layers()
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
        """Number of reference tokens of each sample before the padding; None for no padding."""
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
        frame is repeated to fill its group.
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
        values: Tensor = cells.permute(0, 1, 3, 5, 4, 6, 2).flatten(4).flatten(1, 3)
        return values

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
        values: Tensor = cells.permute(0, 1, 2, 4, 6, 3, 5).flatten(4).flatten(1, 3)
        return values


def _level_dtype(weights: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that noise levels are rounded to: bfloat16 where matrix products are in bfloat16,
    else float32.

    Sharded weights are cast when they are gathered, replicated ones by autocast. By the dtype of
    the weights alone the training's noise levels would depend on the number of processes.
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


def _latents_of_tokens(
    patches: Float[Tensor, "batch tokens values"], grid: tuple[int, int, int], patch_size: int
) -> Float[Tensor, "batch channels frames h w"]:
    """Latents from the values of tokens, in the order (row, column, channel) within a patch."""
    cells = patches.unflatten(2, (patch_size, patch_size, -1)).unflatten(1, grid)
    latents: Tensor = cells.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)
    return latents
