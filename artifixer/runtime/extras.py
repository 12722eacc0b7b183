"""Optional packages: a missing one ends in one line that names the extra which brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from artifixer.runtime.errors import InputError


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Import optional packages inside this block.

    extra: the name in ``pyproject.toml``. what: what needs it, the beginning of the message.
    Raises ``InputError`` when a package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{what} needs the extra {extra} ({error}): pip install 'artifixer[{extra}]'"
        ) from error
