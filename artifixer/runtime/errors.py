"""Exit codes, and the two exceptions that the user sees as one line instead of a traceback.

``InputError``  bad input or usage: one line that names the file, the value and what was expected;
                exit code 2.
``Stopped``     interrupted by SIGTERM after the state was saved; exit code 75, and the same command
                resumes.

Any other exception is a bug (exit code 1) or Ctrl-C (130).
"""

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # as shells report a process that was ended by SIGPIPE


class InputError(Exception):
    """Bad input or usage. The message is one line: the file, the value, and what was expected."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Stopped(Exception):
    """The work was stopped on request after saving its state; the same command continues it."""
