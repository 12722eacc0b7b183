"""Detail of invented latents: exact where the answer is known, noise that is normal and stays with the world, and a network that learns."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from artifixer.geometry.cameras import Cameras
from artifixer.video.conditions import Conditions, normalised_Ks, ray_map
from artifixer.video.detail import SMALLEST_SHARE, AnchoredNoise, DetailDraw, DetailNetwork, DetailSampler, detail_loss

#: float32 sums in another order.
ROUNDING = 1e-5

#: Pixels of a latent's side.
FACTOR = 2

STREAM = torch.tensor([3])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def untrained(channels: int = 3, seed: int = 0) -> DetailNetwork:
    network = DetailNetwork(channels, width=8, layers=2)
    network.initialise(torch.Generator().manual_seed(seed))
    return network


def random_network(channels: int = 3, seed: int = 0) -> DetailNetwork:
    """Every weight has an effect."""
    network = DetailNetwork(channels, width=8, layers=2)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3, generator=random)
    return network


def poses(centres: Tensor, angles: Tensor | None = None) -> Tensor:
    """World to camera: at ``centres`` ``[frames 3]``, turned around the vertical so that the scene moves left for positive angles."""
    angles = torch.zeros(len(centres)) if angles is None else angles
    cos, sin, zero, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    rotation = torch.stack([cos, zero, -sin, zero, one, zero, sin, zero, cos], dim=-1).view(-1, 3, 3)
    viewmats = torch.eye(4).repeat(len(centres), 1, 1)
    viewmats[:, :3, :3], viewmats[:, :3, 3] = rotation, -(rotation @ centres[..., None])[..., 0]
    return viewmats


def conditions_of(viewmats: Tensor, rows: int, columns: int, focal: float | Tensor) -> Conditions:
    """Of one clip with a camera per latent frame. focal: in latents."""
    frames, (height, width) = len(viewmats), (rows * FACTOR, columns * FACTOR)
    Ks = torch.eye(3).repeat(frames, 1, 1)
    Ks[:, 0, 0] = Ks[:, 1, 1] = focal * FACTOR
    Ks[:, 0, 2], Ks[:, 1, 2] = width / 2, height / 2
    cameras = Cameras.pinhole(viewmats, Ks, width, height)
    return Conditions(
        opacity=torch.zeros(1, frames, height, width),
        rays=ray_map(cameras)[None],
        viewmats=viewmats[None],
        Ks=normalised_Ks(cameras)[None],
        text=torch.zeros(1, 2, 4),
    )


def moving_on(frames: int, rows: int, columns: int) -> Conditions:
    """A camera that moves on by more than it sees, so that no frame shares a place with another."""
    centres = torch.zeros(frames, 3)
    centres[:, 0] = torch.arange(frames) * 4.0
    return conditions_of(poses(centres), rows, columns, focal=columns + 0.3)


def noise_of(conditions: Conditions, rows: int, columns: int, channels: int = 4, stream: Tensor = STREAM) -> Tensor:
    """``[frames channels rows columns]``"""
    shape = torch.Size((len(stream), channels, conditions.latent_frames, rows, columns))
    return AnchoredNoise(stream)(conditions, shape)


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def neighbours(images: Tensor) -> tuple[float, float]:
    """Correlation of latents side by side and one above the other."""
    return correlation(images[..., 1:], images[..., :-1]), correlation(images[..., 1:, :], images[..., :-1, :])


@pytest.mark.parametrize("sigma", [0.05, 0.3, 0.8, 1.0])
def test_an_untrained_network_gives_the_posterior_mean_of_independent_latents(sigma):
    """Against Bayes' rule on a grid: prior N(made, 1), the noisy latent is (1 - sigma) clean + sigma noise."""
    made, noisy = randn(2, 3, 2, 2), 2 * randn(2, 3, 2, 2, seed=1)
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    prior = -0.5 * (grid - made[..., None].double()).square()
    likelihood = -0.5 * ((noisy[..., None].double() - (1 - sigma) * grid) / sigma).square()
    expected = (torch.softmax(prior + likelihood, dim=-1) * grid).sum(dim=-1)
    clean = untrained()(noisy, torch.full((2,), sigma), made, torch.ones(2, 1, 2, 2))
    torch.testing.assert_close(clean.double(), expected, rtol=0, atol=ROUNDING)


