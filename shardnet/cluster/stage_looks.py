"""What the stages of a ring have done since they were asked last, and how long their hops took."""

from __future__ import annotations

from concurrent.futures import Future, wait
from typing import Any, NamedTuple

from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.ring import Ring
from shardnet.plan import StagePlan
from shardnet.policy.link_pace import LEAST_TRIPS, Trip
from shardnet.policy.observing import LEAST_STEPS, Work
from shardnet.timeline.recorder import Totals
from shardnet.transport.messages import StageAccount

ANSWER_S = 2.0
ENOUGH_GUESSED = 64
"""So many steps with guesses tell something, where there were hardly others."""


class Look(NamedTuple):
    """What is new."""

    works: list[Work]
    trips: list[Trip]
    lap_s: float
    """For how long all stages together compute for a token, by their last works."""


class StageLooks:
    """Of one deployment's rings, one after the other."""

    def __init__(self) -> None:
        self._ring: Ring | None = None
        """The one that was looked at last."""
        self._steps: dict[int, StageAccount] = {}
        """What each of its stages had told by the last look of whose steps something can be told, by its id."""
        self._num_hops: dict[int, int] = {}
        """Likewise of hops."""
        self._step_s: dict[int, float] = {}

    def look(self, ring: Ring) -> Look:
        """What each stage has done since the last look of which something can be told."""
        if ring is not self._ring:  # a stage of which others became part has done what they did, too
            self._ring, self._steps, self._num_hops, self._step_s = ring, {}, {}, {}
        asked: list[Future[Any]] = [stage.account() for stage in ring.stages]
        wait(asked, timeout=ANSWER_S)
        works, trips = list[Work](), list[Trip]()
        for stage, answer in zip(ring.stages, asked, strict=True):
            if answer.done() and answer.exception() is None:
                account: StageAccount = answer.result()
                works += self._work(stage, account)
                trips += self._trips(stage, account)
        return Look(works, trips, sum(self._step_s.values()))

    def _work(self, stage: RemoteStage, account: StageAccount) -> list[Work]:
        now = account.totals
        before = self._steps.setdefault(id(stage), account).totals
        if now.num_steps < before.num_steps:  # it counts anew
            self._steps[id(stage)] = account
            return []
        work = work_since(stage.plan, before, now)
        if work is None:
            return []
        self._steps[id(stage)] = account
        self._step_s[id(stage)] = work.compute_s / work.num_steps
        return [work]

    def _trips(self, stage: RemoteStage, account: StageAccount) -> list[Trip]:
        """Those of the last few hops that came since."""
        num_new = account.num_hops - self._num_hops.setdefault(id(stage), account.num_hops)
        if 0 <= num_new < LEAST_TRIPS:
            return []
        self._num_hops[id(stage)] = account.num_hops
        return [Trip(stage.plan.device, *hop) for hop in account.last_hops[-num_new:]] if num_new > 0 else []


def work_since(plan: StagePlan, before: Totals, now: Totals) -> Work | None:
    """What a stage has done by what it told before and tells now; None where that says too little.

    Rows of guesses take more than profiles say of a token of many, and less than of one: steps with some count only
    where there are hardly others.
    """
    all_s, num_steps, num_tokens = (
        now.compute_s - before.compute_s,
        now.num_steps - before.num_steps,
        now.num_tokens - before.num_tokens,
    )
    num_guessed = now.num_guessed_steps - before.num_guessed_steps
    if num_steps - num_guessed >= LEAST_STEPS:
        guessed_s, num_tokens_there = (
            now.guessed_s - before.guessed_s,
            now.num_guessed_tokens - before.num_guessed_tokens,
        )
        return Work(plan, all_s - guessed_s, num_steps - num_guessed, num_tokens - num_tokens_there)
    return Work(plan, all_s, num_steps, num_tokens) if num_guessed >= ENOUGH_GUESSED else None
