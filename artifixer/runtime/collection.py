"""When Python looks for cyclic garbage in a process that is one command.

Importing PyTorch makes half a million objects that live as long as the process. Going through them
during the import and once more at the end takes 0.5 s, a third of a short command.
"""

from __future__ import annotations

import gc


def hold_collection() -> None:
    """Collect no garbage until ``begin_collection``; for the imports at the start of a process."""
    gc.disable()


def begin_collection() -> None:
    """Collect garbage from now on, among what is made from now on. Without effect unless the
    process has begun with ``hold_collection``.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def end_collection() -> None:
    """Leave all objects to the end of the process."""
    gc.freeze()
