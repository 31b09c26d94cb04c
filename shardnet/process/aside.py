"""Work in a child of its own, whose imports end with it: a process that goes on as a device has use for every MiB.

The child is forked: to be used where no threads are yet.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def done_aside(work: Callable[[], T]) -> T:
    """What `work` returns, which is pickled on its way.

    Raises:
        Exception: what it raises.
        RuntimeError: its process ended without either.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _do(work, writing)
    os.close(writing)
    with open(reading, "rb") as end:
        told = end.read()
    _, status = os.waitpid(child, 0)
    if not told:
        raise RuntimeError(f"what was done aside ended with {os.waitstatus_to_exitcode(status)}")
    result: T | Exception = pickle.loads(told)  # of our own child: nobody else has the pipe
    if isinstance(result, Exception):
        raise result
    return result


def _do(work: Callable[[], object], writing: int) -> None:
    """In the child, which ends with it. Where it is interrupted, so is its parent."""
    code = 1
    try:
        result: object
        try:
            result = work()
        except Exception as error:
            result = error
        with open(writing, "wb") as end:
            end.write(pickle.dumps(result))
        code = 0
    finally:
        os._exit(code)
