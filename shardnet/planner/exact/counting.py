"""Whether the devices can hold all units at all, by counting alone: a quick test for too short a beat. Pure.

The units between the first and the last are counted as if they were all alike, by the smallest times and sizes among
those that are not much smaller than the median; only the embedding and the head have places of their own. Order, hops
and links are left aside, so that a "no" is a proof and a "yes" is none.
"""

from __future__ import annotations

import numpy as np

from shardnet.planner.exact.by_class import ByClass
from shardnet.planner.tables import Ints

SHARES = (0.0, 0.5, 0.8, 0.9, 0.97)
"""Units with at least such a share of the median time are counted."""


def counts_fit(by_class: ByClass) -> bool:
    """Whether every way of counting finds room and time for the units that it counts."""
    middle = by_class.seconds[1:-1].mean(axis=1)
    if not len(middle):
        return True
    shares = [np.flatnonzero(middle >= share * np.median(middle)) + 1 for share in SHARES]
    return all(_most_held(by_class, units) >= len(units) for units in {len(units): units for units in shares}.values())


def _most_held(by_class: ByClass, units: Ints) -> float:
    """The most of these units that all devices can hold with the embedding and the head on the best of them."""
    tables = by_class.tables
    problem, last = tables.problem, tables.num_units - 1
    alone = by_class.held(units)
    first_gain, last_gain, both_gain = (by_class.held(units, ends) - alone for ends in ((0,), (last,), (0, last)))
    elsewhere = np.arange(len(alone)) != tables.class_of[tables.source]
    if problem.pin_embedding:
        first_gain[elsewhere] = both_gain[elsewhere] = -np.inf
    if problem.pin_head:
        last_gain[elsewhere] = both_gain[elsewhere] = -np.inf
    apart = first_gain[:, None] + last_gain[None]
    single = np.flatnonzero(by_class.count == 1)
    apart[single, single] = -np.inf
    return float((by_class.count * alone).sum() + max(apart.max(), both_gain.max()))
