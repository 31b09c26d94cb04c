"""Plans that are optimal by proof, or come with a proven gap. Pure.

Every objective is a least cost under limits (see `minimize`): latency is the least lap, energy the least joules per
token. For the greatest rate see `throughput`, which asks for the least lap under a limit on what is busy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shardnet.errors import BadConfiguration
from shardnet.plan import StagePlan
from shardnet.planner.budget import Budget
from shardnet.planner.costs import ROUNDING, Cost, broken_limit, evaluate
from shardnet.planner.exact.assignment import Judge, Runs
from shardnet.planner.exact.by_class import Second, Target
from shardnet.planner.exact.minimize import NUM_ROUNDS, WIDTHS, Best, minimize
from shardnet.planner.exact.neighbourhood import shorter_lap
from shardnet.planner.exact.relaxed import Prices
from shardnet.planner.tables import Tables, as_stages

TIE_SHARE = 1e-10
"""What all devices together may add to a lap when ties are broken."""
ABOVE = 3 * ROUNDING
"""So far above a limit searches look, since a bound within `minimize.PROOF` of where they look counts as a proof."""
TIE_WIDTHS = (64, 512)
TIE_TIME_S = 0.2


@dataclass(frozen=True)
class Solution:
    """Stages with what is proven of them; None where nothing fits.

    Attributes:
        value: s of lap, s of beat, or J.
        bound: no plan has a lower value.
        proven: no plan has a lower value; of beats, none that is more than 1% lower, for such rates count as tied.
        settled: the plan is the best by every rule: also the shortest lap among tied rates is proven.
        near: looks for plans whose rate is within 1% of the best one's; None where the rate is not sought.
    """

    stages: tuple[StagePlan, ...] | None
    value: float
    bound: float
    proven: bool
    settled: bool = False
    near: Callable[[], tuple[tuple[StagePlan, ...], ...]] | None = None

    @property
    def gap(self) -> float | None:
        if self.settled:
            return 0.0
        return max(0.0, self.value / self.bound - 1) if self.bound > 0 else None


class Exact:
    """One problem and everything that its searches share."""

    def __init__(
        self,
        tables: Tables,
        budget: Budget,
        lap_limit_s: float = np.inf,
        seeds: Sequence[Sequence[StagePlan]] = (),
    ) -> None:
        self.tables, self.budget, self.lap_limit_s = tables, budget, lap_limit_s
        self.problem = tables.problem
        index = self.problem.index
        self._seeds: list[Runs] = [tuple((index[s.device], s.last_unit) for s in stages) for stages in seeds]
        self._costs: dict[Runs, Cost | None] = {}

    def latency(self) -> Solution:
        """The plan with the least lap; of equal ones, that with fewest devices."""
        best = self.least_lap(np.inf, np.inf, self.budget)
        return self.solution(best, best.cost, best.bound, best.proven)

    def energy(self) -> Solution:
        """The plan of least joules per token; of equal ones, that with the shortest lap, then with fewest devices.

        Needs active_w everywhere.
        """
        tables, limit_s = self.tables, self.lap_limit_s * (1 + ROUNDING)
        joules = tables.seconds * np.array([device.active_w for device in self.problem.devices], dtype=float)
        hop_j = np.where(np.isfinite(tables.hop_s), tables.radio_j, np.inf)
        laps = Second(tables.seconds, tables.hop_s, limit_s) if np.isfinite(limit_s) else None
        target, pool = Target(joules, hop_j, second=laps), []

        def judge(runs: Runs) -> float:
            cost = self.cost(runs)
            if cost is None or cost.energy_j is None or cost.lap_s > limit_s:
                return np.inf
            return cost.energy_j

        if laps is not None and not self._has_seed(judge):
            short = self.keeps_beat(np.inf, 1, self.budget.share(0.3), WIDTHS, NUM_ROUNDS, None)
            if short.runs is not None:
                pool = [short.runs]
            elif short.proven:
                return Solution(None, np.inf, np.inf, True)
        best = self._minimize(target, judge, np.inf, self.budget, pool)
        if best.runs is not None and best.proven:
            best = self._shortest_lap(best, target, judge)
        return self.solution(best, best.cost, min(best.bound, best.cost), best.proven)

    def _has_seed(self, judge: Judge) -> bool:
        """Whether a plan to begin with keeps every limit."""
        return any(judge(runs) < np.inf for runs in self._seeds)

    def _shortest_lap(self, best: Best, target: Target, judge: Judge) -> Best:
        """Another plan of the same energy with a shorter lap or on fewer devices, where short searches find one."""
        assert best.runs is not None
        least_j = best.cost * (1 + ROUNDING)
        most_j = max(least_j, ROUNDING * float(target.unit_cost.max()), ROUNDING**2)
        hop_s = np.where(np.isfinite(target.hop_cost), self.tables.hop_s, np.inf)
        laps = Target(self.tables.seconds, hop_s, second=Second(target.unit_cost, self.tables.radio_j, most_j))

        def lap(runs: Runs) -> float:
            return self.known(runs).lap_s if judge(runs) <= least_j else np.inf

        lap_s, budget = lap(best.runs), self.budget.at_most(TIE_TIME_S)
        upper = lap_s * (1 - ROUNDING)
        shorter = minimize(self.tables, laps, lap, upper, budget, widths=TIE_WIDTHS)
        runs = best.runs if shorter.runs is None else shorter.runs
        fewest = self._fewest_devices(Best(runs, lap(runs), 0.0), laps, lap)
        return Best(fewest.runs, best.cost, best.bound)

    def cost(self, runs: Runs) -> Cost | None:
        """What the plan costs; None where it breaks a limit."""
        if runs not in self._costs:
            stages = as_stages(self.problem, runs)
            try:
                cost = evaluate(self.problem, stages)
            except BadConfiguration:  # a seed without a way
                self._costs[runs] = None
                return None
            self._costs[runs] = None if broken_limit(self.problem, stages, cost) else cost
        return self._costs[runs]

    def known(self, runs: Runs) -> Cost:
        """What a plan costs that is known to keep every limit."""
        cost = self.cost(runs)
        assert cost is not None, "only plans that were judged are asked for"
        return cost

    @property
    def seeds(self) -> list[Runs]:
        """The plans to begin with that keep every limit."""
        return [runs for runs in self._seeds if self.cost(runs) is not None]

    def least_lap(
        self,
        beat_s: float,
        in_flight: float,
        budget: Budget,
        pool: Sequence[Runs] = (),
        prices: Prices | None = None,
        alone: bool = False,
    ) -> Best:
        """The least lap of a plan that keeps the beat, ties broken by fewest devices.

        Args:
            pool: plans that are known already.
            alone: without HiGHS, which is at work on something else.
        """
        limit_s = min(self.lap_limit_s, beat_s * in_flight if np.isfinite(beat_s) else np.inf)
        target, judge = self.beat_target(beat_s), self.beat_judge(beat_s, limit_s)
        best = self._minimize(target, judge, limit_s * (1 + ABOVE), budget, pool, prices, alone)
        if best.runs is None or not best.proven:
            return best
        return self._fewest_devices(best, target, judge)

    def keeps_beat(
        self,
        beat_s: float,
        in_flight: int,
        budget: Budget,
        widths: tuple[int, ...],
        num_rounds: int,
        prices: Prices | None,
        alone: bool = False,
    ) -> Best:
        """Any plan that keeps the beat; the bound reaches the cost where there is proven to be none."""
        limit_s = min(beat_s * in_flight, self.lap_limit_s)
        return minimize(
            self.tables,
            self.beat_target(beat_s),
            self.beat_judge(beat_s, limit_s),
            limit_s * (1 + ABOVE),
            budget,
            enough=True,
            widths=widths,
            num_rounds=num_rounds,
            prices=prices,
            alone=alone,
        )

    def rearranged(
        self, beat_s: float, in_flight: int, runs: Runs, budget: Budget, chance: np.random.Generator
    ) -> Runs | None:
        """Another plan that keeps the beat but for its lap, like this one in its devices or in their order."""
        enough_s = min(beat_s * in_flight, self.lap_limit_s) * (1 + ROUNDING)
        hop_s, judge = self.beat_target(beat_s).hop_cost, self.beat_judge(beat_s)
        return shorter_lap(self.tables, beat_s, hop_s, runs, judge, enough_s, budget, chance)

    def beat_target(self, beat_s: float) -> Target:
        """The lap as cost, with devices and links busy for no more than the beat."""
        tables = self.tables
        if np.isinf(beat_s):
            return Target(tables.seconds, tables.hop_s)
        hop = np.where(tables.peak_s <= beat_s * (1 + ROUNDING), tables.hop_s, np.inf)
        return Target(tables.seconds, hop, busy_limit_s=beat_s)

    def beat_judge(self, beat_s: float, limit_s: float = np.inf) -> Judge:
        """The lap of a plan that keeps the beat, within a limit that includes its own value."""

        def judge(runs: Runs) -> float:
            cost = self.cost(runs)
            late = cost is None or cost.bottleneck_s > beat_s * (1 + ROUNDING) or cost.lap_s > limit_s * (1 + ROUNDING)
            return np.inf if cost is None or late else cost.lap_s

        return judge

    def _minimize(
        self,
        target: Target,
        judge: Judge,
        upper: float,
        budget: Budget,
        pool: Sequence[Runs] = (),
        prices: Prices | None = None,
        alone: bool = False,
    ) -> Best:
        """The best of the search, the seeds and the pool."""
        known = min([*self._seeds, *pool], key=judge, default=None)
        if known is not None and judge(known) < upper:
            best = minimize(self.tables, target, judge, judge(known), budget, prices=prices, known=known, alone=alone)
            return best if best.runs is not None else Best(known, judge(known), best.bound)
        return minimize(self.tables, target, judge, upper, budget, prices=prices, alone=alone)

    def _fewest_devices(self, best: Best, target: Target, judge: Judge) -> Best:
        """Another plan of the same lap on fewer devices, where a short search finds one."""
        assert best.runs is not None
        if len({d for d, _ in best.runs}) <= self._fewest_needed():
            return best
        seconds = np.concatenate([target.unit_cost.ravel(), target.hop_cost.ravel()])
        least_s = best.cost or float(seconds[seconds > 0].min(initial=1.0))  # above a lap of zero
        each = TIE_SHARE * least_s / self.tables.num_devices

        def with_devices(runs: Runs) -> float:
            return judge(runs) + each * len({d for d, _ in runs})

        upper = with_devices(best.runs) - each / 2
        fewer = minimize(
            self.tables,
            target,
            with_devices,
            upper,
            self.budget.at_most(TIE_TIME_S),
            device_cost=each,
            widths=TIE_WIDTHS,
        )
        return best if fewer.runs is None else Best(fewer.runs, best.cost, best.bound)

    def _fewest_needed(self) -> int:
        room = np.cumsum(np.sort(self.tables.capacity)[::-1])
        return int(np.searchsorted(room, self.tables.memory.sum() * (1 - ROUNDING))) + 1

    def solution(self, best: Best, value: float, bound: float, proven: bool) -> Solution:
        if best.runs is None:
            return Solution(None, value, bound, best.proven)
        return Solution(as_stages(self.problem, best.runs), value, bound, proven, settled=proven and best.proven)
