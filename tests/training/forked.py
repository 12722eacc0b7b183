"""Processes of a test that may die: forked, so that nothing has to be imported again."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._dynamo  # an optimizer loads it: here once, not in every process

#: A process that has not ended by then hangs, seconds.
PATIENCE = 240


def fork(action: Callable[[], Any], **environment: str) -> int:
    """Start a process that runs the action and leaves with what it returns (0 for None), or with 1
    after an error; gives its number.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.environ.update(environment)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)
        torch.set_num_threads(1)  # the parent's threads do not exist here
        code = action() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(process: int) -> int:
    """Wait for a process: its exit code, or minus the number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run_ranks(actions: Sequence[Callable[[], Any]]) -> list[int]:
    """Run the actions as the processes of one job that can join each other through gloo; gives how
    they ended.
    """
    place = {
        "WORLD_SIZE": str(len(actions)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20_000 + os.getpid() % 9_000),
    }
    ranks = [
        fork(action, RANK=str(rank), LOCAL_RANK=str(rank), **place)
        for rank, action in enumerate(actions)
    ]
    return [ended(process) for process in ranks]
