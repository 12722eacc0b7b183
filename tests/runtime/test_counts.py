"""Numbers agree with their nouns."""

from __future__ import annotations

import pytest

from artifixer.runtime.counts import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "pair", "1 pair"),
        (0, "pair", "0 pairs"),
        (2, "process", "2 processes"),
        (1, "process", "1 process"),
        (12345, "Gaussian", "12,345 Gaussians"),
        (1, "held-out photo", "1 held-out photo"),
        (1.0, "minute", "1 minute"),
        (0.5, "minute", "0.5 minutes"),
    ],
)
def test_one_is_singular(count: float, noun: str, text: str) -> None:
    assert counted(count, noun) == text
