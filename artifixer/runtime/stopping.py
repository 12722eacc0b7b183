"""Stopping on request, from the first moment of a process to its last: SIGTERM and Ctrl-C.

What SIGTERM does depends on what would be lost::

    # imports, options: nothing is lost, the process ends at once with 75 (130 for Ctrl-C)
    with leave_on_signals():
        ...
    # work that may be cut anywhere: ``Stopped`` is raised where it stands
    with stop_at_once():
        ...
        # work with a state: only a flag is set; the work saves and raises ``Stopped``
        with stop_on_sigterm():
            for iteration in range(first, last):
                ...
                if stop_requested():
                    save(...)
                    raise Stopped(f"{run}: stopped at iteration {iteration}")

Files are written atomically, so work without a state loses nothing but time when it is cut. On
Windows Ctrl-Break counts as SIGTERM, which does not exist there between processes.
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
    """SIGTERM arrived in work that may be cut anywhere. Libraries treat it as Ctrl-C;
    ``stop_at_once`` turns it into ``Stopped``.
    """


@contextmanager
def leave_on_signals() -> Iterator[None]:
    """Within this context SIGTERM ends the process at once with 75, Ctrl-C with 130, and a line on
    standard error.

    For imports: an exception from a signal handler would come out of them as an ``ImportError`` or
    vanish in a library's callback.
    """
    with _reacting("leave"):
        yield


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Within this context SIGTERM raises ``Stopped`` where the work stands; at its begin and end
    when it arrived before.
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

    Work that ends without having read the flag is done; inside ``stop_at_once`` ``Stopped`` is
    raised then.
    """
    with _reacting("remember") as outer:
        yield
    if outer == "raise":
        stop_if_requested()


def stop_requested() -> bool:
    """Whether SIGTERM arrived since the outermost of these contexts began.

    Raises KeyboardInterrupt when Ctrl-C came and a library has swallowed its exception.
    """
    if _interrupted:
        raise KeyboardInterrupt
    return _requested


def stop_if_requested(where: str = "") -> None:
    """Raises ``Stopped`` after SIGTERM; for points where everything worth keeping is on disk.
    where: "while reading photos".
    """
    if stop_requested():
        raise Stopped(
            f"stopped {where}; run the same command to continue" if where else STOPPED_TEXT
        )


def was_cut_short() -> bool:
    """Whether SIGTERM cut work short since the outermost of these contexts began."""
    return _cut_short


def was_interrupted() -> bool:
    """Whether Ctrl-C came since the outermost of these contexts began."""
    return _interrupted


@contextmanager
def handlers_kept() -> Iterator[None]:
    """For the import of a library that installs signal handlers of its own: the present ones are
    back after it.
    """
    yield
    if _in_main_thread():
        for number in (signal.SIGINT, *STOP_SIGNALS):
            handler = signal.getsignal(number)  # what Python knows, not what the library did
            if handler is not None:
                signal.signal(number, handler)


def leave_on_signals_from_now_on(code: int = 0) -> None:
    """The effect of ``leave_on_signals`` for the rest of the process, outside of other contexts.

    code: takes precedence over 75 and 130 unless it is 0; for a process that has failed and is
    about to end.
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
    """For the very end, when Python has no handlers any more and a signal would kill the
    process.
    """
    if _in_main_thread():
        for number in (signal.SIGINT, *STOP_SIGNALS):
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def _reacting(reaction: Reaction) -> Iterator[Reaction | None]:
    """SIGTERM has this effect inside; gives the effect outside. Other threads than the main one
    cannot handle signals: nothing changes.
    """
    global _requested, _cut_short, _interrupted, _reaction
    if not _in_main_thread():
        yield None
        return
    outer = _reaction
    before = {number: signal.signal(number, _request) for number in STOP_SIGNALS}
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is not signal.SIG_IGN:  # a shell's background jobs inherit that it is ignored
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
            if handler is not None:  # None: not Python's, and unknown
                signal.signal(number, handler)
        if outer is None:  # the outermost context: its request is answered
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
    with suppress(OSError, ValueError):  # nobody listens
        os.write(
            sys.__stderr__.fileno() if sys.__stderr__ is not None else 2,
            f"artifixer: {text}\n".encode(),
        )
    os._exit(code)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
