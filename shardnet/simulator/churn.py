"""Devices that come and go all the time, as people do: how long they stay and how long they are away is drawn. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from shardnet.foreign.bounds import SECONDS, Amount, check_fields
from shardnet.planner.problem import Problem


@dataclass(frozen=True)
class Churn:
    """How devices come and go: exponential times. The source stays, and so do devices that only relay."""

    stay_s: Annotated[float, Amount(SECONDS.most, above_zero=True)] = 600.0
    """Mean time that a device is there."""
    away_s: Annotated[float, Amount(SECONDS.most, above_zero=True)] = 300.0
    """Mean time until it is back."""
    goodbye: Annotated[float, Amount(1.0)] = 0.0
    """Share of those who go that say so before; the others are gone without a word."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def mobile(self, problem: Problem) -> list[str]:
        """The devices that come and go."""
        return [each.name for each in problem.devices if each.memory_bytes > 0 and each.name != problem.source]

    def away_at_start(self, problem: Problem) -> set[str]:
        """As many are away at the start as at any other time."""
        chance = random.Random(self.seed)
        share = self.away_s / (self.stay_s + self.away_s)
        return {name for name in self.mobile(problem) if chance.random() < share}


class Traffic:
    """Churn, as it happens in a run.

    Args:
        after: does something so many seconds from now.
        go: called with a device that goes, and whether it says so.
        come: called with a device that is back.
    """

    def __init__(
        self,
        churn: Churn,
        after: Callable[[float, Callable[[], object]], object],
        go: Callable[[str, bool], object],
        come: Callable[[str], object],
    ) -> None:
        self._churn, self._after, self._go, self._come = churn, after, go, come
        self._chance = random.Random(churn.seed + 1)
        self.is_over = False
        """Nobody goes any more."""

    def begin(self, problem: Problem) -> None:
        away = self._churn.away_at_start(problem)
        for name in self._churn.mobile(problem):
            (self._return_later if name in away else self._go_later)(name)

    def _go_later(self, name: str) -> None:
        def go() -> None:
            if not self.is_over:
                self._go(name, self._chance.random() < self._churn.goodbye)
                self._return_later(name)

        self._after(self._chance.expovariate(1 / self._churn.stay_s), go)

    def _return_later(self, name: str) -> None:
        def come() -> None:
            self._come(name)
            self._go_later(name)

        self._after(self._chance.expovariate(1 / self._churn.away_s), come)
