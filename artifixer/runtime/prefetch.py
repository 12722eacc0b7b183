"""Prefetching: an iterator evaluated in a background thread, a few items ahead of its reader.

In: an iterator and a device. Out: the same items in the same order. On CUDA every thread has its
own stream, and the reader's stream waits for an item's tensors without blocking the host. On a CPU
items are computed when they are read, because threads gain nothing there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Ready(Generic[Item]):
    item: Item
    event: Any


@dataclass(frozen=True)
class _Ended:
    error: BaseException | None


def prefetch(
    items: Iterator[Item],
    device: torch.device,
    ahead: int = 1,
    priority: int = 0,
    threads: bool | None = None,
) -> Iterator[Item]:
    """Yield the items of ``items``, computed in a background thread up to ``ahead`` items early.

    The thread runs without gradients. Closing the returned iterator stops the thread at the next
    item and closes ``items``; an error in the thread is raised here, after the items before it.
    priority: of the CUDA stream; lower runs first. threads: None uses a thread on CUDA only.
    """
    if not (device.type == "cuda" if threads is None else threads):
        yield from items
        return
    ready: queue.Queue[_Ready[Item] | _Ended] = queue.Queue(maxsize=ahead)
    stop = threading.Event()
    thread = threading.Thread(
        target=_produce, args=(items, ready, stop, device, priority), daemon=True
    )
    thread.start()
    try:
        while True:
            match ready.get():
                case _Ended(error):
                    if error is not None:
                        raise error
                    return
                case _Ready(item, event):
                    if event is not None:
                        reader = torch.cuda.current_stream(device)
                        reader.wait_event(event)
                        for tensor in _tensors(item):
                            # otherwise its memory could be reused before queued work has read it
                            tensor.record_stream(reader)
                    yield item
    finally:
        stop.set()
        while thread.is_alive():
            _drain(ready)  # the thread may be blocked on a full queue
            thread.join(timeout=0.05)


def _produce(
    items: Iterator[Any],
    ready: queue.Queue[Any],
    stop: threading.Event,
    device: torch.device,
    priority: int,
) -> None:
    stream = torch.cuda.Stream(device, priority) if device.type == "cuda" else None
    error: BaseException | None = None
    try:
        with torch.no_grad(), torch.cuda.stream(stream) if stream is not None else nullcontext():
            for item in items:
                ready.put(_Ready(item, stream.record_event() if stream is not None else None))
                if stop.is_set():
                    break
    except BaseException as raised:
        error = raised  # re-raised in the reader's thread
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
    ready.put(_Ended(error))


def _drain(ready: queue.Queue[Any]) -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        pass


def _tensors(value: object) -> Iterator[Tensor]:
    """The CUDA tensors in an item: itself, in lists, in fields of dataclasses."""
    if isinstance(value, Tensor):
        if value.is_cuda:
            yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
