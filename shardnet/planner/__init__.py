"""Problem and profile to plan. Pure: no torch, no network; a clock only to stop in time.

Names are imported when they are first used, so that a phone never loads a planner or its solver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardnet.planner.costs import Cost, evaluate
    from shardnet.planner.planning import METHODS, OBJECTIVES, compare, plan, plan_to_dict
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

_HOMES = {
    **dict.fromkeys(("Cost", "evaluate"), "costs"),
    **dict.fromkeys(("Device", "Link", "Problem", "Unit"), "problem"),
    **dict.fromkeys(("METHODS", "OBJECTIVES", "compare", "plan", "plan_to_dict"), "planning"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
