"""Problem and profile to plan. Pure: no torch, no network; a clock only to stop in time.

Names are imported when they are first used, so that a phone never loads a planner or its solver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardnet.process.first_use import on_first_use

if TYPE_CHECKING:
    from shardnet.planner.costs import Cost, evaluate
    from shardnet.planner.names import METHODS, OBJECTIVES
    from shardnet.planner.planning import compare, plan, plan_to_dict
    from shardnet.planner.problem import Device, Link, Problem, Unit

__all__ = [
    "METHODS",
    "OBJECTIVES",
    "Cost",
    "Device",
    "Link",
    "Problem",
    "Unit",
    "compare",
    "evaluate",
    "plan",
    "plan_to_dict",
]

__getattr__ = on_first_use(
    __name__,
    {
        **dict.fromkeys(("Cost", "evaluate"), "costs"),
        **dict.fromkeys(("Device", "Link", "Problem", "Unit"), "problem"),
        **dict.fromkeys(("METHODS", "OBJECTIVES"), "names"),
        **dict.fromkeys(("compare", "plan", "plan_to_dict"), "planning"),
    },
)
