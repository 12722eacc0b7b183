"""The two stores of keys and values: what a block sees, by the rule, and that both see the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from artifixer.video.cache import AppendingCache, KVCache, RingCache

FRAME_TOKENS, HEADS, WIDTH, LAYERS = 2, 2, 3, 2

#: (block, window, sink) in latent frames: the release's, no sink, blocks that fit neither sink nor
#: ring, a sink under one block.
GEOMETRIES = [(7, 21, 7), (2, 6, 2), (2, 4, 0), (2, 7, 3), (3, 8, 1), (4, 6, 2), (1, 3, 1)]


def ring(window: int, sink: int) -> RingCache:
    return RingCache(LAYERS, (1, FRAME_TOKENS, HEADS, WIDTH), window, sink)


def block_of(first: int, frames: int, layer: int = 0, call: int = 0) -> tuple[Tensor, Tensor]:
    """Keys hold 1000 call + 100 layer + frame, values minus that: each entry says where it comes
    from.
    """
    frame = torch.arange(first, first + frames, dtype=torch.float32).repeat_interleave(FRAME_TOKENS)
    keys = (1000 * call + 100 * layer + frame)[None, :, None, None].expand(1, -1, HEADS, WIDTH)
    return keys.clone(), -keys


def frames_seen(
    cache: KVCache, first: int, frames: int, layer: int = 0, call: int = 0
) -> list[int]:
    """What the keys say, one number per frame, sorted; values must agree."""
    keys, values = cache.open_block(first, frames).extend(
        layer, *block_of(first, frames, layer, call)
    )
    assert torch.equal(keys, -values)
    assert (keys == keys[:, :, :1, :1]).all()
    numbers = keys[0, :, 0, 0].view(-1, FRAME_TOKENS)
    assert (numbers == numbers[:, :1]).all()
    return sorted(int(number) for number in numbers[:, 0])


@pytest.mark.parametrize(("block", "window", "sink"), GEOMETRIES)
def test_a_block_sees_the_sink_and_the_latest_frames(block: int, window: int, sink: int):
    stores: list[KVCache] = [ring(window, sink), AppendingCache(window, sink)]
    with torch.no_grad():
        for first in range(0, 12 * block, block):
            end = first + block
            expected = [
                frame for frame in range(end) if frame < sink or frame >= end - (window - sink)
            ]
            for store in stores:
                assert frames_seen(store, first, block) == expected


def test_an_appending_store_keeps_all_by_default():
    cache = AppendingCache()
    for first in range(0, 10, 2):
        assert frames_seen(cache, first, 2) == list(range(first + 2))


@pytest.mark.parametrize(("block", "window", "sink"), GEOMETRIES)
def test_the_last_call_on_a_block_is_what_later_blocks_see(block: int, window: int, sink: int):
    with torch.no_grad():
        for store in (ring(window, sink), AppendingCache(window, sink)):
            for first in range(0, 6 * block, block):
                for call in range(3):
                    seen = frames_seen(store, first, block, call=call)
                    assert all(
                        number // 1000 == (call if number % 1000 >= first else 2) for number in seen
                    )


def test_layers_are_kept_apart():
    with torch.no_grad():
        for store in (ring(6, 2), AppendingCache(6, 2)):
            for first in range(0, 12, 2):
                opened = store.open_block(first, 2)
                for layer in range(LAYERS):
                    keys, _ = opened.extend(layer, *block_of(first, 2, layer))
                    assert (keys // 100 == layer).all()


def test_the_ring_hands_out_its_own_memory():
    cache = ring(6, 2)
    with torch.no_grad():
        for first in range(0, 20, 2):
            keys, values = cache.open_block(first, 2).extend(1, *block_of(first, 2))
            assert (
                keys.untyped_storage().data_ptr()
                == values.untyped_storage().data_ptr()
                == cache.slots.untyped_storage().data_ptr()
            )
    assert cache.bytes() == LAYERS * 2 * 6 * FRAME_TOKENS * HEADS * WIDTH * 4


def test_a_second_run_of_a_layer_sees_the_past_of_its_own_call():
    """As gradient checkpointing runs layers again when later blocks have been stored."""
    cache = AppendingCache()
    opened = []
    for first in (0, 2, 4):
        opened.append(cache.open_block(first, 2))
        opened[-1].extend(0, *block_of(first, 2))
    keys, _ = opened[1].extend(0, *block_of(2, 2, call=9))
    assert keys[0, ::FRAME_TOKENS, 0, 0].tolist() == [0, 1, 9002, 9003]
    assert frames_seen(cache, 4, 2) == [0, 1, 2, 3, 4, 5]


def test_gradients_reach_earlier_blocks_in_the_appending_store_only():
    cache = AppendingCache()
    first_keys, first_values = (tensor.requires_grad_() for tensor in block_of(0, 2))
    cache.open_block(0, 2).extend(0, first_keys, first_values)
    keys, values = cache.open_block(2, 2).extend(0, *block_of(2, 2))
    (keys.sum() + 2 * values.sum()).backward()
    assert first_keys.grad is not None
    assert first_values.grad is not None
    assert (first_keys.grad == 1).all()
    assert (first_values.grad == 2).all()
    with pytest.raises(AssertionError, match="use AppendingCache for gradients"):
        ring(6, 2).open_block(0, 2).extend(0, *block_of(0, 2))


def test_blocks_follow_each_other_and_fit():
    for store in (ring(6, 2), AppendingCache(6, 2)):
        store.open_block(0, 2)
        store.open_block(0, 2)
        store.open_block(2, 2)
        with pytest.raises(AssertionError, match="frames 6 to 8 do not follow 2 to 4"):
            store.open_block(6, 2)
    cache = ring(6, 2)
    cache.open_block(0, 2)
    with pytest.raises(AssertionError, match="a block of 5 frames in 4 slots"):
        cache.open_block(2, 5)
