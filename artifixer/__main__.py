"""The program's first and last moment: ``artifixer`` and ``python -m artifixer`` begin here.

SIGTERM and Ctrl-C are answered with their exit codes before anything else is imported, and until
the process is gone.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress

from artifixer.runtime.errors import EXIT_INTERRUPTED
from artifixer.runtime.stopping import ignore_signals, leave_on_signals_from_now_on


def main() -> None:
    """Run the command line and end the process."""
    leave_on_signals_from_now_on()
    atexit.register(ignore_signals)  # the first one that is registered runs last
    for stream in (sys.stdout, sys.stderr):
        # names and help have characters that some consoles cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    from artifixer import cli

    code = cli.main()
    leave_on_signals_from_now_on(code)
    if code == EXIT_INTERRUPTED:
        # Where Ctrl-C has left code that a library ran, ``python -m`` would end by the signal and
        # not with this code.
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            # there is none, or whoever read it went away
            with suppress(AttributeError, OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
