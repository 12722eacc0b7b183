"""Exit codes, and the two exceptions that carry a message to the user instead of a traceback.

``InputError``  a user's mistake: one line that names the file, the value and what was expected; the
process ends with 2.
``Stopped``     work interrupted by SIGTERM after its state was saved; the process ends with 75
and the same command resumes.
Anything else that escapes is a bug (1) or Ctrl-C (130).
"""

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # what a shell reports for a process whose reader went away


class InputError(Exception):
    """Bad input or usage. The message is one line: where (file), what (value), and what was
    expected.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Stopped(Exception):
    """The work was stopped on request and its state is saved; running the same command continues
    it.
    """
