"""When a device gives no weights away: just before its own hops of decoding, which would wait behind them on the link.

Pure: the caller has the clock. A step takes about as long as the last ones have. So nothing is given from a little
before one should end until its hop has left. What was given before needs about as long to pass, so that the link is
hardly idle.
"""

from __future__ import annotations

import threading
from collections import deque

LEAD_S = 0.008
"""So long before a step should end nothing is given any more."""
AFTER_S = 0.0015
"""So long after it has ended its hop has left."""
LATE_S = 0.004
"""A step that takes so much longer than it should is waited for no more."""
LOOK_S = 0.001
"""How often one that is late is looked after."""
STEPS = 5
"""So many count, of which the middle one is expected again."""
SHARE = 0.2
"""So much of the time it may wait: where steps are short, weights are to come, too."""
MOST_WAIT_S = LEAD_S + LATE_S + AFTER_S


class Courtesy:
    """Of one device towards its own stages, each of which has a thread. Safe to use from several."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stage = threading.local()
        self._ends_s: dict[int, float] = {}
        """When the steps that run should end, by the thread that runs them."""
        self._left_s = 0.0
        """When the last hop will have left."""
        self._may_wait_s = MOST_WAIT_S
        """By `_reckoned_s`; as time goes it becomes more again."""
        self._reckoned_s = 0.0

    def step_begins(self, now_s: float) -> None:
        """On the thread of a stage."""
        lasted_s: deque[float] | None = getattr(self._stage, "lasted_s", None)
        if lasted_s is None:
            lasted_s = self._stage.lasted_s = deque(maxlen=STEPS)
        self._stage.began_s = now_s
        if lasted_s:
            with self._lock:
                self._ends_s[threading.get_ident()] = now_s + sorted(lasted_s)[len(lasted_s) // 2]

    def step_ends(self, now_s: float) -> None:
        """On the same thread."""
        self._stage.lasted_s.append(now_s - self._stage.began_s)
        with self._lock:
            if self._ends_s.pop(threading.get_ident(), None) is not None:
                self._left_s = now_s + AFTER_S

    def wait_s(self, now_s: float) -> float:
        """How long to give nothing, before this is asked again; 0 where something may be given now."""
        with self._lock:
            self._may_wait_s = min(MOST_WAIT_S, self._may_wait_s + SHARE * (now_s - self._reckoned_s))
            self._reckoned_s = now_s
            near_s = [end_s for end_s in self._ends_s.values() if end_s - LEAD_S <= now_s < end_s + LATE_S]
            until_s = max([self._left_s, *(max(end_s, now_s + LOOK_S) for end_s in near_s)])
            wait_s = max(0.0, until_s - now_s)
            if wait_s > self._may_wait_s:
                return 0.0
            self._may_wait_s -= wait_s
            return wait_s
