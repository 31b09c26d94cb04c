"""A device's weights on disk, as others ask for them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from shardnet.shipping.depot import Depot
from shardnet.shipping.limits import NO_LIMITS
from shardnet.transport import InProcessNetwork


def test_nobody_on_the_network_waits_for_what_is_known_of_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model with thousands of experts it took a second to read, and tokens of other models waited."""
    is_read = threading.Event()

    def slow(checkpoint: str, cache_dir: Path) -> None:
        assert is_read.wait(60)

    monkeypatch.setattr("shardnet.shipping.depot.find_copy", slow)
    with InProcessNetwork() as network, network.join("a") as here:
        depot = Depot(here, tmp_path, NO_LIMITS, set, lambda fetched: None)
        asked = depot.has_copy("x" * 64)
        assert not asked.done()
        is_read.set()
        assert asked.result(60) is False
        depot.close()
