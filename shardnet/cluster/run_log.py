"""What the stages of a model did and when, also those that are no more, and when tokens came.

Where spans are recorded they are fetched every second: of a device that is lost, what it did in its last second is lost
with it.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from shardnet.cluster.remote_stage import ASK_S, RemoteStage, clock_offsets
from shardnet.errors import ShardnetError
from shardnet.process.threads import on_thread
from shardnet.timeline.clocks import ClockOffset, clock_ns
from shardnet.timeline.history import History
from shardnet.timeline.timeline import Timeline
from shardnet.transport.base import Transport
from shardnet.transport.messages import Tokens

FETCH_EVERY_S = 1.0
FETCH_S = 2.0
MOST_TOKENS = 100_000
"""Of which it is remembered when they came."""


class RunLog:
    """Of one deployment that records spans. Runs on a thread of its own until it is closed.

    Args:
        present: the stages that are there now.
    """

    def __init__(self, transport: Transport, present: Callable[[], Sequence[RemoteStage]]) -> None:
        self._transport = transport
        self._present = present
        self._stages: dict[int, RemoteStage] = {}
        """All that were there since the last `reset`, by their id."""
        self._offsets: defaultdict[str, list[ClockOffset]] = defaultdict(list)
        self._heard_ns: deque[int] = deque(maxlen=MOST_TOKENS)
        self._num_known: dict[int, int] = {}
        """Of each session, how many tokens are known."""
        self._lock = threading.Lock()
        self._closed = threading.Event()
        on_thread("shardnet-run-log", self._run)

    def close(self) -> None:
        """Fetch nothing any more. Does not wait."""
        self._closed.set()

    def hear(self, tokens: Tokens) -> None:
        """Tokens have come, maybe not for the first time."""
        now_ns = clock_ns()
        for token in tokens.tokens:
            num_new = token.index + 1 - self._num_known.get(token.session, 0)
            if num_new > 0:
                self._num_known[token.session] = token.index + 1
                self._heard_ns.extend([now_ns] * num_new)

    def reset(self, stages: Sequence[RemoteStage]) -> None:
        """Forget what was, and let the stages that are there forget it."""
        with self._lock:
            for stage in stages:
                stage.reset()
            self._stages.clear()
            self._heard_ns.clear()

    @property
    def heard_ns(self) -> tuple[int, ...]:
        """When each token came."""
        return tuple(self._heard_ns)

    def timeline(self, stages: Sequence[RemoteStage], history: History) -> Timeline:
        """All of it.

        Args:
            stages: those of the present ring, which must answer.

        Raises:
            ClusterError: one does not.
        """
        with self._lock:
            for stage in stages:
                self._stages[id(stage)] = stage
                stage.fetch_spans(ASK_S)
            self._measure([stage.plan.device for stage in stages])
            timeline = Timeline(self._offsets, history)
            for stage in self._stages.values():
                timeline.add(stage.plan.device, stage.index, stage.spans, stage.num_dropped)
            return timeline

    def _measure(self, devices: Sequence[str]) -> None:
        for device, offset in clock_offsets(self._transport, devices).items():
            self._offsets[device].append(offset)

    def _run(self) -> None:
        while not self._closed.wait(FETCH_EVERY_S):
            for stage in self._present():
                with suppress(ShardnetError):  # it is gone, or busy: the next time
                    self._fetch(stage)

    def _fetch(self, stage: RemoteStage) -> None:
        with self._lock:
            self._stages[id(stage)] = stage
            stage.fetch_spans(FETCH_S)
            if stage.plan.device not in self._offsets:
                self._measure([stage.plan.device])
