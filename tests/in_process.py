"""Work in a process of its own that may die there: forked, so that nothing has to be imported
again.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # an optimizer loads it: here once, not in every process

#: A process that has not ended by then hangs, seconds.
PATIENCE = 240


def in_process(work: Callable[[], Any], output: Path | None = None) -> int:
    """Do the work in a process of its own: its exit code, or minus the number of the signal that
    ended it. Both output streams go to the file ``output``, if given.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            # no file of the test runner's may meet a limit of the process's
            file = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            for stream in (1, 2):
                os.dup2(file, stream)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            torch.set_num_threads(1)  # the parent's threads do not exist here
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
