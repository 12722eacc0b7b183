"""Keys and values of earlier blocks, which later blocks of a roll-out attend to: one interface, two
stores.

In: keys and values of a block's tokens, layer by layer, as they are computed. Out: those of all
frames that the block attends to: the first ``sink_frames`` of the roll-out and the latest others,
``window_frames`` in all with the block's own (a rolling cache, paper section 4.2; the sink is the
public release's). Keys carry their absolute positions (RoPE), so the order in which a store returns
them does not matter.

Each call of the network on a block overwrites what the previous call on the same block stored:
later blocks see the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

Heads = Float[Tensor, "batch tokens heads width"]


class BlockCache(Protocol):
    """The cache during one call of the network on one block."""

    def extend(self, layer: int, keys: Heads, values: Heads) -> tuple[Heads, Heads]:
        """Store the block's keys and values of a layer; return all that the block attends to, its
        own included.
        """


class KVCache(Protocol):
    """The cache of one roll-out."""

    def open_block(self, first_frame: int, frames: int) -> BlockCache:
        """Begin a call of the network on latent frames from ``first_frame`` on: the block after the
        stored ones, or the last one again.
        """


class RingCache:
    """Preallocated slots for ``window_frames`` latent frames, without gradients.

    Sink frames keep their slots, later frames take the others in turn: nothing is shifted or
    joined, and a full cache costs the same for any length of video. Host and device never wait for
    each other: which slot is next is known from frame numbers alone.
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
        assert frames <= room, f"a block of {frames} frames in {room} that are not kept"
        return _RingBlock(
            self,
            self._runs(first_frame, frames),
            min(first_frame + frames, self.window_frames) * self.frame_tokens,
        )

    def bytes(self) -> int:
        """Memory of the slots."""
        return self.slots.nbytes

    def _runs(self, first_frame: int, frames: int) -> tuple[tuple[int, int, int], ...]:
        """Tokens of the block and the slots they go to, in as few runs as possible: (first slot,
        first token, count).
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

    def extend(self, layer: int, keys: Heads, values: Heads) -> tuple[Heads, Heads]:
        assert not torch.is_grad_enabled(), (
            "the ring overwrites its slots: use AppendingCache for gradients"
        )
        stored_keys, stored_values = self.cache.slots[layer]
        for slot, token, count in self.runs:
            stored_keys[:, slot : slot + count] = keys[:, token : token + count]
            stored_values[:, slot : slot + count] = values[:, token : token + count]
        return stored_keys[:, : self.filled], stored_values[:, : self.filled]


class AppendingCache:
    """Keeps every block's keys and values with their gradients, and joins those that a block
    attends to.

    Under gradient checkpointing a layer runs again after later blocks have been stored: a block's
    view of the past is fixed when it is opened, and what a second run stores is ignored.
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
    """oldest: the earliest frame after the sink that is still seen.

    Not a dataclass: FSDP copies those that hold tensors with gradients when they are passed to a
    layer, and what the layer stores is lost.
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

    def extend(self, layer: int, keys: Heads, values: Heads) -> tuple[Heads, Heads]:
        self.stored.setdefault(layer, (keys, values))
        seen = [
            piece
            for block in self.past
            for piece in block.seen(layer, self.oldest, self.sink_frames)
        ]
        all_keys, all_values = zip(*seen, (keys, values), strict=True)
        return torch.cat(all_keys, dim=1), torch.cat(all_values, dim=1)

    def seen(self, layer: int, oldest: int, sink_frames: int) -> list[tuple[Heads, Heads]]:
        """What a later block sees of this one: frames of the sink and frames from ``oldest`` on."""
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
    """Check that a block follows the last one, or repeats it; its first and end frame."""
    block = (first_frame, first_frame + frames)
    assert first_frame == last[1] or block == last, (
        f"frames {block[0]} to {block[1]} do not follow {last[0]} to {last[1]}"
    )
    return block
