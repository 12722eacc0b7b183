"""Choices of training that options offer, apart from the work, which needs PyTorch."""

from typing import Literal

StageName = Literal["autoencoder", "bidirectional", "diffusion_forcing", "self_forcing"]
