"""When a stage is idle: while it waits for work and has sessions. One without sessions keeps nobody waiting."""

from __future__ import annotations

from shardnet.timeline.clocks import clock_ns
from shardnet.timeline.recorder import Recorder


class IdleTime:
    """Tells the log book how long a stage was idle. No lock: see `stage`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._is_waiting = False
        self._has_sessions = False
        self._since_ns: int | None = None

    def note_waiting(self, is_waiting: bool) -> None:
        """From now on the stage waits for work, or does some."""
        self._is_waiting = is_waiting
        self._look()

    def note_sessions(self, num_sessions: int) -> None:
        """From now on the stage has so many."""
        self._has_sessions = num_sessions > 0
        self._look()

    def _look(self) -> None:
        is_idle = self._is_waiting and self._has_sessions
        if is_idle == (self._since_ns is not None):
            return
        now_ns = clock_ns()
        if self._since_ns is not None:
            self._recorder.idle(self._since_ns, now_ns)
        self._since_ns = now_ns if is_idle else None
