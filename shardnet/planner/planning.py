"""`plan`: one problem, one objective, any method, one kind of answer. Pure but for the clock that ends a search.

The search of `exact` begins with the plans of the quick methods, so that it is never worse than these. `auto` is that
search, and asks the solver of `lingualinked`, too, where the search ends without a proof and the problem is small
enough; the rule by which two plans are compared is in `better`.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from shardnet.errors import BadConfiguration, BadRequest, DoesNotFit, ShardnetError
from shardnet.foreign.bounds import SECONDS, SESSIONS, Amount, Bound
from shardnet.foreign.quoting import quoted
from shardnet.plan import Plan, Stages
from shardnet.planner import explain
from shardnet.planner.budget import Budget
from shardnet.planner.costs import ROUNDING, Cost, broken_limit, evaluate
from shardnet.planner.exact.deepening import MOST_DEVICES
from shardnet.planner.exact.exact import Exact, Solution
from shardnet.planner.exact.throughput import NEAR_TIE, SAME, greatest_rate
from shardnet.planner.names import METHODS, OBJECTIVES
from shardnet.planner.problem import Problem
from shardnet.planner.rules import edgeshard, lingualinked, simple
from shardnet.planner.tables import Tables

LEAST_SOLVER_S, MOST_SOLVER_S = 2.0, 8.0
"""What the solver of `lingualinked` gets even where searches get less, and in small clusters, where they get more."""
TIME_LIMITS_S = ((MOST_DEVICES, 60.0), (200, 8.0), (math.inf, 25.0))
"""For the search of `exact` and `auto` where the caller sets none: up to so many devices, so long. Small clusters get
more: with hardly any memory to spare a search goes on finding and proving, and what is easy ends long before."""

Simulate = Callable[[Problem, Stages, int], float]
"""The rate that so many sessions in flight reach in a run: `simulated_rate` of the simulator, unknown to this room."""
MOST_SIMULATED = 12
"""Of the plans within 1% of the best rate, so many are simulated."""


@dataclass(frozen=True)
class Aim:
    """What is sought, for which problem."""

    problem: Problem
    objective: str
    in_flight: int
    lap_limit_s: float
    limit_s: float
    """For each search."""
    solver_s: float
    """For the solver of `lingualinked`."""
    simulate: Simulate | None = None
    """Tells the rate of stages that a run reaches."""
    known: dict[str, Any] = field(default_factory=dict)
    """What was found already, by the name of the search."""

    @cached_property
    def tables(self) -> Tables:
        """The problem in arrays, made when the first method asks."""
        return Tables(self.problem)

    def value(self, cost: Cost) -> float:
        """Less is better; see `Cost.value`."""
        return cost.value(self.objective, self.in_flight)

    def told(self, cost: Cost) -> str:
        """The value in words."""
        if self.objective == "energy":
            return f"{self.value(cost):.4g} J per token"
        if self.objective == "throughput":
            return f"{cost.rate(self.in_flight):.4g} tokens/s"
        return f"a lap of {cost.lap_s * 1e3:.4g} ms"


def plan(
    problem: Problem,
    objective: str = "latency",
    method: str = "auto",
    in_flight: int = 1,
    lap_limit_s: float | None = None,
    time_limit_s: float | None = None,
    simulate: Simulate | None = None,
) -> Plan:
    """Place the units of a problem.

    Args:
        objective: "latency" (least lap), "throughput" (greatest rate with `in_flight` sessions under way; within 1%,
            the shortest lap), or "energy" (least joules per token).
        method: one of METHODS.
        lap_limit_s: plans with a longer lap are refused.
        time_limit_s: for searches; what is best by then is returned with a proven gap. TIME_LIMITS_S where None.
        simulate: where it is given, plans tell their simulated rate, and of those within 1% of the greatest rate `auto`
            takes the one whose simulated rate is greatest.

    Raises:
        BadRequest: the objective, the method or a number is not one that there is.
        BadConfiguration: the method cannot take this problem.
        DoesNotFit: no plan of this method keeps memory and limits; says what would.
        ShardnetError: a solver is missing or late.
    """
    aim = _aim(problem, objective, in_flight, lap_limit_s, time_limit_s)
    return _place(replace(aim, simulate=simulate), method)


def compare(
    problem: Problem,
    objective: str = "latency",
    in_flight: int = 1,
    lap_limit_s: float | None = None,
    time_limit_s: float | None = None,
    simulate: Simulate | None = None,
) -> list[tuple[str, Plan | ShardnetError]]:
    """The plan of every method, or why it has none. What two of them search for is searched for once."""
    aim = replace(_aim(problem, objective, in_flight, lap_limit_s, time_limit_s), simulate=simulate)
    rows: list[tuple[str, Plan | ShardnetError]] = []
    for method in METHODS:
        try:
            rows.append((method, _place(aim, method)))
        except ShardnetError as error:
            rows.append((method, error))
    return rows


def usual_limit_s(problem: Problem, most_if_hard_s: float = math.inf) -> float:
    """How long a search goes on at most where nobody says.

    Args:
        most_if_hard_s: for small clusters.
    """
    limit_s = next(seconds for most, seconds in TIME_LIMITS_S if problem.num_devices <= most)
    return min(limit_s, most_if_hard_s) if problem.num_devices <= MOST_DEVICES else limit_s


def _aim(
    problem: Problem, objective: str, in_flight: int, lap_limit_s: float | None, time_limit_s: float | None
) -> Aim:
    _check_request(objective, in_flight, lap_limit_s, time_limit_s)
    if objective == "energy":
        _check_power(problem)
    limit_s = usual_limit_s(problem) if time_limit_s is None else time_limit_s
    solver_s = max(LEAST_SOLVER_S, usual_limit_s(problem, MOST_SOLVER_S) if time_limit_s is None else time_limit_s)
    most_s = math.inf if lap_limit_s is None else lap_limit_s
    return Aim(problem, objective, in_flight, most_s, limit_s, solver_s)


def _place(aim: Aim, method: str) -> Plan:
    """The plan of one method."""
    _check_name("method", method, METHODS)
    began, problem = time.perf_counter(), aim.problem
    stages, solution = _METHODS[method](problem, aim)
    try:
        cost = evaluate(problem, stages)
    except BadConfiguration as cause:  # the simple rules do not look at links
        raise DoesNotFit(f"The plan of {method} cannot run: {cause}") from cause
    broken = _broken(problem, stages, cost, aim)
    if broken is not None:
        raise DoesNotFit(f"The plan of {method} does not fit: {broken}. Use the method exact, or change that.")
    made = _plan(problem, stages, cost, aim, method, solution)
    return replace(made, solve_s=time.perf_counter() - began)


_NUMBERS = ("lap_s", "bottleneck_s", "rate_per_s", "simulated_rate_per_s", "energy_j")


def plan_to_dict(made: Plan) -> dict[str, Any]:
    """The plan as the JSON that `shardnet plan --json` prints: with the bits of units where these were chosen."""
    numbers = {key: getattr(made, key) for key in _NUMBERS}
    numbers = {key: value if value is None or math.isfinite(value) else None for key, value in numbers.items()}
    bits = {"unit_weights": list(made.unit_weights), "predicted_loss": made.predicted_loss}
    return {
        "method": made.method,
        "objective": made.objective,
        "stages": [
            {"device": stage.device, "first_unit": stage.first_unit, "last_unit": stage.last_unit}
            for stage in made.stages
        ],
        **numbers,
        "optimal": made.optimal,
        "gap": made.gap,
        "left_out": [{"device": left.device, "why": left.why} for left in made.left_out],
        "solve_s": made.solve_s,
        "why": made.why,
        **(bits if made.unit_weights else {}),
    }


def better(aim: Aim, plans: Sequence[Stages], costs: Sequence[Cost]) -> Stages:
    """The best of some plans: least value; for throughput, the shortest lap within 1% of the best; fewest devices."""
    least = min(aim.value(cost) for cost in costs)
    near = least / (1 - NEAR_TIE) if aim.objective == "throughput" else least * (1 + ROUNDING)
    rows = [(cost.lap_s, len(cost.device_busy_s), i) for i, cost in enumerate(costs) if aim.value(cost) <= near]
    shortest = min(rows)[0] * (1 + ROUNDING)
    return plans[min((row for row in rows if row[0] <= shortest), key=lambda row: row[1:])[2]]


def _broken(problem: Problem, stages: Stages, cost: Cost, aim: Aim) -> str | None:
    if cost.lap_s > aim.lap_limit_s * (1 + ROUNDING):
        return f"its lap takes {cost.lap_s * 1e3:.4g} ms and the limit is {aim.lap_limit_s * 1e3:.4g} ms"
    return broken_limit(problem, stages, cost)


def _plan(problem: Problem, stages: Stages, cost: Cost, aim: Aim, method: str, solution: Solution | None) -> Plan:
    gap = None if solution is None else solution.gap
    return Plan(
        stages=stages,
        method=method,
        objective=aim.objective,
        lap_s=cost.lap_s,
        bottleneck_s=cost.bottleneck_s,
        rate_per_s=cost.rate(aim.in_flight),
        simulated_rate_per_s=None if aim.simulate is None else aim.simulate(problem, stages, aim.in_flight),
        energy_j=cost.energy_j,
        optimal=solution is not None and bool(solution.proven),
        gap=gap,
        left_out=explain.left_out(problem, stages, aim.told),
        why=explain.limit_of(cost, aim.objective, aim.in_flight),
    )


def _solo(problem: Problem, aim: Aim) -> tuple[Stages, None]:
    return simple.solo(problem, aim.value), None


def _even(problem: Problem, aim: Aim) -> tuple[Stages, None]:
    return simple.even(problem), None


def _memory(problem: Problem, aim: Aim) -> tuple[Stages, None]:
    return simple.memory(problem), None


def _edgeshard(problem: Problem, aim: Aim) -> tuple[Stages, None]:
    rule = edgeshard.least_bottleneck if aim.objective == "throughput" else edgeshard.least_latency
    return rule(aim.tables), None


def _lingualinked(problem: Problem, aim: Aim) -> tuple[Stages, None]:
    if "lingualinked" not in aim.known:
        aim.known["lingualinked"] = lingualinked.place(aim.tables, aim.solver_s)
    return aim.known["lingualinked"], None


def _exact(problem: Problem, aim: Aim) -> tuple[Stages, Solution]:
    return _found(problem, aim, _searched(problem, aim))


def _auto(problem: Problem, aim: Aim) -> tuple[Stages, Solution]:
    solution = _searched(problem, aim)  # proven where the limits allow no plan, too: then no solver is asked
    small = problem.num_units * problem.num_devices**2 <= lingualinked.MOST_FLOWS
    if not solution.proven and small and importlib.util.find_spec("pulp") is not None:
        rival = _kept(problem, aim, _lingualinked)
        plans = [stages for stages in (solution.stages, rival) if stages is not None]
        if plans:
            costs = [evaluate(problem, each) for each in plans]
            chosen = better(aim, plans, costs)
            solution = replace(solution, stages=chosen, value=aim.value(costs[plans.index(chosen)]))
    stages, solution = _found(problem, aim, solution)
    chosen = _best_simulated(problem, aim, stages, solution)
    return chosen, solution if chosen == stages else _said_of(problem, aim, chosen, solution)


def _said_of(problem: Problem, aim: Aim, chosen: Stages, solution: Solution) -> Solution:
    """What is proven of a plan that is not the solution's own: its beat may be longer, and a tied lap shorter."""
    value = aim.value(evaluate(problem, chosen))
    proven = solution.bound >= value * (1 - NEAR_TIE) * (1 - 2 * SAME)
    return replace(solution, stages=chosen, value=value, proven=proven, settled=False)


