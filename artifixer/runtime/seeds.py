"""Random generators keyed by their use, never by process, rank or order of calls.

In: a seed and the use (purpose, step, sample, block). Out: a generator whose stream depends on
exactly these five values, so that work can be split, reordered or resumed without changing any
number.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch


def generator(
    seed: int,
    purpose: str,
    step: int = 0,
    sample: int = 0,
    block: int = 0,
    device: str | torch.device = "cpu",
) -> torch.Generator:
    """A new torch generator for this key.

    seed: the run's seed. purpose: what is drawn, such as "noise". step: iteration. sample: global
    index of the sample in its data set or batch over all ranks. block: index of the temporal block.
    The same key gives different streams on CPU and CUDA, which have different engines. Torch's CPU
    engine uses 32 bits of the key, so collisions are unlikely but possible.
    """
    return torch.Generator(device).manual_seed(
        _key(seed, purpose, step, sample, block) & 0xFFFF_FFFF_FFFF_FFFF
    )


def numpy_generator(
    seed: int, purpose: str, step: int = 0, sample: int = 0, block: int = 0
) -> np.random.Generator:
    """A new NumPy generator for this key; arguments as in ``generator``."""
    return np.random.Generator(np.random.PCG64(_key(seed, purpose, step, sample, block)))


def _key(seed: int, purpose: str, step: int, sample: int, block: int) -> int:
    """256 bits that depend on every part and on its position."""
    text = json.dumps([int(seed), purpose, int(step), int(sample), int(block)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "little")
