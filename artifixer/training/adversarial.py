"""An adversary for decoded frames: what a model invents shall look like what was photographed, not only be right on average.

In: clips as they leave ``enhance`` and the true ones, with the opacity of the render. Out: losses of a discriminator and of the model.
Squared error alone answers a question with many answers by their mean, a blur. The discriminator sees pairs of neighbouring frames whose
opaque parts are the truth's in both cases, so that it can tell them apart only by what was invented and by how that fits to the rest; it
judges patch by patch, and patches count by their emptiness. It sees what differs from the mean around each pixel: colours and large shapes
are left to the squared error, which knows them better. Losses compare the made clip with the true one (relativistic); the
discriminator is kept smooth by noise on what it sees.
Beside it stands a loss that has a gradient where a blur gives the discriminator little to work with: the variogram, how much pixels at some
distance differ from each other on average, shall be the truth's in every patch.
The paper has none of this: it is for small models, and the recipes of the large ones leave it off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from artifixer.training.parallel import at_least_float32

#: Frames that the discriminator sees together.
GROUP = 2

#: Side of the square over which the mean around a pixel is taken; what makes the rest of a size with colours.
DETAIL_SIZE, DETAIL_GAIN = 9, 4.0

#: Pixels between those that the variogram compares, and the side of its patches.
DISTANCES = (1, 2, 4)
VARIOGRAM_PATCH = 16

#: Differences of pixels in [-1,1]: a usual one, and the square of one that is too small to be seen.
VARIOGRAM_SIZE, VARIOGRAM_FLOOR = 0.1, 1e-4

#: Frames in [-1,1]; 1 - the render's opacity, in [0,1].
Video = Float[Tensor, "batch 3 frames height width"]
Emptiness = Float[Tensor, "batch frames height width"]


@dataclass(frozen=True)
class AdversarialTraining:
    """Settings.

    weight: of the model's adversarial loss; 0 for no adversary. start: steps before the model hears of it.
    width: channels of the discriminator's first layer. learning_rate, betas: of its optimizer.
    variogram_weight: of the error of the variogram beside the adversary's loss; ``weight`` multiplies both.
    noise: standard deviation of what is added to the discriminator's pixels in [-1,1] to see how much it reacts; noise_weight: of this
    reaction in its loss.
    """

    weight: float = 0.0
    start: int = 0
    width: int = 32
    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.5, 0.98)
    variogram_weight: float = 0.0
    noise: float = 0.01
    noise_weight: float = 200.0


class Discriminator(nn.Module):
    """Pairs of frames with their emptiness -> one number per patch, larger for what looks true."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4 * GROUP, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 4 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 3, padding=1),
        )

    def initialise(self, random: torch.Generator) -> None:
        """Draw all weights."""
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                inputs = layer.weight[0].numel()
                with torch.no_grad():
                    layer.weight.copy_(torch.randn(layer.weight.shape, generator=random) * (2 / inputs) ** 0.5)
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, groups: Float[Tensor, "groups channels height width"]) -> Float[Tensor, "groups 1 rows columns"]:
        judged: Tensor = self.layers(groups)
        return judged


def with_true_surroundings(made: Video, truth: Video, emptiness: Emptiness) -> Video:
    """The made clip where nothing was rendered, the true one elsewhere."""
    share = emptiness[:, None]
    return truth + share * (made - truth)


def discriminator_loss(
    network: Discriminator,
    made: Video,
    truth: Video,
    emptiness: Emptiness,
    settings: AdversarialTraining,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """How badly the discriminator tells made clips from true ones. made: without gradients."""
    noise = torch.stack([torch.randn(truth.shape[1:], generator=generator) for generator in generators]).to(truth) * settings.noise
    weights = _patch_weights(emptiness)
    true, false = (at_least_float32(network(_groups(video, emptiness))) for video in (truth, made))
    moved = [at_least_float32(network(_groups(video + noise, emptiness))) for video in (truth, made)]
    reaction = (true - moved[0]).square() + (false - moved[1]).square()
    return _weighted(F.softplus(false - true) + settings.noise_weight * reaction, weights)


def model_loss(network: Discriminator, made: Video, truth: Video, emptiness: Emptiness) -> Tensor:
    """How well the discriminator tells the made clips from the true ones; gradients reach ``made`` alone."""
    fixed = {name: tensor.detach() for name, tensor in (*network.named_parameters(), *network.named_buffers())}
    with torch.no_grad():
        true = at_least_float32(network(_groups(truth, emptiness)))
    false = at_least_float32(functional_call(network, fixed, (_groups(made, emptiness),)))
    return _weighted(F.softplus(true - false), _patch_weights(emptiness))


def variogram_loss(made: Video, truth: Video, emptiness: Emptiness) -> Tensor:
    """Mean squared error of the root of each patch's variogram, relative to ``VARIOGRAM_SIZE``.

    Of roots, since it is unknown where the truth has its edges: their mean keeps most of its energy, that of logarithms little.
    """
    losses = [
        (_variogram(made, dim, distance).sqrt() - _variogram(truth, dim, distance).sqrt()).square()
        for distance in DISTANCES
        for dim in (-1, -2)
    ]
    weights = F.avg_pool2d(emptiness, VARIOGRAM_PATCH, ceil_mode=True)
    return _weighted(torch.stack(losses).mean(dim=0), weights) / VARIOGRAM_SIZE**2


def _variogram(video: Video, dim: int, distance: int) -> Float[Tensor, "batch frames rows columns"]:
    """Mean squared difference of pixels at a distance, per frame and patch."""
    size = video.shape[dim]
    difference = (video.narrow(dim, distance, size - distance) - video.narrow(dim, 0, size - distance)).square().mean(dim=1)
    padding = (0, distance, 0, 0) if dim == -1 else (0, 0, 0, distance)
    whole = F.pad(difference, padding, mode="replicate")
    return F.avg_pool2d(whole, VARIOGRAM_PATCH, ceil_mode=True) + VARIOGRAM_FLOOR


def _groups(video: Video, emptiness: Emptiness) -> Float[Tensor, "groups channels height width"]:
    """Every other pair of neighbouring frames, detail and emptiness as channels."""
    pixels = torch.cat([DETAIL_GAIN * _detail(video), 2 * emptiness[:, None] - 1], dim=1)
    frames = pixels.shape[2] // GROUP * GROUP
    return pixels[:, :, :frames].unflatten(2, (-1, GROUP)).permute(0, 2, 1, 3, 4, 5).flatten(2, 3).flatten(0, 1)


def _detail(video: Video) -> Video:
    """What is left without the mean around each pixel."""
    frames = video.transpose(1, 2).flatten(0, 1)
    means = F.avg_pool2d(frames, DETAIL_SIZE, stride=1, padding=DETAIL_SIZE // 2, count_include_pad=False)
    return (frames - means).unflatten(0, (video.shape[0], -1)).transpose(1, 2)


def _patch_weights(emptiness: Emptiness) -> Float[Tensor, "groups 1 rows columns"]:
    """Mean emptiness of each patch that the discriminator judges."""
    frames = emptiness.shape[1] // GROUP * GROUP
    means = emptiness[:, :frames].unflatten(1, (-1, GROUP)).mean(dim=2).flatten(0, 1)
    return F.avg_pool2d(means[:, None], 8)


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over all patches, so that clips without emptiness count for nothing."""
    return (weights * values).mean()