def _best_simulated(problem: Problem, aim: Aim, stages: Stages, solution: Solution) -> Stages:
    """Of the plans within 1% of the greatest rate, that of the greatest simulated one; within 1%, the shortest lap.

    Where a lap uses a device or a link twice, the formula promises too much: sessions wait for each other there.
    """
    if aim.simulate is None or aim.objective != "throughput" or aim.in_flight == 1:
        return stages
    formula = evaluate(problem, stages).rate(aim.in_flight)
    rate = aim.simulate(problem, stages, aim.in_flight)
    if rate >= formula * (1 - NEAR_TIE):
        return stages
    rates = {stages: rate}
    for each in () if solution.near is None else solution.near()[:MOST_SIMULATED]:
        if each not in rates:
            rates[each] = aim.simulate(problem, each, aim.in_flight)
    good = max(rates.values()) * (1 - NEAR_TIE)
    best = [each for each in rates if rates[each] >= good]
    return min(best, key=lambda each: evaluate(problem, each).lap_s)  # of equal laps, the first


def _found(problem: Problem, aim: Aim, solution: Solution) -> tuple[Stages, Solution]:
    if solution.stages is None:
        raise _nothing(problem, aim, solution.proven)
    return solution.stages, solution


_METHODS: dict[str, Callable[[Problem, Aim], tuple[Stages, Solution | None]]] = {
    "auto": _auto,
    "exact": _exact,
    "edgeshard": _edgeshard,
    "lingualinked": _lingualinked,
    "memory": _memory,
    "even": _even,
    "solo": _solo,
}


