import torch

from artifixer.splats.trainable import NAMES, TrainableSplats
from tests.splats.splat_scenes import random_splats

RATES = {name: 10.0**-index for index, name in enumerate(NAMES, start=1)}


def test_its_steps_are_those_of_torchs_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    splats = random_splats(50, 4, generator)
    trainable = TrainableSplats(splats, RATES)
    copies = {name: getattr(splats, name).clone().requires_grad_() for name in NAMES}
    adam = torch.optim.Adam(
        [{"params": [copies[name]], "lr": RATES[name]} for name in NAMES], eps=1e-15, fused=True
    )
    for step in range(4):
        for name in NAMES:
            if (name, step) == ("sh", 0):  # without a gradient: no step
                continue
            gradient = torch.randn(copies[name].shape, generator=generator)
            copies[name].grad = gradient
            getattr(trainable.splats, name).grad = gradient.clone()
        adam.step()
        adam.zero_grad()
        trainable.step()
    state = trainable.state_tensors()
    for name in NAMES:
        assert torch.equal(state[name], copies[name])
        assert torch.equal(state[f"adam.{name}.step"], adam.state[copies[name]]["step"])
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[f"adam.{name}.{moment}"], adam.state[copies[name]][moment])
