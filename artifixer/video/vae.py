"""The autoencoder of the video model: frames <-> latents, for whole clips or incrementally with the
same bits.

In: frames ``[frames height width 3]``, uint8 or floats in [0,1]. Out: normalised latents ``[batch
channels frames h w]``, and back. This is the only file that converts between the two layouts and
ranges. The network is the causal Wan 2.1 autoencoder of diffusers (paper section 4.1), or the small
one of ``small_autoencoder.py``: latent frame 0 represents one pixel frame, every later one
``temporal_factor`` of them.

The network runs latent frame by latent frame with a state of its causal convolutions, which
``StreamingEncoder`` and ``StreamingDecoder`` keep between calls. A whole clip is one call of the
same loop, so splitting a clip does not change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from artifixer.runtime.extras import needs_extra
from artifixer.video.latent_grid import LatentGrid
from artifixer.video.small_autoencoder import SmallAutoencoder, SmallAutoencoderConfig

#: Mean and standard deviation of each latent channel of the public Wan 2.1 autoencoder.
WAN_LATENTS_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENTS_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916,
)  # fmt: skip


@dataclass(frozen=True)
class VaeConfig(LatentGrid):
    """The architecture; the defaults are the public Wan 2.1 autoencoder. The names of the fields
    are those of diffusers.
    """

    base_dim: int = 96
    """Channels at full resolution."""

    z_dim: int = 16
    """Latent channels."""

    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Factors on ``base_dim``, one per resolution."""

    num_res_blocks: int = 2
    """Residual blocks per resolution."""

    temporal_downsample: tuple[bool, ...] = (False, True, True)
    """Whether each downsampling step also halves time; one fewer than resolutions."""

    latents_mean: tuple[float, ...] = WAN_LATENTS_MEAN
    """Mean of each latent channel; latents outside this file are normalised."""

    latents_std: tuple[float, ...] = WAN_LATENTS_STD
    """Standard deviation of each latent channel."""

    def __post_init__(self) -> None:
        steps = len(self.dim_mult) - 1
        assert len(self.temporal_downsample) == steps, (
            f"{len(self.temporal_downsample)} temporal steps for {steps} spatial ones"
        )
        assert len(self.latents_mean) == len(self.latents_std) == self.z_dim, (
            f"latent statistics are not of {self.z_dim} channels"
        )

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent, along each side."""
        factor: int = 2 ** (len(self.dim_mult) - 1)
        return factor

    @property
    def temporal_factor(self) -> int:  # type: ignore[override]
        """Pixel frames per latent frame, except the first one."""
        factor: int = 2 ** sum(self.temporal_downsample)
        return factor


#: The class of the config determines the network of an autoencoder.
AutoencoderConfig = VaeConfig | SmallAutoencoderConfig


class Vae:
    """An autoencoder with its weights: ``network`` is diffusers' ``AutoencoderKLWan`` or a
    ``SmallAutoencoder``, depending on the config. ``encode`` and ``decode`` are differentiable.
    """

    def __init__(self, config: AutoencoderConfig, network: Any) -> None:
        self.config, self.network = config, network
        _use_fast_convolutions(network)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.network.parameters()).dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.network.parameters()).device
        return device

    @property
    def _is_small_on_gpu(self) -> bool:
        return isinstance(self.network, SmallAutoencoder) and self.device.type == "cuda"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Vae:
        """This autoencoder after moving its weights in place."""
        self.network.to(device=device, dtype=dtype)
        return self

    def encode(
        self, video: Float[Tensor, "batch 3 frames height width"]
    ) -> Float[Tensor, "batch channels latent_frames h w"]:
        """A whole clip of ``1 + n temporal_factor`` frames in [-1,1] -> normalised latents, the
        mode of the posterior.

        A small autoencoder processes it in one call on a GPU, where the overhead of many small
        calls would dominate.
        """
        if self._is_small_on_gpu:
            latents = self.network.encode(video)
            mean, std = _statistics(self.config, latents)
            normalised: Tensor = (latents - mean) / std
            return normalised
        return StreamingEncoder(self).push(video)

    def encode_stills(
        self, photos: Float[Tensor, "batch 3 views height width"]
    ) -> Float[Tensor, "batch channels views h w"]:
        """Latents of unrelated photos: each is encoded as a clip of one frame, one at a time to
        bound the memory.
        """
        if self._is_small_on_gpu:
            batch, views = photos.shape[0], photos.shape[2]
            latents = self.encode(photos.transpose(1, 2).flatten(0, 1)[:, :, None])
            stills: Tensor = latents[:, :, 0].unflatten(0, (batch, views)).transpose(1, 2)
            return stills
        return torch.cat(
            [self.encode(photos[:, :, view : view + 1]) for view in range(photos.shape[2])], dim=2
        )

    def decode(
        self, latents: Float[Tensor, "batch channels latent_frames h w"]
    ) -> Float[Tensor, "batch 3 frames height width"]:
        """A whole clip of normalised latents -> frames in [-1,1]."""
        if self._is_small_on_gpu:
            mean, std = _statistics(self.config, latents)
            frames: Tensor = self.network.decode(latents * std + mean).clamp(-1, 1)
            return frames
        return StreamingDecoder(self).push(latents)


class StreamingEncoder:
    """Encodes one clip incrementally. Holds the state of the causal convolutions; use one object
    per clip.
    """

    def __init__(self, vae: Vae) -> None:
        self._vae = vae
        self._encode_next = (
            _small_encoder(vae.network)
            if isinstance(vae.network, SmallAutoencoder)
            else _wan_encoder(vae.network)
        )
        self._is_first = True

    def push(
        self, video: Float[Tensor, "batch 3 frames height width"]
    ) -> Float[Tensor, "batch channels latent_frames h w"]:
        """Latents of the next frames, in [-1,1]: ``1 + n temporal_factor`` in the first call, ``n
        temporal_factor`` in later ones.
        """
        config = self._vae.config
        step, first = config.temporal_factor, int(self._is_first)
        groups, rest = divmod(video.shape[2] - first, step)
        assert groups >= 0 and not rest, (
            f"{video.shape[2]} frames, expected groups of {step}{' after the first' * first}"
        )
        assert (
            not video.shape[3] % config.spatial_factor
            and not video.shape[4] % config.spatial_factor
        ), f"size of {tuple(video.shape)}"
        encoded = []
        for group in video.split([1] * first + [step] * groups, dim=2):
            encoded.append(self._encode_next(group, self._is_first))
            self._is_first = False
        latents = torch.cat(encoded, dim=2)
        mean, std = _statistics(config, latents)
        return (latents - mean) / std


class StreamingDecoder:
    """Decodes one clip incrementally. Holds the state of the causal convolutions; use one object
    per clip.
    """

    def __init__(self, vae: Vae) -> None:
        self._vae = vae
        self._decode_next = (
            _small_decoder(vae.network)
            if isinstance(vae.network, SmallAutoencoder)
            else _wan_decoder(vae.network)
        )
        self._is_first = True

    def push(
        self, latents: Float[Tensor, "batch channels latent_frames h w"]
    ) -> Float[Tensor, "batch 3 frames height width"]:
        """Frames in [-1,1] of the next normalised latents; one frame for the clip's first latent
        frame.
        """
        mean, std = _statistics(self._vae.config, latents)
        decoded = []
        for latent in (latents * std + mean).split(1, dim=2):
            decoded.append(self._decode_next(latent, self._is_first))
            self._is_first = False
        return torch.cat(decoded, dim=2).clamp(-1, 1)


def build_vae(config: AutoencoderConfig, device: torch.device | str = "cpu") -> Vae:
    """An autoencoder with torch's initial weights, or without values on the device ``meta``."""
    if isinstance(config, SmallAutoencoderConfig):
        with torch.device(device):
            small = SmallAutoencoder(config)
        return Vae(config, small.eval().requires_grad_(False))

    with needs_extra("wan", "Wan's autoencoder"):
        from diffusers import AutoencoderKLWan

    arguments = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
    }
    arguments["temperal_downsample"] = arguments.pop("temporal_downsample")  # diffusers' spelling
    with torch.device(device):
        network: Any = AutoencoderKLWan(
            **arguments,
            scale_factor_temporal=config.temporal_factor,
            scale_factor_spatial=config.spatial_factor,
        )
    return Vae(config, network.eval().requires_grad_(False))


