"""The least cost of a plan under limits, by ever wider searches, with a bound that holds when time is up. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardnet.planner.budget import Budget
from shardnet.planner.exact.assignment import Judge, Runs
from shardnet.planner.exact.by_class import Target
from shardnet.planner.exact.counting import counts_fit
from shardnet.planner.exact.deepening import Deepening
from shardnet.planner.exact.limits import columns_of
from shardnet.planner.exact.relaxed import Bound, Prices, Relaxation
from shardnet.planner.exact.search import Found, Search
from shardnet.planner.tables import Tables

PROOF = 1e-9
"""Relative difference below which a bound proves a plan optimal."""
WIDTHS = (48, 384, 3072, 24576, 196608)
NUM_ROUNDS = 150
DEEP_BEFORE = 24576
"""Before searches of such a width small clusters are searched by annealing, by branch and bound, and by HiGHS."""
WIDE_SHARE = 0.15
"""Of the time that is left then: what such a search takes."""
MOST_PARTIAL_CELLS = 600_000
"""Partial plans at one unit times devices: what memory allows."""


@dataclass(frozen=True)
class Best:
    """The cheapest plan found and what is proven.

    Attributes:
        runs: (device, last unit) of each stage; None where no plan is under `upper`.
        cost: of that plan, or `upper`.
        bound: no plan costs less; at least `cost` where that is proven.
        prices: with which the bound is good, for a similar search to begin with.
        priced: the bound with these prices alone.
    """

    runs: Runs | None
    cost: float
    bound: float
    prices: Prices | None = None
    priced: float = -np.inf

    @property
    def proven(self) -> bool:
        return bool(self.bound >= self.cost * (1 - PROOF) or self.cost == self.bound)


def minimize(
    tables: Tables,
    target: Target,
    judge: Judge,
    upper: float,
    budget: Budget,
    *,
    enough: bool = False,
    device_cost: float = 0.0,
    widths: tuple[int, ...] = WIDTHS,
    num_rounds: int = NUM_ROUNDS,
    prices: Prices | None = None,
    known: Runs | None = None,
    alone: bool = False,
) -> Best:
    """Find the plan of least cost under `upper`.

    Args:
        judge: cost of a complete plan; inf where it breaks a limit.
        budget: where it is spent, the best so far is returned.
        enough: any plan under `upper` will do.
        device_cost: added for each device, to break ties.
        widths: of one search after the other, until one is a proof; none for the bound alone.
        num_rounds: of improving the bound's prices.
        prices: to begin with, from a similar search.
        known: a plan that costs `upper`.
        alone: without HiGHS.
    """
    relaxation = Relaxation(tables, target)
    plain = _bounds(relaxation, Prices.none(len(tables.members)), roots_of(tables))
    lowest = _least(plain)
    if not counts_fit(relaxation):
        return Best(None, upper, np.inf)
    if not lowest < upper:
        return Best(None, upper, lowest)
    under_way = _Minimizing(relaxation, judge, budget, Best(None, upper, lowest), plain, enough, device_cost)
    if not device_cost:
        under_way.offer_deepening(known, alone)
    for step, width in enumerate(widths or (0,)):
        under_way.search(width)
        if under_way.is_over:
            break
        if step == 0:
            under_way.price(num_rounds, prices)
            if under_way.best.proven:
                break
    return under_way.best


class _Minimizing:
    """One minimisation under way: the best so far, and the searches that go on from it."""

    def __init__(
        self,
        relaxation: Relaxation,
        judge: Judge,
        budget: Budget,
        best: Best,
        plain: list[Bound],
        enough: bool,
        device_cost: float,
    ) -> None:
        self._relaxation, self._tables, self._target = relaxation, relaxation.tables, relaxation.target
        self._judge, self._budget, self._enough, self._device_cost = judge, budget, enough, device_cost
        self.best, self._plain = best, plain
        self._roots = roots_of(self._tables)
        self._columns = columns_of(self._tables, self._target)
        self._beam = self._beam_by([plain])
        self._deep: Deepening | None = None
        self._known: Runs | None = None

    def offer_deepening(self, known: Runs | None, alone: bool) -> None:
        """Let small clusters be searched deeply; see `minimize` for the arguments."""
        if Deepening.suits(self._tables):
            self._known = known
            self._deep = Deepening(self._tables, self._target, self._roots, self._judge, self.best.cost, alone)

    @property
    def is_over(self) -> bool:
        """Whether nothing better is asked for, or can be found in time."""
        done = self._enough and self.best.runs is not None
        return self.best.proven or done or self._budget.spent

    def search(self, width: int) -> None:
        """A beam of this width; where it is wide, a deep search before it, which leaves it a part of the time."""
        until = self._budget
        if self._deep is not None and width >= DEEP_BEFORE:
            known = self.best.runs or self._known
            self.best = _merged(self.best, self._deep.run(self.best.cost, self._budget, self._enough, known))
            if self.is_over:
                return
            until = self._budget.share(WIDE_SHARE)
        if width:
            width = min(width, MOST_PARTIAL_CELLS // self._tables.num_devices)
            self.best = _merged(self.best, self._beam.run(self.best.cost, width, until))

    def price(self, num_rounds: int, prices: Prices | None) -> None:
        """Raise the bound by prices, by which the next beams go, too."""
        best = self.best
        priced = _priced(self._relaxation, self._roots, best, self._budget, num_rounds, prices)
        least = _least(priced)
        self.best = Best(best.runs, best.cost, max(best.bound, min(best.cost, least)), priced[0].prices, least)
        self._beam = self._beam_by([self._plain, priced])

    def _beam_by(self, bounds: list[list[Bound]]) -> Search:
        of = (self._tables, self._target, self._columns, self._roots)
        return Search(*of, bounds, self._judge, self._device_cost, self._enough)


def _bounds(relaxation: Relaxation, prices: Prices, roots: list[int]) -> list[Bound]:
    return [relaxation.bound(prices, root) for root in roots]


def _least(bounds: list[Bound]) -> float:
    return min(bound.value for bound in bounds)


def _merged(best: Best, found: Found) -> Best:
    runs = best.runs if found.runs is None else found.runs
    return Best(runs, found.cost, max(best.bound, min(found.cost, found.unseen)), best.prices, best.priced)


def roots_of(tables: Tables) -> list[int]:
    """Devices that may hold unit 0: of identical ones, the first."""
    if tables.problem.pin_embedding:
        return [tables.source]
    return [devices[0] for devices in tables.members]


def _priced(
    relaxation: Relaxation, roots: list[int], best: Best, budget: Budget, num_rounds: int, prices: Prices | None
) -> list[Bound]:
    """The bounds for each root at prices that are good for all of them together."""
    upper = best.cost if np.isfinite(best.cost) else 2 * best.bound
    root = roots[0] if len(roots) == 1 else None
    shared = relaxation.improve(root, upper, num_rounds, budget.share(0.5), prices)
    if len(roots) == 1:
        return [shared]
    return _bounds(relaxation, shared.prices, roots)
