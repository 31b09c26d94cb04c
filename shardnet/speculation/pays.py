"""How many guesses pay, by how likely they are right and by what laps take. Pure.

A guess pays where more tokens come in a second with it than without. With guesses of one chunk alone,

    (tokens of the lap + A(1) + ... + A(w)) / lap(rows + w)   against   tokens of the lap / lap(rows)

where A(k) is how likely the first k guesses are all right. Where further chunks of w go round behind it, the j-th of
them is of use where all before it is right, and its answer comes one gap later than the one before:

    (1 + A(1) + A(2) + ...) / (lap + gap * (A(w) + A(2w) + ...))
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from operator import mul
from typing import NamedTuple

from shardnet.speculation.laps import Laps

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Guesses in one chunk."""
MOST = WIDTHS[-1]
HORIZON = 48
"""So many guesses are looked ahead."""
MARGIN = 1.12
"""By so much guesses must be better than none."""
LIKELY = 0.3
"""What is less likely to be of use is not sent."""


class Load(NamedTuple):
    """What goes round together so far, of all sessions."""

    num_rows: int
    tokens: float
    """How many are expected of its lap."""


def width(chances: Sequence[float], num_waiting: int, load: Load, laps: Laps, *, may_follow: bool) -> int:
    """How many guesses go with what is known; 0 where none pay.

    Args:
        chances: of each guess, up to `HORIZON`: waiting ones, and those that would follow.
        num_waiting: so many are there.
        may_follow: whether further chunks can go round behind it.
    """
    if not laps.are_known(load.num_rows):
        return 0
    all_right = list(accumulate(chances, mul))
    best, best_rate = 0, MARGIN * load.tokens / laps.lap_s(load.num_rows)
    for size in WIDTHS:
        num_rows = load.num_rows + size
        if size > num_waiting or num_rows > laps.most_rows or all_right[size - 1] < LIKELY / 3:
            break
        rate = (load.tokens + sum(all_right[:size])) / laps.lap_s(num_rows)
        if may_follow:
            rate = max(rate, _followed_rate(all_right, size, size, num_rows, laps))
        if rate > best_rate:
            best, best_rate = size, rate
    return best


def _followed_rate(all_right: Sequence[float], first: int, size: int, num_rows: int, laps: Laps) -> float:
    """Tokens a second of one session alone: `first` guesses go with what is known, and so many in each chunk behind."""
    num_used = sum([1.0, *all_right][first::size])
    return (1 + sum(all_right)) / (laps.followed_s(num_rows) + laps.gap_s(size) * num_used)


def following_width(
    in_flight: Sequence[float], chances: Sequence[float], num_waiting: int, laps: Laps, *, by_cost: bool
) -> int:
    """How many guesses go round behind those in flight, while the stage has nothing else to do; 0 where none pay.

    Args:
        in_flight: how likely each guess is that is there.
        chances: as in `width`.
        by_cost: whether they must pay, or be likely only.
    """
    before = prod(in_flight)
    all_right = list(accumulate(chances, mul))
    best, best_rate = 0, 0.0
    for size in WIDTHS:
        if size > num_waiting or before * all_right[size - 1] < LIKELY:
            break
        rate = sum(all_right[:size]) / max(laps.gap_s(size), 1e-9)
        if rate > best_rate:
            best, best_rate = size, rate
    if best and by_cost:
        whole = list(accumulate([*in_flight, *chances], mul))
        num_rows = 1 + len(in_flight)
        if _followed_rate(whole, len(in_flight), best, num_rows, laps) * laps.lap_s(1) < MARGIN:
            return 0
    return best


def likely_width(chances: Sequence[float], num_waiting: int) -> int:
    """How many guesses are likely to be of use, whatever they take."""
    return sum(each >= LIKELY for each in accumulate(chances[:num_waiting], mul))
