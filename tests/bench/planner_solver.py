"""What HiGHS finds for the tight problems with the planner's programme alone: a rival that knows nothing of `exact`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from tight_problems import Case

from shardnet.planner.budget import Budget
from shardnet.planner.costs import broken_limit, evaluate
from shardnet.planner.exact.highs import Answer, solve
from shardnet.planner.exact.minimize import roots_of
from shardnet.planner.exact.programme import Programme
from shardnet.planner.tables import Tables, stages_of


def programme_of(tables: Tables) -> Programme:
    return Programme(tables, roots_of(tables))


def record(case: Case, seconds: float) -> dict[str, Any]:
    """One row of the record: what the solver finds in so many seconds."""
    tables, limit_s = Tables(case.problem), None
    told: dict[str, Any] = {"number": case.number, "objective": case.objective, "in_flight": case.in_flight}
    if case.lap_limit_share is not None:
        programme = programme_of(tables)
        programme.costs = programme.amounts(tables.seconds, tables.hop_s)
        first = solve(programme, Budget(seconds))
        if first.owners is not None:
            limit_s = evaluate(case.problem, stages_of(case.problem, first.owners)).lap_s * case.lap_limit_share
    programme = programme_of(tables)
    lap = programme.amounts(tables.seconds, tables.hop_s)
    programme.costs = lap
    if limit_s is not None:
        programme.limit(lap, limit_s)
    if case.objective == "energy":
        watts = np.array([device.active_w for device in case.problem.devices], dtype=float)
        joules = np.where(np.isfinite(tables.hop_s), tables.radio_j, np.inf)
        programme.costs = programme.amounts(tables.seconds * watts, joules)
    if case.objective == "throughput":
        programme.seek_beat(case.in_flight)
    began = time.process_time()
    found: Answer = solve(programme, Budget(seconds))
    told |= {
        "lap_limit_s": limit_s,
        "bound": found.bound if np.isfinite(found.bound) else None,
        "status": found.status,
        "seconds": round(time.process_time() - began, 2),
    }
    if found.owners is not None:
        stages = stages_of(case.problem, found.owners)
        cost = evaluate(case.problem, stages)
        assert broken_limit(case.problem, stages, cost) is None, case.number
        told |= {"lap_s": cost.lap_s, "energy_j": cost.energy_j, "rate_per_s": cost.rate(case.in_flight)}
        told |= {"owners": found.owners}
    return told
