"""Exit codes of benchmarks: those of ``artifixer``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from artifixer.runtime.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    InputError,
    Stopped,
)


def exit_code_of(job: Callable[[], object]) -> int:
    """Run the job: 0 when it is done, 2 for bad input, 75 when it was stopped by SIGTERM with its
    state saved, 130 for Ctrl-C. Prints one line for 2 and 75; other exceptions pass through.
    """
    try:
        job()
        return EXIT_DONE
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
