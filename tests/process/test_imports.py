"""Signals that arrive while something is imported."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from shardnet.process.imports import importing
from shardnet.process.signals import ENDING, raised


def test_a_signal_that_an_import_has_swallowed_is_raised_behind_it() -> None:
    """Once, Ctrl-C at the right moment was lost, and `shardnet doctor` went on to its end."""
    with raised() as arrived:
        before = [signal.getsignal(number) for number in ENDING]
        with pytest.raises(SystemExit) as end, importing():
            with suppress(BaseException):
                os.kill(os.getpid(), signal.SIGTERM)
                pytest.fail("the signal comes at once")
        assert end.value.code == 128 + signal.SIGTERM and arrived[0] == signal.SIGTERM
        assert [signal.getsignal(number) for number in ENDING] == before
        with pytest.raises(KeyboardInterrupt), importing():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt as cause:
                raise ImportError("no such module") from cause
        with pytest.raises(KeyboardInterrupt), importing():
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("one that is not swallowed is raised where it comes")
