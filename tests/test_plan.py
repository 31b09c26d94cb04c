"""The records that modules hand to each other."""

from __future__ import annotations

import pytest

from shardnet.plan import LeftOut, Plan, StagePlan, stages_from_counts


def test_counts_become_consecutive_stages_and_zeros_none() -> None:
    stages = stages_from_counts(["a", "b", "c"], [2, 0, 1])
    assert stages == (StagePlan("a", 0, 1), StagePlan("c", 2, 2))
    assert Plan(stages).num_units == 3
    assert Plan(stages).devices == ("a", "c")


def test_counts_must_match_the_devices() -> None:
    with pytest.raises(ValueError, match="shorter"):
        stages_from_counts(["a", "b"], [1])


def test_a_plan_prints_as_a_table() -> None:
    plan = Plan(
        stages_from_counts(["laptop", "pi"], [14, 1]),
        version=2,
        method="exact",
        optimal=True,
        lap_s=0.04,
        rate_per_s=25.0,
        left_out=(LeftOut("old-phone", "it would be the slowest stage"),),
        why="Memory of pi limits this plan.",
    )
    assert str(plan).splitlines() == [
        "Plan 2, exact, proven best",
        "  stage 0  laptop  units 0-13 (14)",
        "  stage 1  pi      units 14 (1)",
        "  predicted: 40.0 ms a token of one session, 25.0 tokens/s",
        "  left out: old-phone: it would be the slowest stage",
        "  Memory of pi limits this plan.",
    ]
    assert str(Plan(plan.stages, gap=0.05)).splitlines()[0] == "Plan 1, at most 5.0% from the best"
