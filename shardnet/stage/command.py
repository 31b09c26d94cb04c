"""What is asked of a stage's compute thread between two of its steps, at once or when it has nothing else to do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

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


class WhenIdle:
    """What can wait until the stage has no other work, each for so long at most. No lock: see `stage`."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, Command[Any]]] = []

    def add(self, until_s: float, command: Command[Any]) -> None:
        """Have it done, at the latest with the first look after `until_s`."""
        self._waiting.append((until_s, command))

    def overdue(self, now_s: float) -> list[Command[Any]]:
        """Those that have waited long enough, whatever else there is to do."""
        due = [command for until_s, command in self._waiting if until_s <= now_s]
        self._waiting = [each for each in self._waiting if each[0] > now_s]
        return due

    def next(self) -> list[Command[Any]]:
        """The oldest one, if any waits: now there is nothing else to do."""
        oldest, self._waiting = self._waiting[:1], self._waiting[1:]
        return [command for _, command in oldest]

    def clear(self) -> list[Command[Any]]:
        """All of them."""
        waiting, self._waiting = self._waiting, []
        return [command for _, command in waiting]
