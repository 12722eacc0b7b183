"""Entry point of ``artifixer`` and ``python -m artifixer``.

SIGTERM and Ctrl-C lead to their exit codes from before the first heavy import until the process
has ended.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress

from artifixer.runtime.collection import end_collection, hold_collection
from artifixer.runtime.errors import EXIT_INTERRUPTED
from artifixer.runtime.stopping import ignore_signals, leave_on_signals_from_now_on


def main() -> None:
    """Run the command line and end the process."""
    leave_on_signals_from_now_on()
    hold_collection()
    atexit.register(ignore_signals)  # registered first, so it runs last
    for stream in (sys.stdout, sys.stderr):
        # file names and help texts contain characters that some consoles cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    from artifixer import cli

    code = cli.main()
    leave_on_signals_from_now_on(code)
    end_collection()
    if code == EXIT_INTERRUPTED:
        # after a KeyboardInterrupt inside a library, ``python -m`` may end by the signal instead of
        # with this exit code
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            # the stream is missing or its reader has closed it
            with suppress(AttributeError, OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
