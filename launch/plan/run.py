"""What `shardnet plan` does."""

from __future__ import annotations

import json as json_format
import math
import sys
from functools import partial
from typing import Any

from shardnet.described.schema import nearest_name
from shardnet.errors import DoesNotFit, ShardnetError, UsageError
from shardnet.foreign.quoting import quoted
from shardnet.launch.console import plain_console
from shardnet.launch.files.output_files import require_picture
from shardnet.launch.plan import tables as plan_tables
from shardnet.launch.plan.inputs import CHUNK_TOKENS, Asked, read_problem
from shardnet.launch.plan.options import PlannerOptions, PlanOutput, ProblemOptions
from shardnet.plan import Plan
from shardnet.planner import METHODS, OBJECTIVES, compare, plan_to_dict
from shardnet.planner import plan as make_plan
from shardnet.planner.planning import Simulate, usual_limit_s
from shardnet.planner.problem import Problem
from shardnet.progress import Progress, progress_bars
from shardnet.simulator import simulated_rate
from shardnet.simulator.ring import decode_legs, visited_twice
from shardnet.simulator.what_if import Answer, limits, what_ifs

Explanation = tuple[list[str], list[Answer]]


def run(options: ProblemOptions, how: PlannerOptions, output: PlanOutput) -> None:
    """Plan and print.

    Raises:
        UsageError: bad input.
        DoesNotFit: nothing fits.
    """
    require_picture(output.plot)
    planner = ConfiguredPlanner(how)
    asked = read_problem(options, how.in_flight)
    with progress_bars(enabled=sys.stderr.isatty() and not output.json) as progress:
        asked = planner.with_bits(asked, options, progress)
        progress("planning", 0, 1)
        chosen, others = planner.compare(asked.problem) if output.compare else (planner(asked.problem), {})
        progress("planning", 1, 1)
        explanation = _explain(asked, chosen, planner, progress) if output.explain else None
    asked, chosen = asked.sent_as_pays(asked.shown(chosen), CHUNK_TOKENS, how.in_flight)
    if output.json:
        told = _comparison_dict(how, chosen, others) if output.compare else plan_to_dict(chosen)
        if asked.codecs:
            told["codecs"] = asked.codecs
        if explanation is not None:
            told.update(_explanation_dict(explanation))
        print(json_format.dumps(told, indent=2))
    else:
        console = plain_console()
        if output.compare:
            plan_tables.print_comparison(console, others, asked.title, how.objective, how.in_flight)
        notes = (*asked.notes, *_rate_note(asked.problem, chosen))
        plan_tables.print_plan(console, asked.problem, chosen, asked.title, notes, how.in_flight)
        if explanation is not None:
            plan_tables.print_explanation(console, *explanation, how.objective)
    if output.plot is not None:
        from shardnet.launch.plan.plots import draw_plan

        draw_plan(asked.problem, chosen, output.plot, f"{asked.title} ({chosen.method}, {how.objective})")


LARGE_S = 45.0
"""What a search in a cluster of over 200 devices gets here, where no model waits to be loaded."""
CHURN_S, AGAIN_S = 10.0, 1.0
"""The same where devices come and go all the time: at the start, and while the run goes on."""
WHAT_IF_S = 8.0
"""For each of the plans that `--explain` makes of a changed problem."""


