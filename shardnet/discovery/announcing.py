"""Says in the local network that a cluster is here: its id, its addresses and the slots of its codes, and nothing else.

By the library zeroconf, which is imported when something is to be said. Where it is not installed, or the network has
no place for it, nothing is announced, and devices are told the address by the person who has it on the screen.
"""

from __future__ import annotations

import importlib
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

from shardnet.discovery.datagrams import SERVICE, SLOTS, Announced

PREFIX = "shardnet-"
_TYPE = f"{SERVICE}."


class Announcer:
    """One cluster's. Not for several threads.

    Args:
        interfaces: addresses of this host, in whose networks it is said; None: in those of what is announced.
    """

    def __init__(self, interfaces: Sequence[str] | None = None) -> None:
        self._interfaces = interfaces
        self._told: Announced | None = None
        self._zeroconf: Any = None

    def tell(self, what: Announced) -> None:
        """Say it from now on, until something else is said. Takes a second where the addresses are others.

        Raises:
            OSError, ImportError: it cannot be said here.
        """
        if what == self._told:
            return
        zeroconf = importlib.import_module("zeroconf")
        if self._told is None or self._told.gates != what.gates:
            self.close()
            interfaces = self._interfaces or _numbers(what)
            if not interfaces:
                return
            self._zeroconf = zeroconf.Zeroconf(interfaces=interfaces, ip_version=zeroconf.IPVersion.V4Only)
            self._zeroconf.register_service(_service(zeroconf, what), cooperating_responders=True)  # an id is unique
        else:
            self._zeroconf.update_service(_service(zeroconf, what))
        self._told = what

    def close(self) -> None:
        """Say that it is no more."""
        if self._zeroconf is not None:
            with suppress(OSError):
                self._zeroconf.close()
        self._zeroconf = self._told = None


def _service(zeroconf: ModuleType, what: Announced) -> Any:
    return zeroconf.ServiceInfo(
        _TYPE,
        f"{what.cluster}.{_TYPE}",
        port=what.gates[0].port,
        addresses=[socket.inet_aton(host) for host in _numbers(what)],
        properties={SLOTS: ",".join(map(str, sorted(what.slots)))},
        server=f"{PREFIX}{what.cluster}.local.",
    )


def _numbers(what: Announced) -> list[str]:
    """The IPv4 addresses of its gates."""
    return [gate.host for gate in what.gates if re.fullmatch(r"[0-9.]+", gate.host)]
