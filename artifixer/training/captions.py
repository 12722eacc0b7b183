"""Caption embeddings of training pairs, for models with a text encoder.

In: pairs in training order, a text encoder. Out: the same pairs with the embeddings of their
captions (paper section 4.1: text is a condition). Embeddings are computed when a pair is first read
and cached on disk by the encoder.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from artifixer.pairs.loader import OrderedPairs, PairSet
from artifixer.pairs.pair import TrainingPair
from artifixer.video.text import TextEncoder


class CaptionedPairs(OrderedPairs):
    """``OrderedPairs`` with caption embeddings; without an encoder the pairs are unchanged."""

    def __init__(
        self,
        pairs: PairSet,
        seed: int,
        group: int,
        encoder: TextEncoder | None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(pairs, seed, group, device=device)
        self._encoder = encoder

    def pair(self, index: int) -> TrainingPair:
        """The pair at this index of the training order; errors as in ``OrderedPairs`` and
        ``TextEncoder.encode``.
        """
        return with_caption(super().pair(index), self._encoder)


def with_caption(pair: TrainingPair, encoder: TextEncoder | None) -> TrainingPair:
    """The pair with its caption's embedding; unchanged if it has one, or without encoder or
    caption.
    """
    if encoder is None or not pair.caption or pair.caption_embedding is not None:
        return pair
    return replace(pair, caption_embedding=encoder.encode(pair.caption).embedding[0])
