"""Whether the devices can hold all units at all, by counting alone: a quick test for too short a beat. Pure.

The units between the first and the last are counted as if they were all alike, by the smallest times and sizes among
those that are not much smaller than the median; only the embedding and the head have places of their own. Order, hops
and links are left aside, so that a "no" is a proof and a "yes" is none.
"""

from __future__ import annotations

import numpy as np

from shardnet.planner.costs import ROUNDING
from shardnet.planner.relaxed import Relaxation
from shardnet.planner.tables import Floats, Ints

SHARES = (0.0, 0.5, 0.8, 0.9, 0.97)
"""Units with at least such a share of the median time are counted."""


def counts_fit(relaxation: Relaxation) -> bool:
    """Whether every way of counting finds room and time for the units that it counts."""
    middle = relaxation.seconds[1:-1].mean(axis=1)
    if not len(middle):
        return True
    shares = [np.flatnonzero(middle >= share * np.median(middle)) + 1 for share in SHARES]
    return all(_most_held(relaxation, units) >= len(units) for units in {tuple(u.tolist()): u for u in shares}.values())


def _most_held(relaxation: Relaxation, units: Ints) -> float:
    """The most of these units that all devices can hold with the embedding and the head on the best of them."""
    tables = relaxation.tables
    problem, last = tables.problem, tables.num_units - 1
    alone = _held(relaxation, units, ())
    first_gain, last_gain, both_gain = (_held(relaxation, units, ends) - alone for ends in ((0,), (last,), (0, last)))
    elsewhere = np.arange(len(alone)) != tables.class_of[tables.source]
    if problem.pin_embedding:
        first_gain[elsewhere] = both_gain[elsewhere] = -np.inf
    if problem.pin_head:
        last_gain[elsewhere] = both_gain[elsewhere] = -np.inf
    apart = first_gain[:, None] + last_gain[None]
    single = np.flatnonzero(relaxation.count == 1)
    apart[single, single] = -np.inf
    return float((relaxation.count * alone).sum() + max(apart.max(), both_gain.max()))


def _held(relaxation: Relaxation, units: Ints, ends: tuple[int, ...]) -> Floats:
    """[c] how many of the units one device of each class can hold beside the given ends; -inf where they do not fit."""
    memory, seconds = relaxation.tables.memory, relaxation.seconds
    limit_s = relaxation.target.busy_limit_s
    room = relaxation.capacity * (1 + ROUNDING) - memory[list(ends)].sum()
    left_s = limit_s * (1 + ROUNDING) - seconds[list(ends)].sum(axis=0)
    by_memory = np.searchsorted(np.cumsum(np.sort(memory[units])), room, "right")
    by_time = (np.cumsum(np.sort(seconds[units], axis=0), axis=0) <= left_s).sum(axis=0)
    held: Floats = np.minimum(by_memory, by_time) * relaxation.useful
    return np.where((room >= 0) & (left_s >= 0), held, -np.inf) if ends else held
