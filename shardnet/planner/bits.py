"""In how many bits each unit is held where a user allows a loss: the fastest plan whose predicted loss is within it.

A loss is how much more perplexity a model has. It was measured with all blocks in one scheme, and is taken to be the
sum of equal parts of the units, in logarithms: an assumption, which a score of the mixed model tests. Bits belong to
units: whoever takes a unit over has it in the same. Each plan is what a method finds for given bits, with its proof;
which bits are tried is no search with a proof: one scheme for all; of two schemes as many blocks in the smaller one as
the loss allows, at the beginning or at the end; and from each plan, again and again, the best scheme for each stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import NamedTuple

from shardnet.errors import DoesNotFit
from shardnet.plan import Plan, StagePlan, owners_of
from shardnet.planner.costs import evaluate, fits
from shardnet.planner.problem import Device, Problem

MOST_SETTINGS = 2000
"""Schemes for the stages of a plan: those of more stages are not tried."""
MOST_STEPS = 4
ALIKE = 0.01
"""Plans that are so near each other are told apart by their loss."""


class Offer(NamedTuple):
    """All units in one scheme."""

    problem: Problem
    loss: float
    """Of the whole model: 0.01 is one percent more perplexity; 0 of weights as they are computed with."""


class Mix(NamedTuple):
    """Units in schemes of their own, and where they go."""

    schemes: tuple[str, ...]
    """Of each unit."""
    plan: Plan
    loss: float
    """Predicted."""


@dataclass(frozen=True)
class Search:
    """What there is to choose from.

    Args:
        offers: by scheme, those with most bits first.
        limit: the loss that is allowed.
        solve: finds a plan, or raises DoesNotFit.
        in_flight: sessions, for the objective "throughput".
    """

    offers: Mapping[str, Offer]
    limit: float
    objective: str
    in_flight: int
    solve: Callable[[Problem], Plan]

    def best(self) -> Mix:
        """The fastest plan; of those that are about as fast, the one that loses least.

        Raises:
            DoesNotFit: nothing within the limit fits.
        """
        found: list[Mix] = []
        seen: set[tuple[str, ...]] = set()
        for start in self._starts():
            schemes: tuple[str, ...] | None = start
            for _ in range(MOST_STEPS):
                if schemes is None or schemes in seen:
                    break
                seen.add(schemes)
                mix = self._solved(schemes)
                if mix is None:
                    break
                found.append(mix)
                schemes = self._better(mix)
        if not found:
            raise DoesNotFit(self._why_nothing())
        fastest = min(self._cost(mix.plan) for mix in found)
        alike = [mix for mix in found if self._cost(mix.plan) <= fastest * (1 + ALIKE)]
        return min(alike, key=lambda mix: (mix.loss, self._cost(mix.plan)))

    def loss_of(self, schemes: Sequence[str]) -> float:
        """Predicted, of units in these. It is rather too much: how much of what was measured was lost by embedding and
        head is not known, so that each counts as a block more, but all together never more than what was measured."""
        logarithms = [math.log1p(max(self.offers[scheme].loss, 0.0)) for scheme in schemes]
        return math.expm1(min(sum(logarithms) / self._num_blocks, max(logarithms)))

    def problem_of(self, schemes: Sequence[str]) -> Problem:
        """The placement of units in these schemes."""
        return in_schemes({scheme: offer.problem for scheme, offer in self.offers.items()}, schemes)

    @property
    def _num_blocks(self) -> int:
        return next(iter(self.offers.values())).problem.num_units - 2

    def _starts(self) -> Iterator[tuple[str, ...]]:
        count = self._num_blocks
        for scheme in self.offers:
            if self._is_allowed(whole := _with_ends([scheme] * count)):
                yield whole
        for more, fewer in combinations(self.offers, 2):
            mixes = [[fewer] * num + [more] * (count - num) for num in range(1, count)]
            allowed = [blocks for blocks in mixes if self._is_allowed(_with_ends(blocks))]
            if allowed:
                yield _with_ends(allowed[-1])
                yield _with_ends(allowed[-1][::-1])

    def _is_allowed(self, schemes: Sequence[str]) -> bool:
        return self.loss_of(schemes) <= self.limit * (1 + 1e-9)

    def _solved(self, schemes: tuple[str, ...]) -> Mix | None:
        try:
            return Mix(schemes, self.solve(self.problem_of(schemes)), self.loss_of(schemes))
        except DoesNotFit:
            return None

    def _better(self, mix: Mix) -> tuple[str, ...] | None:
        """The best schemes for the stages of a plan, each all in one; None where those it has are as good."""
        stages = mix.plan.stages
        if len(self.offers) ** len(stages) > MOST_SETTINGS:
            return None
        best_s, best = self._cost(mix.plan) * (1 - 1e-6), None
        sums = _Sums({scheme: offer.problem for scheme, offer in self.offers.items()}, stages)
        for setting in product(self.offers, repeat=len(stages)):
            schemes = _of_stages(stages, setting)
            if not self._is_allowed(schemes):
                continue
            seconds = self._seconds(*sums.of(schemes, self.in_flight))
            if seconds < best_s and fits(self.problem_of(schemes), stages):
                best_s, best = seconds, schemes
        return best

    def _cost(self, plan: Plan) -> float:
        assert plan.lap_s is not None, "a method predicts what its plan takes"
        return self._seconds(plan.lap_s, plan.rate_per_s, plan.energy_j)

    def _seconds(self, lap_s: float, rate_per_s: float | None, energy_j: float | None) -> float:
        if self.objective == "throughput" and rate_per_s:
            return 1 / rate_per_s
        if self.objective == "energy" and energy_j is not None:
            return energy_j
        return lap_s

    def _why_nothing(self) -> str:
        losses = ", ".join(f"{scheme} {offer.loss:.2%}" for scheme, offer in self.offers.items())
        return (
            f"with a loss of at most {self.limit:.2%} the devices cannot hold the model. Weights lose: {losses}. Allow "
            "more, or add a device."
        )


class _Sums:
    """What stages cost by the schemes of their units: devices, and what travels between them, are the same in all.

    Args:
        problems: by scheme, that of all units in it.
    """

    def __init__(self, problems: Mapping[str, Problem], stages: Sequence[StagePlan]) -> None:
        first = next(iter(problems.values()))
        cost = evaluate(first, stages)
        self._owners = [first.index[name] for name in owners_of(stages)]
        self._unit_s = {
            scheme: [problem.devices[owner].unit_seconds[unit] for unit, owner in enumerate(self._owners)]
            for scheme, problem in problems.items()
        }
        self._on_the_way_s = sum(hop.seconds for hop in cost.hops)
        self._longest_link_s = max(cost.link_busy_s.values(), default=0.0)
        self._watts = {owner: first.devices[owner].active_w or 0.0 for owner in self._owners}
        self._radio_j: float | None = None
        if cost.energy_j is not None:
            busy_s = {first.index[name]: seconds for name, seconds in cost.device_busy_s.items()}
            self._radio_j = cost.energy_j - sum(self._watts[owner] * busy_s[owner] for owner in busy_s)

    def of(self, schemes: Sequence[str], in_flight: int) -> tuple[float, float, float | None]:
        """Seconds of a lap, tokens per second and joules, as `Cost` has them."""
        busy_s = dict.fromkeys(self._owners, 0.0)
        for unit, (scheme, owner) in enumerate(zip(schemes, self._owners, strict=True)):
            busy_s[owner] += self._unit_s[scheme][unit]
        lap_s = sum(busy_s.values()) + self._on_the_way_s
        slowest_s = max(self._longest_link_s, lap_s / in_flight, *busy_s.values())
        rate = 1 / slowest_s if slowest_s > 0 else math.inf
        if self._radio_j is None:
            return lap_s, rate, None
        return lap_s, rate, self._radio_j + sum(self._watts[owner] * busy_s[owner] for owner in busy_s)


def in_schemes(problems: Mapping[str, Problem], schemes: Sequence[str]) -> Problem:
    """The placement of units each of which is in a scheme of its own.

    Args:
        problems: by scheme, that of all units in it.
    """
    first = problems[schemes[0]]
    return replace(
        first,
        units=tuple(problems[scheme].units[unit] for unit, scheme in enumerate(schemes)),
        devices=tuple(
            _mixed([problems[scheme].devices[index] for scheme in schemes]) for index in range(first.num_devices)
        ),
    )


def _with_ends(blocks: Sequence[str]) -> tuple[str, ...]:
    """With embedding and head, each as the block beside it."""
    return (blocks[0], *blocks, blocks[-1])


def _of_stages(stages: Sequence[StagePlan], setting: Sequence[str]) -> tuple[str, ...]:
    """Of each unit, where each stage has one scheme; embedding and head go with the block beside them all the same."""
    schemes = [scheme for stage, scheme in zip(stages, setting, strict=True) for _ in range(stage.num_units)]
    return _with_ends(schemes[1:-1])


def _mixed(devices: Sequence[Device]) -> Device:
    """A device with the times of each unit from the entry of that unit."""
    decode = tuple(device.unit_seconds[unit] for unit, device in enumerate(devices))
    prefill = None
    if all(device.prefill_unit_seconds is not None for device in devices):
        prefill = tuple((device.prefill_unit_seconds or ())[unit] for unit, device in enumerate(devices))
    return replace(devices[0], unit_seconds=decode, prefill_unit_seconds=prefill)
