"""Both dynamic programmes of EdgeShard, as published (Zhang et al., 2024, arXiv:2405.14371). Pure.

As in the paper: unit 0 stays on the source, payloads take direct links, and the latency programme keeps one memory
state per cell, so that under tight memory it is not exact. Our additions: the KV cache counts as memory, and the head
stays on the source where it is pinned. Identical devices are counted, not told apart, which changes no value.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from shardnet.errors import BadConfiguration, DoesNotFit
from shardnet.plan import StagePlan
from shardnet.planner.tables import Floats, Ints, Tables, as_stages, stages_of

MOST_SUBSETS = 4096
SLACK = 1e-9

State = tuple[tuple[int, ...], int]
"""Devices taken of each group of identical ones, and the group of the last one."""


def least_latency(tables: Tables) -> tuple[StagePlan, ...]:
    """Algorithm 1: DP(i, j) = min over k of DP(i-1, k) + t(i, j) + O(i-1) / B(k, j). O(units * devices**2).

    Raises:
        DoesNotFit: every cell of some unit ran out of memory or of links.
    """
    num_units, num_devices = tables.seconds.shape
    seconds, room = _allowed_seconds(tables), tables.capacity * (1 + SLACK)
    best = np.full(num_devices, np.inf)
    used = np.zeros((num_devices, num_devices))
    if tables.memory[0] <= room[tables.source]:
        best[tables.source] = seconds[0, tables.source]
    used[tables.source, tables.source] = tables.memory[0]
    came = np.zeros((num_units, num_devices), dtype=np.int64)
    each = np.arange(num_devices)
    for u in range(1, num_units):
        arrive = best[:, None] + tables.direct_s[tables.payload[u - 1]]
        arrive = np.where(used + tables.memory[u] <= room, arrive, np.inf)
        came[u] = arrive.argmin(axis=0)
        best = arrive[came[u], each] + seconds[u]
        used = used[came[u]]
        used[each, each] += tables.memory[u]
    total = best + tables.direct_s[tables.payload[-1], :, tables.source]
    if not np.isfinite(total).any():
        raise DoesNotFit("EdgeShard's latency programme finds no plan over direct links in this memory. Use exact.")
    owners = [int(total.argmin())]
    for u in range(num_units - 1, 0, -1):
        owners.append(int(came[u, owners[-1]]))
    return stages_of(tables.problem, owners[::-1])


def least_bottleneck(tables: Tables) -> tuple[StagePlan, ...]:
    """Algorithm 2: g(m, S + {j}, j) = min over i, k of max(g(i, S, k), t(i+1..m, j), O(i) / B(k, j)).

    Raises:
        BadConfiguration: there are too many different subsets of devices.
        DoesNotFit: no plan over direct links fits, each device used once.
    """
    groups = _groups(tables)
    num_subsets = int(np.prod([len(group) + 1.0 for group in groups]))
    if num_subsets > MOST_SUBSETS:
        raise BadConfiguration(
            f"EdgeShard's throughput programme would visit {num_subsets} subsets of devices and is tried up to "
            f"{MOST_SUBSETS}. Use the method exact or auto."
        )
    table, came = _filled(tables, groups)
    ends = {state: cells[-1] for state, cells in table.items() if np.isfinite(cells[-1])}
    if not ends:
        raise DoesNotFit("EdgeShard's throughput programme finds no plan over direct links in this memory. Use exact.")
    # Of equal bottlenecks, the subset that is first when subsets are counted as binary numbers, as a plain loop does.
    chosen = min(ends, key=lambda state: (ends[state], _binary(groups, state[0]), state[1]))
    return _trace(tables, groups, came, chosen)


def _filled(tables: Tables, groups: list[list[int]]) -> tuple[dict[State, Floats], dict[State, tuple[Ints, Ints]]]:
    """The table g [state][m], and how each cell was come by."""
    visits = [_visit_seconds(tables, group[0]) for group in groups]
    hops = tables.direct_s[tables.payload[:-1]]
    alone = (1, *[0] * (len(groups) - 1))
    table: dict[State, Floats] = {(alone, 0): visits[0][0]}
    came: dict[State, tuple[Ints, Ints]] = {}
    if tables.num_units == 1:
        return table, came
    counts = [[1], *(range(len(group) + 1) for group in groups[1:])]
    for taken in sorted(product(*counts), key=sum):
        for j in range(1, len(groups)):
            if taken[j]:
                before = tuple(count - (g == j) for g, count in enumerate(taken))
                _extend(table, came, groups, hops, visits[j], before, taken, j)
    return table, came


def _allowed_seconds(tables: Tables) -> Floats:
    seconds = tables.seconds.copy()
    if tables.problem.pin_head:
        seconds[-1, np.arange(tables.num_devices) != tables.source] = np.inf
    return seconds


def _groups(tables: Tables) -> list[list[int]]:
    """Identical devices together; first the source, alone."""
    groups = [[d for d in devices if d != tables.source] for devices in tables.members]
    return [[tables.source], *(group for group in groups if group)]


def _visit_seconds(tables: Tables, d: int) -> Floats:
    """Seconds [first, last] of a visit to a device, inf where it does not fit."""
    before = np.concatenate([[0.0], np.cumsum(_allowed_seconds(tables)[:, d])])
    stored = np.concatenate([[0.0], np.cumsum(tables.memory)])
    seconds = before[None, 1:] - before[:-1, None]
    fits = stored[None, 1:] - stored[:-1, None] <= tables.capacity[d] * (1 + SLACK)
    return np.where(fits & np.tri(tables.num_units, dtype=bool).T, seconds, np.inf)


def _binary(groups: list[list[int]], taken: tuple[int, ...]) -> int:
    return sum(1 << d for group, count in zip(groups, taken) for d in group[:count])


def _extend(
    table: dict[State, Floats],
    came: dict[State, tuple[Ints, Ints]],
    groups: list[list[int]],
    hops: Floats,
    visit: Floats,
    before: tuple[int, ...],
    taken: tuple[int, ...],
    j: int,
) -> None:
    """Fill g(., taken, j) from every g(., before, k)."""
    for k, count in enumerate(before):
        if not count or (before, k) not in table:
            continue
        source = groups[k][0]
        target = groups[j][0] if k != j else groups[j][min(1, len(groups[j]) - 1)]
        arrive = np.maximum(table[before, k][:-1], hops[:, source, target])
        ways = np.maximum(arrive[:, None], visit[1:])
        cut = ways.argmin(axis=0)
        least = ways[cut, np.arange(ways.shape[1])]
        cells = table.setdefault((taken, j), np.full(ways.shape[1], np.inf))
        cuts, origins = came.setdefault((taken, j), (np.zeros(len(cells), int), np.zeros(len(cells), int)))
        better = least < cells
        cells[better], cuts[better], origins[better] = least[better], cut[better], k


def _trace(
    tables: Tables, groups: list[list[int]], came: dict[State, tuple[Ints, Ints]], state: State
) -> tuple[StagePlan, ...]:
    """Follow the choices back; of identical devices, any unused one serves."""
    taken, j = state
    last, runs = tables.num_units - 1, []
    while (taken, j) in came:
        cuts, origins = came[taken, j]
        runs.append((groups[j][taken[j] - 1], last))
        taken = tuple(count - (g == j) for g, count in enumerate(taken))
        last, j = int(cuts[last]), int(origins[last])
    runs.append((groups[j][taken[j] - 1], last))
    return as_stages(tables.problem, runs[::-1])
