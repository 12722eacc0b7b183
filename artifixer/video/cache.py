"""The key-value cache of a rollout: keys and values of earlier blocks, in two implementations.

In: keys and values of a block's tokens, layer by layer, as they are computed. Out: those of all
frames that the block attends to: the first ``sink_frames`` of the rollout and the latest others,
``window_frames`` in all, including the block's own (a rolling cache, paper section 4.2; the sink is
the public release's). Keys contain their absolute positions (RoPE), so their order does not matter.

Each call of the network on a block overwrites the entries of the previous call on the same block:
later blocks attend to those of the last call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Heads = Float[Tensor, "batch tokens heads width"]

#: Keys or values of all tokens that a block attends to.
SeenHeads = Float[Tensor, "batch seen_tokens heads width"]


@runtime_checkable
class BlockCache(Protocol):
    """The cache during one call of the network on one block."""

    def extend(self, layer: int, keys: Heads, values: Heads) -> tuple[SeenHeads, SeenHeads]:
        """Store the block's keys and values of a layer; return those of all frames that the block
        attends to, including its own.
        """


@runtime_checkable
class KVCache(Protocol):
    """The cache of one rollout."""

    def open_block(self, first_frame: int, frames: int) -> BlockCache:
        """Begin a call of the network on ``frames`` latent frames from ``first_frame`` on: the next
        block, or the last one again.
        """


class RingCache:
    """Preallocated slots for ``window_frames`` latent frames, without gradients.

    Sink frames keep their slots; later frames use the others as a ring buffer. Nothing is shifted
    or concatenated, and the cost does not depend on the length of the video. Slots follow from
    frame numbers alone, so host and device need no synchronisation.
    """

    def __init__(
        self,
        layers: int,
        shape: tuple[int, int, int, int],
        window_frames: int,
        sink_frames: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """shape: (batch, tokens per frame, heads, head width)."""
        assert 0 <= sink_frames < window_frames, (
            f"{sink_frames} sink frames in a window of {window_frames}"
        )
        batch, self.frame_tokens, heads, width = shape
        self.window_frames, self.sink_frames = window_frames, sink_frames
        slots = (layers, 2, batch, window_frames * self.frame_tokens, heads, width)
        self.slots = torch.zeros(slots, device=device, dtype=dtype)
        self.last: tuple[int, int] = (0, 0)  # first and end frame of the last block

    def open_block(self, first_frame: int, frames: int) -> BlockCache:
        self.last = _next_block(self.last, first_frame, frames)
        room = self.window_frames - min(first_frame, self.sink_frames)
        assert frames <= room, f"a block of {frames} frames in {room} slots"
        return _RingBlock(
            self,
            self._runs(first_frame, frames),
            min(first_frame + frames, self.window_frames) * self.frame_tokens,
        )

    def bytes(self) -> int:
        """Size of the slots."""
        return self.slots.nbytes

    def _runs(self, first_frame: int, frames: int) -> tuple[tuple[int, int, int], ...]:
        """Contiguous copies from the block's tokens to the slots: (first slot, first token,
        count).
        """
        runs: list[tuple[int, int, int]] = []
        for index in range(frames):
            slot = self._slot(first_frame + index) * self.frame_tokens
            token = index * self.frame_tokens
            if runs and runs[-1][0] + runs[-1][2] == slot:
                runs[-1] = (*runs[-1][:2], runs[-1][2] + self.frame_tokens)
            else:
                runs.append((slot, token, self.frame_tokens))
        return tuple(runs)

    def _slot(self, frame: int) -> int:
        if frame < self.sink_frames:
            return frame
        return self.sink_frames + (frame - self.sink_frames) % (
            self.window_frames - self.sink_frames
        )


@dataclass(frozen=True)
class _RingBlock:
    cache: RingCache
    runs: tuple[tuple[int, int, int], ...]
    filled: int

    def extend(self, layer: int, keys: Heads, values: Heads) -> tuple[SeenHeads, SeenHeads]:
        assert not torch.is_grad_enabled(), (
            "the ring buffer overwrites its slots: use AppendingCache for gradients"
        )
        stored_keys, stored_values = self.cache.slots[layer]
        for slot, token, count in self.runs:
            stored_keys[:, slot : slot + count] = keys[:, token : token + count]
            stored_values[:, slot : slot + count] = values[:, token : token + count]
        return stored_keys[:, : self.filled], stored_values[:, : self.filled]


class AppendingCache:
    """Keeps every block's keys and values with their gradients, and concatenates those that a block
    attends to.

    Under activation checkpointing a layer runs again after later blocks have been stored: the set
    of earlier blocks is fixed when a block is opened, and a second run stores nothing.
    """

    def __init__(self, window_frames: int | None = None, sink_frames: int = 0) -> None:
        """window_frames: None keeps all."""
        self.window_frames, self.sink_frames = window_frames, sink_frames
        self.blocks: dict[int, _AppendedBlock] = {}
        self.last: tuple[int, int] = (0, 0)

    def open_block(self, first_frame: int, frames: int) -> BlockCache:
        self.last = _next_block(self.last, first_frame, frames)
        past = tuple(block for first, block in sorted(self.blocks.items()) if first < first_frame)
        oldest = (
            0
            if self.window_frames is None
            else first_frame + frames - (self.window_frames - self.sink_frames)
        )
        block = _AppendedBlock(first_frame, frames, past, oldest, self.sink_frames)
        self.blocks[first_frame] = block
        return block


class _AppendedBlock:
    """One block. oldest: the earliest frame after the sink that is attended to.

    Not a dataclass: FSDP copies dataclasses with tensors that need gradients when they are passed
    to a layer, so that entries stored by the layer would be lost.
    """

    def __init__(
        self,
        first_frame: int,
        frames: int,
        past: tuple[_AppendedBlock, ...],
        oldest: int,
        sink_frames: int,
    ) -> None:
        self.first_frame, self.frames, self.past, self.oldest, self.sink_frames = (
            first_frame,
            frames,
            past,
            oldest,
            sink_frames,
        )
        self.stored: dict[int, tuple[Heads, Heads]] = {}

    def extend(self, layer: int, keys: Heads, values: Heads) -> tuple[SeenHeads, SeenHeads]:
        self.stored.setdefault(layer, (keys, values))
        seen = [
            piece
            for block in self.past
            for piece in block.seen(layer, self.oldest, self.sink_frames)
        ]
        all_keys, all_values = zip(*seen, (keys, values), strict=True)
        return torch.cat(all_keys, dim=1), torch.cat(all_values, dim=1)

    def seen(self, layer: int, oldest: int, sink_frames: int) -> list[tuple[Heads, Heads]]:
        """Keys and values that a later block attends to: of sink frames and frames from ``oldest``
        on.
        """
        kept = [
            frame
            for frame in range(self.first_frame, self.first_frame + self.frames)
            if frame < sink_frames or frame >= oldest
        ]
        if len(kept) == self.frames:
            return [self.stored[layer]]
        pieces = []
        for frame in kept:
            keys, values = (
                tensor.unflatten(1, (self.frames, -1))[:, frame - self.first_frame]
                for tensor in self.stored[layer]
            )
            pieces.append((keys, values))
        return pieces


def _next_block(last: tuple[int, int], first_frame: int, frames: int) -> tuple[int, int]:
    """First and end frame of a block, which must follow the last one or repeat it (asserted)."""
    block = (first_frame, first_frame + frames)
    assert first_frame == last[1] or block == last, (
        f"frames {block[0]} to {block[1]} do not follow {last[0]} to {last[1]}"
    )
    return block
