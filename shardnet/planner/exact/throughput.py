"""The greatest rate, by proof or with a proven gap. Pure.

The reciprocal of the rate is the beat = max(bottleneck, lap / in_flight). A beat can be kept if and only if, of the
plans whose devices and links are all busy for no more than the beat, the shortest lap takes at most in_flight beats.

Of the plans within 1% of the best rate the one with the shortest lap is wanted. So: find a short beat with quick
searches; take the shortest lap within 1% of it; and prove that no plan's beat is more than 1% shorter than that one's.
The proof either holds, and then the plan is best by the rule, or finds a shorter beat to go on from.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shardnet.plan import StagePlan
from shardnet.planner.budget import Budget
from shardnet.planner.costs import ROUNDING
from shardnet.planner.exact import highs
from shardnet.planner.exact.annealing import anneal
from shardnet.planner.exact.assignment import Assignment, Runs, owners_of, runs_of
from shardnet.planner.exact.by_class import ByClass
from shardnet.planner.exact.counting import counts_fit
from shardnet.planner.exact.deepening import LEAST_SOLVER_S, MOST_JUDGED, Deepening
from shardnet.planner.exact.exact import Exact, Solution
from shardnet.planner.exact.minimize import WIDTHS, Best, roots_of
from shardnet.planner.exact.packing import sets_fit
from shardnet.planner.exact.programme import Programme
from shardnet.planner.exact.relaxed import Prices
from shardnet.planner.tables import MOST_ROUTED, as_stages

NEAR_TIE = 0.01
"""Rates that differ by no more than this share count as tied."""
SAME = 1e-7
"""Beats that differ by no more than this share are one beat: above the rounding that every limit allows."""
CLOSE = NEAR_TIE
"""Quick searches stop when they have the beat to this share."""
NUM_STEPS, ANNEALING_SHARE = (6000, 24000), 0.2
"""Steps of annealing for a shorter beat, for the first time and for the second, and their share of the time left."""
BEAT_HEAT = 0.2, 0.002
"""Colder than for sums, since a step seldom changes what is busiest."""
SOLVER_GAP = 1e-3
"""How near the least beat HiGHS is to come."""
FIRST_SHARES = 0.3, 0.6
"""Of the time that is left: what the shortest lap gets before HiGHS is heard again, and then."""
HARD_SHARE = 0.05
"""Of the time that is left: what a bisection with quick searches may take where these prove little."""
NUM_POLISHED, POLISHED, POLISHING_SHARE = 4, 0.005, 0.12
"""The neighbourhoods of so many plans are searched for a beat that is so much shorter, in such a share of the time."""
BRANCHING_S = 0.1
QUICK_WIDTHS = (24, 192)
QUICK_ROUNDS = 60
BOUND_ROUNDS = 200
REARRANGING_S = 0.1
"""For a plan that is about as good and visits no device twice."""
MANY_DEVICES = 8
"""From so many on, other orders of the devices are tried before a search that is cut to a width."""


def greatest_rate(exact: Exact, in_flight: int) -> Solution:
    """The plan with the greatest rate; of those within 1%, that with the shortest lap, then with fewest devices."""
    start = exact.least_lap(np.inf, np.inf, exact.budget.share(1.0 if in_flight == 1 else 0.1))
    if start.runs is None and not start.proven:
        start = exact.least_lap(np.inf, np.inf, exact.budget.share(0.8))
    if start.runs is None:
        return exact.solution(start, np.inf, start.bound, False)
    if in_flight == 1:  # the beat is the lap
        tied = start.bound >= start.cost * (1 - NEAR_TIE)
        return exact.solution(start, start.cost, min(start.bound, start.cost), tied)
    beats = _Beats(exact, in_flight, start)
    if beats.high == 0:  # every time is zero
        return exact.solution(Best(min(beats.pool, key=beats.beat), 0.0, 0.0), 0.0, 0.0, True)
    try:
        return _greatest_rate(beats, hard=not start.proven and Deepening.suits(exact.tables))
    finally:
        beats.end_solver()


def _greatest_rate(beats: _Beats, hard: bool) -> Solution:
    """Shorten the beat, then the lap, until no beat is more than 1% shorter, as far as time allows.

    Args:
        hard: quick searches will not come near the least beat: HiGHS seeks it meanwhile.
    """
    exact, in_flight = beats.exact, beats.in_flight
    shares = [*FIRST_SHARES] if hard else [0.25]
    while True:
        _shorten_beat(beats, hard)
        beats.hear()
        share, shares = shares[0], shares[1:] or shares
        until = exact.budget.share(_share_of_lap(beats, hard, share))
        within = beats.high / (1 - NEAR_TIE)
        best = exact.least_lap(within, in_flight, until, beats.pool, beats.prices, alone=beats.asking)
        assert best.runs is not None, "the pool holds a plan with the shortest beat known"
        beats.learn(best.runs)
        beats.raise_to(min(within, best.bound / in_flight))
        value = beats.beat(best.runs)
        goal = value * (1 - NEAR_TIE)
        if beats.hear() < goal * (1 - SAME / 2) or beats.disprove(goal):
            continue  # a beat more than 1% shorter: the shortest lap is to be sought again
        tied = beats.low >= goal * (1 - 2 * SAME)
        solution = exact.solution(best, value, min(beats.low, value), tied)
        return replace(solution, near=beats.near)


def _shorten_beat(beats: _Beats, hard: bool) -> None:
    if not hard:
        beats.shorten(0.5)
    elif not beats.lap_decides:
        beats.anneal(beats.low)
        beats.polish()
        beats.ask_solver()
        beats.shorten(HARD_SHARE)


def _share_of_lap(beats: _Beats, hard: bool, share: float) -> float:
    """How much of the time left goes into the lap: nearly all, once the beat is known to 1%."""
    shown = beats.low >= beats.high * (1 - NEAR_TIE)
    if hard:
        return 1.0 if shown or beats.lap_decides else share
    return 0.8 if shown else share


class _Beats:
    """What is known of the least beat: none below `low`, and a plan of the pool reaches `high`."""

    def __init__(self, exact: Exact, in_flight: int, start: Best) -> None:
        assert start.runs is not None
        self.exact, self.in_flight = exact, in_flight
        self.pool: list[Runs] = [start.runs, *exact.seeds]
        self.high = min(self.beat(runs) for runs in self.pool)
        fastest = exact.tables.seconds.min(axis=1)
        work_s = float(max(fastest.max(), fastest.sum() / exact.tables.num_devices))
        self.low = min(max(start.bound / in_flight, work_s), self.high)
        self._count_units()
        self._doubted = self.low
        self.prices: Prices | None = None
        self._chance = np.random.default_rng(11)
        self._annealed = self._polished = False
        self._solver: highs.Beside | None = None

    def beat(self, runs: Runs) -> float:
        """Seconds per token with all sessions in flight."""
        cost = self.exact.known(runs)
        return max(cost.bottleneck_s, cost.lap_s / self.in_flight)

    def learn(self, runs: Runs) -> None:
        """Take a plan into the pool."""
        self.pool.append(runs)
        self.high = min(self.high, self.beat(runs))

    def raise_to(self, low: float) -> None:
        """No plan's beat is shorter than this: each is either busier, or its lap takes as long."""
        self.low = max(self.low, min(low, self.high))

    def near(self) -> tuple[tuple[StagePlan, ...], ...]:
        """Plans within 1% of the shortest beat, those that visit few devices again first, then the shortest laps.

        With one that visits none again, but for the first one at its end, where one is found.
        """
        exact, best = self.exact, min(self.pool, key=self.beat)
        within = self.high / (1 - NEAR_TIE) * (1 + ROUNDING)
        if exact.tables.num_devices <= MOST_ROUTED:
            until = Budget(REARRANGING_S)
            other = exact.rearranged(within, self.in_flight, best, until, self._chance)
            self.pool += [] if other is None else [other]
        limit_s = exact.lap_limit_s * (1 + ROUNDING)
        plans = {runs for runs in self.pool if self.beat(runs) <= within and exact.known(runs).lap_s <= limit_s}
        revisits = {runs: len(runs) - len({d for d, _ in runs}) for runs in plans}
        order = sorted(plans, key=lambda runs: (revisits[runs], exact.known(runs).lap_s, runs))
        return tuple(as_stages(exact.problem, runs) for runs in order)

    def find(self, beat_s: float, budget: Budget, widths: tuple[int, ...], rounds: int) -> bool:
        """Whether a plan that keeps the beat was found; where there is proven to be none, `low` is raised."""
        if widths and self.exact.tables.num_devices >= MANY_DEVICES:
            best, share = min(self.pool, key=self.beat), budget.share(0.7)
            other = self.exact.rearranged(beat_s, self.in_flight, best, share, self._chance)
            if other is not None and np.isfinite(self._judge(other)):  # its lap may be too long
                self.learn(other)
                if self.beat(other) <= beat_s * (1 + ROUNDING):
                    return True
        found = self.exact.keeps_beat(beat_s, self.in_flight, budget, widths, rounds, self.prices, alone=self.asking)
        self.prices = found.prices or self.prices
        if found.runs is not None:
            self.learn(found.runs)
            return True
        self.low = max(self.low, beat_s if found.bound >= found.cost else self._implied(found, beat_s))
        return False

    def _implied(self, found: Best, beat_s: float) -> float:
        """No plan has a shorter beat than this one, by the prices of a search with a longer beat (Dinkelbach, 1967).

        With a beat shorter by x s, the busy time that the prices charge for is less by x s on each device.
        """
        if found.prices is None or not np.isfinite(found.priced):
            return 0.0
        busy = float((found.prices.busy * [len(devices) for devices in self.exact.tables.members]).sum())
        return min(beat_s, (found.priced + busy * beat_s) / (self.in_flight + busy))

    def disprove(self, goal: float) -> bool:
        """Whether a beat under the goal was found; where not, `low` is at the goal or as high as time allows."""
        short, rest = WIDTHS[:3], (WIDTHS[0], *WIDTHS[3:])
        if self.low >= goal * (1 - 2 * SAME) or self._packs_no(goal * (1 - SAME)):
            return False
        if self.find(goal * (1 - SAME), self.exact.budget.share(0.3), short, QUICK_ROUNDS):
            return True
        self.ask_solver()
        if self.low < goal * (1 - 2 * SAME):
            self.raise_low(goal * (1 - SAME), self.exact.budget.share(0.25))
        if self.low < goal * (1 - 2 * SAME) and self.anneal(goal):
            return True
        if self.low < goal * (1 - 2 * SAME) and self.find(goal * (1 - SAME), self.exact.budget, rest, QUICK_ROUNDS):
            return True
        if self.exact.budget.spent:
            self.end_solver()  # or what it has proven would be lost: its clock is another one
        return self.hear() < goal * (1 - SAME / 2)

    def anneal(self, goal: float) -> bool:
        """Whether annealing, once, found a plan that keeps the goal; what it found is learnt."""
        exact = self.exact
        if self._annealed or not Deepening.suits(exact.tables):
            return False
        self._annealed = True
        given = Assignment(exact.tables, exact.beat_target(np.inf), roots_of(exact.tables))
        if not given.allowed.any(axis=1).all():
            return False
        until, in_flight = exact.budget.share(ANNEALING_SHARE), self.in_flight
        for num_steps in NUM_STEPS:
            owners, _ = anneal(
                given, lambda rows: given.beat(rows, in_flight), num_steps, until, self._chance, BEAT_HEAT
            )
            for n in range(min(owners.shape[1], MOST_JUDGED)):
                runs = given.runs(owners[:, n])
                if np.isfinite(self._judge(runs)):
                    self.learn(runs)
        return self.high <= goal

    @property
    def lap_decides(self) -> bool:
        """Whether the best beat known is the session's share of the lap: a shorter one needs a shorter lap."""
        cost = self.exact.known(min(self.pool, key=self.beat))
        return cost.bottleneck_s < cost.lap_s / self.in_flight

    def polish(self) -> None:
        """Seek shorter beats, once, in the neighbourhoods of the best plans."""
        if self._polished or not Deepening.suits(self.exact.tables):
            return
        self._polished, exact, budget = True, self.exact, self.exact.budget.share(POLISHING_SHARE)
        best = sorted({runs for runs in self.pool if np.isfinite(self._judge(runs))}, key=self.beat)[:NUM_POLISHED]
        for number, first in enumerate(best):
            runs: Runs | None = first
            until = budget.share(1 / (len(best) - number))
            while runs is not None and not until.spent:
                goal = self.beat(runs) * (1 - POLISHED)
                if goal < self.low:
                    return
                limit_s = min(goal * self.in_flight, exact.lap_limit_s) * (1 + ROUNDING)
                judge = exact.beat_judge(goal, limit_s)
                deep = Deepening(exact.tables, exact.beat_target(goal), roots_of(exact.tables), judge, limit_s)
                runs = deep.near(runs, limit_s * (1 + ROUNDING), until)
                if runs is not None:
                    self.learn(runs)

    def ask_solver(self) -> None:
        """Let HiGHS seek the least beat beside all that follows, once, where no quick proof has come near it."""
        exact, goal = self.exact, self.high * (1 - SOLVER_GAP)
        if self._solver is not None or not Deepening.suits(exact.tables) or not highs.installed():
            return
        if exact.budget.left_s < LEAST_SOLVER_S or self.low >= goal or self._packs_no(goal):
            return
        programme = Programme(exact.tables, roots_of(exact.tables))
        if np.isfinite(exact.lap_limit_s):
            programme.limit(programme.amounts(exact.tables.seconds, exact.tables.hop_s), exact.lap_limit_s)
        programme.seek_beat(self.in_flight)
        best = min((runs for runs in self.pool if np.isfinite(self._judge(runs))), key=self.beat)
        self._solver = highs.Beside(programme, exact.budget.left_s, owners_of(best), SOLVER_GAP)

    @property
    def asking(self) -> bool:
        """Whether HiGHS is at work."""
        return self._solver is not None and self._solver.runs

    def hear(self) -> float:
        """Learn what HiGHS has found by now, and proven if it has ended; the shortest beat known."""
        if self._solver is not None:
            owners = [self._solver.found()]
            if not self._solver.runs:
                answer = self._solver.end()
                owners.append(answer.owners)
                self.raise_to(answer.bound)
            for runs in (runs_of(each) for each in owners if each is not None):
                if np.isfinite(self._judge(runs)):
                    self.learn(runs)
        return self.high

    def end_solver(self) -> None:
        """Stop HiGHS if it is at work."""
        if self._solver is not None:
            self._solver.end()

    def _judge(self, runs: Runs) -> float:
        return self.exact.beat_judge(np.inf, self.exact.lap_limit_s)(runs)

    def shorten(self, share: float) -> None:
        """Bisect with quick searches: what they do not find is doubted, not disproven."""
        if self.exact.tables.num_devices >= MANY_DEVICES:
            if len(self.exact.tables.members) >= MANY_DEVICES:  # bounds take long: not far above the least beat
                self._descend(self.exact.budget.share(0.1))
            self.raise_low(self.high * (1 - NEAR_TIE), self.exact.budget.share(0.3))
        self._descend(self.exact.budget.share(share))

    def _descend(self, until: Budget) -> None:
        self._doubted = max(self._doubted, self.low) if self._doubted < self.high else self.low
        while self.high * (1 - CLOSE) > self._doubted and not until.spent:
            middle = (self.high + self._doubted) / 2
            if not self.find(middle, until, QUICK_WIDTHS, QUICK_ROUNDS):
                self._doubted = middle

    def raise_low(self, high: float, budget: Budget) -> None:
        """Bisect with bounds alone, the highest beat first: where it is disproven, no search is needed."""
        middle = high
        while high > self.low * (1 + CLOSE / 4) and not budget.spent:
            if not self._packs_no(middle) and not self._branches_no(middle, budget):
                self.find(middle, budget, (), BOUND_ROUNDS)
            if self.low < middle:
                high = middle
            middle = self.low + (high - self.low) / 4

    def _packs_no(self, beat_s: float) -> bool:
        """Whether packing alone shows that no plan keeps the beat; then `low` is raised."""
        none = not sets_fit(ByClass(self.exact.tables, self.exact.beat_target(beat_s)))
        self.low = max(self.low, beat_s) if none else self.low
        return none

    def _branches_no(self, beat_s: float, budget: Budget) -> bool:
        """Whether a short branch and bound shows the same, in small clusters; then `low` is raised."""
        exact = self.exact
        if not Deepening.suits(exact.tables):
            return False
        limit_s = min(beat_s * self.in_flight, exact.lap_limit_s) * (1 + ROUNDING)
        target, judge = exact.beat_target(beat_s), exact.beat_judge(beat_s, limit_s)
        deep = Deepening(exact.tables, target, roots_of(exact.tables), judge, limit_s)
        none = deep.disproves(budget.at_most(BRANCHING_S))
        self.low = max(self.low, beat_s) if none else self.low
        return none

    def _count_units(self) -> None:
        """Raise `low` to where the devices can hold all large units, by counting alone."""
        high = self.high
        while high * (1 - CLOSE / 10) > self.low:
            middle = (high + self.low) / 2
            if counts_fit(ByClass(self.exact.tables, self.exact.beat_target(middle))):
                high = middle
            else:
                self.low = middle
