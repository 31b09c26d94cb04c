"""What is asked of a stage's compute thread between two of its steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from shardnet.errors import ClusterError
from shardnet.process.threads import do_for

Result = TypeVar("Result")


class Command(Generic[Result]):
    """Something to be done between two steps."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self.done: Future[Result] = Future()

    def run(self) -> None:
        do_for(self.done, self._work)

    def refuse(self, error: ClusterError) -> None:
        self.done.set_exception(error)
