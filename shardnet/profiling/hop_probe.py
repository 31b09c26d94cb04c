"""Times a hop as a ring makes it: the same messages, from and to a thread that computes, with caches that are cold.

A message that goes to and fro with nothing in between is up to twice as fast as one between two steps, whose weights
have driven the code that sends and receives out of the processor's caches. So both ends read as much memory before they
send as a step would. Clocks of two devices are not compared: what is timed is a lap, less what the far end computed.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from shardnet.errors import BadRequest, CallTimeout
from shardnet.profiling.cores import last_level_cache_bytes
from shardnet.timeline.clocks import clock_ns
from shardnet.transport.base import Transport
from shardnet.transport.messages import Hop, Part, RingId

TOKEN_BYTES = 8
MAX_HIDDEN_BYTES = 2**24
_MOST_READ_BYTES = 64 * 2**20
_LEAST_LAPS, _MOST_LAPS = 3, 100
_NO_RING = RingId(bytes(16), 0)


class CacheSweep:
    """Does to the caches what a step does: reads as much memory as the largest of them holds."""

    def __init__(self) -> None:
        self._memory = torch.ones(min(last_level_cache_bytes(), _MOST_READ_BYTES) // 8, dtype=torch.int64)

    def run_ns(self) -> int:
        """Read it all; nanoseconds that it took."""
        start_ns = clock_ns()
        self._memory.sum()
        return clock_ns() - start_ns


class HopEcho:
    """The far end: on a hop it does as a stage does, and sends a token back."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shardnet-probe")
        self._step: CacheSweep | None = None
        transport.expose("probe_hop", lambda hop: self._submit(self._answer, hop))
        transport.expose("probe_over", lambda: self._submit(self._forget))

    def _submit(self, work: Callable[..., None], *args: Any) -> None:
        self._thread.submit(work, *args)

    def _forget(self) -> None:
        self._step = None

    def _answer(self, hop: Hop) -> None:
        self._step = self._step or CacheSweep()
        computed_ns = self._step.run_ns()
        back = Hop(
            _NO_RING, 0, (Part(0, 0, 1),), torch.zeros(1, dtype=torch.int64), self._transport.name, computed_ns, 0
        )
        self._transport.post(hop.sender, "probe_back", back)


def hop_laps_s(
    transport: Transport, device: str, hidden_bytes: int, slot_s: float, *, timeout_s: float = 60.0
) -> list[float]:
    """Seconds on the way in laps to `device` with a hidden state and back with a token; a few, for about `slot_s`.

    Raises:
        BadRequest: the hidden state is too large to be one.
        DeviceLost, CallTimeout: as `Transport.call`.
    """
    if not 0 < hidden_bytes <= MAX_HIDDEN_BYTES:
        raise BadRequest(f"a hidden state has 1 to {MAX_HIDDEN_BYTES} bytes, but this one has {hidden_bytes}.")
    arrived: queue.SimpleQueue[Hop | BaseException] = queue.SimpleQueue()
    transport.expose("probe_back", arrived.put)

    def check(sent: Future[Any]) -> None:
        if (error := sent.exception()) is not None:
            arrived.put(error)

    step, laps = CacheSweep(), list[float]()
    until_s = time.perf_counter() + slot_s
    while len(laps) <= _LEAST_LAPS or (len(laps) < _MOST_LAPS and time.perf_counter() < until_s):
        hidden = torch.zeros(1, hidden_bytes, dtype=torch.uint8)
        step.run_ns()
        start_s = time.perf_counter()
        hop = Hop(_NO_RING, 1, (Part(0, 0, 1),), hidden, transport.name, clock_ns(), 0)
        transport.post(device, "probe_hop", hop, timeout_s=timeout_s).add_done_callback(check)
        try:
            back = arrived.get(timeout=timeout_s)
        except queue.Empty:
            raise CallTimeout(f"{device} sent no hop back within {timeout_s:g} s.", device) from None
        if isinstance(back, BaseException):
            raise back
        laps.append(time.perf_counter() - start_s - back.sent_ns / 1e9)
    transport.post(device, "probe_over", timeout_s=timeout_s)
    return laps[1:]  # the first one opens connections