def frames_to_video(
    frames: Shaped[Tensor, "frames height width 3"],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "1 3 frames height width"]:
    """Frames, uint8 or floats in [0,1] -> the autoencoder's layout in [-1,1]. uint8 frames are
    transferred to the device before the conversion.
    """
    moved = frames.to(device=device)
    values = (
        moved.to(torch.float32) / 255 if moved.dtype == torch.uint8 else moved.to(torch.float32)
    )
    return (2 * values - 1).to(dtype).permute(3, 0, 1, 2)[None].contiguous()


def video_to_frames(
    video: Float[Tensor, "1 3 frames height width"],
) -> Float[Tensor, "frames height width 3"]:
    """The autoencoder's output -> float32 frames in [0,1]."""
    assert video.shape[0] == 1, f"{video.shape[0]} clips in a batch, expected one"
    return (video[0].to(torch.float32) / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0)


def frames_to_bytes(
    frames: Float[Tensor, "frames height width 3"],
) -> UInt8[Tensor, "frames height width 3"]:
    """Frames in [0,1] -> 0..255, rounded, on the same device."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)


def _statistics(config: AutoencoderConfig, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel in the latents' dtype, as in the release."""
    mean, std = (
        latents.new_tensor(values).view(1, -1, 1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return mean, std


def _wan_encoder(network: Any) -> Callable[[Tensor, bool], Tensor]:
    """A function (pixel frames of one latent frame, whether they start the clip) -> latents, with
    the state of the clip.
    """
    memory: list[Any] = [None] * _causal_convolutions(network.encoder)

    def encode_next(group: Tensor, is_first: bool) -> Tensor:
        moments = network.quant_conv(network.encoder(group, feat_cache=memory, feat_idx=[0]))
        means: Tensor = moments.chunk(2, dim=1)[0]
        return means

    return encode_next


def _wan_decoder(network: Any) -> Callable[[Tensor, bool], Tensor]:
    """A function (one latent frame, whether it starts the clip) -> its pixel frames, with the state
    of the clip.
    """
    memory: list[Any] = [None] * _causal_convolutions(network.decoder)

    def decode_next(latent: Tensor, is_first: bool) -> Tensor:
        frames: Tensor = network.decoder(
            network.post_quant_conv(latent), feat_cache=memory, feat_idx=[0], first_chunk=is_first
        )
        return frames

    return decode_next


def _small_encoder(network: SmallAutoencoder) -> Callable[[Tensor, bool], Tensor]:
    """As ``_wan_encoder``."""
    memory = network.encoder_memory()
    return lambda group, is_first: network.encode(group, memory, is_first)


def _small_decoder(network: SmallAutoencoder) -> Callable[[Tensor, bool], Tensor]:
    """As ``_wan_decoder``."""
    memory = network.decoder_memory()
    return lambda latent, is_first: network.decode(latent, memory, is_first)


def _causal_convolutions(network: nn.Module) -> int:
    """Number of entries of the state of an encoder or decoder."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    return sum(isinstance(module, WanCausalConv3d) for module in network.modules())


def _use_fast_convolutions(network: nn.Module) -> None:
    """Use oneDNN for the network's 3D convolutions in float32 on a CPU, where torch's default is
    several times slower.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module._conv_forward = partial(_convolve, stride=module.stride)  # type: ignore[method-assign]


def _convolve(video: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int]) -> Tensor:
    """An unpadded 3D convolution, equal to ``nn.Conv3d`` up to rounding."""
    if (
        video.device.type == "cpu"
        and video.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
    ):
        return torch.mkldnn_convolution(video, weight, bias, (0, 0, 0), tuple(stride), (1, 1, 1), 1)
    return nn.functional.conv3d(video, weight, bias, stride)
