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
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from shardnet.device.worker import Worker
from shardnet.stage.pace import own_pace
from shardnet.transport.messages import DeviceDescription


class Slowdown:
    """A pace (`shardnet.stage.pace`): every step takes `factor` times as long."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def __call__(self, work: Callable[[], Tensor]) -> Tensor:
        start_s, cpu_start_s = time.perf_counter(), time.thread_time()
        outputs = work()
        over_at_s = start_s + self._factor * (time.thread_time() - cpu_start_s)
        time.sleep(max(0.0, over_at_s - time.perf_counter()))
        return outputs


class EmulatedWorker(Worker):
    """Tells of itself what was asked for."""

    def __init__(self, slowdown: float, memory_bytes: int, cache_dir: Path) -> None:
        super().__init__(1, cache_dir, Slowdown(slowdown) if slowdown > 1 else own_pace)
        self._slowdown = slowdown
        self._memory_bytes = memory_bytes

    @property
    def kind(self) -> str:
        return f"emulated-{self._slowdown:g}-times-slower-{super().kind}"

    def describe(self) -> DeviceDescription:
        host = f"emulated-{self.name}"
        return super().describe()._replace(host=host, network=host, memory_usable_bytes=self._memory_bytes)
