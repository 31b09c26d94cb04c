"""The rate of a plan as a simulated run gives it, beside the rate of the closed formula."""

from __future__ import annotations

from collections.abc import Sequence

from shardnet.plan import Plan, StagePlan
from shardnet.planner.costs import evaluate
from shardnet.planner.problem import Problem
from shardnet.simulator.load import Load
from shardnet.simulator.ring import decode_legs, visited_twice
from shardnet.simulator.run import simulate

NUM_TOKENS = 60
LEAST_TOKENS = 12
MOST_LEGS = 100_000
"""Stages and links crossed in one run: a second or so."""


def simulated_rate(problem: Problem, stages: Sequence[StagePlan], in_flight: int) -> float:
    """Tokens per second of all sessions, without jitter and events.

    The formula's own rate where a lap uses no device and no link twice, or one session is alone: there both agree. For
    more sessions than can be simulated it is that of fewer, which get in each other's way all the same.
    """
    legs = decode_legs(problem, stages)
    formula = evaluate(problem, stages).rate(in_flight)
    if in_flight == 1 or not visited_twice(legs):
        return formula
    tokens = max(LEAST_TOKENS, min(NUM_TOKENS, MOST_LEGS // (in_flight * len(legs))))
    sessions = max(2, min(in_flight, MOST_LEGS // (tokens * len(legs))))
    run = simulate(problem, Plan(tuple(stages)), Load(in_flight=sessions, new_tokens=tokens))
    return formula if run.rate_per_s is None else min(run.rate_per_s, formula)
