"""The script of faults of the in-process network: which messages are lost, late or doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass
class Rule:
    """What happens to the next `count` messages from one device to another; "*" stands for any name."""

    source: str
    target: str
    endpoint: str
    is_answer: bool
    num_copies: int
    """0: the message is lost. 2: it arrives twice."""
    count: int
    skip: int = 0
    """So many of them pass before."""

    def applies(self, source: str, target: str, endpoint: str, is_answer: bool) -> bool:
        """Whether a message is one of those that are meant."""
        return (
            self.count > 0
            and self.source in ("*", source)
            and self.target in ("*", target)
            and self.endpoint in ("*", endpoint)
            and self.is_answer == is_answer
        )


@dataclass
class Moment:
    """Something that is done when a message is sent."""

    endpoint: str
    skip: int
    action: Callable[[], object]


class Faults:
    """The rules in force. A message follows the oldest rule that applies, and uses it up by one."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._moments: list[Moment] = []
        self._delays_s: dict[tuple[str, str], float] = {}
        self._most_s = 0.0
        self._random = Random()
        self._lock = threading.Lock()

    def add(self, rule: Rule) -> None:
        """Put a rule into force."""
        with self._lock:
            self._rules.append(rule)

    def at(self, endpoint: str, skip: int, action: Callable[[], object]) -> None:
        """Have `due` give an action once, after `skip` requests to an endpoint."""
        with self._lock:
            self._moments.append(Moment(endpoint, skip, action))

    def due(self, endpoint: str) -> list[Callable[[], object]]:
        """What is to be done as a request to that endpoint is sent."""
        with self._lock:
            meant = [moment for moment in self._moments if moment.endpoint == endpoint]
            now = [moment for moment in meant if not moment.skip]
            self._moments = [moment for moment in self._moments if moment not in now]
            for moment in meant:
                moment.skip -= 1
            return [moment.action for moment in now]

    def delay(self, source: str, target: str, seconds: float) -> None:
        """Let every message, answers too, from one device to another take that long from now on."""
        with self._lock:
            self._delays_s[source, target] = seconds

    def scatter(self, most_s: float, seed: int) -> None:
        """Let every message take up to so long more, by chance, from now on."""
        with self._lock:
            self._most_s = most_s
            self._random.seed(seed)

    def clear(self) -> None:
        """Forget all rules and delays."""
        with self._lock:
            self._rules.clear()
            self._moments.clear()
            self._delays_s.clear()
            self._most_s = 0.0

    def decide(self, source: str, target: str, endpoint: str, is_answer: bool) -> tuple[int, float]:
        """How often a message arrives, and after how many seconds."""
        with self._lock:
            delay_s = self._delays_s.get((source, target), 0.0) + self._most_s * self._random.random()
            for rule in self._rules:
                if not rule.applies(source, target, endpoint, is_answer):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                rule.count -= 1
                return rule.num_copies, delay_s
            return 1, delay_s
