"""What is done in a child comes back, a refusal as the refusal that it is, and nothing else of it stays."""

from __future__ import annotations

import errno
import os
import signal
import sys

import pytest

from shardnet.errors import BadRequest, JoinFailed, NameTaken
from shardnet.process.aside import done_aside


def test_what_it_returns_comes_back_and_what_it_imports_does_not_stay() -> None:
    def work() -> str:
        import xmlrpc.client as seldom_used

        return f"{seldom_used.__name__} Grüße {'x' * 30_000}"

    before = len(os.listdir("/proc/self/fd"))
    assert done_aside(work) == f"xmlrpc.client Grüße {'x' * 30_000}"
    assert "xmlrpc.client" not in sys.modules and len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("no code", "--code"),
        NameTaken("pixel is taken"),
        JoinFailed("nobody answers"),
        OSError(errno.ENOSPC, "No space left on device", "/state"),
        KeyError("a defect"),
    ],
)
def test_an_error_is_the_same_one(error: Exception) -> None:
    def work() -> str:
        raise error

    with pytest.raises(type(error)) as raised:
        done_aside(work)
    assert type(raised.value) is type(error) and str(raised.value) == str(error)


def test_a_child_that_is_killed_is_no_result() -> None:
    def work() -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    with pytest.raises(RuntimeError, match="ended with -9"):
        done_aside(work)
