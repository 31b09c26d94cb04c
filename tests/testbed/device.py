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

import mmap
import struct
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from shardnet.device.worker import Worker
from shardnet.transport.device_messages import DeviceDescription


class Slowdown:
    """A pace (`shardnet.stage.pace`): every step takes `factor` times as long.

    The factor lies in memory that processes share which were forked after it was made: set in one, it holds in all.
    """

    def __init__(self, factor: float) -> None:
        self._memory = mmap.mmap(-1, 8)
        self.factor = factor

    @property
    def factor(self) -> float:
        return float(struct.unpack("d", self._memory[:8])[0])

    @factor.setter
    def factor(self, factor: float) -> None:
        self._memory[:8] = struct.pack("d", factor)

    def __call__(self, work: Callable[[], Tensor]) -> Tensor:
        start_s, cpu_start_s = time.perf_counter(), time.thread_time()
        outputs = work()
        over_at_s = start_s + self.factor * (time.thread_time() - cpu_start_s)
        left_s = over_at_s - time.perf_counter()
        if left_s > 0:
            time.sleep(left_s)
        return outputs


class EmulatedWorker(Worker):
    """Tells of itself what was asked for.

    Args:
        slowdown: as it is at the start.
        memory_bytes: that its models may take; None for what there is.
        is_limited: False: it only says that it has no more, and takes more where it is asked to.
        host: what its machine is called, where it is to be one of its own.
        cache_dir: where its profiles are kept; None for the user's cache folder.
    """

    def __init__(
        self,
        pace: Slowdown,
        slowdown: float,
        memory_bytes: int | None,
        is_limited: bool,
        host: str | None,
        cache_dir: Path | None,
    ) -> None:
        super().__init__(1, cache_dir, pace, memory_bytes if is_limited else None)
        self._slowdown = slowdown
        self._said_bytes = None if is_limited else memory_bytes
        self._host = host

    @property
    def kind(self) -> str:
        return f"emulated-{self._slowdown:g}-times-slower-{super().kind}"

    def describe(self) -> DeviceDescription:
        described = super().describe()
        if self._host is not None:
            described = described._replace(host=self._host, network=self._host)
        if self._said_bytes is not None:
            described = described._replace(memory_usable_bytes=self._said_bytes)
        return described
