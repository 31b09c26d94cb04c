"""LinguaLinked's placement (Zhao et al., 2023, arXiv:2312.00388) as linear programmes, solved by CBC through PuLP.

As in the paper: x[u, d] places modules, the sum of compute and of transfers is least, the header device (our source)
keeps module 0, and each device holds one contiguous run. Theirs is quadratic; ours replaces the products x[u, d] *
x[u + 1, e] by flows y[u, d, e], which is exact. Also ours: the latency counts for the pairs in use, transfers take the
fastest route, the way back and the KV cache count, and memory_bytes is taken to be their 0.7 of what is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardnet.errors import BadConfiguration, DoesNotFit
from shardnet.plan import StagePlan
from shardnet.planner.costs import gigabytes
from shardnet.planner.problem import Problem
from shardnet.planner.rules.cbc import import_pulp, solve, without_warnings
from shardnet.planner.tables import Tables, stages_of

MOST_FLOWS = 60_000


@without_warnings
def place(tables: Tables, time_limit_s: float) -> tuple[StagePlan, ...]:
    """Solve the first programme.

    Raises:
        BadConfiguration: the programme would be too large.
        DoesNotFit: it has no solution.
        ShardnetError: PuLP or its solver is missing, or found nothing in time.
    """
    pulp = import_pulp()
    num_units, num_devices = tables.seconds.shape
    if num_units * num_devices**2 > MOST_FLOWS:
        raise BadConfiguration(
            f"LinguaLinked's programme would have {num_units * num_devices**2} variables and is tried up to "
            f"{MOST_FLOWS}. Use the method exact or auto."
        )
    programme = pulp.LpProblem("place", pulp.LpMinimize)
    allowed = _allowed(tables)
    x = {(u, d): pulp.LpVariable(f"x_{u}_{d}", cat="Binary") for u, d in np.argwhere(allowed).tolist()}
    y: dict[tuple[int, int, int], Any] = {}
    for u in range(num_units - 1):
        for d, e in np.argwhere(np.isfinite(tables.hop(u)) & allowed[u][:, None] & allowed[u + 1]).tolist():
            y[u, d, e] = pulp.LpVariable(f"y_{u}_{d}_{e}", lowBound=0)
    programme += pulp.LpAffineExpression(_costs(tables, x, y))
    _constrain(pulp, programme, tables, x, y)
    values = solve(pulp, programme, time_limit_s)
    if values is None:
        need, have = gigabytes(tables.memory.sum()), gigabytes(tables.capacity.sum())
        raise DoesNotFit(
            f"LinguaLinked's programme has no solution: {need} in one run per device on {have}. "
            "Use exact, which may visit a device again; add memory; or use weights of fewer bits."
        )
    owners = [max((values[x[u, d].name], d) for d in range(num_devices) if (u, d) in x)[1] for u in range(num_units)]
    return stages_of(tables.problem, owners)


@without_warnings
def overlap(problem: Problem, stages: tuple[StagePlan, ...], time_limit_s: float = 5.0) -> dict[str, tuple[int, ...]]:
    """Solve the second programme: which units next to its own run each device can hold a copy of.

    Copies at the boundaries let load shift without a transfer of weights. The most seconds of work are copied that the
    memory left over can hold, each copy contiguous with the device's own run and taken from a neighbour's.

    Returns:
        The copied units by device; devices that copy nothing are absent.

    Raises:
        ShardnetError: PuLP or its solver is missing, or found nothing in time.
    """
    pulp = import_pulp()
    programme = pulp.LpProblem("overlap", pulp.LpMaximize)
    copies: Copies = {}
    for s in range(len(stages)):
        for units in _neighbouring(stages, s):
            _copy_from_the_boundary(pulp, programme, copies, s, units)
    if not copies:
        return {}
    devices = [problem.devices[problem.index[stage.device]] for stage in stages]
    programme += pulp.LpAffineExpression([(copy, devices[s].unit_seconds[u]) for (s, u), copy in copies.items()])
    for name in {stage.device for stage in stages}:
        mine = [(copy, problem.unit_memory_bytes[u]) for (s, u), copy in copies.items() if stages[s].device == name]
        if mine:
            programme += pulp.LpAffineExpression(mine) <= max(_left_bytes(problem, stages, name), 0.0)
    return _copied(copies, solve(pulp, programme, time_limit_s) or {}, stages)


def _copied(copies: Copies, values: Mapping[str, float], stages: tuple[StagePlan, ...]) -> dict[str, tuple[int, ...]]:
    """The copied units by device, of a solution."""
    chosen: dict[str, set[int]] = {}
    for (s, u), copy in copies.items():
        if values.get(copy.name, 0.0) > 0.5:
            chosen.setdefault(stages[s].device, set()).add(u)
    return {name: tuple(sorted(units)) for name, units in chosen.items()}


Copies = dict[tuple[int, int], Any]
"""The variable of each copy that a stage may hold of a unit."""


def _neighbouring(stages: tuple[StagePlan, ...], s: int) -> tuple[range, range]:
    """The units of the stage before and of the stage after, the nearest first."""
    stage = stages[s]
    first = stages[s - 1].first_unit if s else stage.first_unit
    last = stages[s + 1].last_unit if s + 1 < len(stages) else stage.last_unit
    return range(stage.first_unit - 1, first - 1, -1), range(stage.last_unit + 1, last + 1)


def _copy_from_the_boundary(pulp: Any, programme: Any, copies: Copies, s: int, units: range) -> None:
    """Let a stage hold copies of these units, each only with those that are nearer."""
    nearer = None
    for u in units:
        copies[s, u] = pulp.LpVariable(f"z_{s}_{u}", cat="Binary")
        if nearer is not None:
            programme += copies[s, u] <= nearer
        nearer = copies[s, u]


def _left_bytes(problem: Problem, stages: tuple[StagePlan, ...], name: str) -> float:
    """What a device has left beside its own units."""
    own = {u for stage in stages if stage.device == name for u in range(stage.first_unit, stage.last_unit + 1)}
    return problem.devices[problem.index[name]].memory_bytes - sum(problem.unit_memory_bytes[u] for u in own)


def _allowed(tables: Tables) -> NDArray[np.bool_]:
    """Where each unit may be [u, d]: where it fits alone, and the header's module on the header."""
    allowed = tables.memory[:, None] <= tables.capacity
    elsewhere = np.arange(tables.num_devices) != tables.source
    allowed[0, elsewhere] = False
    if tables.problem.pin_head:
        allowed[-1, elsewhere] = False
    allowed[-1] &= np.isfinite(tables.hop(tables.num_units - 1)[:, tables.source])
    return allowed


