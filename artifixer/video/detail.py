"""Detail for what a model invented: squared error answers a question with many answers by their mean, a blur, and this draws one of them.

In: clean latents of the video model, the latent opacity of the renders, noise. Out: latents with texture where nothing was rendered, the
same where the render is opaque. A small convolutional network denoises each latent frame in a few steps on a flow of its own, from noise
to clean latents (paper equation 1), given the video model's latents and the scene's palette. It reads and writes single latents, so that
nothing repeats with the transformer's tokens. The paper's models are large enough to need none of this; only small ones have it.

Noise is anchored to the scene: a latent takes the numbers of the place in the world that it looks at, at the scene's median depth, so that
a view always gets the same texture, and it depends on neither the cutting in blocks nor a resume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from artifixer.video.conditions import Conditions

#: Latent frames as images.
Images = Float[Tensor, "images channels h w"]
Emptiness = Float[Tensor, "images 1 h w"]

#: Frames whose emptiness is nowhere larger than this have nothing to draw.
UNSEEN = 0.02

#: Distance of the places that noise belongs to, in the model's units: the median depth of the scene.
ANCHOR_DEPTH = 1.0

#: Cubes are moved by this part of their side, so that no regular grid of places lies on their borders.
OFF_BORDERS = 0.1

#: Sinusoids of the noise level, and numbers between them and the layers.
LEVEL_WAVES, LEVEL_WIDTH = 16, 128

#: Smallest variance that the loss divides by: below it, near the clean end, levels count less.
SMALLEST_SHARE = 0.02


class DetailNetwork(nn.Module):
    """Noisy latents -> clean ones, image by image. It corrects what would be best if all latents were independent."""

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2 * channels + 1, width, 3, padding=1)
        self.first = nn.Linear(2 * LEVEL_WAVES + 2 * channels + 1, LEVEL_WIDTH)
        self.second = nn.Linear(LEVEL_WIDTH, 2 * width * layers)
        self.layers = nn.ModuleList(DetailLayer(width, dilation=1 + index % 2) for index in range(layers))
        self.leave = nn.Conv2d(width, channels, 3, padding=1)

    @torch.no_grad()
    def initialise(self, random: torch.Generator) -> None:
        """Draw all weights; the layers and the whole add nothing at first."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or name.startswith("leave") or ".conv2." in name:
                parameter.zero_()
            else:
                bound = math.sqrt(3 / parameter[0].numel())
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=random))

    def forward(self, noisy: Images, sigma: Float[Tensor, " images"], made: Images, emptiness: Emptiness) -> Images:
        """Clean latents, in float32 at least. sigma: 1 is noise, 0 clean. made: the video model's latents. emptiness: 1 - opacity."""
        dtype = self.leave.weight.dtype
        numbers = torch.cat([_waves(sigma), _palette(made, emptiness)], dim=1).to(dtype)
        modulation = self.second(F.silu(self.first(numbers))).unflatten(1, (len(self.layers), 2, -1))[..., None, None]
        hidden = self.enter(torch.cat([noisy, made, emptiness], dim=1).to(dtype))
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, modulation[:, index, 0], modulation[:, index, 1])
        mean, size = _independent(noisy, sigma, made)
        return mean + size * self.leave(hidden).to(mean.dtype)


