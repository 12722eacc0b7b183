"""Handling of SIGTERM and Ctrl-C during the whole life of a process.

The effect of SIGTERM depends on what the process is doing::

    # imports, options: the process ends at once with 75 (130 for Ctrl-C)
    with leave_on_signals():
        ...
    # work that can be interrupted anywhere: ``Stopped`` is raised at the current instruction
    with stop_at_once():
        ...
        # work with state: only a flag is set; the work saves its state and raises ``Stopped``
        with stop_on_sigterm():
            for iteration in range(first, last):
                ...
                if stop_requested():
                    save(...)
                    raise Stopped(f"{run}: stopped at iteration {iteration}")

Files are written atomically, so that interrupted work without state loses only time. On Windows,
which has no SIGTERM between processes, Ctrl-Break has its effect.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Literal

from artifixer.runtime.errors import EXIT_INTERRUPTED, EXIT_STOPPED, Stopped

STOPPED_TEXT = "stopped; run the same command to continue"

#: Signals that ask to stop; all have the same effect.
STOP_SIGNALS = tuple(
    number
    for name in ("SIGTERM", "SIGBREAK")
    if (number := getattr(signal, name, None)) is not None
)

Reaction = Literal["leave", "raise", "remember"]

_requested = False
_cut_short = False
_interrupted = False
_reaction: Reaction | None = None
_decided = 0


class CutShort(KeyboardInterrupt):
    """Raised by SIGTERM inside ``stop_at_once``, which turns it into ``Stopped``. Libraries treat
    it like Ctrl-C.
    """


@contextmanager
def leave_on_signals() -> Iterator[None]:
    """Within this context SIGTERM ends the process at once with 75 and Ctrl-C with 130, after one
    line on standard error.

    For imports, where an exception from a signal handler could turn into an ``ImportError`` or be
    swallowed in a library's callback.
    """
    with _reacting("leave"):
        yield


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Within this context SIGTERM raises ``Stopped`` at the current instruction. Also raises it at
    the start and end of the context if SIGTERM has arrived before.
    """
    with _reacting("raise"):
        try:
            stop_if_requested()
            yield
        except CutShort:
            raise Stopped(STOPPED_TEXT) from None
        stop_if_requested()


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Within this context SIGTERM only sets the flag that ``stop_requested`` reads; contexts may be
    nested.

    If the work ends without reading the flag, it is complete; an enclosing ``stop_at_once`` then
    raises ``Stopped``.
    """
    with _reacting("remember") as outer:
        yield
    if outer == "raise":
        stop_if_requested()


def stop_requested() -> bool:
    """Whether SIGTERM has arrived since the outermost of these contexts was entered.

    Raises KeyboardInterrupt after a Ctrl-C whose exception a library has swallowed.
    """
    if _interrupted:
        raise KeyboardInterrupt
    return _requested


def stop_if_requested(where: str = "") -> None:
    """Raise ``Stopped`` after SIGTERM; for points where all state is on disk. where: for the
    message, such as "while reading photos".
    """
    if stop_requested():
        raise Stopped(
            f"stopped {where}; run the same command to continue" if where else STOPPED_TEXT
        )


def was_cut_short() -> bool:
    """Whether SIGTERM has raised ``CutShort`` since the outermost of these contexts was entered."""
    return _cut_short


def was_interrupted() -> bool:
    """Whether Ctrl-C has arrived since the outermost of these contexts was entered."""
    return _interrupted


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore the current signal handlers after importing a library that installs its own."""
    yield
    if _in_main_thread():
        for number in (signal.SIGINT, *STOP_SIGNALS):
            handler = signal.getsignal(number)  # Python's handler, unaware of the library's
            if handler is not None:
                signal.signal(number, handler)


def leave_on_signals_from_now_on(code: int = 0) -> None:
    """The effect of ``leave_on_signals`` for the rest of the process, outside of other contexts.

    code: exit code instead of 75 and 130 unless it is 0; for a process that is about to end with
    this code.
    """
    global _reaction, _decided
    if not _in_main_thread():
        return
    _reaction, _decided = "leave", code
    for number in STOP_SIGNALS:
        signal.signal(number, _request)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)


def ignore_signals() -> None:
    """Ignore signals at the very end of the process, when Python's handlers are gone and a signal
    would kill it.
    """
    if _in_main_thread():
        for number in (signal.SIGINT, *STOP_SIGNALS):
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def _reacting(reaction: Reaction) -> Iterator[Reaction | None]:
    """Set the effect of SIGTERM inside the context; yields the effect outside. Does nothing in
    threads other than the main one, which cannot handle signals.
    """
    global _requested, _cut_short, _interrupted, _reaction
    if not _in_main_thread():
        yield None
        return
    outer = _reaction
    before = {number: signal.signal(number, _request) for number in STOP_SIGNALS}
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is not signal.SIG_IGN:  # background jobs of a shell inherit an ignored Ctrl-C
        if reaction == "leave":
            signal.signal(signal.SIGINT, _leave)
        elif outer == "leave":
            signal.signal(signal.SIGINT, _interrupt)
    _reaction = reaction
    try:
        yield outer
    finally:
        _reaction = outer
        for number, handler in (*before.items(), (signal.SIGINT, interrupted)):
            if handler is not None:  # None: installed by a library and unknown to Python
                signal.signal(number, handler)
        if outer is None:  # leaving the outermost context
            _requested = _cut_short = _interrupted = False


def _request(number: int, frame: FrameType | None) -> None:
    global _requested, _cut_short
    _requested = True
    if _reaction == "leave":
        _leave(number, frame)
    if _reaction == "raise":
        _cut_short = True
        raise CutShort


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    if _decided:
        os._exit(_decided)
    code, text = (
        (EXIT_INTERRUPTED, "interrupted")
        if number == signal.SIGINT
        else (EXIT_STOPPED, STOPPED_TEXT)
    )
    with suppress(OSError, ValueError):  # standard error is closed
        os.write(
            sys.__stderr__.fileno() if sys.__stderr__ is not None else 2,
            f"artifixer: {text}\n".encode(),
        )
    os._exit(code)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
