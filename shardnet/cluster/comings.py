"""Who comes to a cluster and who goes while it is coordinated: the door says it, and the cluster goes by it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from shardnet.transport.base import Transport
from shardnet.transport.names import SOURCE_MARK
from shardnet.transport.source_messages import COORDINATOR

HAS_ENDED = "its process has ended, or its connection broke"


def is_device(name: str) -> bool:
    """Whether a member is one that may hold layers."""
    return not name.startswith(SOURCE_MARK) and name != COORDINATOR


class Comings:
    """Tells of devices from when it is made, those who came just before included.

    Args:
        known: the devices that the cluster knows already.
        take_in: called with each that comes.
        let_go: called with each that goes, and how it did, in words that follow "is lost".
    """

    def __init__(
        self,
        transport: Transport,
        known: Collection[str],
        take_in: Callable[[str], object],
        let_go: Callable[[str, str], object],
    ) -> None:
        self._take_in = take_in
        self._let_go = let_go
        self._present = dict.fromkeys(known)
        self._lock = threading.Lock()
        transport.on_members(self._hear)
        there = transport.members()
        self._hear(there, tuple(name for name in known if name not in there))

    def _hear(self, joined: tuple[str, ...], left: tuple[str, ...]) -> None:
        with self._lock:
            for name in left:
                if name in self._present:
                    del self._present[name]
                    self._let_go(name, HAS_ENDED)
            for name in joined:
                if is_device(name) and name not in self._present:
                    self._present[name] = None
                    self._take_in(name)
