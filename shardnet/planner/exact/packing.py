"""Whether the devices can hold all units at once within a beat, by the sets of units that each can hold. Pure.

At a price per unit each device takes the set that is worth most. Where all devices together take less than all units
are worth, no plan keeps the beat. The prices that show it are found by subgradients: the bound of Gilmore and Gomory's
linear programme (1961) for cutting stock. It is exact where `counting` is not, for units that are nearly alike, as the
blocks of a model are; order, hops and the lap are left aside, so that a "no" is a proof and a "yes" is none.
"""

from __future__ import annotations

import numpy as np

from shardnet.planner.costs import ROUNDING
from shardnet.planner.exact.by_class import ByClass
from shardnet.planner.tables import Floats, Ints

MOST_SETS = 20_000
"""Of all classes of devices together; with more, nothing is said."""
MOST_CELLS = 4_000_000
"""Sets times units: what memory and time allow."""
ROUNDS = 150
PATIENCE = 10
"""Rounds without a gain before the next ones move half as far."""
LEAST_REACH = 0.1
"""The rounds end when they move less than this share of the first ones' way."""
LEAST_MISSING = 1e-3
"""Of the worth of all units: what a round aims at where less is missing."""
DEFLECTION = 0.7
"""How much of the last round's direction the next one keeps."""


def sets_fit(by_class: ByClass) -> bool:
    """Whether no prices were found at which the devices take less than all units are worth."""
    listed, num_units = _sets(by_class), by_class.tables.num_units
    if listed is None:
        return True
    price = best = np.full(num_units, 1 / num_units)  # prices add up to 1, so that all units are worth 1
    least_over, reach, waited, direction = np.inf, 1.0, 0, np.zeros(num_units)
    for _ in range(ROUNDS):
        worth, taken = _taken(listed, price)
        if worth < 1 - ROUNDING:
            return False
        waited += 1
        if worth - 1 < least_over:
            best, least_over, waited = price, worth - 1, 0
        direction = 1 - taken + DEFLECTION * direction
        length = reach * max(LEAST_MISSING, worth - 1) / max(float((direction**2).sum()), ROUNDING)
        moved = np.maximum(0.0, price + length * direction)
        if waited < PATIENCE and moved.sum() > ROUNDING:
            price = moved / moved.sum()
            continue
        reach, waited, direction, price = reach / 2, 0, 0 * direction, best
        if reach < LEAST_REACH:
            break
    return True


def _taken(listed: list[tuple[float, Ints]], price: Floats) -> tuple[float, Floats]:
    """What the sets that all devices take are worth, and how often each unit [u] is in them."""
    priced, total, taken = np.append(price, 0.0), 0.0, np.zeros(len(price) + 1)
    for count, sets in listed:
        worth = priced[sets].sum(axis=1)
        chosen = int(worth.argmax())
        total += count * float(worth[chosen])
        taken[sets[chosen]] += count
    return total, taken[:-1]


def _sets(by_class: ByClass) -> list[tuple[float, Ints]] | None:
    """For each class how many devices it has and the sets [n, i] of units that fit one; None where they are too many.

    Sets are filled up with a unit behind the last one, which is worth nothing.
    """
    listed, left = [], MOST_SETS
    for c in np.flatnonzero(by_class.useful).tolist():
        sets = _sets_of(by_class, c, left)
        if sets is None:
            return None
        listed.append((float(by_class.count[c]), sets))
        left -= len(sets)
    return listed


def _sets_of(by_class: ByClass, c: int, most: int) -> Ints | None:
    """The sets of units that fit a device of the class, shorter ones first."""
    tables, problem = by_class.tables, by_class.tables.problem
    seconds, memory = by_class.seconds[:, c], tables.memory
    may = np.ones(tables.num_units, dtype=bool)
    if c != tables.class_of[tables.source]:
        may[[0, -1]] = not problem.pin_embedding, not problem.pin_head
    limit_s, room = by_class.target.busy_limit_s * (1 + ROUNDING), by_class.capacity[c] * (1 + ROUNDING)
    sets: Ints = np.full((1, 0), 0)
    last, used_s, used = np.array([-1]), np.zeros(1), np.zeros(1)
    levels = [sets]
    while len(sets):
        fits = (np.arange(tables.num_units) > last[:, None]) & may
        fits &= (used_s[:, None] + seconds <= limit_s) & (used[:, None] + memory <= room)
        rows, units = np.nonzero(fits)
        if len(rows) > min(most, MOST_CELLS // tables.num_units):
            return None
        sets = np.column_stack([sets[rows], units])
        last, used_s, used = units, used_s[rows] + seconds[units], used[rows] + memory[units]
        levels.append(sets)
    width = levels[-1].shape[1]
    filled = [
        np.pad(level, ((0, 0), (0, width - level.shape[1])), constant_values=tables.num_units) for level in levels
    ]
    return np.concatenate(filled)
