"""A problem as numbers in arrays, for the methods that search. Pure.

Index letters: u unit, d and e devices, c class of identical devices, k kind of payload. Devices are identical when
exchanging the two changes nothing: same memory, times, power, and links to everyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shardnet.plan import Link, StagePlan
from shardnet.planner.links import TIE
from shardnet.planner.problem import Problem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


MOST_CACHED = 64_000
"""Numbers of a matrix that are worked on at a time."""
MOST_ROUTED = 16
"""Devices up to which every relayed hop is known link by link; of larger clusters only what hops take is."""


class Tables:
    """Arrays of one problem.

    Attributes:
        seconds: [u, d] s; memory: [u] B; capacity: [d] B.
        direct_s: [k, d, e] s over the direct link, inf where there is none.
        payload: [u + 1] kind of payload that leaves each unit; the last is that of the way back.
        class_of: [d]; members: devices of each class, in order.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.num_units, self.num_devices = problem.num_units, problem.num_devices
        self.seconds: Floats = np.array([device.unit_seconds for device in problem.devices], dtype=float).T
        self.memory: Floats = np.array(problem.unit_memory_bytes, dtype=float)
        self.capacity: Floats = np.array([device.memory_bytes for device in problem.devices], dtype=float)
        self.source = problem.index[problem.source]
        sizes = [unit.output_bytes for unit in problem.units[:-1]] + [problem.return_bytes]
        self.payload_bytes: Floats = np.array(sorted(set(sizes)), dtype=float)
        kind = {size: k for k, size in enumerate(self.payload_bytes.tolist())}
        self.payload: Ints = np.array([kind[float(size)] for size in sizes], dtype=np.int64)
        self.latency_s, self.s_per_byte = self._link_matrices()
        self.direct_s: Floats = self.latency_s[None] + self.payload_bytes[:, None, None] * self.s_per_byte[None]
        self.members = self._identical_devices()
        self.class_of: Ints = np.zeros(self.num_devices, dtype=np.int64)
        for c, devices in enumerate(self.members):
            self.class_of[devices] = c

    @cached_property
    def hop_s(self) -> Floats:
        """Seconds [k, d, e] over the fastest route, inf where there is none."""
        return _closed(self.direct_s) if self.problem.relays else self.direct_s

    def hop(self, unit: int) -> Floats:
        """Seconds [d, e] of what leaves `unit`; for the last unit, of the way back."""
        return self.hop_s[self.payload[unit]]

    @cached_property
    def relayed(self) -> dict[tuple[int, int, int], tuple[Link, ...]]:
        """The links of every hop (k, d, e) that goes over relays."""
        problem, hops = self.problem, {}
        for k, d, e in np.argwhere(self.hop_s < self.direct_s).tolist():
            names = problem.devices[d].name, problem.devices[e].name
            links = problem.routes.links(*names, float(self.payload_bytes[k]))
            assert links is not None, "a finite hop has a route"
            hops[k, d, e] = links
        return hops

    @cached_property
    def peak_s(self) -> Floats:
        """Seconds [k, d, e] on the busiest single link of a hop."""
        if self.problem.relays and self.num_devices > MOST_ROUTED:
            return _along(self.direct_s, self.direct_s, np.maximum)
        peak = self.hop_s.copy()
        for (k, d, e), links in self.relayed.items():
            peak[k, d, e] = max(link.seconds(float(self.payload_bytes[k])) for link in links)
        return peak

    @cached_property
    def radio_j(self) -> Floats:
        """Joules [k, d, e] that all the radios of a hop spend."""
        per_byte = np.array([device.radio_j_per_byte for device in self.problem.devices])
        ends = per_byte[:, None] + per_byte[None]
        np.fill_diagonal(ends, 0.0)
        joules: Floats = self.payload_bytes[:, None, None] * ends[None]
        if not per_byte.any() or not self.problem.relays:
            return joules
        if self.num_devices > MOST_ROUTED:
            return _along(self.direct_s, joules, np.add)
        for (k, d, e), links in self.relayed.items():
            crossed = sum(per_byte[self.problem.index[end]] for link in links for end in (link.source, link.target))
            joules[k, d, e] = crossed * self.payload_bytes[k]
        return joules

    def _link_matrices(self) -> tuple[Floats, Floats]:
        index = self.problem.index
        latency = np.full((self.num_devices, self.num_devices), np.inf)
        per_byte = np.zeros_like(latency)
        if self.problem.links:
            rows = [(index[n.source], index[n.target], n.latency_s, n.bytes_per_s) for n in self.problem.links]
            table = np.array(rows, dtype=float)
            ends = table[:, 0].astype(int), table[:, 1].astype(int)
            latency[ends] = table[:, 2]
            per_byte[ends] = 1 / table[:, 3]
        np.fill_diagonal(latency, 0.0)
        return latency, per_byte

    def _identical_devices(self) -> list[list[int]]:
        alike: dict[tuple[object, ...], list[list[int]]] = {}
        pinned = self.problem.pin_embedding or self.problem.pin_head
        for d, device in enumerate(self.problem.devices):
            apart = d if pinned and d == self.source else -1
            power = (device.active_w, device.radio_j_per_byte, device.battery_j)
            signature = (apart, device.memory_bytes, device.unit_seconds, *power)
            groups = alike.setdefault(signature, [])
            for group in groups:
                if self._exchangeable(group[0], d):
                    group.append(d)
                    break
            else:
                groups.append([d])
        return sorted(group for groups in alike.values() for group in groups)

    def _exchangeable(self, d: int, e: int) -> bool:
        swapped = np.arange(self.num_devices)
        swapped[[d, e]] = e, d
        return all(
            np.array_equal(links[d], links[e][swapped]) and np.array_equal(links[:, d], links[swapped, e])
            for links in (self.latency_s, self.s_per_byte)
        )


