"""Partial plans in bulk: what each has used, and which of them need not be followed. Pure.

A layer holds the partial plans whose last stage ends at the same unit. Of two that stand on the same device with the
same room left where room still matters, only the cheaper one is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardnet.planner.exact.by_class import Target
from shardnet.planner.exact.limits import Columns
from shardnet.planner.tables import Floats, Ints, Tables

SLACK = 1e-9
_GRAIN = 1e10


@dataclass
class Layer:
    """Partial plans in arrays.

    Attributes:
        device, root: [n] last device, position of the first one among the roots.
        costs: [b, n] cost under each bound's prices; the first is without prices.
        memory, busy: [n, d] B and s used; busy is empty where it is not limited.
        columns: [n, g]; used: [n, d] devices in the plan.
        parent_unit, parent_row: [n] where the partial plan without the last stage is; unit -1 for none.
    """

    device: Ints
    root: Ints
    costs: Floats
    memory: Floats
    busy: Floats
    columns: Floats
    used: NDArray[np.bool_]
    parent_unit: Ints
    parent_row: Ints

    def __len__(self) -> int:
        return len(self.device)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Layer:
        """The partial plans of these rows."""
        by_row = (self.memory[rows], self.busy[rows], self.columns[rows], self.used[rows])
        return Layer(
            self.device[rows],
            self.root[rows],
            self.costs[:, rows],
            *by_row,
            self.parent_unit[rows],
            self.parent_row[rows],
        )


def joined(layers: list[Layer]) -> Layer:
    """One layer of several."""
    if len(layers) == 1:
        return layers[0]
    names = ("device", "root", "memory", "busy", "columns", "used", "parent_unit", "parent_row")
    parts = {name: np.concatenate([getattr(layer, name) for layer in layers]) for name in names}
    return Layer(costs=np.concatenate([layer.costs for layer in layers], axis=1), **parts)


class Dominance:
    """Finds the partial plans of a layer that another one of it replaces."""

    def __init__(self, tables: Tables, target: Target, columns: Columns, roots: list[int], count_devices: bool) -> None:
        self._tables, self._target, self._columns = tables, target, columns
        self._roots: Ints = np.array(roots)
        self._count_devices = count_devices
        after = np.cumsum(tables.memory[::-1])[::-1]
        self._memory_after: Floats = np.append(after[1:], 0.0)
        self._least_after: Floats = np.append(np.minimum.accumulate(tables.memory[::-1])[::-1][1:], np.inf)
        self._seconds_after = np.concatenate(
            [np.cumsum(tables.seconds[::-1], axis=0)[::-1][1:], tables.seconds[:1] * 0]
        )
        self._groups = [np.array(devices) for devices in tables.members if len(devices) > 1]
        numbers = np.random.default_rng(7)
        self._factors = numbers.integers(1, 2**62, tables.num_devices + 8, dtype=np.int64) | 1
        limited = [g for g in range(len(columns.most)) if g != columns.second and np.isfinite(columns.most[g])]
        self._told: Ints = np.array(limited, dtype=np.int64)
        self._column_factors = numbers.integers(1, 2**62, len(limited), dtype=np.int64) | 1

    def keep(self, unit: int, layer: Layer, tie: float) -> Ints:
        """Rows that no other row replaces; rows within `tie` of the cheapest are told apart by their devices."""
        key = self._key(unit, layer)
        cost = layer.costs[0]
        if self._columns.second is not None:
            if self._count_devices:
                key = key + self._devices_key(layer)
            return _pareto(key, cost, layer.columns[:, self._columns.second])
        order = np.lexsort((cost, key))
        starts = np.append(True, key[order][1:] != key[order][:-1])
        if not self._count_devices:
            return order[starts]
        cheapest = cost[order][starts][np.cumsum(starts) - 1]
        near = order[cost[order] <= cheapest + tie]
        exact = (key + self._devices_key(layer))[near]
        _, first = np.unique(exact, return_index=True)
        return near[first]

    def _devices_key(self, layer: Layer) -> Ints:
        """One number per row for the devices that it uses."""
        return _mixed(layer.used.astype(np.int64) @ self._factors[: layer.used.shape[1]])

    def _key(self, unit: int, layer: Layer) -> Ints:
        """One number per row for the device and for all the room that still matters."""
        tables, rows = self._tables, np.arange(len(layer))
        total = max(float(tables.memory.sum()), 1e-300)
        room = np.minimum(tables.capacity - layer.memory, self._memory_after[unit])
        room = np.where(room * (1 + SLACK) < self._least_after[unit], 0.0, room)
        states = np.rint(room / total * _GRAIN).astype(np.int64) * self._factors[-1]
        if layer.busy.size:
            limit = max(self._target.busy_limit_s, 1e-300)
            left = np.minimum(limit - layer.busy, self._seconds_after[unit])
            states = states + np.rint(left / limit * _GRAIN).astype(np.int64) * self._factors[-2]
        states[rows, layer.device] += self._factors[-3]
        states[rows, self._roots[layer.root]] += self._factors[-7]
        states = _mixed(states)
        for group in self._groups:
            states[:, group] = np.sort(states[:, group], axis=1)
        key = states @ self._factors[: states.shape[1]]
        key = key + tables.class_of[layer.device] * self._factors[-4] + layer.root * self._factors[-5]
        return _mixed(key + _mixed(self._column_key(unit, layer)))

    def _column_key(self, unit: int, layer: Layer) -> Ints:
        columns, told = self._columns, self._told
        if not len(told):
            return np.zeros(len(layer), dtype=np.int64)
        most = columns.most[told]
        left = np.minimum(most - layer.columns[:, told], columns.after[unit, told])
        shares = np.rint(left / np.maximum(most, 1e-300) * _GRAIN).astype(np.int64)
        return shares @ self._column_factors


def _mixed(values: Ints) -> Ints:
    """Scatter integers over 64 bits (the finalizer of splitmix64), so that sums of keys do not collide."""
    bits = values.astype(np.uint64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (bits ^ (bits >> np.uint64(31))).astype(np.int64)


def _pareto(key: Ints, cost: Floats, second: Floats) -> Ints:
    """Rows for which no row of the same key has both a lower cost and less of the second amount."""
    order = np.lexsort((second, cost, key))
    starts = np.append(True, key[order][1:] != key[order][:-1])
    group = np.cumsum(starts)
    span = float(second.max()) * 2 + 1
    lowered = second[order] - group * span
    least = np.minimum.accumulate(lowered)
    better = np.append(True, lowered[1:] < least[:-1])
    return order[better | starts]