class DetailLayer(nn.Module):
    """Two convolutions beside a shortcut, modulated by noise level and palette."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width, affine=False)
        self.conv1 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Images, scale: Float[Tensor, "images width 1 1"], shift: Float[Tensor, "images width 1 1"]) -> Images:
        hidden = self.conv1(F.silu(self.norm(features) * (1 + scale) + shift))
        return features + self.conv2(F.silu(hidden))


class DetailSampler:
    """Draws detail for the blocks of one roll-out, in their order.

    steps: calls of the network per latent frame. noise_sizes: standard deviation of the noise by channel, empty for 1: below 1 a channel
    stays nearer to what is most likely, and less is lost where it is wrong.
    """

    def __init__(self, network: DetailNetwork, steps: int, noise: AnchoredNoise, noise_sizes: Sequence[float] = ()) -> None:
        assert steps >= 1, f"{steps} steps"
        self.network, self.noise, self.noise_sizes = network, noise, tuple(noise_sizes)
        self.levels = [1 - step / steps for step in range(steps)] + [0.0]

    @torch.no_grad()
    def add(
        self,
        clean: Float[Tensor, "batch channels latent_frames h w"],
        opacity: Float[Tensor, "batch 1 latent_frames h w"],
        conditions: Conditions,
    ) -> Float[Tensor, "batch channels latent_frames h w"]:
        """The same latents with detail where they were invented. Waits for the device that holds the opacity."""
        self.noise.anchor(conditions, clean.shape[-1])
        made, emptiness = _images(clean), 1 - _images(opacity).to(clean.dtype)
        is_empty = emptiness.amax(dim=(2, 3), keepdim=True) > UNSEEN
        if not is_empty.any():
            return clean
        emptiness = emptiness * is_empty
        noise = self.noise(conditions, clean.shape).to(made)
        if self.noise_sizes:
            noise = noise * noise.new_tensor(self.noise_sizes).view(1, -1, 1, 1)
        noisy = emptiness * noise + (1 - emptiness) * made
        drawn = self._denoised(noisy.float(), made.float(), emptiness.float())
        return (made + emptiness * (drawn.to(made.dtype) - made)).unflatten(0, (clean.shape[0], -1)).transpose(1, 2)

    def _denoised(self, noisy: Images, made: Images, emptiness: Emptiness) -> Images:
        """The flow followed from noise to its end by two-step Adams-Bashforth: in four steps Euler's loses half of the variance."""
        before: tuple[float, Tensor] | None = None
        for sigma, following in zip(self.levels, self.levels[1:], strict=False):
            clean = self.network(noisy, noisy.new_full((len(noisy),), sigma), made, emptiness)
            velocity = (noisy - clean) / sigma
            step = following - sigma
            slope = velocity if before is None else velocity + step / (2 * (sigma - before[0])) * (velocity - before[1])
            noisy, before = noisy + step * slope, (sigma, velocity)
        return noisy


class AnchoredNoise:
    """Standard normal noise that belongs to places in the world: those that the latents of the cameras look at.

    A place is a cube as large as a latent of the roll-out's first camera at ``ANCHOR_DEPTH``. streams: a number for each clip of the batch;
    others give other noise.
    """

    def __init__(self, streams: Int[Tensor, " batch"]) -> None:
        self._streams = streams.cpu().view(-1, 1, 1, 1)
        self._side: Tensor | None = None

    def anchor(self, conditions: Conditions, columns: int) -> Float[Tensor, " batch"]:
        """Sides of the cubes: as large as a latent of the first camera that this was ever called with, in rows of so many."""
        if self._side is None:
            self._side = ANCHOR_DEPTH / (conditions.Ks[:, 0, 0, 0].double().cpu() * columns)
        return self._side

    def __call__(self, conditions: Conditions, shape: torch.Size) -> Images:
        """For latents ``[batch channels latent_frames h w]``: images of all frames of the first clip, then of the next."""
        _, channels, _, rows, columns = shape
        side = self.anchor(conditions, columns)
        cells = (_places(conditions, rows, columns) / side.view(-1, 1, 1, 1, 1) + OFF_BORDERS).floor().long()
        keys = self._streams
        for part in cells.unbind(dim=-1):
            keys = _scrambled(keys ^ _scrambled(part))
        return _normal(keys, channels).flatten(0, 1)


@dataclass(frozen=True)
class DetailDraw:
    """What is random in the loss: a noise level for each latent frame, and noise."""

    sigma: Float[Tensor, "batch latent_frames"]
    noise: Float[Tensor, "batch channels latent_frames h w"]

    @staticmethod
    def of(generators: Sequence[torch.Generator], channels: int, frames: int, rows: int, columns: int) -> DetailDraw:
        """Of clips of so many latent frames, each from its own generator."""
        sigma = torch.stack([torch.rand(frames, generator=random).clamp(min=1e-3) for random in generators])
        return DetailDraw(sigma, torch.stack([torch.randn(channels, frames, rows, columns, generator=random) for random in generators]))

    def to(self, device: torch.device | str) -> DetailDraw:
        return DetailDraw(self.sigma.to(device), self.noise.to(device))