def _costs(tables: Tables, x: dict[Any, Any], y: dict[Any, Any]) -> list[tuple[Any, float]]:
    """Seconds of each unit where it may be, of each hop between devices, and of the way back."""
    last = tables.num_units - 1
    back = tables.hop(last)[:, tables.source]
    cost = [(x[u, d], tables.seconds[u, d]) for u, d in x]
    cost += [(flow, float(tables.hop(u)[d, e])) for (u, d, e), flow in y.items() if d != e]
    return cost + [(x[last, d], float(back[d])) for d in range(tables.num_devices) if (last, d) in x]


def _constrain(pulp: Any, programme: Any, tables: Tables, x: dict[Any, Any], y: dict[Any, Any]) -> None:
    num_units, num_devices = tables.seconds.shape
    for u in range(num_units):
        programme += pulp.lpSum(x[u, d] for d in range(num_devices) if (u, d) in x) == 1
    _flow_along(pulp, programme, num_units, x, y)
    for d in range(num_devices):
        held = [(x[u, d], float(tables.memory[u])) for u in range(num_units) if (u, d) in x]
        if held:
            scale = max(float(tables.capacity[d]), 1.0)
            programme += pulp.LpAffineExpression([(var, size / scale) for var, size in held]) <= 1
        _run_once(pulp, programme, tables, x, y, d)


def _flow_along(pulp: Any, programme: Any, num_units: int, x: dict[Any, Any], y: dict[Any, Any]) -> None:
    """What a device computes, it took from where the unit before is, and hands to where the next one is."""
    outflow: dict[tuple[int, int], list[Any]] = {}
    inflow: dict[tuple[int, int], list[Any]] = {}
    for (u, d, e), flow in y.items():
        outflow.setdefault((u, d), []).append(flow)
        inflow.setdefault((u + 1, e), []).append(flow)
    for u, d in x:
        if u < num_units - 1:
            programme += pulp.lpSum(outflow.get((u, d), [])) == x[u, d]
        if u:
            programme += pulp.lpSum(inflow.get((u, d), [])) == x[u, d]


def _run_once(pulp: Any, programme: Any, tables: Tables, x: dict[Any, Any], y: dict[Any, Any], d: int) -> None:
    """The ring comes to a device once at the most."""
    runs = [flow for (_, there, e), flow in y.items() if e == d and there != d]
    most = 1
    if d == tables.source:
        # The header's run is the one that begins with module 0, and a pinned head may bring the ring back to it.
        most = int(tables.problem.pin_head)
    elif (0, d) in x:
        runs.append(x[0, d])
    if runs:
        programme += pulp.lpSum(runs) <= most