def test_the_loss_of_independent_latents_is_their_posterior_variance_at_every_level():
    """So 1 at each level, but for the lowest, where its weight is bounded; and the share that is empty of it."""
    made = randn(2, 4, 64, 8, 8)
    clean = made + randn(*made.shape, seed=1)
    levels = torch.linspace(1e-3, 1, 10_000)
    variance = levels.square() / (levels.square() + (1 - levels).square())
    expected = float((variance / variance.clamp(min=SMALLEST_SHARE)).mean())
    assert 0.9 < expected < 1

    def loss(opacity: Tensor) -> float:
        with torch.no_grad():
            return float(detail_loss(untrained(4), made, clean, opacity, draw_of(made, 2)))

    opacity = torch.zeros(2, 1, 64, 8, 8)
    assert loss(opacity) == pytest.approx(expected, abs=0.04), "128 levels were drawn"
    opacity[..., :4] = 1
    assert loss(opacity) == pytest.approx(expected / 2, abs=0.03)
    assert loss(torch.ones_like(opacity)) == 0


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 * seed + index) for index in range(count)]


def draw_of(made: torch.Tensor, count: int, seed: int = 0) -> DetailDraw:
    return DetailDraw.of(generators(count, seed), *made.shape[1:])


def test_the_loss_of_a_batch_is_that_of_its_clips():
    made, clean, opacity = randn(2, 3, 4, 4, 4), randn(2, 3, 4, 4, 4, seed=1), randn(2, 1, 4, 4, 4, seed=2).sigmoid()
    network = random_network()
    together = detail_loss(network, made, clean, opacity, draw_of(made, 2))
    alone = [
        detail_loss(network, made[one], clean[one], opacity[one], DetailDraw.of([random], *made.shape[1:]))
        for one, random in zip((slice(0, 1), slice(1, 2)), generators(2), strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=ROUNDING, atol=0)
    assert not torch.equal(*alone)


def test_the_loss_moves_every_weight():
    network = random_network()
    opacity = randn(1, 1, 4, 4, 4, seed=2).sigmoid()
    detail_loss(network, randn(1, 3, 4, 4, 4), randn(1, 3, 4, 4, 4, seed=1), opacity, draw_of(opacity.expand(1, 3, 4, 4, 4), 1)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_a_fresh_network_depends_on_the_seed_alone():
    first, again, other = untrained(seed=1), untrained(seed=1), untrained(seed=2)
    for (name, one), two in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two), name
    assert not torch.equal(first.enter.weight, other.enter.weight)
    with torch.no_grad():
        assert float(first.enter(randn(8, 7, 16, 16)).var()) == pytest.approx(1, rel=0.3), "features are as large as what enters"


@pytest.mark.parametrize(("steps", "kept"), [(1, 0.0), (2, 0.75), (4, 0.9425), (64, 0.99987)])
def test_an_untrained_network_draws_the_noise_itself_around_what_was_made(steps, kept):
    """The flow between normal distributions of the same variance ends at the noise that it began with. Few steps keep most of it: the
    numbers are those of the two-step method by hand; Euler's keeps 0.5 after two steps and 0.72 after four.
    """
    rows, columns = 8, 8
    conditions, made = moving_on(8, rows, columns), 2 * randn(1, 3, 8, rows, columns)
    drawn = DetailSampler(untrained(), steps, AnchoredNoise(STREAM)).add(made, torch.zeros(1, 1, 8, rows, columns), conditions)
    assert drawn.shape == made.shape
    added, noise = (drawn - made)[0].transpose(0, 1), noise_of(conditions, rows, columns, channels=3)
    torch.testing.assert_close(added, kept * noise, rtol=0, atol=1e-4)


def test_opaque_latents_stay_as_they_are():
    made, conditions = randn(1, 3, 4, 6, 6), moving_on(4, 6, 6)
    sampler = DetailSampler(random_network(), 3, AnchoredNoise(STREAM))
    opacity = torch.ones(1, 1, 4, 6, 6)
    assert sampler.add(made, opacity, conditions) is made
    assert sampler.add(made, opacity - 0.01, conditions) is made, "almost opaque"
    opacity[..., :3] = 0
    opacity[..., 3] = 0.5
    drawn = sampler.add(made, opacity, conditions)
    assert torch.equal(drawn[..., 4:], made[..., 4:])
    changed = (drawn - made).abs().mean(dim=(0, 1, 2, 3))
    assert (changed[:4] > 0.05).all(), changed


def test_each_frame_of_each_clip_is_drawn_alone():
    """Neither the rest of the batch nor the cutting in blocks changes a frame."""
    rows, columns, frames = 4, 6, 3
    alone = [conditions_of(poses(randn(frames, 3, seed=clip)), rows, columns, focal=5.3 + clip) for clip in range(2)]
    both = Conditions(**{name: torch.cat([getattr(one, name) for one in alone]) for name in ("opacity", "rays", "viewmats", "Ks", "text")})
    made, opacity = randn(2, 3, frames, rows, columns), randn(2, 1, frames, rows, columns, seed=1).sigmoid()
    network, streams = random_network(), torch.tensor([3, -4])
    together = DetailSampler(network, 2, AnchoredNoise(streams)).add(made, opacity, both)
    for clip, conditions in enumerate(alone):
        sampler = DetailSampler(network, 2, AnchoredNoise(streams[clip : clip + 1]))
        for frame in range(frames):
            here = (slice(clip, clip + 1), slice(None), slice(frame, frame + 1))
            one = sampler.add(made[here], opacity[here], frame_of(conditions, frame))
            torch.testing.assert_close(one, together[here], rtol=0, atol=1e-6 * float(together.abs().max()) + ROUNDING)


def frame_of(conditions: Conditions, frame: int) -> Conditions:
    """A piece of the conditions here, whose opacity has a frame per latent frame."""
    return Conditions(
        opacity=conditions.opacity[:, frame : frame + 1],
        rays=conditions.rays[:, frame : frame + 1],
        viewmats=conditions.viewmats[:, frame : frame + 1],
        Ks=conditions.Ks[:, frame : frame + 1],
        text=conditions.text,
    )


class Witness(DetailNetwork):
    """Keeps what it was asked; its answer is that of an untrained network."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(channels, width=8, layers=2)
        self.initialise(torch.Generator().manual_seed(0))
        self.asked: list[tuple[Tensor, ...]] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        self.asked.append(inputs)
        return super().forward(*inputs)


def test_the_flow_starts_at_noise_where_it_is_empty_and_at_what_was_made_elsewhere():
    rows, columns = 4, 6
    conditions, made = moving_on(2, rows, columns), randn(1, 3, 2, rows, columns)
    opacity, network = randn(1, 1, 2, rows, columns, seed=1).sigmoid(), Witness()
    DetailSampler(network, 4, AnchoredNoise(STREAM)).add(made, opacity, conditions)
    noisy, _, given, emptiness = network.asked[0]
    assert torch.equal(given, made[0].transpose(0, 1))
    torch.testing.assert_close(emptiness, 1 - opacity[0].transpose(0, 1), rtol=0, atol=ROUNDING)
    expected = emptiness * noise_of(conditions, rows, columns, channels=3) + (1 - emptiness) * given
    torch.testing.assert_close(noisy, expected, rtol=0, atol=ROUNDING)
    assert [sigma.tolist() for _, sigma, *_ in network.asked] == [[level] * 2 for level in (1.0, 0.75, 0.5, 0.25)]


def test_training_is_on_the_flow_that_sampling_follows():
    """A straight line from the mixed source to the clean latents, at a level of its own for each latent frame."""
    made, clean, network = randn(2, 3, 8, 4, 4), randn(2, 3, 8, 4, 4, seed=1), Witness()
    opacity = torch.zeros(2, 1, 8, 4, 4)
    opacity[..., 0], opacity[..., 1] = 1, 0.5
    detail_loss(network, made, clean, opacity, draw_of(made, 2))
    ((noisy, sigma, given, emptiness),) = network.asked
    assert torch.equal(given, made.transpose(1, 2).flatten(0, 1)) and torch.equal(emptiness, 1 - opacity.transpose(1, 2).flatten(0, 1))
    assert len(sigma.unique()) == 16 and 0 < float(sigma.min()) < float(sigma.max()) < 1
    level = sigma.view(-1, 1, 1, 1)
    source = (noisy - (1 - level) * clean.transpose(1, 2).flatten(0, 1)) / level
    torch.testing.assert_close(source[..., 0], given[..., 0], rtol=0, atol=1e-4)
    noise = source[..., 2:]
    assert abs(float(noise.mean())) < 0.15 and float(noise.std()) == pytest.approx(1, abs=0.15)
    halves = 2 * source[..., 1] - given[..., 1]
    assert float(halves.std()) == pytest.approx(1, abs=0.2)
    assert abs(correlation(halves, given[..., 1])) < 0.2


def test_the_network_is_told_the_level_and_the_palette_of_what_was_rendered():
    network, seen, sigma = random_network(), [], torch.tensor([0.6, 0.6])
    network.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made, emptiness = randn(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
    made[..., :3] *= torch.tensor([2.0, 3.0, 4.0]).view(3, 1, 1)
    emptiness[0, ..., :3] = 0
    with torch.no_grad():
        network(made, sigma, made, emptiness)
    ((rendered, empty),) = seen
    frequencies = torch.logspace(0, 5, 16, base=math.e)
    torch.testing.assert_close(rendered[:32], torch.cat([(0.6 * frequencies).cos(), (0.6 * frequencies).sin()]), rtol=0, atol=1e-4)
    for numbers, pixels, share in ((rendered, made[0, ..., :3], 5 / 8), (empty, made[1], 1.0)):
        expected = [pixels.mean(dim=(1, 2)), pixels.std(dim=(1, 2), correction=0), torch.tensor([share])]
        torch.testing.assert_close(numbers[32:], torch.cat(expected), rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Of the weights, of the latents, or of both; the flow is followed in float32."""
    rows, columns = 4, 4
    conditions, made = moving_on(2, rows, columns), randn(1, 3, 2, rows, columns)
    opacity = randn(1, 1, 2, rows, columns, seed=1).sigmoid()

    def drawn(weights: torch.dtype, latents: torch.dtype) -> Tensor:
        sampler = DetailSampler(random_network().to(weights), 4, AnchoredNoise(STREAM))
        return sampler.add(made.to(latents), opacity.to(latents), conditions)

    whole = drawn(torch.float32, torch.float32)
    for weights, latents in itertools.product((torch.float32, dtype), repeat=2):
        values = drawn(weights, latents)
        assert values.dtype == latents
        assert (values.float() - whole).abs().max() < 0.1 * whole.abs().max()


def test_noise_is_standard_normal_and_independent():
    """160 000 numbers, within four standard errors."""
    rows, columns = 32, 40
    noise = noise_of(moving_on(16, rows, columns), rows, columns, channels=8).double()
    error = noise.numel() ** -0.5
    assert noise.shape == (16, 8, rows, columns) and noise.isfinite().all()
    assert abs(float(noise.mean())) < 4 * error
    assert abs(float(noise.var()) - 1) < 4 * 2**0.5 * error
    assert abs(float(noise.pow(3).mean())) < 4 * 15**0.5 * error
    assert abs(float(noise.pow(4).mean()) - 3) < 4 * 96**0.5 * error
    pairs = [*neighbours(noise), correlation(noise[1:], noise[:-1])]
    pairs += [correlation(noise[:, one], noise[:, two]) for one, two in itertools.combinations(range(8), 2)]
    pairs += [correlation(noise[:, :, 1:], noise[:, :, :-1]), correlation(noise[:, 1:, :, 1:], noise[:, :-1, :, :-1])]
    pairs += [correlation(noise.square()[..., 1:], noise.square()[..., :-1]), correlation(noise.square()[:, 1:], noise.square()[:, :-1])]
    assert max(map(abs, pairs)) < 4 * (noise.numel() / 8) ** -0.5, pairs
    latents = noise.movedim(1, -1).flatten(0, -2)
    assert len(latents.unique(dim=0)) == len(latents), "latents that share a place"


def test_noise_depends_on_cameras_and_stream_alone():
    rows, columns = 6, 8
    conditions = conditions_of(poses(randn(5, 3), 0.3 * randn(5, seed=1)), rows, columns, focal=9.3)
    noise = noise_of(conditions, rows, columns)
    assert torch.equal(noise_of(conditions, rows, columns), noise)
    source = AnchoredNoise(STREAM)
    pieces = [source(frame_of(conditions, frame), torch.Size((1, 4, 1, rows, columns))) for frame in range(5)]
    assert torch.equal(torch.cat(pieces), noise), "frame by frame"
    assert torch.equal(noise_of(conditions, rows, columns, channels=2), noise[:, :2]), "channels have numbers of their own"
    other = noise_of(conditions, rows, columns, stream=STREAM + 1)
    assert abs(correlation(other, noise)) < 0.1


def test_places_are_as_large_as_latents_of_the_first_camera():
    """A camera that zooms in later, in a block of its own, sees the same places larger."""
    rows, columns = 6, 12
    zoom = conditions_of(poses(torch.zeros(2, 3)), rows, columns, focal=torch.tensor([30.3, 60.6]))
    source = AnchoredNoise(STREAM)
    (wide,), (near,) = (source(frame_of(zoom, frame), torch.Size((1, 4, 1, rows, columns))) for frame in range(2))
    middle = wide[:, 1:5, 3:9].repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    assert torch.equal(near, middle[:, 1:-1])


@pytest.mark.parametrize("shift", [-2, 1, 3])
def test_noise_moves_with_what_is_seen(shift):
    """Sideways by whole latents: exactly. Turned by as much, far away: for most latents. Back again: the numbers of the beginning."""
    rows, columns, focal = 6, 16, 160.5
    centres = torch.zeros(3, 3)
    centres[1, 0] = shift / focal
    here, there, back = noise_of(conditions_of(poses(centres), rows, columns, focal), rows, columns)
    assert torch.equal(moved(there, shift), moved(here, shift, origin=True))
    assert torch.equal(back, here)
    assert not torch.equal(there, here)

    turned = poses(torch.zeros(3, 3), torch.tensor([0.0, shift / focal, 0.0]))
    here, there, back = noise_of(conditions_of(turned, rows, columns, focal), rows, columns)
    same = (moved(there, shift) == moved(here, shift, origin=True)).float().mean()
    assert same > 0.8, float(same)
    assert torch.equal(back, here)


def moved(noise: Tensor, shift: int, origin: bool = False) -> Tensor:
    """The columns that two frames share when the second looks ``shift`` columns further right."""
    columns = noise.shape[-1]
    start = max(0, shift if origin else -shift)
    return noise[..., start : start + columns - abs(shift)]


def structured(*shape: int, seed: int) -> Tensor:
    """Noise of variance 1 whose neighbours are alike."""
    noise = randn(*shape[:-2], shape[-2] + 2, shape[-1] + 2, seed=seed)
    return 3 * F.avg_pool2d(noise.flatten(0, -3)[:, None], 3, 1)[:, 0].unflatten(0, shape[:-2])


def test_training_learns_the_structure_of_detail():
    """Latents whose neighbours are alike around what the model made: the loss falls, and what is drawn then has the same likeness."""
    size, channels, width = 8, 2, 12
    network = DetailNetwork(channels, width, 2)
    network.initialise(torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    opacity = torch.zeros(1, 1, 16, size, size)

    def loss(seed: int) -> Tensor:
        made = randn(1, channels, 16, 1, 1, seed=seed).expand(-1, -1, -1, size, size)
        return detail_loss(network, made, made + structured(1, channels, 16, size, size, seed=seed + 1), opacity, draw_of(made, 1, seed))

    def tested() -> float:
        with torch.no_grad():
            return sum(float(loss(10_000 + seed)) for seed in range(4)) / 4

    before = tested()
    for step in range(100):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    assert tested() < 0.92 * before

    made, conditions = torch.zeros(1, channels, 16, size, size), moving_on(16, size, size)

    def drawn(model: DetailNetwork) -> Tensor:
        return DetailSampler(model, 4, AnchoredNoise(STREAM)).add(made, opacity, conditions)

    assert max(map(abs, neighbours(drawn(untrained(channels))))) < 0.1
    assert min(neighbours(drawn(network))) > 0.3
    assert 0.5 < float(drawn(network).var()) < 1.5
    assert min(neighbours(structured(1, channels, 16, size, size, seed=5))) > 0.5, "the likeness to be learned"
