"""Optional packages: the error for a missing one names the extra that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from artifixer.runtime.errors import InputError


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Import optional packages inside this context.

    extra: name in ``pyproject.toml``. what: the feature that needs it, for the message. Raises
    ``InputError`` if a package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{what} needs the extra {extra} ({error}): pip install 'artifixer[{extra}]'"
        ) from error
