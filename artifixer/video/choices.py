"""Choices of the video model that options offer, apart from the model, which needs PyTorch."""

from typing import Literal

#: ``improve``: the model's own source and steps, the default. ``generate``: opacity mixing, so that
#: empty regions are generated from noise and depend on the seed. Models that read the render on
#: other channels start at noise in both modes.
Mode = Literal["improve", "generate"]