def _closed(direct_s: Floats) -> Floats:
    """Close hop times [k, d, e] over relays (Floyd and Warshall)."""
    hops = direct_s.copy()
    for matrix in hops:
        for via in range(matrix.shape[0]):
            onward, there = matrix[via].copy(), matrix[:, via].copy()
            for rows in _row_blocks(len(matrix)):
                block = matrix[rows]
                np.minimum(block, there[rows, None] + onward, out=block)
    return np.where(hops < direct_s * (1 - TIE), hops, direct_s)


def _along(direct_s: Floats, values: Floats, join: np.ufunc) -> Floats:
    """Carry values [k, d, e] of links along the fastest routes, joined by maximum or sum."""
    hops, carried = direct_s.copy(), values.copy()
    for matrix, value in zip(hops, carried):
        for via in range(matrix.shape[0]):
            onward, there = matrix[via] * (1 + TIE), matrix[:, via].copy()
            for rows in _row_blocks(len(matrix)):
                better = np.flatnonzero(there[rows, None] + onward < matrix[rows])
                if len(better):
                    d, e = better // len(onward) + rows.start, better % len(onward)
                    matrix[d, e] = there[d] + matrix[via, e]
                    value[d, e] = join(value[d, via], value[via, e])
    return carried


def _row_blocks(num_rows: int) -> list[slice]:
    """Rows in blocks that fit the processor's cache, which is several times quicker for large matrices."""
    step = max(1, MOST_CACHED // num_rows)
    return [slice(i, i + step) for i in range(0, num_rows, step)]


def as_stages(problem: Problem, runs: Sequence[tuple[int, int]]) -> tuple[StagePlan, ...]:
    """Stages from (device index, last unit) in order; neighbours on one device become one stage."""
    stages: list[StagePlan] = []
    first = 0
    for d, last in runs:
        name = problem.devices[d].name
        if stages and stages[-1].device == name:
            stages[-1] = StagePlan(name, stages[-1].first_unit, last)
        else:
            stages.append(StagePlan(name, first, last))
        first = last + 1
    return tuple(stages)


def stages_of(problem: Problem, owners: Sequence[int]) -> tuple[StagePlan, ...]:
    """Stages from the device index of each unit."""
    return as_stages(problem, [(d, u) for u, d in enumerate(owners)])
