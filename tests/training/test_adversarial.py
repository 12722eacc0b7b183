"""The adversary: what it sees, whom its losses move, and that it learns to tell a blur from a texture."""

from __future__ import annotations

import torch
from made_pairs import MadePairs

from artifixer.runtime.seeds import generator
from artifixer.training.adversarial import (
    AdversarialTraining,
    Discriminator,
    discriminator_loss,
    model_loss,
    variogram_loss,
    with_true_surroundings,
)
from artifixer.video.vae import frames_to_video

SETTINGS = AdversarialTraining(weight=1.0, width=8)


def made_network() -> Discriminator:
    network = Discriminator(SETTINGS.width)
    network.initialise(generator(0, "discriminator"))
    return network


def clips() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Blurred and true frames, empty in their left half."""
    truth = torch.cat([frames_to_video(pair.clean_frames) for pair in MadePairs(count=2).pairs])
    emptiness = torch.zeros(2, truth.shape[2], *truth.shape[3:])
    emptiness[..., : truth.shape[4] // 2] = 1
    return truth.mean(dim=(3, 4), keepdim=True).expand_as(truth), truth, emptiness


def test_surroundings_are_the_truths():
    made, truth, emptiness = clips()
    seen = with_true_surroundings(made, truth, emptiness)
    half = truth.shape[4] // 2
    assert torch.equal(seen[..., half:], truth[..., half:])
    torch.testing.assert_close(seen[..., :half], made[..., :half])


def test_it_learns_to_tell_a_blur_from_the_truth():
    made, truth, emptiness = clips()
    network = made_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        generators = [generator(0, "noise", step=step, sample=i) for i in range(2)]
        loss = discriminator_loss(network, with_true_surroundings(made, truth, emptiness), truth, emptiness, SETTINGS, generators)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert float(model_loss(network, made, truth, emptiness)) > 2 * float(model_loss(network, truth, truth, emptiness))


def test_opaque_clips_count_for_nothing():
    made, truth, emptiness = clips()
    made = made.clone().requires_grad_()
    loss = model_loss(made_network(), made, truth, torch.zeros_like(emptiness))
    assert float(loss.detach()) == 0


def test_the_models_loss_reaches_the_frames_alone():
    made, truth, emptiness = clips()
    made, network = made.clone().requires_grad_(), made_network()
    model_loss(network, made, truth, emptiness).backward()
    assert made.grad is not None
    assert made.grad.any()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_variogram_knows_a_blur_and_nothing_of_places():
    made, truth, emptiness = clips()
    assert float(variogram_loss(truth, truth, emptiness)) == 0
    assert float(variogram_loss(truth.flip(1), truth, emptiness)) < 1e-6
    coarser = 0.5 * truth
    assert 0 < float(variogram_loss(coarser, truth, emptiness)) < float(variogram_loss(made, truth, emptiness))
    assert float(variogram_loss(made, truth, torch.zeros_like(emptiness))) == 0
