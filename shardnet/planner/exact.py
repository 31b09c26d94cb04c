"""Plans that are optimal by proof, or come with a proven gap. Pure.

Every objective is a least cost under limits (see `minimize`). Latency is the least lap. Throughput is the least
beat = max(bottleneck, lap / in_flight), the reciprocal of the rate. A beat can be kept if and only if, of the plans
whose devices and links are all busy for no more than the beat, the shortest lap takes at most in_flight beats.
Bisection finds the least beat; of the plans within 1% of it, the one with the shortest lap is taken.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardnet.errors import BadConfiguration
from shardnet.plan import StagePlan
from shardnet.planner.costs import ROUNDING, Cost, broken_limit, evaluate
from shardnet.planner.minimize import Best, Runs, minimize
from shardnet.planner.problem import Problem
from shardnet.planner.relaxed import Target
from shardnet.planner.tables import Tables, as_stages

NEAR_TIE = 0.01
"""Rates that differ by no more than this share count as tied."""
TIE_SHARE = 1e-10
"""What all devices together may add to a cost when ties are broken."""
TIE_WIDTHS = (64, 512)
PROOF_SHARE = 1e-7
"""Two beats closer than this share are the same: above the rounding that every limit allows."""


@dataclass(frozen=True)
class Solution:
    """Stages with what is proven of them; None where nothing fits.

    Attributes:
        value: s of lap, s of beat, or J.
        bound: no plan has a lower value.
        proven: the plan is the best by every rule, ties included.
    """

    stages: tuple[StagePlan, ...] | None
    value: float
    bound: float
    proven: bool

    @property
    def gap(self) -> float | None:
        if self.proven:
            return 0.0
        return self.value / self.bound - 1 if self.bound > 0 else None


class Exact:
    """One problem and everything that its searches share."""

    def __init__(
        self,
        problem: Problem,
        deadline: float,
        lap_limit_s: float = np.inf,
        seeds: Sequence[Sequence[StagePlan]] = (),
    ) -> None:
        self.problem, self.deadline, self.lap_limit_s = problem, deadline, lap_limit_s
        self.tables = Tables(problem)
        index = problem.index
        self._seeds: list[Runs] = [tuple((index[s.device], s.last_unit) for s in stages) for stages in seeds]
        self._costs: dict[Runs, Cost | None] = {}

    def latency(self) -> Solution:
        """The plan with the least lap; of equal ones, that with fewest devices."""
        best = self._least_lap(np.inf, np.inf)
        return self._solution(best, best.cost, best.bound, best.proven)

    def energy(self) -> Solution:
        """The plan of least joules per token; of equal ones, that with the shortest lap. Needs active_w everywhere."""
        tables, lap_limit_s = self.tables, self.lap_limit_s
        joules = tables.seconds * np.array([device.active_w for device in self.problem.devices], dtype=float)
        hop_j = np.where(np.isfinite(tables.hop_s), tables.radio_j, np.inf)
        scale = (
            TIE_SHARE
            * max(float(joules.max(axis=1).sum()), 1e-12)
            / max(float(tables.seconds.max(axis=1).sum()), 1e-12)
        )
        target = Target(joules + scale * tables.seconds, hop_j + scale * tables.hop_s, lap_limit_s=lap_limit_s)

        def judge(runs: Runs) -> float:
            cost = self.cost(runs)
            if cost is None or cost.energy_j is None or cost.lap_s > lap_limit_s * (1 + ROUNDING):
                return np.inf
            return cost.energy_j + scale * cost.lap_s

        best = self._minimize(target, judge, np.inf)
        value = np.inf if best.runs is None else best.cost - scale * self._known(best.runs).lap_s
        return self._solution(best, value, min(best.bound, value), best.proven)

    def throughput(self, in_flight: int) -> Solution:
        """The plan with the least beat; within 1%, that with the shortest lap, then with fewest devices."""
        start = self._least_lap(np.inf, np.inf)
        if start.runs is None:
            return self._solution(start, np.inf, start.bound, False)
        pool = [start.runs, *(runs for runs in self._seeds if self.cost(runs) is not None)]
        beats = _Beats(self, in_flight, pool, start.bound / in_flight)
        for share in (1e-3, 1e-6, PROOF_SHARE):
            beats.narrow(share)
            best = self._least_lap(beats.high / (1 - NEAR_TIE), in_flight, beats.pool)
            if best.runs is None:
                break
            beats.learn(best.runs)
            value = beats.beat(best.runs)
            within = value * (1 - NEAR_TIE) <= beats.low * (1 + 2 * PROOF_SHARE)
            if (best.proven and within) or beats.stuck or time.perf_counter() > self.deadline:
                return self._solution(best, value, min(beats.low, value), best.proven and within)
        quickest = min(beats.pool, key=beats.beat)
        value = beats.beat(quickest)
        return self._solution(Best(quickest, value, beats.low), value, min(beats.low, value), False)

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

    def _known(self, runs: Runs) -> Cost:
        cost = self.cost(runs)
        assert cost is not None, "the searches return only plans that were judged"
        return cost

    def _least_lap(self, beat_s: float, in_flight: float, pool: Sequence[Runs] = ()) -> Best:
        """The least lap of a plan that keeps the beat, ties broken by fewest devices."""
        target, judge = self.beat_target(beat_s), self.beat_judge(beat_s)
        limit_s = min(self.lap_limit_s, beat_s * in_flight if np.isfinite(beat_s) else np.inf)
        best = self._minimize(target, judge, limit_s * (1 + ROUNDING), pool)
        if best.runs is None or not best.proven:
            return best
        return self._fewest_devices(best, target, judge)

    def beat_target(self, beat_s: float) -> Target:
        """The lap as cost, with devices and links busy for no more than the beat."""
        tables = self.tables
        if np.isinf(beat_s):
            return Target(tables.seconds, tables.hop_s)
        hop = np.where(tables.peak_s <= beat_s * (1 + ROUNDING), tables.hop_s, np.inf)
        return Target(tables.seconds, hop, busy_limit_s=beat_s)

    def beat_judge(self, beat_s: float):  # type: ignore[no-untyped-def]
        """The lap of a plan that keeps the beat."""

        def judge(runs: Runs) -> float:
            cost = self.cost(runs)
            return np.inf if cost is None or cost.bottleneck_s > beat_s * (1 + ROUNDING) else cost.lap_s

        return judge

    def _minimize(self, target: Target, judge, upper: float, pool: Sequence[Runs] = ()) -> Best:  # type: ignore[no-untyped-def]
        """The best of the search, the seeds and the pool."""
        known = min([*self._seeds, *pool], key=judge, default=None)
        if known is not None and judge(known) < upper:
            best = minimize(self.tables, target, judge, judge(known), self.deadline)
            return best if best.runs is not None else Best(known, judge(known), best.bound)
        return minimize(self.tables, target, judge, upper, self.deadline)

    def _fewest_devices(self, best: Best, target: Target, judge) -> Best:  # type: ignore[no-untyped-def]
        """Another plan of the same lap on fewer devices, where a short search finds one."""
        assert best.runs is not None
        if len({d for d, _ in best.runs}) <= self._fewest_needed() or best.cost <= 0:
            return best
        each = TIE_SHARE * best.cost / self.tables.num_devices

        def with_devices(runs: Runs) -> float:
            return judge(runs) + each * len({d for d, _ in runs})

        upper = with_devices(best.runs) - each / 2
        fewer = minimize(self.tables, target, with_devices, upper, self.deadline, device_cost=each, widths=TIE_WIDTHS)
        return best if fewer.runs is None else Best(fewer.runs, best.cost, best.bound)

    def _fewest_needed(self) -> int:
        room = np.cumsum(np.sort(self.tables.capacity)[::-1])
        return int(np.searchsorted(room, self.tables.memory.sum() * (1 - ROUNDING))) + 1

    def _solution(self, best: Best, value: float, bound: float, proven: bool) -> Solution:
        if best.runs is None:
            return Solution(None, value, bound, np.isinf(best.bound))
        return Solution(as_stages(self.problem, best.runs), value, bound, proven)


class _Beats:
    """Bisection for the least beat: `low` is proven unreachable or a bound, `high` is reached by a plan of the pool."""

    def __init__(self, exact: Exact, in_flight: int, pool: list[Runs], low: float) -> None:
        self.exact, self.in_flight, self.pool = exact, in_flight, pool
        self.low = max(low, _least_beat(exact.tables))
        self.high = min(self.beat(runs) for runs in pool)
        self.stuck = False
        self._assumed = self.low

    def beat(self, runs: Runs) -> float:
        """Seconds per token with all sessions in flight."""
        cost = self.exact._known(runs)
        return max(cost.bottleneck_s, cost.lap_s / self.in_flight)

    def learn(self, runs: Runs) -> None:
        """Take a plan into the pool."""
        self.pool.append(runs)
        self.high = min(self.high, self.beat(runs))

    def narrow(self, share: float) -> None:
        """Bring `low` and `high` together to within the share, as far as time allows."""
        exact = self.exact
        while self.high * (1 - share) > self._assumed * (1 + ROUNDING) and time.perf_counter() < exact.deadline:
            near = self.high * (1 - 4 * share) <= self._assumed
            middle = self.high * (1 - share) if near else (self.high + self._assumed) / 2
            now = time.perf_counter()
            until = min(exact.deadline, now + max(0.05, (exact.deadline - now) / 5))
            upper = min(middle * self.in_flight, exact.lap_limit_s) * (1 + ROUNDING)
            target, judge = exact.beat_target(middle), exact.beat_judge(middle)
            best = minimize(exact.tables, target, judge, upper, until, enough=True)
            if best.runs is not None:
                self.learn(best.runs)
            else:
                self._assumed = middle
                if best.bound >= upper:
                    self.low = middle
                else:
                    self.stuck = True


def _least_beat(tables: Tables) -> float:
    """A beat that no plan undercuts: some device must take each unit, and all devices together all of them."""
    fastest = tables.seconds.min(axis=1)
    return float(max(fastest.max(), fastest.sum() / tables.num_devices))
