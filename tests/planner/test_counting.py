"""Counting never denies a beat that some plan keeps, and denies what has no room."""

from __future__ import annotations

import random

from planner_problems import every_plan, local_devices, random_problem

from shardnet.planner.budget import Budget
from shardnet.planner.exact.by_class import ByClass
from shardnet.planner.exact.counting import counts_fit
from shardnet.planner.exact.exact import Exact
from shardnet.planner.tables import Tables


def fits(tables: Tables, beat_s: float) -> bool:
    return counts_fit(ByClass(tables, Exact(tables, Budget(60)).beat_target(beat_s)))


def test_every_beat_that_a_plan_keeps_can_be_counted() -> None:
    rng, denied = random.Random(5), 0
    for _ in range(80):
        problem = random_problem(rng, rng.choice([2, 3]), rng.choice([3, 5, 6]))
        plans = every_plan(problem)
        if not plans:
            continue
        least_s = min(cost.bottleneck_s for _, cost in plans)
        tables = Tables(problem)
        assert fits(tables, least_s) and fits(tables, least_s * 1.3)
        denied += not fits(tables, least_s * 0.95)
    assert denied > 15


def test_the_ends_take_room_from_what_lies_between() -> None:
    """Of 30 blocks, devices with an end hold 10 at most, by memory; within 11.1 ms that with the head computes 7."""
    tables = Tables(local_devices())
    assert not fits(tables, 0.0111)
    assert fits(tables, 0.0112)
