"""Which device has each unit, many assignments at once: what they cost, and what they use of every limit. Pure.

A plan in which devices may be visited again is nothing but a device for each unit, in order. Index letters as in
`tables`; n numbers assignments, r a kind of load: bytes, busy seconds, joules of a battery (without its radio, and
links are left aside: a complete plan is judged by `costs` in any case). `hop[u]` is what leaves unit u; what leaves the
last one goes to the device of unit 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shardnet.planner.costs import ROUNDING
from shardnet.planner.exact.by_class import Target
from shardnet.planner.tables import Floats, Ints, Tables

LAP_SHARE = 0.02
"""Of a session's share of the lap, added to a beat: of plans with the same busiest device the shorter one is better."""

Runs = tuple[tuple[int, int], ...]
"""(device, last unit) of each stage."""
Judge = Callable[[Runs], float]
"""The cost of a complete plan; inf where it breaks a limit."""


class Assignment:
    """One problem under one target.

    Attributes:
        allowed: [u, d] where each unit may be.
        unit: [u, d]; hop: [u, d, e]: what is to be least; `far` for a hop that there is not.
        second, second_hop: [u, d], [u, d, e] the second amount over its limit; zero where there is none.
        loads: [r, u, d] over what the device has, so that each sum may reach 1.
        far: more than any plan costs.
    """

    def __init__(self, tables: Tables, target: Target, roots: list[int], far: float = 1.0) -> None:
        self.tables, self.roots = tables, roots
        self.unit = target.unit_cost
        hop = target.hop_cost[tables.payload]
        finite = np.where(np.isfinite(hop), hop, 0.0)
        self.far = far + 2 * float(self.unit.max(axis=1).sum() + finite.max(axis=(1, 2)).sum())
        self.hop = np.where(np.isfinite(hop), hop, self.far)
        self.second, self.second_hop = np.zeros_like(self.unit), np.zeros_like(self.hop)
        if target.second is not None:
            crossing = target.second.hop[tables.payload]
            self.second = target.second.unit / target.second.most
            self.second_hop = np.where(np.isfinite(crossing), crossing / target.second.most, 0.0)
        self.has_second = target.second is not None
        each = np.arange(tables.num_devices)
        self.hop[:, each, each] = self.second_hop[:, each, each] = 0.0
        self.loads = self._loads(target)
        self.allowed = self._allowed()
        units = np.arange(tables.num_units)[:, None]
        self._unit_row, self._hop_row = units * tables.num_devices, units * tables.num_devices**2
        self._after: Ints = np.append(units[1:, 0], 0)

    def _loads(self, target: Target) -> Floats:
        tables, problem = self.tables, self.tables.problem
        kinds = [(np.repeat(tables.memory[:, None], tables.num_devices, axis=1), tables.capacity)]
        if np.isfinite(target.busy_limit_s):
            kinds.append((tables.seconds, np.full(tables.num_devices, target.busy_limit_s)))
        tokens = problem.context_tokens * problem.sessions
        if tokens and any(device.battery_j is not None for device in problem.devices):
            watts = np.array([device.active_w or 0.0 for device in problem.devices])
            most = [np.inf if device.battery_j is None else device.battery_j / tokens for device in problem.devices]
            kinds.append((tables.seconds * watts, np.array(most)))
        tiny = 1e-300
        return np.stack([np.minimum(load / np.maximum(limit, tiny), 1e9) for load, limit in kinds])

    def _allowed(self) -> NDArray[np.bool_]:
        tables, problem = self.tables, self.tables.problem
        allowed = np.asarray((self.loads <= 1 + ROUNDING).all(axis=0))
        elsewhere = np.arange(tables.num_devices) != tables.source
        if problem.pin_head:
            allowed[-1, elsewhere] = False
        allowed[0, np.setdiff1d(np.arange(tables.num_devices), self.roots)] = False
        return allowed

    def cost(self, owners: Ints) -> Floats:
        """[n] of assignments [u, n]."""
        return self._sum(owners, self.unit, self.hop)

    def second_used(self, owners: Ints) -> Floats:
        """[n] the second amount over its limit."""
        return self._sum(owners, self.second, self.second_hop)

    def _sum(self, owners: Ints, unit: Floats, hop: Floats) -> Floats:
        crossings = self._hop_row + owners * self.tables.num_devices + owners[self._after]
        total: Floats = (unit.ravel()[self._unit_row + owners] + hop.ravel()[crossings]).sum(axis=0)
        return total

    def used(self, owners: Ints) -> Floats:
        """[r, d, n] what assignments [u, n] use of each device."""
        num, num_devices = owners.shape[1], self.tables.num_devices
        where = (owners * num + np.arange(num)).ravel()
        used: Floats = np.empty((len(self.loads), num_devices * num))
        for row, load in zip(used, self.loads):
            row[:] = np.bincount(where, load.ravel()[self._unit_row + owners].ravel(), num_devices * num)
        return used.reshape(len(self.loads), num_devices, num)

    @cached_property
    def _crossings(self) -> list[tuple[Ints, Floats]]:
        """Which links [u, d, e] each hop crosses, the first ones, the second ones ..., and for how many seconds."""
        tables, num = self.tables, self.tables.num_devices
        routes = [list(links) for links in tables.relayed.values()]
        parts = [
            (np.zeros(self.hop.shape, dtype=np.int64), np.zeros(self.hop.shape))
            for _ in max(routes, key=len, default=[0])
        ]
        parts[0][0][:] = np.arange(num)[:, None] * num + np.arange(num)
        parts[0][1][:] = np.where(self.hop < self.far, self.hop, 0.0)
        index = tables.problem.index
        for (k, d, e), links in tables.relayed.items():
            units = tables.payload == k
            for (link_at, seconds), link in zip(parts, links):
                link_at[units, d, e] = index[link.source] * num + index[link.target]
                seconds[units, d, e] = link.seconds(float(tables.payload_bytes[k]))
        return parts

    def beat(self, owners: Ints, in_flight: int) -> Floats:
        """[n] seconds per token of assignments [u, n] where `unit` and `hop` are seconds, and a little for the lap."""
        num, num_devices, each = owners.shape[1], self.tables.num_devices, np.arange(owners.shape[1])
        hops = self._hop_row + owners * num_devices + owners[self._after]
        work, crossing = self.unit.ravel()[self._unit_row + owners], self.hop.ravel()[hops]
        busy = [np.bincount((owners * num + each).ravel(), work.ravel(), num_devices * num)]
        link_s = np.zeros(num_devices**2 * num)
        for link_at, seconds in self._crossings:
            where = link_at.ravel()[hops] * num + each
            link_s += np.bincount(where.ravel(), seconds.ravel()[hops].ravel(), num_devices**2 * num)
        busy.append(link_s)
        share_s = (work + crossing).sum(axis=0) / in_flight
        busiest_s = np.maximum(*(seconds.reshape(-1, num).max(axis=0) for seconds in busy))
        return np.maximum(busiest_s, share_s) + LAP_SHARE * share_s

    def runs(self, owners: Ints) -> Runs:
        """The stages of one assignment [u] as (device, last unit)."""
        return runs_of(owners.tolist())


def runs_of(owners: Sequence[int]) -> Runs:
    """The stages from the device of each unit."""
    return tuple((d, u) for u, d in enumerate(owners) if u + 1 == len(owners) or owners[u + 1] != d)


def owners_of(runs: Runs) -> list[int]:
    """The device of each unit."""
    lengths = np.diff([-1, *(last for _, last in runs)])
    owners: list[int] = np.repeat([device for device, _ in runs], lengths).tolist()
    return owners