def detail_loss(
    network: DetailNetwork,
    made: Float[Tensor, "batch channels latent_frames h w"],
    clean: Float[Tensor, "batch channels latent_frames h w"],
    opacity: Float[Tensor, "batch 1 latent_frames h w"],
    drawn: DetailDraw,
    channel_weights: Sequence[float] = (),
) -> Tensor:
    """Squared error of the network's clean latents where the render is empty, at a random level per latent frame.

    Relative to the error that is left when all latents are independent, so that all levels count alike. made: without gradients.
    channel_weights: of mean 1; empty for ones.
    """
    sigma, noise = drawn.sigma.flatten().to(made), _images(drawn.noise.to(made))
    given, truth, emptiness = _images(made), _images(clean), 1 - _images(opacity)
    source = emptiness * noise + (1 - emptiness) * given
    level = sigma.view(-1, 1, 1, 1)
    noisy = (1 - level) * truth + level * source
    _, size = _independent(noisy, sigma, given)
    error = (network(noisy, sigma, given, emptiness) - truth).square()
    if channel_weights:
        error = error * error.new_tensor(channel_weights).view(1, -1, 1, 1)
    return (emptiness * error / size.square().clamp(min=SMALLEST_SHARE)).mean()


def _independent(noisy: Images, sigma: Float[Tensor, " images"], made: Images) -> tuple[Images, Float[Tensor, "images 1 1 1"]]:
    """Mean and spread of clean latents if each were normal around ``made`` with variance 1, given the noisy ones."""
    level = sigma.to(torch.promote_types(noisy.dtype, torch.float32)).view(-1, 1, 1, 1)
    whole = (1 - level).square() + level.square()
    return made + (1 - level) / whole * (noisy - (1 - level) * made), level / whole.sqrt()


def _palette(made: Images, emptiness: Emptiness) -> Float[Tensor, "images numbers"]:
    """Mean and spread of each channel where something was rendered, of the whole frame where nothing was; the share that is empty."""
    weights = 1 - emptiness + 1e-3
    weights = weights / weights.sum(dim=(2, 3), keepdim=True)
    mean = (weights * made).sum(dim=(2, 3), keepdim=True)
    spread = ((made - mean).square() * weights).sum(dim=(2, 3)).add(1e-6).sqrt()
    return torch.cat([mean.flatten(1), spread, emptiness.mean(dim=(2, 3))], dim=1)


def _waves(sigma: Float[Tensor, " images"]) -> Float[Tensor, "images waves"]:
    """Cosines, then sines, of the level at frequencies from 1 to 150."""
    angles = sigma[:, None] * torch.exp(torch.linspace(0, 5, LEVEL_WAVES, device=sigma.device, dtype=sigma.dtype))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _places(conditions: Conditions, rows: int, columns: int) -> Float[Tensor, "batch latent_frames h w 3"]:
    """Points at ``ANCHOR_DEPTH`` in front of the cameras, one per latent, in float64 on the CPU. Lens distortion is left out."""
    viewmats, Ks = conditions.viewmats.double().cpu(), conditions.Ks.double().cpu()
    x, y = ((torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5 for count in (columns, rows))
    x = (x - Ks[..., None, 0, 2]) / Ks[..., None, 0, 0]
    y = (y - Ks[..., None, 1, 2]) / Ks[..., None, 1, 1]
    points = ANCHOR_DEPTH * torch.stack([x[..., None, :].expand(-1, -1, rows, -1), y[..., None].expand(-1, -1, -1, columns)], dim=-1)
    points = F.pad(points, (0, 1), value=ANCHOR_DEPTH) - viewmats[..., None, None, :3, 3]
    return points @ viewmats[..., None, :3, :3]


def _scrambled(keys: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """A bijection of 64-bit numbers whose bits all depend on all (multiplications wrap around)."""
    for shift, factor in ((33, -0x00AE502812AA7333), (29, -0x3B314601E57A13AD)):
        keys = (keys ^ _right(keys, shift)) * factor + 0x1E3779B97F4A7C15
    return keys ^ _right(keys, 32)


def _right(keys: Int[Tensor, "*any"], bits: int) -> Int[Tensor, "*any"]:
    """Shifted with zeros coming in."""
    return (keys >> bits) & ((1 << (64 - bits)) - 1)


def _normal(keys: Int[Tensor, "batch frames h w"], channels: int) -> Float[Tensor, "batch frames channels h w"]:
    """Standard normal numbers, the same for the same key."""
    channel = torch.arange(channels).view(-1, 1, 1)
    first, second = (_uniform(_scrambled(keys[:, :, None] + 2 * channel + part)) for part in (1, 2))
    return (torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * math.pi * second)).float()


def _uniform(keys: Int[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """In (0, 1)."""
    return (_right(keys, 11).double() + 0.5) * 2.0**-53


def _images(video: Float[Tensor, "batch channels latent_frames h w"]) -> Images:
    """Frames of all clips, clip by clip."""
    return video.transpose(1, 2).flatten(0, 1)