class ConfiguredPlanner:
    """The planner with the options of the command line."""

    def __init__(self, how: PlannerOptions) -> None:
        for option, value, known in (("--objective", how.objective, OBJECTIVES), ("--method", how.method, METHODS)):
            if value not in known:
                raise UsageError(f"{option} {quoted(value)} is unknown; {nearest_name(value, list(known))}")
        self._how = how

    @property
    def in_flight(self) -> int:
        return self._how.in_flight

    def __call__(self, problem: Problem) -> Plan:
        return self.by(self._how.method, problem, simulated_rate)

    def quickly(self, problem: Problem, most_s: float) -> Plan:
        """The plan that is found in so many seconds where the user says nothing. Its rate is not simulated."""
        return self.by(self._how.method, problem, most_s=most_s)

    def with_bits(self, asked: Asked, options: ProblemOptions, progress: Progress) -> Asked:
        """The problem with a scheme for each unit, where a loss is allowed (`--quality`).

        Raises:
            UsageError, DoesNotFit: as `in_bits_that_pay`.
        """
        if options.quality is None:
            return asked
        from shardnet.launch.plan.bits import SETTING_S, in_bits_that_pay

        how, solve = self._how, partial(self.quickly, most_s=SETTING_S)
        assert options.model is not None, "a problem file goes with no quality"
        try:
            goal = how.objective, how.in_flight
            return in_bits_that_pay(asked, options.model, options.quality, goal, solve, progress)
        except DoesNotFit as error:
            if how.lap_limit is None:
                raise
            raise DoesNotFit(f"{error} Or allow a longer lap than --lap-limit {how.lap_limit:g}.") from error

    def by(self, method: str, problem: Problem, simulate: Simulate | None = None, most_s: float = math.inf) -> Plan:
        """The plan of a method, which need not be the chosen one, in so many seconds where the user says nothing."""
        how, limit_s = self._how, self._time_limit_s(problem)
        limit_s = limit_s if how.time_limit is not None else min(limit_s, most_s)
        return make_plan(problem, how.objective, method, how.in_flight, how.lap_limit, limit_s, simulate)

    def compare(self, problem: Problem) -> tuple[Plan, dict[str, Plan | str]]:
        """The plan of the chosen method, and those of all, or why there is none."""
        how, limit_s = self._how, self._time_limit_s(problem)
        rows = dict(compare(problem, how.objective, how.in_flight, how.lap_limit, limit_s, simulated_rate))
        chosen = rows[how.method]
        if isinstance(chosen, ShardnetError):
            raise chosen
        return chosen, {method: each if isinstance(each, Plan) else str(each) for method, each in rows.items()}

    def _time_limit_s(self, problem: Problem) -> float:
        """A search ends as soon as it has its proof; this is for those that do not find it."""
        if self._how.time_limit is not None:
            return self._how.time_limit
        return LARGE_S if problem.num_devices > 200 else usual_limit_s(problem)


def _explain(asked: Asked, chosen: Plan, planner: ConfiguredPlanner, progress: Progress) -> Explanation:
    sentences = limits(asked.problem, chosen, planner.in_flight)
    if asked.fewer_bits is None:
        sentences.append("The weights have as few bits as can be planned with.")

    def replan(changed: Problem) -> Plan:
        return planner.by("auto", changed, most_s=WHAT_IF_S)

    return sentences, what_ifs(asked.problem, chosen, replan, planner.in_flight, asked.fewer_bits, progress)


def _rate_note(problem: Problem, chosen: Plan) -> list[str]:
    """Where sessions get in each other's way at a second visit: that, and how far below the formula a run stays."""
    simulated, formula = chosen.simulated_rate_per_s, chosen.rate_per_s
    if simulated is None or formula is None or simulated > 0.99 * formula:
        return []
    twice = visited_twice(decode_legs(problem, chosen.stages))
    return [f"A lap uses {twice[0]} twice, so the rate is a bound: a simulated run reaches {simulated:.4g} tokens/s."]


def _comparison_dict(how: PlannerOptions, chosen: Plan, others: dict[str, Plan | str]) -> dict[str, Any]:
    return {
        "objective": how.objective,
        "in_flight": how.in_flight,
        "chosen": plan_to_dict(chosen),
        "plans": [plan_to_dict(each) for each in others.values() if isinstance(each, Plan)],
        "failed": [{"method": method, "why": each} for method, each in others.items() if isinstance(each, str)],
    }


def _explanation_dict(explanation: Explanation) -> dict[str, Any]:
    sentences, answers = explanation
    plans = [None if each.plan is None else plan_to_dict(each.plan) for each in answers]
    return {
        "limits": sentences,
        "what_if": [{"change": each.change, "gain": each.gain, "plan": made} for each, made in zip(answers, plans)],
    }
