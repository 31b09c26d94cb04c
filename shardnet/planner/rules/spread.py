"""Spread a model over *all* the devices that are given, in their order, so that the slowest stage is as fast as can be.

For people who want every device in use (to hold more, or to see the pipeline at work). Pure. Does not ask whether a
device helps: see the other methods.
"""

from __future__ import annotations

from collections.abc import Sequence

from shardnet.errors import BadRequest, DoesNotFit
from shardnet.foreign.quoting import counted


def spread_counts(
    unit_s: Sequence[Sequence[float]], unit_bytes: Sequence[float], free_bytes: Sequence[float]
) -> list[int]:
    """How many consecutive units each device gets, at least one each, so that the slowest stage takes least time.

    Dynamic programme over (device, units placed): best[d][u] = min over k of max(best[d-1][k], time of k..u-1 on d).
    Time O(devices * units**2).

    Args:
        unit_s: [devices][units], seconds of each unit on each device.
        unit_bytes: [units], weights and KV cache.
        free_bytes: [devices].

    Raises:
        BadRequest: there are more devices than units.
        DoesNotFit: no such split fits the devices' memory.
    """
    num_devices, num_units = len(unit_s), len(unit_bytes)
    if num_devices > num_units:
        raise BadRequest(
            f"{num_devices} devices are more than the model's {counted(num_units, 'units')} (embedding, blocks, head). "
            f"Use at most {counted(num_units, 'devices')}."
        )
    infinity = float("inf")
    best = [[infinity] * (num_units + 1) for _ in range(num_devices + 1)]
    start_of = [[0] * (num_units + 1) for _ in range(num_devices + 1)]
    best[0][0] = 0.0
    for d in range(1, num_devices + 1):
        for end in range(d, num_units + 1):
            seconds = held_bytes = 0.0
            for start in range(end - 1, d - 2, -1):
                seconds += unit_s[d - 1][start]
                held_bytes += unit_bytes[start]
                if held_bytes > free_bytes[d - 1]:
                    break
                slowest = max(best[d - 1][start], seconds)
                if slowest < best[d][end]:
                    best[d][end], start_of[d][end] = slowest, start
    if best[num_devices][num_units] == infinity:
        offer = f"{num_devices} devices offer" if num_devices > 1 else "the only device offers"
        raise DoesNotFit(
            f"The model needs {sum(unit_bytes) / 2**30:.2f} GiB with its KV cache; {offer} "
            f"{sum(free_bytes) / 2**30:.2f} GiB. Add a device, use a smaller dtype, or ask for a shorter context."
        )
    return _counts(start_of)


def _counts(start_of: list[list[int]]) -> list[int]:
    """Follow the choices back from the last device and the last unit."""
    counts: list[int] = []
    end = len(start_of[0]) - 1
    for starts in start_of[:0:-1]:
        counts.append(end - starts[end])
        end = starts[end]
    return counts[::-1]
