"""Words about pairs -> what the video model reads of them, for models with a text encoder.

In: pairs in training order, a text encoder. Out: the same pairs with the embedding of their
captions (paper section 4.1: text is a condition). Embeddings are made when a pair comes for the
first time and kept in the encoder's cache on disk.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from artifixer.pairs.loader import OrderedPairs, PairSet
from artifixer.pairs.pair import TrainingPair
from artifixer.video.text import TextEncoder


class CaptionedPairs(OrderedPairs):
    """``OrderedPairs`` whose pairs have caption embeddings; without an encoder they stay as they
    are.
    """

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
        """The pair at this place of the training order; errors as in ``OrderedPairs`` and
        ``TextEncoder.encode``.
        """
        return with_caption(super().pair(index), self._encoder)


def with_caption(pair: TrainingPair, encoder: TextEncoder | None) -> TrainingPair:
    """The pair with its caption's embedding; unchanged without encoder or caption, and when it has
    one already.
    """
    if encoder is None or not pair.caption or pair.caption_embedding is not None:
        return pair
    return replace(pair, caption_embedding=encoder.encode(pair.caption).embedding[0])