def _seeds(problem: Problem, aim: Aim) -> list[Stages]:
    """The plans of the quick methods that keep every limit: a search begins there and is never worse."""
    rules = (_solo, _even, _memory, _edgeshard, _packed)
    return [stages for rule in rules if (stages := _kept(problem, aim, rule)) is not None]


def _packed(problem: Problem, aim: Aim) -> tuple[Stages, None]:
    return simple.packed(problem), None


def _kept(problem: Problem, aim: Aim, rule: Callable[[Problem, Aim], tuple[Stages, Any]]) -> Stages | None:
    try:
        stages, _ = rule(problem, aim)
        return None if _broken(problem, stages, evaluate(problem, stages), aim) else stages
    except ShardnetError:
        return None


def _searched(problem: Problem, aim: Aim) -> Solution:
    if "search" not in aim.known:
        exact = Exact(aim.tables, Budget(aim.limit_s), aim.lap_limit_s, _seeds(problem, aim))
        aim.known["search"] = _sought(aim, exact)
    found: Solution = aim.known["search"]
    return found


def _sought(aim: Aim, exact: Exact) -> Solution:
    if aim.objective == "energy":
        return exact.energy()
    if aim.objective == "throughput":
        return greatest_rate(exact, aim.in_flight)
    return exact.latency()


