"""Shorter laps under a beat, by large neighbourhoods: which devices, in which order, with which units. Pure.

Take the devices of the best plan known in their order, move a few, mix unused ones in between, and let a dynamic
programme choose from that row which of them hold which units (as in Prins' split of a giant tour, 2004). It is exact
for the row and takes about a millisecond, so that thousands of rows can be tried. Proves nothing.
"""

from __future__ import annotations

import numpy as np

from shardnet.planner.budget import Budget
from shardnet.planner.costs import ROUNDING
from shardnet.planner.exact.assignment import Judge, Runs
from shardnet.planner.tables import Floats, Ints, Tables

MOST_MIXED_IN = 20
"""Unused devices that one row tries."""
MOST_MOVED = 3
PATIENCE = 500
"""Rows without a gain after which to stop."""


def shorter_lap(
    tables: Tables,
    beat_s: float,
    hop_s: Floats,
    runs: Runs,
    judge: Judge,
    enough_s: float,
    budget: Budget,
    chance: np.random.Generator,
) -> Runs | None:
    """The plan with the shortest lap that was found under the beat, the first of at most `enough_s` at once.

    Args:
        hop_s: [k, d, e] s of the hops that keep the beat, inf for the others.
        runs: a plan to begin with, whether it keeps the beat or not.
        judge: the lap of a plan that keeps every limit, inf for others.
    """
    rows = _Rows(tables, beat_s, hop_s)
    used = list(dict.fromkeys(d for d, _ in runs))
    tail = [used[0]] if runs[-1][0] == used[0] else []
    best: Runs | None = None
    lap_s, idle = np.inf, 0
    while idle < PATIENCE and not budget.spent:
        found = rows.best(np.append(_mixed(used, rows.able, chance), tail).astype(np.int64))
        idle += 1
        if found is None or not found[0] <= lap_s:
            continue
        if found[0] < lap_s * (1 - ROUNDING):
            idle = 0
        lap_s, used = found[0], list(dict.fromkeys(d for d, _ in found[1]))
        if judge(found[1]) <= lap_s * (1 + ROUNDING):
            best = found[1]
            if lap_s <= enough_s:
                break
    return best


def _mixed(used: list[int], able: Ints, chance: np.random.Generator) -> Ints:
    """The used devices, some of them moved, with unused ones between them; the first one stays."""
    row = list(used)
    for _ in range(int(chance.integers(0, MOST_MOVED + 1)) if len(row) > 2 else 0):
        device = row.pop(int(chance.integers(1, len(row))))
        row.insert(int(chance.integers(1, len(row) + 1)), device)
    unused = chance.permutation(np.setdiff1d(able, row))[:MOST_MIXED_IN]
    where = chance.integers(1, len(row) + 1, len(unused))
    return np.insert(np.array(row, dtype=np.int64), where, unused)


class _Rows:
    """The best plan that visits some of a row's devices in the row's order."""

    def __init__(self, tables: Tables, beat_s: float, hop_s: Floats) -> None:
        self._tables, self._hop_s = tables, hop_s
        self._edges: Ints = np.arange(tables.num_units + 1)
        seconds = np.concatenate([np.zeros((1, tables.num_devices)), np.cumsum(tables.seconds, axis=0)])
        room = np.concatenate([[0.0], np.cumsum(tables.memory)])
        self._seconds = seconds.T
        reached_s, held = seconds - beat_s * (1 + ROUNDING), room[:, None] - tables.capacity * (1 + ROUNDING)
        begin: Ints = np.stack(  # [d, edge]: the first unit of the longest stage that ends before the edge
            [
                np.maximum(np.searchsorted(seconds[:, d], reached_s[:, d]), np.searchsorted(room, held[:, d]))
                for d in range(tables.num_devices)
            ]
        )
        lengths = np.arange(1, tables.num_units + 1)
        longest = (self._edges - begin).max(axis=1)
        self.able: Ints = np.flatnonzero((self._edges - begin)[:, 2:-1].max(axis=1, initial=0) > 0)
        """Devices that can hold a unit other than the first and the last."""
        self._longest: Ints = longest
        # [length, edge]: where a stage of that length that ends before the edge begins, and whether it may.
        self._starts = [self._edges - lengths[:most, None] for most in longest]
        self._allowed = [start >= np.maximum(begin[d], 0) for d, start in enumerate(self._starts)]

    def best(self, row: Ints) -> tuple[float, Runs] | None:
        """Its lap in seconds, and its stages as (device, last unit)."""
        if not self._longest[row[0]]:
            return None
        row = row[self._longest[row] > 0]
        num_units, edges, tables = self._tables.num_units, self._edges, self._tables
        lap = np.full((len(row), num_units + 1), np.inf)  # [j, edge]: units before the edge placed, the last on row[j]
        came, first = np.full(lap.shape, -1), np.zeros(lap.shape, dtype=np.int64)
        for j, device in enumerate(row.tolist()):
            if j:
                onward = lap[:j].copy()
                onward[:, 1:num_units] += self._hop_s[:, row[:j], device].T[:, tables.payload[:-1]]
                before = onward.argmin(axis=0)
                entry = onward[before, edges]
                entry[[0, num_units]] = np.inf
            else:
                before, entry = np.full(num_units + 1, -1), np.where(edges == 0, 0.0, np.inf)
            starts, open_s = self._starts[device], entry - self._seconds[device]
            opened_s = np.where(self._allowed[device], open_s[starts], np.inf)
            chosen = opened_s.argmin(axis=0)
            first[j] = starts[chosen, edges]
            lap[j] = self._seconds[device] + opened_s[chosen, edges]
            came[j] = before[first[j]]
        whole = lap[:, num_units] + self._hop_s[tables.payload[-1]][row, row[0]]
        if tables.problem.pin_head:
            whole[row != tables.source] = np.inf
        j = int(whole.argmin())
        if not np.isfinite(whole[j]):
            return None
        lap_s, runs, edge = float(whole[j]), [], num_units
        while j >= 0:
            runs.append((int(row[j]), edge - 1))
            j, edge = int(came[j, edge]), int(first[j, edge])
        return lap_s, tuple(reversed(runs))
