"""What the sets of units that fit a device rule out: brute force over all assignments is the oracle."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest

from shardnet.planner.exact.fillings import MOST_FREE, fill


@pytest.mark.parametrize("seed", range(60))
def test_no_assignment_that_fits_is_ruled_out(seed: int) -> None:
    """In nodes with some units fixed, and memory from more than enough to too little for all."""
    chance, rng = np.random.default_rng(seed), random.Random(seed)
    num_units, num_devices = rng.choice([(7, 3), (9, 2), (6, 4)])
    size = chance.uniform(0.3, 1.5, num_units) if seed % 2 else chance.choice([1.0, 1.5], num_units)
    room = chance.uniform(0.3, 1, num_devices)
    room *= size.sum() * rng.choice((0.98, 1.0, 1.02, 1.2, 2.0)) / room.sum()
    allowed = chance.random((num_units, num_devices, 40)) < 0.6
    filled = fill(size[:, None] / room, room / size.sum(), allowed)
    assert (filled.allowed <= allowed).all()
    for n in range(40):
        possible = [np.flatnonzero(allowed[u, :, n]) for u in range(num_units)]
        fitting = []
        for owners in product(*possible):
            used = np.bincount(owners, size, num_devices) / room
            if (used <= 1 + 1e-9).all():
                fitting.append(owners)
                assert filled.allowed[np.arange(num_units), owners, n].all()
                assert (used <= filled.most[:, n] + 1e-8).all()
        assert filled.alive[n] or not fitting


def test_a_unit_that_fills_what_others_leave_is_fixed() -> None:
    """Three units of 3, 3 and 4 on devices with room for 6 and 4: the one of 4 goes where no other set is full."""
    load = np.array([3.0, 3.0, 4.0])[:, None] / np.array([6.0, 4.0])
    filled = fill(load, np.array([0.6, 0.4]), np.ones((3, 2, 1), dtype=bool))
    assert filled.alive.all()
    assert filled.allowed[:, :, 0].tolist() == [[True, False], [True, False], [False, True]]


def test_many_free_units_are_left_alone() -> None:
    """All sets of so many would take too long."""
    num = MOST_FREE + 2
    allowed = np.ones((num, 2, 1), dtype=bool)
    filled = fill(np.full((num, 2), 2.1 / num), np.array([0.5, 0.5]), allowed)
    assert filled.allowed.all()
    assert (filled.most == 1).all()