def _nothing(problem: Problem, aim: Aim, proven: bool) -> DoesNotFit:
    """Why there is no plan: memory, or a lap limit that memory allows no plan to keep."""
    if math.isfinite(aim.lap_limit_s):
        shortest = Exact(aim.tables, Budget(1.0)).latency()
        if shortest.stages is not None:
            lap_s, limit_s = evaluate(problem, shortest.stages).lap_s, aim.lap_limit_s
            none = "No plan keeps" if proven else "No plan was found in time that keeps"
            return DoesNotFit(
                f"{none} the lap within {limit_s * 1e3:.4g} ms; the shortest found takes {lap_s * 1e3:.4g} ms. "
                "Allow a longer lap, or add a faster device or link."
            )
    error = explain.does_not_fit(problem)
    return error if proven else DoesNotFit(f"No plan was found in time. {error}")


def _check_power(problem: Problem) -> None:
    for device in problem.devices:
        if device.active_w is None:
            raise BadConfiguration(
                "The objective energy needs active_w, the watts that a device draws while it computes, of every "
                f"device, but {device.name!r} has none. Give it one, or use the objective latency or throughput."
            )


def _check_request(objective: str, in_flight: int, lap_limit_s: float | None, time_limit_s: float | None) -> None:
    _check_name("objective", objective, OBJECTIVES)
    limit = Amount(SECONDS.most, above_zero=True)
    asked: tuple[tuple[str, Any, Bound], ...] = (
        ("in_flight", in_flight, SESSIONS),
        ("lap_limit_s", lap_limit_s, limit),
        ("time_limit_s", time_limit_s, limit),
    )
    for key, value, bound in asked:
        fault = None if value is None and key != "in_flight" else bound.fault(value)
        if fault is not None:
            raise BadRequest(f"{key} {fault}.")


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise BadRequest(f"There is no {what} {quoted(name)}; there are {', '.join(known)}.")
