"""What a stage sends to the next one over a link that is slow."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import torch
from processes import wait_until

from shardnet.device.outlet import SLOWEST_BYTES_PER_S, RingOutlet
from shardnet.transport import InProcessNetwork
from shardnet.transport.base import Transport
from shardnet.transport.delivery import never
from shardnet.transport.messages import Hop, Part, RingId, RingStop, StageSpec

RING = RingId(b"epoch", 1)
STOPS = (RingStop("a", 0, 2, "float32"), RingStop("b", 3, 5, "float32"))
SPEC = StageSpec(RING, 0, STOPS, "source", "checkpoint", "", {}, "float32", 0, 128, False, 1)
HOP_S = 10.0
"""What a hop of a test takes by itself."""


class SlowRoad:
    """A device to which hops come one after the other, and which begins with each as soon as it is there."""

    def __init__(self, transport: Transport) -> None:
        self.came: list[tuple[Part, ...]] = []
        self._transport = transport
        self._due_s = 0.0
        self._lock = threading.Lock()
        transport.expose("bulk_hop", self._carry)
        transport.expose("ping", lambda: None)

    def _carry(self, hop: Hop) -> Future[None]:
        taken: Future[None] = Future()
        with self._lock:
            self.came.append(hop.parts)
            self._due_s += hop.payload.nbytes / SLOWEST_BYTES_PER_S
        self._transport.after(self._due_s, lambda: taken.set_result(None))
        return taken


def test_what_is_still_on_its_way_behind_others_is_not_sent_again() -> None:
    """A prompt in small chunks has many of them on the way. The last ones came twice, in the midst of the others."""
    rows = torch.zeros(int(HOP_S * SLOWEST_BYTES_PER_S) // 4000, 1000)
    hops = [(Part(1, number * len(rows), len(rows)),) for number in range(4)]
    taken: list[int] = []
    with InProcessNetwork(speed=20.0, ordered=True) as network:
        outlet = RingOutlet(network.join("a"), SPEC, never)
        road = SlowRoad(network.join("b"))
        for number, parts in enumerate(hops):
            outlet.bulk_hop(parts, rows, lambda number=number: taken.append(number))  # type: ignore[misc]
        wait_until(lambda: len(taken) == len(hops), 30)
        assert taken == [0, 1, 2, 3] and road.came == hops
        assert outlet.hop_times.bulk_bytes("b") == 0
