"""The last events of a cluster, for whoever looks later."""

from __future__ import annotations

import time
from collections import deque

from shardnet.coordinator.events import ClusterEvent, Tell
from shardnet.transport.source_messages import Happened

MOST_KEPT = 50


class RecentEvents:
    """Hands each event on, and keeps the last ones. Safe to use from several threads."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._kept: deque[Happened] = deque(maxlen=MOST_KEPT)

    def tell(self, event: ClusterEvent) -> None:
        """See `Tell`."""
        self._kept.append(Happened(round(time.time(), 3), event.event, event.text, event.device, event.seconds))
        self._tell(event)

    def all(self) -> tuple[Happened, ...]:
        """The oldest first."""
        return tuple(self._kept)
