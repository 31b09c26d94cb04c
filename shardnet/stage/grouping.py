"""How much decode work a ring's first stage takes at once, so that all devices have something to do. Pure.

Sessions whose tokens share a step go round together. A stage takes all that waits, so groups merge wherever one has to
wait, and nothing would part them again: one group keeps one stage busy while the others idle. And where fewer stages
can compute at the same time than there are, because they share cores, each wait for a core is better spent in a larger
group: a step of ten rows takes little longer than one of five. The first stage therefore lets as many groups go round
as stages can compute at once, all about equally large: it takes no more than one's share for a step, and where much
less is there, it waits a moment for more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

ENOUGH = 0.75
"""With so much of its share a group goes on."""
REST_LAPS = 2
"""After a wait in vain the next one comes four laps later, then eight, and so on."""
MOST_KNOWN = 4096
"""Sessions that are over are forgotten with the others."""


class Choice(NamedTuple):
    """What to do with the decode work that waits."""

    most: int | None
    """Rows to take; 0: wait; None: all that are there."""
    wait_s: float | None = None
    """For so long at most."""


ALL = Choice(None)
"""Where there is one group, and at every stage but the first."""


class Grouping:
    """The decisions of one first stage. Seconds are those of any steady clock.

    Args:
        num_groups: as many stages of the ring can compute at the same time, 2 or more: for one group nothing is to be
            decided.
    """

    def __init__(self, num_groups: int) -> None:
        self._num_groups = num_groups
        self._taken_s: dict[int, float] = {}
        """When each session was taken last."""
        self._lap_s: float | None = None
        self._until_s: float | None = None
        """When the present wait ends."""
        self._num_decoding = 0
        self._num_in_vain = 0
        """Waits that brought nothing, in a row and with so many sessions: somebody is slow, or lost a hop."""
        self._rests_until_s = -math.inf
        """Until then no other wait begins: for more laps after each one in vain."""

    def choose(self, now_s: float, num_waiting: int, num_decoding: int) -> Choice:
        """What to take of the rows that wait, one for each session.

        Args:
            num_decoding: sessions that are past their prompt, wherever their token is.
        """
        if self._num_decoding != num_decoding:
            self._num_decoding, self._num_in_vain, self._rests_until_s = num_decoding, 0, -math.inf
        share = num_decoding / self._num_groups
        if 0 < num_waiting < min(ENOUGH * share, num_decoding):
            wait_s = self._wait_s(now_s)
            if wait_s > 0:
                return Choice(0, wait_s)
        elif self._until_s is not None:
            self._num_in_vain = 0
        self._until_s = None
        return Choice(max(1, math.ceil(share)))

    def _wait_s(self, now_s: float) -> float:
        """How long a small group may still wait for another one; at most as long as groups are apart."""
        if self._lap_s is None or now_s < self._rests_until_s:
            return 0.0
        if self._until_s is None:
            self._until_s = now_s + self._lap_s / self._num_groups
        if now_s >= self._until_s:
            self._num_in_vain += 1
            self._rests_until_s = now_s + REST_LAPS * 2**self._num_in_vain * self._lap_s
        return self._until_s - now_s

    def taken(self, now_s: float, sessions: Sequence[int]) -> None:
        """These go round now: how long a lap takes is known when one of them comes again."""
        if not sessions:
            return
        then_s = self._taken_s.get(sessions[0])
        if then_s is not None:
            self._lap_s = now_s - then_s
        if len(self._taken_s) > MOST_KNOWN:
            self._taken_s.clear()
        self._taken_s.update(dict.fromkeys(sessions, now_s))


class Groups:
    """Those of a stage, wherever it is in its ring: only a first stage that lets several go round has to choose."""

    def __init__(self) -> None:
        self._num_groups = 1
        self._grouping: Grouping | None = None

    def become(self, num_groups: int) -> None:
        """Let so many go round."""
        if num_groups != self._num_groups:
            self._num_groups = num_groups
            self._grouping = Grouping(num_groups) if num_groups > 1 else None

    def choose(self, now_s: float, num_waiting: int, num_decoding: int) -> Choice:
        """See `Grouping.choose`."""
        return ALL if self._grouping is None else self._grouping.choose(now_s, num_waiting, num_decoding)

    def taken(self, now_s: float, sessions: Sequence[int]) -> None:
        """See `Grouping.taken`."""
        if self._grouping is not None:
            self._grouping.taken(now_s, sessions)
