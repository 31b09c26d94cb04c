"""A device's weights on disk, as others ask for them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from shardnet.errors import ModelNotFound
from shardnet.loader.parts import checkpoint_name
from shardnet.shipping.courtesy import LEAD_S
from shardnet.shipping.depot import Depot
from shardnet.shipping.limits import NO_LIMITS
from shardnet.shipping.store import MOST_LISTS
from shardnet.stage.pace import own_pace
from shardnet.transport import InProcessNetwork
from shardnet.transport.shipping_messages import CheckpointList, ChunkWanted

ROOT = "0" * 64


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


def test_a_device_remembers_few_lists(tmp_path: Path) -> None:
    """Or a member could fill its memory with them: on the disk there were never more."""
    with InProcessNetwork() as network, network.join("a") as here:
        depot = Depot(here, tmp_path, NO_LIMITS, set, lambda fetched: None)
        names = []
        for number in range(MOST_LISTS + 3):
            what = CheckpointList(f"{number}".encode(), {"x": ROOT})
            names.append(checkpoint_name(*what))
            assert depot.take_list(names[-1], what).result(60) == ()
            assert depot.take_list(names[0], CheckpointList(b"0", {"x": ROOT})).result(60) == ()
        assert len(depot._shelf._fetched) == MOST_LISTS
        with pytest.raises(ModelNotFound):
            depot._shelf.chunk(ChunkWanted(names[1], ROOT, 0, 10)).result(60)
        depot._claimed.add(ROOT)
        for name in (names[0], names[-1]):
            assert depot._shelf.chunk(ChunkWanted(name, ROOT, 0, 10)).result(60) == b""
        depot.close()


def test_weights_wait_for_the_steps_of_stages_of_this_device(tmp_path: Path) -> None:
    with InProcessNetwork() as network, network.join("a") as here:
        depot = Depot(here, tmp_path, NO_LIMITS, set, lambda fetched: None)
        seen_s: list[float] = []

        def step() -> torch.Tensor:
            ends_s = [*depot._courtesy._ends_s.values(), 0.0][0]
            seen_s.append(depot._courtesy.wait_s(ends_s - LEAD_S / 2) if ends_s else 0.0)
            return torch.zeros(1)

        pace = depot.beside(own_pace)
        assert [pace(step).shape for _ in range(2)] == [(1,), (1,)]
        assert seen_s[0] == 0.0 and seen_s[1] > 0.0
        depot.close()


def test_a_step_that_fails_is_over(tmp_path: Path) -> None:
    with InProcessNetwork() as network, network.join("a") as here:
        depot = Depot(here, tmp_path, NO_LIMITS, set, lambda fetched: None)

        def fail() -> torch.Tensor:
            raise RuntimeError("out of memory")

        for _ in range(2):
            with pytest.raises(RuntimeError, match="out of memory"):
                depot.beside(own_pace)(fail)
        assert not depot._courtesy._ends_s
        depot.close()
