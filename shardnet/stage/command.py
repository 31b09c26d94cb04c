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


class Commands:
    """What a stage is asked for at once, and what can wait until it has no other work. No lock: see `stage`."""

    def __init__(self) -> None:
        self._now: list[Command[Any]] = []
        self._when_idle: list[tuple[float, Command[Any]]] = []

    def __len__(self) -> int:
        return len(self._now) + len(self._when_idle)

    def add(self, command: Command[Any], until_s: float | None) -> None:
        """Have it done at once; or when the stage is idle, at the latest with the first look after `until_s`."""
        if until_s is None:
            self._now.append(command)
        else:
            self._when_idle.append((until_s, command))

    @property
    def is_any_due(self) -> bool:
        """Whether one is to be done at once."""
        return bool(self._now)

    def due(self, now_s: float) -> list[Command[Any]]:
        """Those, and those that have waited long enough, whatever else there is to do."""
        due = [*self._now, *(command for until_s, command in self._when_idle if until_s <= now_s)]
        self._now, self._when_idle = [], [each for each in self._when_idle if each[0] > now_s]
        return due

    def note_idle(self) -> None:
        """Now there is nothing else to do: the oldest one that could wait is due."""
        oldest, self._when_idle = self._when_idle[:1], self._when_idle[1:]
        self._now += [command for _, command in oldest]

    def clear(self) -> list[Command[Any]]:
        """All of them."""
        waiting = [*self._now, *(command for _, command in self._when_idle)]
        self._now, self._when_idle = [], []
        return waiting
