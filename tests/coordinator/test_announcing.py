"""What is announced stays so, whatever goes wrong once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from shardnet.coordinator import announcing
from shardnet.coordinator.announcing import Announcing
from shardnet.discovery.datagrams import Announced
from shardnet.trust.addresses import Address

HERE = Announced("a" * 32, frozenset({7}), (Address("192.0.2.1", 29500),))


class OverloadedOnce:
    """An announcer of a machine that is too busy at first, as zeroconf says it."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.num_closed = 0
        self._num_tries = 0

    def tell(self, what: Announced) -> None:
        self._num_tries += 1
        if self._num_tries == 1:
            raise RuntimeError("the event loop is blocked")
        self.told.set()

    def close(self) -> None:
        self.num_closed += 1


def test_a_machine_that_is_busy_once_is_announced_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, nothing was announced from then on, for as long as the cluster was up."""
    monkeypatch.setattr(announcing, "_announced", lambda folder: HERE)
    monkeypatch.setattr(announcing, "AGAIN_S", 0.01)
    announcer: Any = OverloadedOnce()
    with Announcing(Path("/state"), announcer):
        assert announcer.told.wait(30)
        assert announcer.num_closed == 1, "it begins anew"
    assert announcer.num_closed == 2
