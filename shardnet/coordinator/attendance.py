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
        self._paused: dict[str, str] = {}
        """Those that hold nothing now, or are about to, each with the reason."""
        self._lock = threading.Lock()
        transport.on_members(self._hear)  # also told of those that were there before, as they are news to it

    @property
    def sources(self) -> tuple[str, ...]:
        """Those that are there now: as the transport knows, which is told before it tells us."""
        return tuple(name for name in self._transport.members() if name.startswith(SOURCE_MARK))

    @property
    def devices(self) -> tuple[str, ...]:
        """Those that are there now, in the order in which they came."""
        with self._lock:
            return tuple(self._present)

    @property
    def paused(self) -> dict[str, str]:
        """Those that pause, each with the reason."""
        with self._lock:
            return dict(self._paused)

    @property
    def leaving(self) -> frozenset[str]:
        """Those that are about to leave, or to pause."""
        with self._lock:
            return frozenset(self._leaving).union(self._paused)

    def goodbye(self, device: str) -> None:
        """A device is about to leave, which is no loss. Passed over where there is none of that name."""
        with self._lock:
            if device in self._present:
                self._leaving.add(device)

    def stays(self, device: str) -> None:
        """It was told to leave, and has not heard it."""
        with self._lock:
            self._leaving.discard(device)

    def pause(self, device: str, why: str) -> bool:
        """A device is to hold nothing for a while. False where that is known, or there is no such device."""
        with self._lock:
            if device not in self._present or device in self._paused:
                return False
            self._paused[device] = why
        self._tell(ClusterEvent("paused", f"{device} pauses: {why}.", device=device))
        return True

    def let_pause(self, device: str) -> None:
        """Whoever could has taken over what it held: models do without it from now on."""
        with self._lock:
            if device not in self._paused:  # it works again, or is gone
                return
            self._cluster.let_go(device, f"it pauses: {self._paused[device]}")
        self._on_change()

    def unpause(self, device: str) -> None:
        """A device that paused may be used again."""
        with self._lock:
            if self._paused.pop(device, None) is None:
                return
            self._cluster.take_in(device)
        self._tell(ClusterEvent("unpaused", f"{device} takes work again.", device=device))
        self._on_change()

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
        self._paused.pop(name, None)
        self._cluster.take_in(name)
        self._tell(ClusterEvent("joined", f"{name} has joined.", device=name))

    def _let_go(self, name: str) -> None:
        del self._present[name]
        is_leaving = name in self._leaving
        self._leaving.discard(name)
        was_paused = self._paused.pop(name, None) is not None
        known = None if was_paused else self._cluster.lost.get(name)  # of that one it says that it pauses
        how = HAS_LEFT if is_leaving else known or self._how_it_ended(name)
        self._cluster.let_go(name, how)
        text = f"{name} has left." if is_leaving else f"{name} is lost: {how}."
        self._tell(ClusterEvent("left" if is_leaving else "lost", text, device=name))
