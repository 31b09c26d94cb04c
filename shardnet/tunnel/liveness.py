"""Whether the connection of a link session still carries anything. Pure: somebody looks from time to time.

A Wi-Fi that is out of reach gives no error: what is sent waits, and nothing comes. So who has heard nothing for a while
asks, doubts the connection where nothing comes at once, and gives it up where nothing comes then, either. Time in which
this process itself did not run counts as one look: who was suspended for an hour has heard nothing, and the connection
may be well.
"""

from __future__ import annotations

from enum import Enum, auto


class Look(Enum):
    """What is to be done."""

    WAIT = auto()
    ASK = auto()
    DOUBT = auto()
    GIVE_UP = auto()


class Liveness:
    """Of one connection, which is asked after and answers in time or is given up."""

    def __init__(self, doubt_s: float, answer_s: float) -> None:
        self._doubt_s = doubt_s
        self._answer_s = answer_s
        self._silent_s = 0.0
        self._asked_at_s: float | None = None
        """How long it had been silent when it was asked."""

    def heard(self) -> None:
        """Something has come."""
        self._silent_s = 0.0
        self._asked_at_s = None

    def look(self, passed_s: float, ask_after_s: float) -> Look:
        """What follows now, `passed_s` after the last look. Who is silent for `ask_after_s` is asked."""
        self._silent_s += passed_s
        if self._asked_at_s is not None:
            waited_s = self._silent_s - self._asked_at_s
            if waited_s >= self._answer_s:
                return Look.GIVE_UP
            return Look.DOUBT if waited_s >= self._doubt_s else Look.WAIT
        if self._silent_s < ask_after_s:
            return Look.WAIT
        return self.ask()

    def ask(self) -> Look:
        """It is asked now, be it silent or not; or it was."""
        if self._asked_at_s is not None:
            return Look.WAIT
        self._asked_at_s = self._silent_s
        return Look.ASK
