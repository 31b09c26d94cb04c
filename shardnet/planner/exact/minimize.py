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
    plain = Prices.none(len(tables.members))
    roots = roots_of(tables)
    bounds = [[relaxation.bound(plain, root) for root in roots]]
    lowest = min(bound.value for bound in bounds[0])
    if not counts_fit(relaxation):
        return Best(None, upper, np.inf)
    if not lowest < upper:
        return Best(None, upper, lowest)
    search = Search(tables, target, columns_of(tables, target), roots, bounds, judge, device_cost, enough)
    best, deep = Best(None, upper, lowest), None
    if Deepening.suits(tables) and not device_cost:
        deep = Deepening(tables, target, roots, judge, upper, alone)
    for step, width in enumerate(widths or (0,)):
        if deep is not None and width >= DEEP_BEFORE:
            best = _merged(best, deep.run(best.cost, budget, enough, best.runs or known))
            if best.proven or (enough and best.runs is not None) or budget.spent:
                break
        if width:
            until = budget if deep is None or width < DEEP_BEFORE else budget.share(WIDE_SHARE)
            found = search.run(best.cost, min(width, MOST_PARTIAL_CELLS // tables.num_devices), until)
            best = _merged(best, found)
        done = enough and best.runs is not None
        if best.proven or done or budget.spent:
            break
        if step == 0:
            priced = _priced(relaxation, roots, best, budget, num_rounds, prices)
            least = min(bound.value for bound in priced)
            best = Best(best.runs, best.cost, max(best.bound, min(best.cost, least)), priced[0].prices, least)
            search = Search(tables, target, search.columns, roots, [bounds[0], priced], judge, device_cost, enough)
            if best.proven:
                break
    return best


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
    return [relaxation.bound(shared.prices, root) for root in roots]
