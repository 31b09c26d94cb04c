"""The stages of one device, by the places in rings that they answer to. One that is being rewired answers to two."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from shardnet.errors import ClusterError
from shardnet.transport.messages import StageKey

Host = TypeVar("Host")


class StageTable(Generic[Host]):
    """Safe to use from several threads."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._hosts: dict[StageKey, Host] = {}
        self._lock = threading.Lock()

    def add(self, key: StageKey, host: Host) -> None:
        """Let `host` answer to `key`.

        Raises:
            ClusterError: something answers to it already: a ring's stages are opened once.
        """
        with self._lock:
            if key in self._hosts:
                raise ClusterError(f"{self._device} has stage {key[1]} of that ring already.")
            self._hosts[key] = host

    def get(self, key: StageKey) -> Host | None:
        return self._hosts.get(key)

    def remove(self, key: StageKey) -> None:
        """Nothing answers to `key` any more."""
        with self._lock:
            self._hosts.pop(key, None)

    def forget(self, host: Host) -> None:
        """It answers to nothing any more."""
        with self._lock:
            for key in [key for key, other in self._hosts.items() if other is host]:
                del self._hosts[key]

    def keys(self) -> list[StageKey]:
        with self._lock:
            return list(self._hosts)

    def hosts(self) -> list[Host]:
        """Each once."""
        with self._lock:
            return list({id(host): host for host in self._hosts.values()}.values())

    def items(self) -> list[tuple[StageKey, Host]]:
        with self._lock:
            return list(self._hosts.items())
