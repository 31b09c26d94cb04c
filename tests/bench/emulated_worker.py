"""An emulated device: a device as always, but slower, and with the memory that it was told to have.

A device that is k times slower than this machine computes a step at full speed and then sleeps until k times the time
that the processor spent on it has passed. What other programs take from the processor meanwhile is not lost as long as
it is less than that sleep: with k from 3 on, a busy machine emulates almost as well as an idle one.

The quotas of control groups were tried first and do not do: with a quota of a quarter (period 5 ms, a kernel of 250 Hz)
work of 1 ms still took 1 ms instead of 4, and work of 6 ms took 20 instead of 24, since a group that was idle may spend
its quota at once and is stopped at the next tick of the clock at the earliest. No real device is like that.

Sleeping also leaves the cores to whatever else runs. What it does not slow down is the handling of messages.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from shardnet.device.worker import Worker
from shardnet.models import Shard


def slow_down(slowdown: float) -> None:
    """Make every step of every shard of this process take so many times as long."""
    at_full_speed = Shard.forward

    def forward(shard: Shard, *args: Any) -> Any:
        start_s, cpu_start_s = time.perf_counter(), time.thread_time()
        outputs = at_full_speed(shard, *args)
        over_at_s = start_s + slowdown * (time.thread_time() - cpu_start_s)
        time.sleep(max(0.0, over_at_s - time.perf_counter()))
        return outputs

    if slowdown > 1:
        Shard.forward = forward  # type: ignore[method-assign]


class EmulatedWorker(Worker):
    """Tells of itself what was asked for."""

    def __init__(self, slowdown: float, memory_bytes: int, cache_dir: Path) -> None:
        super().__init__(1, cache_dir)
        self._slowdown = slowdown
        self._memory_bytes = memory_bytes

    @property
    def kind(self) -> str:
        return f"emulated-{self._slowdown:g}-times-slower-{super().kind}"

    def describe(self) -> dict[str, Any]:
        described = super().describe()
        host = f"emulated-{described['device']}"
        return {**described, "host": host, "network": host, "memory_available_bytes": self._memory_bytes}
