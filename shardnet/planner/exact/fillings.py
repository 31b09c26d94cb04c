"""How full devices can be at all, by the sets of units that fit: for nodes in which few units are still free. Pure.

A price on memory charges for all of a device's room, though no set of units may fill it. And where little room is left
over in all, each device must hold at least what the others together cannot: a unit that is in every set of that size
is fixed, one that is in none goes elsewhere (Trick, 2003, filters knapsacks in this way).

Index letters as in `branching`: u a unit, d a device, n a node; k units are free on a device in a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shardnet.planner.costs import ROUNDING
from shardnet.planner.tables import Floats, Ints

Bools = NDArray[np.bool_]

MOST_FREE = 10
"""Of so many units all sets are looked at, of more none."""
SLACK = 4 * ROUNDING


@dataclass(frozen=True)
class Fillings:
    """What is left of some nodes.

    Attributes:
        allowed: [u, d, n] where each unit still may be.
        most: [d, n] how much of its room each device can fill; 1 is all of it.
        alive: [n] nodes in which the devices together can hold everything.
    """

    allowed: Bools
    most: Floats
    alive: Bools


@dataclass(frozen=True)
class _Group:
    """Devices of nodes with equally many free units.

    Attributes:
        device, node: [i]; units: [i, k]; sums: [i, 2^k] of each set of these units; fits: [i, 2^k].
    """

    device: Ints
    node: Ints
    units: Ints
    sums: Floats
    fits: Bools


def fill(load: Floats, share: Floats, allowed: Bools) -> Fillings:
    """Look at the sets of free units of each device.

    Args:
        load: [u, d] the share of its device's room that a unit takes.
        share: [d] the room of each device over what all units need.
        allowed: [u, d, n]
    """
    several = (allowed.sum(axis=1) > 1)[:, None]
    free = allowed & several
    held: Floats = ((allowed & ~several) * load[:, :, None]).sum(axis=0)
    count = free.sum(axis=0)
    most = np.where(count == 0, np.minimum(held, 1.0), 1.0)
    groups = [_group(load, free, held, count, k) for k in range(1, MOST_FREE + 1)]
    for group in groups:
        filled = np.where(group.fits, group.sums, 0.0).max(axis=1, initial=0.0)
        most[group.device, group.node] = np.minimum(1.0, held[group.device, group.node] + filled)
    together = (most * share[:, None]).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.where(share[:, None] > 0, (1 - SLACK - together) / share[:, None] + most - held, 0.0)
    fewer = allowed.copy()
    for group in groups:
        _rule_out(fewer, group, least[group.device, group.node])
    return Fillings(fewer, most, (together >= 1 - SLACK) & fewer.any(axis=1).all(axis=0))


def _group(load: Floats, free: Bools, held: Floats, count: Ints, k: int) -> _Group:
    device, node = np.nonzero(count == k)
    units = np.nonzero(free[:, device, node].T)[1].reshape(-1, k)
    sums: Floats = load[units, device[:, None]] @ _sets(k)
    fits = sums <= (1 + SLACK - held[device, node])[:, None]
    return _Group(device, node, units, sums, fits)


def _rule_out(allowed: Bools, group: _Group, least: Floats) -> None:
    """Fix units that are in every set that is large enough, and rule out those that are in none."""
    sets = _sets(group.units.shape[1]).astype(np.float32)
    enough = (group.fits & (group.sums >= (least - SLACK)[:, None])).astype(np.float32)
    held, left = enough @ sets.T > 0, enough @ (1 - sets).T > 0
    row, at = np.nonzero(~held)
    allowed[group.units[row, at], group.device[row], group.node[row]] = False
    row, at = np.nonzero(~left)
    unit, device, node = group.units[row, at], group.device[row], group.node[row]
    elsewhere = np.arange(allowed.shape[1])[None] != device[:, None]
    allowed[unit, :, node] &= ~elsewhere


@lru_cache
def _sets(k: int) -> Floats:
    """[k, 2^k] the sets of k units in columns."""
    sets: Floats = (np.arange(2**k)[None] >> np.arange(k)[:, None] & 1).astype(float)
    return sets
