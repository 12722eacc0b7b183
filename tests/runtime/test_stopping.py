"""SIGTERM as a request: work ends where its state is on disk."""

import os
import signal

import pytest

from artifixer.runtime.errors import Stopped
from artifixer.runtime.stopping import stop_if_requested, stop_on_sigterm, stop_requested


def test_a_request_is_seen_until_the_outermost_context_ends() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_sigterm():
        stop_if_requested("before anything happened")
        with stop_on_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop_requested()
        assert stop_requested()
        with pytest.raises(Stopped, match="stopped while reading photos; run the same command to continue"):
            stop_if_requested("while reading photos")
    assert not stop_requested()
    assert signal.getsignal(signal.SIGTERM) is before
