"""Which devices are there: what the door tells of members becomes what the cluster knows, and is told in sentences."""

from __future__ import annotations

import threading
from collections.abc import Callable

from shardnet.cluster.cluster import Cluster
from shardnet.cluster.comings import HAS_ENDED, is_device
from shardnet.coordinator.events import ClusterEvent, Tell
from shardnet.transport.base import Transport
from shardnet.transport.names import SOURCE_MARK

HAS_LEFT = "it has left"


class Attendance:
    """
    Args:
        cluster: told of the devices that come and go.
        on_change: called after devices have come or gone, on a thread that must not wait.
        how_it_ended: in words that follow "is lost", how a device has ended, where more is known than that.
    """

    def __init__(
        self,
        transport: Transport,
        cluster: Cluster,
        tell: Tell,
        on_change: Callable[[], object],
        how_it_ended: Callable[[str], str] = lambda device: HAS_ENDED,
    ) -> None:
        self._transport = transport
        self._cluster = cluster
        self._tell = tell
        self._on_change = on_change
        self._how_it_ended = how_it_ended
        self._present: dict[str, None] = {}
        self._leaving: set[str] = set()
        """Those that have said goodbye, or were told to leave."""
        self._lock = threading.Lock()
        transport.on_members(self._hear)  # also told of those that were there before, as they are news to it

    @property
    def sources(self) -> tuple[str, ...]:
        """Those that are there now: as the transport knows, which is told before it tells us."""
        return tuple(name for name in self._transport.members() if name.startswith(SOURCE_MARK))

    @property
    def leaving(self) -> frozenset[str]:
        """Those that are about to leave."""
        with self._lock:
            return frozenset(self._leaving)

    def goodbye(self, device: str) -> None:
        """A device is about to leave, which is no loss."""
        with self._lock:
            self._leaving.add(device)

    def stays(self, device: str) -> None:
        """It was told to leave, and has not heard it."""
        with self._lock:
            self._leaving.discard(device)

    def _hear(self, joined: tuple[str, ...], left: tuple[str, ...]) -> None:
        with self._lock:
            gone = [name for name in left if name in self._present]
            for name in gone:
                self._let_go(name)
            came = [name for name in joined if is_device(name) and name not in self._present]
            for name in came:
                self._take_in(name)
        if gone or came:
            self._on_change()

    def _take_in(self, name: str) -> None:
        self._present[name] = None
        self._leaving.discard(name)
        self._cluster.take_in(name)
        self._tell(ClusterEvent("joined", f"{name} has joined.", device=name))

    def _let_go(self, name: str) -> None:
        del self._present[name]
        is_leaving = name in self._leaving
        self._leaving.discard(name)
        how = HAS_LEFT if is_leaving else self._cluster.lost.get(name) or self._how_it_ended(name)
        self._cluster.let_go(name, how)
        text = f"{name} has left." if is_leaving else f"{name} is lost: {how}."
        self._tell(ClusterEvent("left" if is_leaving else "lost", text, device=name))
