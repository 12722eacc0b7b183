"""Checks of types and shapes for the first calls of a function in every test: thousands of equal
calls in a loop are checked once over and cost a tenth of the suite's time otherwise.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping

#: Checked calls of a function in one test.
LIMIT = 5

_test = 0


def begin_test() -> None:
    """Start counting the calls of all functions anew."""
    global _test
    _test += 1


def check_first_calls() -> None:
    """From here on ``jaxtyping.jaxtyped``, which the import hook applies to all functions and
    dataclasses, checks functions in their first ``LIMIT`` calls of a test only.
    """
    jaxtyped: Callable[..., Any] = jaxtyping.jaxtyped

    def limited(*, typechecker: Any) -> Callable[[Any], Any]:
        return lambda target: _limited(target, jaxtyped(typechecker=typechecker)(target))

    jaxtyping.jaxtyped = limited


def _limited(function: Any, checked: Any) -> Any:
    if not inspect.isfunction(function):
        return checked
    test, count = -1, 0

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal test, count
        if test != _test:
            test, count = _test, 0
        if count < LIMIT:
            count += 1
            return checked(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapper
