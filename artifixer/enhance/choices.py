"""Choices of enhancing that options offer, apart from the work, which needs PyTorch."""

from typing import Literal

Drop = Literal["renders", "references", "text", "rays", "opacity"]

#: ``blocks``: the few-step generator, block by block. ``teacher``: the bidirectional network, clip
#: by clip, in many steps with guidance.
Sampler = Literal["blocks", "teacher"]
